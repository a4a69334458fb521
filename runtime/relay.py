"""The relay as a process: carries the log to Kafka."""

import gc
import signal
import sys

import prometheus_client

from infra.kafka import check_kafka, client_config
from infra.layouts import Wanted
from infra.messages import Messages
from infra.settings import Settings, SettingsError
from infra.topics import TopicLimits
from infra.transcoding import event_types
from runtime.configured import configured
from runtime.core import Core
from stream_apps import metrics
from stream_apps.counts import telling
from stream_apps.relay import Relay, RelayLimits, RelaySetup

SEAL = "bus-seal"

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter from another that wants it.

Who reads ahead needs it three times for a thousand events, for a moment each; who makes messages never waits.
"""


def relay(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises SettingsError, KafkaRefused, NewerSoftware, WrongPartitions."""
    if not settings.kafka:
        raise SettingsError("MUNIMENT_KAFKA: the relay needs Kafka's addresses, host:port,...")
    check_kafka(client_config(settings))
    with configured(settings, "relay") as core:
        if settings.relay_metrics_port:
            prometheus_client.start_http_server(settings.relay_metrics_port, settings.host)
        active = Relay(relay_setup(core))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: active.stop())
        tune()
        with telling(core.pool.connection, metrics.COUNTERS):
            active.run()


def tune() -> None:
    """Sets this process up for a relay: what stands by now stays, and nobody looks for garbage among it."""
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)


def messages(core: Core) -> Messages:
    """What makes and opens messages, with this installation's seal."""
    return Messages(core.secrets.derive(SEAL))


def wanted(settings: Settings) -> Wanted:
    """What this release has on the bus: every type of event that it knows."""
    return Wanted(settings.kafka_prefix, settings.kafka_partitions, tuple(sorted(event_types())))


def relay_setup(core: Core) -> RelaySetup:
    """The relay of these settings. Its lease is renewed three times in its life."""
    settings = core.settings
    return RelaySetup(
        core.log,
        settings.postgres_url,
        client_config(settings),
        messages(core),
        wanted(settings),
        TopicLimits(settings.kafka_replication, settings.kafka_retention_hours),
        RelayLimits(
            batch_events=settings.relay_batch_events,
            inflight_messages=settings.relay_inflight_messages,
            message_bytes=settings.relay_message_bytes,
            watermark_seconds=settings.relay_watermark_seconds,
            lease_seconds=settings.relay_lease_seconds,
            renew_seconds=settings.relay_lease_seconds / 3,
            standby_seconds=settings.relay_lease_seconds / 6,
        ),
    )
