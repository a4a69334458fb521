"""Every setting and every limit of the platform, with its default and its unit, read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self


class SettingsError(Exception):
    """A setting is wrong. The message is one line that names it."""


DATA = Path(".muniment")


def _setting(default: Any, help: str, **extra: Any) -> Any:  # noqa: A002
    return field(default=default, metadata={"help": help, **extra})


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Each field `x_y` is read from `MUNIMENT_X_Y`."""

    # where
    host: str = _setting("127.0.0.1", "address that the API listens on")
    port: int = _setting(8080, "port that the API listens on", least=0, most=65535)
    data: Path = _setting(DATA, "data folder")  # noqa: RUF009
    postgres_url: str = _setting("", "PostgreSQL to use in place of the embedded one")
    redis_url: str = _setting("", "Valkey or Redis to use in place of the embedded one")
    trusted_proxies: str = _setting("", "addresses or networks whose proxy_header is believed, a,b/16,...")
    proxy_header: str = _setting("x-forwarded-for", "what these proxies write: x-forwarded-for or forwarded")
    https_only: bool = _setting(False, "answer with Strict-Transport-Security (set behind TLS)")
    allowed_origins: str = _setting("", "origins that browsers may call from (CORS), https://a,https://b")
    log_level: str = _setting("info", "debug, info, warning or error")
    modules: str = _setting("", "modules of one's own, package.module:ATTRIBUTE,...; the same for every part")

    # first start
    admin_email: str = _setting("", "e-mail address of the first administrator")
    admin_password: str = _setting("", "password of the first administrator", secret=True)
    master_key: str = _setting("", "32 bytes as base64; else <data>/secrets/master_key", secret=True)
    pepper: str = _setting("", "32 bytes as base64; else <data>/secrets/pepper", secret=True)
    claim_key: str = _setting("", "32 bytes as base64; else <data>/secrets/claim_key", secret=True)

    # the API
    api_workers: int = _setting(1, "API processes", least=1, most=64)
    threads: int = _setting(16, "threads that run commands and queries, per API process", least=1, most=256)
    queue_limit: int = _setting(512, "requests that wait for a thread before `overloaded`", least=1)
    body_limit_bytes: int = _setting(1_048_576, "size of a request body", least=1024)
    body_timeout_seconds: float = _setting(30.0, "how long a request body may take to arrive", least=0.1)
    header_limit_bytes: int = _setting(16_384, "size of all headers of a request", least=1024)
    header_limit: int = _setting(64, "headers of a request", least=8)
    url_limit_bytes: int = _setting(8_192, "size of path and query", least=256)
    json_depth_limit: int = _setting(32, "nested arrays and objects of a body", least=4)
    slow_request_seconds: float = _setting(1.0, "requests that took longer are logged", least=0)
    access_log: bool = _setting(False, "log every request")
    page_limit: int = _setting(200, "items of a page at most", least=1, most=10_000)
    page_size: int = _setting(50, "items of a page unless asked", least=1, most=10_000)
    at_least_timeout_seconds: float = _setting(5.0, "how long a query waits for Muniment-At-Least", least=0)
    receipt_hours: int = _setting(24, "how long an Idempotency-Key is remembered", least=1)

    # live readers (GET /api/v1/events/stream)
    live_readers: int = _setting(2000, "open readers, per API process", least=1, most=100_000)
    live_readers_per_user: int = _setting(1000, "open readers of one user, per API process", least=1)
    live_buffer_events: int = _setting(5000, "events that wait for a reader before it is cut off", least=1)
    live_buffer_bytes: int = _setting(1_048_576, "bytes that wait for a reader before it is cut off", least=1024)
    live_heartbeat_seconds: float = _setting(15.0, "the longest silence on an open stream", least=0.1, most=3600)
    live_stall_seconds: float = _setting(30.0, "a reader that takes nothing for so long is cut off", least=1)
    live_check_seconds: float = _setting(2.0, "how often it is asked whether a reader still may", least=0.1, most=60)

    # the log
    commit_queue_limit: int = _setting(2048, "saves that wait for the committer before `overloaded`", least=1)
    commit_group_limit: int = _setting(256, "saves in one commit", least=1)
    dispatch_attempts: int = _setting(25, "runs of a handler before `write-conflict`", least=1)
    statement_timeout_seconds: float = _setting(30.0, "how long a query of the API may take", least=0.1)
    pool_size: int = _setting(16, "PostgreSQL connections for reading, per process", least=1, most=200)

    # identity
    bcrypt_cost: int = _setting(12, "bcrypt cost of new hashes (log2 of rounds)", least=4, most=16)
    hashing_threads: int = _setting(0, "threads that hash passwords; 0 = one per core", least=0, most=128)
    hashing_queue_limit: int = _setting(256, "hashings that wait before `overloaded`", least=1)
    access_token_seconds: int = _setting(600, "lifetime of an access token", least=30, most=86_400)
    refresh_token_seconds: int = _setting(30 * 86_400, "lifetime of a refresh token since its rotation", least=60)
    session_limit_seconds: int = _setting(90 * 86_400, "age at which a session ends, however often refreshed", least=60)
    refresh_grace_seconds: int = _setting(10, "how long the predecessor gets the same successor", least=0, most=60)
    key_overlap_seconds: int = _setting(600, "how long a new signing key is published before it signs", least=0)
    key_rotation_days: int = _setting(
        90, "age at which the signing key gets a successor; 0 = never", least=0, most=3650
    )
    issuer: str = _setting("muniment", "`iss` of access tokens")
    audience: str = _setting("muniment", "`aud` of access tokens")
    login_account_limit: str = _setting("100/minute", "login attempts per e-mail address, from everywhere")
    login_address_limit: str = _setting("60/minute", "login attempts per client address")

    # onboarding and reactions
    default_role: str = _setting("", "role that every new user is granted, name@scope (none: no role)")
    verification_seconds: int = _setting(3 * 86_400, "how long an e-mail verification's token works", least=60)
    verification_link: str = _setting("", "what a mail for verification leads to, with {token} in it; empty: the token")
    smtp_url: str = _setting("", "mail server, smtp(s)://user:password@host:port; empty: no mail is sent", secret=True)
    mail_from: str = _setting("", "address that mail comes from")
    reaction_hop_limit: int = _setting(16, "reactions in a row that one cause may set off", least=1, most=1000)

    # caches
    session_cache_size: int = _setting(50_000, "sessions that an API process remembers", least=1)
    token_cache_size: int = _setting(10_000, "verified access tokens that an API process remembers", least=1)
    access_cache_size: int = _setting(10_000, "users whose grants an API process remembers", least=1)
    user_cache_size: int = _setting(10_000, "users that an API process remembers", least=1)
    listener_fresh_seconds: float = _setting(2.0, "age of the newest heartbeat up to which caches are trusted", least=0)
    access_lag_seconds: float = _setting(5.0, "lag of the access view from which checks ask the store", least=0)

    # the follower
    follow_batch_events: int = _setting(1000, "events that a view applies in one transaction", least=1)
    follow_tail_events: int = _setting(2000, "newest events that all views share in memory", least=1)
    follow_tail_bytes: int = _setting(16_777_216, "bytes, as stored, that these may come to", least=1024)
    follow_lease_seconds: float = _setting(3.0, "how long a follower's lease lasts unless renewed", least=1)
    verify_streams_per_minute: int = _setting(
        60, "streams of each view that are folded again and compared, in the background; 0 = none", least=0, most=6000
    )

    # the bus
    kafka: str = _setting("", "Kafka brokers, host:port,...; empty: no bus, the follower feeds every view")
    kafka_prefix: str = _setting("muniment", "first part of the topics' names")
    kafka_partitions: int = _setting(4, "partitions of each topic; another number begins new topics", least=1, most=256)
    kafka_replication: int = _setting(1, "copies of each partition, where topics are created", least=1, most=9)
    kafka_retention_hours: int = _setting(168, "how long Kafka keeps messages, where topics are created", least=1)
    kafka_security_protocol: str = _setting("", "plaintext, ssl, sasl_plaintext or sasl_ssl")
    kafka_sasl_mechanism: str = _setting("", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    kafka_sasl_username: str = _setting("", "SASL user")
    kafka_sasl_password: str = _setting("", "SASL password", secret=True)
    kafka_ssl_ca: str = _setting("", "file of the certificates that brokers are checked against (PEM)")
    kafka_ssl_certificate: str = _setting("", "file of our own certificate (PEM)")
    kafka_ssl_key: str = _setting("", "file of its private key (PEM)")
    kafka_ssl_key_password: str = _setting("", "password of that private key", secret=True)
    relay_batch_events: int = _setting(1000, "events that the relay reads at once", least=1)
    relay_inflight_messages: int = _setting(20_000, "messages that may wait for Kafka before reading stops", least=1)
    relay_message_bytes: int = _setting(900_000, "larger events go as pointers to the log", least=1000, most=900_000)
    relay_lease_seconds: float = _setting(3.0, "how long a relay's lease lasts unless renewed", least=1)
    relay_metrics_port: int = _setting(0, "port of the relay's own /metrics; 0 = none", least=0, most=65535)
    relay_watermark_seconds: float = _setting(0.02, "how long a silent partition may stay behind", least=0.001, most=5)
    stream_batch_messages: int = _setting(500, "messages that a stream worker applies together", least=1, most=10_000)
    stream_buffer_messages: int = _setting(500, "messages that wait in a stream worker", least=1, most=100_000)
    stream_bulk_events: int = _setting(20_000, "who is further behind catches up from the log; 0 = never", least=0)
    stream_silence_seconds: float = _setting(5.0, "what Kafka kept back for so long is read from the log", least=0.5)
    stream_session_seconds: float = _setting(10.0, "a worker silent for so long loses its partitions", least=6, most=60)
    stream_stuck_seconds: float = _setting(20.0, "a worker that shows no progress for so long is killed", least=5)
    stream_metrics_port: int = _setting(0, "port of a stream worker's own /metrics; 0 = none", least=0, most=65535)

    # jobs
    worker_queues: str = _setting("", "queues that a worker takes jobs from, a,b,... (none: all)")
    worker_threads: int = _setting(32, "sync jobs that a worker runs at once", least=1, most=256)
    worker_async_tasks: int = _setting(100, "async jobs that a worker runs at once", least=1, most=10_000)
    worker_claim_ahead: int = _setting(400, "jobs that a worker claims before it can run them", least=0, most=5_000)
    worker_lease_seconds: float = _setting(15.0, "a worker silent for so long loses its jobs", least=2, most=3600)
    worker_drain_seconds: float = _setting(20.0, "time of a worker to finish; the rest is handed back", least=0)
    worker_cancel_grace_seconds: float = _setting(10.0, "who is asked to cancel is cut off after so long", least=0)
    worker_stuck_seconds: float = _setting(10.0, "a job cut off that runs on for so long ends its worker", least=0.1)
    worker_metrics_port: int = _setting(0, "port of a worker's own /metrics; 0 = none", least=0, most=65535)

    # schedules
    schedule_grace_seconds: float = _setting(60.0, "an occurrence that is later than this was missed", least=1)
    scheduler_lease_seconds: float = _setting(3.0, "how long a scheduler's lease lasts unless renewed", least=1)
    scheduler_threads: int = _setting(4, "schedules that a scheduler settles at once", least=1, most=64)
    scheduler_metrics_port: int = _setting(0, "port of a scheduler's own /metrics; 0 = none", least=0, most=65535)

    # migrations
    migration_lock_seconds: float = _setting(60.0, "how long to wait for another migration", least=0)
    migration_table_lock_seconds: float = _setting(3.0, "how long a migration waits for a lock on a table", least=0.1)
    migration_table_lock_attempts: int = _setting(5, "how often a migration tries to get its locks", least=1)
    migration_statement_seconds: float = _setting(900.0, "time of one statement of a migration; 0 = any", least=0)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The settings that the environment says. Raises SettingsError naming the variable."""
        values: dict[str, Any] = {}
        for f in fields(cls):
            text = environ.get(f"MUNIMENT_{f.name.upper()}", "").strip()
            if text:
                values[f.name] = _parse(f"MUNIMENT_{f.name.upper()}", f.default, text, f.metadata)
        settings = cls(**values)
        settings._check_proxies()
        return settings

    def _check_proxies(self) -> None:
        for proxy in listed(self.trusted_proxies):
            try:
                ip_network(proxy, strict=False)
            except ValueError as error:
                raise SettingsError(f"MUNIMENT_TRUSTED_PROXIES: {error}") from None
        if self.proxy_header.lower() not in {"x-forwarded-for", "forwarded"}:
            raise SettingsError(f"MUNIMENT_PROXY_HEADER: x-forwarded-for or forwarded, not {self.proxy_header!r}")

    def to_env(self) -> dict[str, str]:
        """The variables that give these settings to a child process."""
        return {
            f"MUNIMENT_{f.name.upper()}": str(value)
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default
        }


def listed(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse(name: str, default: object, text: str, metadata: Mapping[str, Any]) -> object:
    if isinstance(default, bool):
        if text.lower() not in {"true", "false", "yes", "no", "1", "0"}:
            raise SettingsError(f"{name}: true or false, not {text!r}")
        return text.lower() in {"true", "yes", "1"}
    if isinstance(default, Path):
        return Path(text)
    if isinstance(default, int | float):
        return _number(name, type(default), text, metadata)
    return text


def _number(name: str, kind: type[int] | type[float], text: str, metadata: Mapping[str, Any]) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        raise SettingsError(f"{name}: a number is needed, not {text!r}") from None
    least, most = metadata.get("least"), metadata.get("most")
    if (least is not None and value < least) or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise SettingsError(f"{name}: {bounds}, not {text}")
    return value
