"""How clients reach Kafka: the settings, as librdkafka names them."""

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from infra.settings import Settings

logger = logging.getLogger("muniment.kafka")

CLIENT_ID = "muniment"

CHECK_SECONDS = 3.0
"""How long a start waits for Kafka's first answer, to learn whether it lets us in at all."""
ATTEMPT_SECONDS = 0.5
POLL_SECONDS = 0.05
CERTIFICATE = "if it is there, does it ask for a certificate that MUNIMENT_KAFKA_SSL_CERTIFICATE doesn't name?"

_REFUSING = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own codes are spelled so
    KafkaError._SSL,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_NOISE = re.compile(r"^\S+?://\S+: | \(after [^)]*\)")

_SECURITY = {
    "kafka_security_protocol": "security.protocol",
    "kafka_sasl_mechanism": "sasl.mechanism",
    "kafka_sasl_username": "sasl.username",
    "kafka_sasl_password": "sasl.password",
    "kafka_ssl_ca": "ssl.ca.location",
    "kafka_ssl_certificate": "ssl.certificate.location",
    "kafka_ssl_key": "ssl.key.location",
    "kafka_ssl_key_password": "ssl.key.password",
}


def client_config(settings: Settings) -> dict[str, Any]:
    """What every client of librdkafka is given: addresses, TLS and SASL."""
    given = {name: value for field, name in _SECURITY.items() if (value := getattr(settings, field))}
    return {"bootstrap.servers": settings.kafka, "client.id": CLIENT_ID, **given}


class KafkaRefused(Exception):
    """Kafka doesn't let us in, or can't be asked with these settings: waiting wouldn't help."""


def check_kafka(config: Mapping[str, Any], patience_seconds: float = CHECK_SECONDS) -> bool:
    """Whether Kafka answers; False where it is away, which may pass.

    Raises KafkaRefused, in one line and without secrets, where name, password, certificates or settings are wrong.
    """
    if answers(config, patience_seconds):
        return True
    if "ssl" in str(config.get("security.protocol", "")).lower():
        # By TLS 1.3 a broker that misses a certificate of ours just hangs up, as one does that is about to stop.
        logger.warning("Kafka at %s doesn't answer; %s", config["bootstrap.servers"], CERTIFICATE)
    return False


def answers(config: Mapping[str, Any], patience_seconds: float) -> bool:
    """As `check_kafka`, which says more, for who asks again and again."""
    refusals: list[KafkaError] = []
    try:
        heard: dict[str, Any] = {**config, "error_cb": lambda error: _note(error, refusals), "log_level": 0}
        client = AdminClient(heard)
    except KafkaException as error:
        raise KafkaRefused(f"Kafka can't be asked with these settings: {_words(error.args[0])}") from None
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        try:
            client.list_topics(timeout=ATTEMPT_SECONDS)
        except KafkaException:
            client.poll(POLL_SECONDS)
        else:
            return True
        if refusals:
            raise KafkaRefused(f"Kafka at {config['bootstrap.servers']} refuses us: {_words(refusals[0])}")
    return False


def _note(error: KafkaError, refusals: list[KafkaError]) -> None:
    if error.code() in _REFUSING:
        refusals.append(error)


def _words(error: KafkaError) -> str:
    """What librdkafka says, without its prefix and times."""
    text = " ".join(error.str().split())
    return _NOISE.sub("", text)
