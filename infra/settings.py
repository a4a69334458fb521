"""Every setting and every limit of the platform, with its default and its unit, read from the environment."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from infra.own_settings import Own
from infra.setting import Declaration, Section, Setting, SettingsError, Upcast
from infra.setting_rules import ORIGINS, RATE, RULES, at_most, listed

__all__ = ["DATA", "DECLARATIONS", "SECTIONS", "SETTINGS", "Section", "Settings", "SettingsError", "at_most", "listed"]

T = TypeVar("T")

DATA = Path(".muniment")

PLATFORM = Section("platform", "where")
FIRST_START = Section("first-start", "first start")
API = Section("api", "the API")
LIVE = Section("live", "live readers (GET /api/v1/events/stream)")
LOG = Section("log", "the log")
IDENTITY = Section("identity", "identity")
ONBOARDING = Section("onboarding", "onboarding and reactions")
CACHES = Section("caches", "caches")
FOLLOWER = Section("follower", "the follower")
BUS = Section("bus", "the bus")
JOBS = Section("jobs", "jobs")
SCHEDULES = Section("schedules", "schedules")
MIGRATIONS = Section("migrations", "migrations")
SECRETS = Section("secrets", "secrets by reference")
CONFIGURATION = Section("configuration", "configuration")

LEVELS = ("debug", "info", "warning", "error", "critical")
HOST = r"[A-Za-z0-9._-]{0,253}"
PROXY_HEADERS = ("x-forwarded-for", "forwarded")


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Each field `x_y` is read from `MUNIMENT_X_Y`."""

    host: str = PLATFORM("127.0.0.1", "address that the API listens on")
    port: int = PLATFORM(8080, "port that the API listens on", least=0, most=65535)
    data: Path = PLATFORM(DATA, "data folder")  # noqa: RUF009
    postgres_url: str = PLATFORM("", "PostgreSQL to use in place of the embedded one", secret=True)
    redis_url: str = PLATFORM("", "Valkey or Redis to use in place of the embedded one", secret=True)
    log_level: str = PLATFORM("info", "debug, info, warning, error or critical", hot=True, choices=LEVELS)
    modules: str = PLATFORM("", "modules of one's own, package.module:ATTRIBUTE,...; the same for every part")
    host_name: str = PLATFORM(
        "", "what parts call the machine that they run on; empty: as it calls itself", pattern=HOST, example="web-3.eu"
    )
    stop_seconds: float = PLATFORM(
        5.0, "time in which `muniment up` stops all; a worker gets what it asks for of it", least=5, most=86_400
    )

    admin_email: str = FIRST_START("", "e-mail address of the first administrator")
    admin_password: str = FIRST_START("", "password of the first administrator", secret=True)
    master_key: str = FIRST_START("", "32 bytes as base64; else <data>/secrets/master_key", secret=True)
    pepper: str = FIRST_START("", "32 bytes as base64; else <data>/secrets/pepper", secret=True)
    claim_key: str = FIRST_START("", "32 bytes as base64; else <data>/secrets/claim_key", secret=True)

    api_workers: int = API(1, "API processes", least=1, most=64)
    threads: int = API(16, "threads that run commands and queries, per API process", least=1, most=256)
    queue_limit: int = API(
        512, "requests that wait for a thread before `overloaded`", hot=True, least=1, most=1_000_000
    )
    body_limit_bytes: int = API(1_048_576, "size of a request body", hot=True, least=1024, most=1_073_741_824)
    body_timeout_seconds: float = API(
        30.0, "how long a request body may take to arrive", hot=True, least=0.1, most=3600
    )
    header_limit_bytes: int = API(16_384, "size of all headers of a request", hot=True, least=1024, most=1_048_576)
    header_limit: int = API(64, "headers of a request", hot=True, least=8, most=10_000)
    url_limit_bytes: int = API(8_192, "size of path and query", hot=True, least=256, most=1_048_576)
    json_depth_limit: int = API(32, "nested arrays and objects of a body", hot=True, least=4, most=500)
    slow_request_seconds: float = API(1.0, "requests that took longer are logged", hot=True, least=0, most=86_400)
    access_log: bool = API(False, "log every request", hot=True)
    page_limit: int = API(200, "items of a page at most", hot=True, least=1, most=10_000)
    page_size: int = API(50, "items of a page unless asked", hot=True, least=1, most=10_000)
    at_least_timeout_seconds: float = API(
        5.0, "how long a query waits for Muniment-At-Least", hot=True, least=0, most=3600
    )
    trusted_proxies: str = API("", "addresses or networks whose proxy_header is believed, a,b/16,...", hot=True)
    proxy_header: str = API(
        "x-forwarded-for", "what these proxies write: x-forwarded-for or forwarded", hot=True, choices=PROXY_HEADERS
    )
    https_only: bool = API(False, "answer with Strict-Transport-Security (set behind TLS)", hot=True)
    allowed_origins: str = API(
        "",
        "origins that browsers may call from (CORS), https://a,https://b",
        hot=True,
        pattern=ORIGINS,
        example="https://a,https://b",
    )
    receipt_hours: int = API(24, "how long an Idempotency-Key is remembered", hot=True, least=1, most=87_600)

    live_readers: int = LIVE(2000, "open readers, per API process", hot=True, least=1, most=100_000)
    live_readers_per_user: int = LIVE(
        1000, "open readers of one user, per API process", hot=True, least=1, most=100_000
    )
    live_watchers: int = LIVE(2000, "watchers of configuration, per API process", hot=True, least=1, most=100_000)
    live_watchers_per_user: int = LIVE(1000, "watchers of one user, per API process", hot=True, least=1, most=100_000)
    live_buffer_events: int = LIVE(
        5000, "events that wait for a reader before it is cut off", hot=True, least=1, most=10_000_000
    )
    live_buffer_bytes: int = LIVE(
        1_048_576, "bytes that wait for a reader before it is cut off", hot=True, least=1024, most=1_073_741_824
    )
    live_heartbeat_seconds: float = LIVE(15.0, "the longest silence on an open stream", hot=True, least=0.1, most=3600)
    live_stall_seconds: float = LIVE(
        30.0, "a reader that takes nothing for so long is cut off", hot=True, least=1, most=86_400
    )
    live_check_seconds: float = LIVE(
        2.0, "how often it is asked whether a reader still may", hot=True, least=0.1, most=60
    )

    commit_queue_limit: int = LOG(
        2048, "saves that wait for the committer before `overloaded`", hot=True, least=1, most=1_000_000
    )
    commit_group_limit: int = LOG(256, "saves in one commit", hot=True, least=1, most=100_000)
    dispatch_attempts: int = LOG(25, "runs of a handler before `write-conflict`", hot=True, least=1, most=1000)
    snapshot_events: int = LOG(200, "events of a stream after which its next snapshot is left; 0 = none", least=0)
    statement_timeout_seconds: float = LOG(30.0, "how long a query of the API may take", least=0.1)
    pool_size: int = LOG(16, "PostgreSQL connections for reading, per process", least=1, most=200)

    bcrypt_cost: int = IDENTITY(12, "bcrypt cost of new hashes (log2 of rounds)", hot=True, least=4, most=16)
    hashing_threads: int = IDENTITY(0, "threads that hash passwords; 0 = one per core", least=0, most=128)
    hashing_queue_limit: int = IDENTITY(
        256, "hashings that wait before `overloaded`", hot=True, least=1, most=1_000_000
    )
    access_token_seconds: int = IDENTITY(600, "lifetime of an access token", hot=True, least=30, most=86_400)
    refresh_token_seconds: int = IDENTITY(
        30 * 86_400, "lifetime of a refresh token since its rotation", hot=True, least=60, most=315_360_000
    )
    session_limit_seconds: int = IDENTITY(
        90 * 86_400, "age at which a session ends, however often refreshed", hot=True, least=60, most=315_360_000
    )
    refresh_grace_seconds: int = IDENTITY(
        10, "how long the predecessor gets the same successor", hot=True, least=0, most=60
    )
    key_overlap_seconds: int = IDENTITY(
        600, "how long a new signing key is published before it signs", hot=True, least=0, most=31_536_000
    )
    key_rotation_days: int = IDENTITY(
        90, "age at which the signing key gets a successor; 0 = never", hot=True, least=0, most=3650
    )
    issuer: str = IDENTITY("muniment", "`iss` of access tokens")
    audience: str = IDENTITY("muniment", "`aud` of access tokens")
    password_least_chars: int = IDENTITY(10, "characters of a new password", hot=True, least=8, most=64)
    lockout_failures: int = IDENTITY(
        5, "failed logins in a row after which a network pauses", hot=True, least=1, most=100
    )
    lockout_first_seconds: int = IDENTITY(
        30, "the first such pause; each further one is twice as long", hot=True, least=1, most=86_400
    )
    lockout_longest_seconds: int = IDENTITY(3600, "the longest such pause", hot=True, least=1, most=86_400)
    login_account_limit: str = IDENTITY(
        "100/minute", "login attempts per e-mail address, from everywhere", hot=True, pattern=RATE, example="20/minute"
    )
    login_address_limit: str = IDENTITY(
        "60/minute", "login attempts per client address", hot=True, pattern=RATE, example="20/minute"
    )

    default_role: str = ONBOARDING("", "role that every new user is granted, name@scope (none: no role)", hot=True)
    verification_seconds: int = ONBOARDING(
        3 * 86_400, "how long an e-mail verification's token works", hot=True, least=60, most=31_536_000
    )
    verification_link: str = ONBOARDING(
        "", "what a mail for verification leads to, with {token} in it; empty: the token", hot=True
    )
    smtp_url: str = ONBOARDING(
        "",
        "mail server, smtp(s)://user:password@host:port; empty: no mail is sent",
        hot=True,
        secret=True,
        reference=True,
    )
    mail_from: str = ONBOARDING("", "address that mail comes from", hot=True)
    reaction_hop_limit: int = ONBOARDING(
        16, "reactions in a row that one cause may set off", hot=True, least=1, most=1000
    )

    session_cache_size: int = CACHES(
        50_000, "sessions that an API process remembers", hot=True, least=1, most=10_000_000
    )
    token_cache_size: int = CACHES(
        10_000, "verified access tokens that an API process remembers", hot=True, least=1, most=10_000_000
    )
    access_cache_size: int = CACHES(
        10_000, "users whose grants an API process remembers", hot=True, least=1, most=10_000_000
    )
    user_cache_size: int = CACHES(10_000, "users that an API process remembers", hot=True, least=1, most=10_000_000)
    cache_seconds: float = CACHES(
        300.0, "how long an API process remembers users and grants", hot=True, least=0, most=86_400
    )
    shared_cache_seconds: float = CACHES(60.0, "how long the processes share them", hot=True, least=0, most=60)
    listener_fresh_seconds: float = CACHES(
        2.0, "age of the newest heartbeat up to which caches are trusted", hot=True, least=1.5, most=60
    )
    access_lag_seconds: float = CACHES(
        5.0, "lag of the access view from which checks ask the store", hot=True, least=0, most=3600
    )

    follow_batch_events: int = FOLLOWER(1000, "events that a view applies in one transaction", least=1)
    follow_tail_events: int = FOLLOWER(2000, "newest events that all views share in memory", least=1)
    follow_tail_bytes: int = FOLLOWER(16_777_216, "bytes, as stored, that these may come to", least=1024)
    follow_lease_seconds: float = FOLLOWER(3.0, "how long a follower's lease lasts unless renewed", least=1)
    verify_streams_per_minute: int = FOLLOWER(
        60,
        "streams of each view that are folded again and compared, in the background; 0 = none",
        hot=True,
        least=0,
        most=6000,
    )

    kafka: str = BUS("", "Kafka brokers, host:port,...; empty: no bus, the follower feeds every view")
    kafka_prefix: str = BUS("muniment", "first part of the topics' names")
    kafka_partitions: int = BUS(4, "partitions of each topic; another number begins new topics", least=1, most=256)
    kafka_replication: int = BUS(1, "copies of each partition, where topics are created", least=1, most=9)
    kafka_retention_hours: int = BUS(168, "how long Kafka keeps messages, where topics are created", least=1)
    kafka_security_protocol: str = BUS("", "plaintext, ssl, sasl_plaintext or sasl_ssl")
    kafka_sasl_mechanism: str = BUS("", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    kafka_sasl_username: str = BUS("", "SASL user")
    kafka_sasl_password: str = BUS("", "SASL password", secret=True)
    kafka_ssl_ca: str = BUS("", "file of the certificates that brokers are checked against (PEM)")
    kafka_ssl_certificate: str = BUS("", "file of our own certificate (PEM)")
    kafka_ssl_key: str = BUS("", "file of its private key (PEM)")
    kafka_ssl_key_password: str = BUS("", "password of that private key", secret=True)
    relay_batch_events: int = BUS(1000, "events that the relay reads at once", least=1)
    relay_inflight_messages: int = BUS(20_000, "messages that may wait for Kafka before reading stops", least=1)
    relay_message_bytes: int = BUS(900_000, "larger events go as pointers to the log", least=1000, most=900_000)
    relay_lease_seconds: float = BUS(3.0, "how long a relay's lease lasts unless renewed", least=1)
    relay_metrics_port: int = BUS(0, "port of the relay's own /metrics; 0 = none", least=0, most=65535)
    relay_watermark_seconds: float = BUS(0.014, "how long a silent partition may stay behind", least=0.001, most=5)
    stream_batch_messages: int = BUS(500, "messages that a stream worker applies together", least=1, most=10_000)
    stream_buffer_messages: int = BUS(500, "messages that wait in a stream worker", least=1, most=100_000)
    stream_bulk_events: int = BUS(20_000, "who is further behind catches up from the log; 0 = never", least=0)
    stream_silence_seconds: float = BUS(5.0, "what Kafka kept back for so long is read from the log", least=0.5)
    stream_session_seconds: float = BUS(10.0, "a worker silent for so long loses its partitions", least=6, most=60)
    stream_stuck_seconds: float = BUS(20.0, "a worker that shows no progress for so long is killed", least=5)
    stream_metrics_port: int = BUS(0, "port of a stream worker's own /metrics; 0 = none", least=0, most=65535)

    worker_queues: str = JOBS("", "queues that a worker takes jobs from, a,b,... (none: all)")
    worker_threads: int = JOBS(32, "sync jobs that a worker runs at once", hot=True, least=1, most=256)
    worker_async_tasks: int = JOBS(100, "async jobs that a worker runs at once", hot=True, least=1, most=10_000)
    worker_claim_ahead: int = JOBS(
        400, "jobs that a worker claims before it can run them", hot=True, least=0, most=5_000
    )
    worker_lease_seconds: float = JOBS(15.0, "a worker silent for so long loses its jobs", least=2, most=3600)
    worker_drain_seconds: float = JOBS(20.0, "time of a worker to finish; the rest is handed back", least=0)
    worker_cancel_grace_seconds: float = JOBS(
        10.0, "who is asked to cancel is cut off after so long", hot=True, least=0, most=86_400
    )
    worker_stuck_seconds: float = JOBS(
        10.0, "a job cut off that runs on for so long ends its worker", hot=True, least=0.1, most=86_400
    )
    retry_first_seconds: float = JOBS(
        2.0, "longest pause before the first retry; types may say their own", hot=True, least=0, most=31_536_000
    )
    retry_factor: float = JOBS(2.0, "how much longer each further one may be", hot=True, least=1, most=100)
    retry_longest_seconds: float = JOBS(3600.0, "the longest pause between retries", hot=True, least=0, most=31_536_000)
    worker_metrics_port: int = JOBS(0, "port of a worker's own /metrics; 0 = none", least=0, most=65535)

    schedule_grace_seconds: float = SCHEDULES(
        60.0, "an occurrence that is later than this was missed", hot=True, least=1, most=31_536_000
    )
    scheduler_lease_seconds: float = SCHEDULES(3.0, "how long a scheduler's lease lasts unless renewed", least=1)
    scheduler_threads: int = SCHEDULES(4, "schedules that a scheduler settles at once", least=1, most=64)
    scheduler_metrics_port: int = SCHEDULES(0, "port of a scheduler's own /metrics; 0 = none", least=0, most=65535)

    migration_lock_seconds: float = MIGRATIONS(60.0, "how long to wait for another migration", least=0)
    migration_table_lock_seconds: float = MIGRATIONS(3.0, "how long a migration waits for a lock on a table", least=0.1)
    migration_table_lock_attempts: int = MIGRATIONS(5, "how often a migration tries to get its locks", least=1)
    migration_statement_seconds: float = MIGRATIONS(900.0, "time of one statement of a migration; 0 = any", least=0)

    secrets_store: str = SECRETS(
        "environment",
        "where secret://NAME is looked up: environment, files:FOLDER, vault:https://HOST:PORT, or several in turn",
    )
    secrets_token: str = SECRETS("", "Vault's token, unless there is a file of it", secret=True)
    secrets_token_file: str = SECRETS("", "file of Vault's token; read again when it is written anew")
    secrets_ca: str = SECRETS("", "file of the certificates that Vault is checked against (PEM); empty: the system's")
    secrets_mount: str = SECRETS("secret", "where Vault's KV engine (version 2) is mounted")
    secrets_prefix: str = SECRETS("", "path in it that every name is looked up below")
    secrets_namespace: str = SECRETS("", "Vault's namespace")
    secrets_refresh_seconds: float = SECRETS(
        30.0, "how often it is asked whether secrets were rotated", least=1, most=86_400
    )
    secrets_last_good_seconds: float = SECRETS(
        3600.0, "how long values stand that can't be fetched anew", least=0, most=30 * 86_400
    )
    secrets_timeout_seconds: float = SECRETS(5.0, "how long a store of secrets may take to answer", least=0.1, most=60)

    config_answer_seconds: float = CONFIGURATION(
        1.0, "how long an update's answer waits for what every process makes of it", hot=True, least=0, most=30
    )
    config_lease_seconds: float = CONFIGURATION(
        30.0, "a process or service silent for so long counts as gone", hot=True, least=1, most=3600
    )
    config_namespaces: int = CONFIGURATION(
        1_000, "namespaces that may be declared for services of one's own", hot=True, least=0, most=100_000
    )

    own: tuple[Own, ...] = ()
    """The settings of modules of one's own, once these are loaded (`runtime.modules.load`)."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The settings that the environment says. Raises SettingsError naming the variable."""
        given = [declaration.from_env(environ) for declaration in DECLARATIONS.values()]
        settings = cls(**{name: value for values in given for name, value in values.items()})
        for declaration in DECLARATIONS.values():
            declaration.check(vars(settings))
        return settings

    @property
    def this_host(self) -> str:
        """What the machine that this process runs on is called."""
        return self.host_name or socket.gethostname()

    def of(self, kind: type[T]) -> T:
        """What a module of one's own has declared by this class (`Module.config_schema`), as it is here and now.

        Raises SettingsError where no module that is loaded has.
        """
        for each in self.own:
            if type(each.values) is kind:
                return each.values
        raise SettingsError(f"{kind.__qualname__}: no module that is loaded declares these settings")

    def of_namespace(self, namespace: str) -> object:
        """What has the settings of a namespace as attributes: this, or what a module declares."""
        return next((each.values for each in self.own if each.namespace == namespace), self)

    def with_values(self, namespaces: Mapping[str, Mapping[str, Any]]) -> Self:
        """These settings with other values in these namespaces."""
        others = {each.namespace for each in self.own}
        ours = {
            key: value for name, values in namespaces.items() if name not in others for key, value in values.items()
        }
        own = tuple(each.with_values(namespaces.get(each.namespace, {})) for each in self.own)
        return replace(self, **ours, own=own)

    def to_env(self) -> dict[str, str]:
        """The variables that give these settings to a child process."""
        said: dict[str, str] = {}
        for declaration in DECLARATIONS.values():
            said |= declaration.to_env(vars(self))
        for each in self.own:
            said |= each.to_env()
        return said


SETTINGS: Mapping[str, Setting] = {each.name: Setting.of(each) for each in fields(Settings) if each.metadata}
"""Every setting of the platform by its name, in order."""

SECTIONS: tuple[Section, ...] = tuple(dict.fromkeys(setting.section for setting in SETTINGS.values()))

VERSIONS: Mapping[str, int] = {}
"""The number of a namespace's schema, where it isn't 1: raised when a stored document needs an upcast from here on."""
UPCASTS: Mapping[str, Mapping[int, Upcast]] = {}


def _declaration(section: Section) -> Declaration:
    name = section.namespace
    settings = tuple(each for each in SETTINGS.values() if each.section == section)
    return Declaration(section, settings, RULES.get(name, ()), VERSIONS.get(name, 1), UPCASTS.get(name, {}))


DECLARATIONS: Mapping[str, Declaration] = {section.namespace: _declaration(section) for section in SECTIONS}
"""The platform's own namespaces by name."""
