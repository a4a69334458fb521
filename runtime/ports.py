"""What the modules' routes are given, and the limits of the HTTP frame."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from psycopg import Connection
from psycopg_pool import ConnectionPool

from api.configuration.watching import Watches
from api.crowds import Crowds
from api.limits import HttpLimits
from api.live import AudienceLimits, LiveLimits, Tail
from domain.identity import Lockout
from domain.jobs import JobTypes
from infra.accounts import Accounts
from infra.cache import CacheAside
from infra.configuration.live import Live
from infra.event_store import Log
from infra.keys import Keys
from infra.passwords import Passwords
from infra.secrets import Secrets
from infra.settings import Settings, listed
from infra.throttle import Throttle
from infra.tokens import Tokens
from projections.access import Decisions
from projections.identity import UserRow
from projections.projection import Projection
from projections.read import Answer, Read, Reader
from projections.rebuild import Works
from projections.verification import Spreads
from runtime import modules
from runtime.configuration_ports import ConfigurationPorts
from runtime.rebuilds import works
from stream_apps.spreads import spread_of

T = TypeVar("T")


@dataclass(frozen=True)
class Ports:
    """What the modules' routes and prepares are given; each names what it needs by a Protocol of its own."""

    live_settings: Live
    secrets: Secrets
    log: Log
    pool: ConnectionPool[Connection[Any]]
    keys: Keys
    tokens: Tokens
    passwords: Passwords
    accounts: Accounts
    throttle: Throttle
    crowds: Crowds
    views: Reader
    projections: dict[str, Projection]
    decisions: Decisions
    users: CacheAside[UserRow]
    live: Tail
    watches: Watches
    configuration: ConfigurationPorts
    in_thread: Callable[..., Awaitable[Any]]

    @property
    def settings(self) -> Settings:
        """Those under which this request is answered, from its beginning to its end."""
        return self.live_settings.settings

    @property
    def declared(self) -> tuple[Projection, ...]:
        """The projections, and those of their earlier versions that are still fed."""
        return modules.declared()

    @property
    def works(self) -> Works:
        """Where builds are worked on."""
        return works(self.settings, self.log)

    async def look(self, query: Callable[[Read], T], *projections: str) -> T:
        """What a query finds in these views and in inline tables, for a `prepare`; in the bounded pool.

        Raises Overloaded, Starting, and what the query raises.
        """
        chosen = [self.projections[name] for name in projections]
        answer: Answer[T] = await self.in_thread(self.views.run, query, *chosen)
        return answer.value

    @property
    def job_types(self) -> JobTypes:
        """The types of job that can be enqueued."""
        return modules.job_types()

    def now(self) -> datetime:
        """The time by this machine's clock: for what is asked for, never for what is recorded."""
        return datetime.now(UTC)

    @property
    def audited_actions(self) -> frozenset[str]:
        """What the platform and its modules record themselves, as the audit log calls it."""
        return modules.registry().audited_actions

    @property
    def claims(self) -> Secrets:
        """Ids under the claim key."""
        return self.secrets

    @property
    def spreads(self) -> Spreads:
        """How the layouts of the bus spread the log over lanes."""
        return spread_of

    @property
    def refresh_lifetime(self) -> timedelta:
        """How long a refresh token lives since its rotation."""
        return timedelta(seconds=self.settings.refresh_token_seconds)

    @property
    def session_limit(self) -> timedelta:
        """How old a session becomes at most."""
        return timedelta(seconds=self.settings.session_limit_seconds)

    @property
    def refresh_grace(self) -> timedelta:
        """How long the immediate predecessor gets the same successor."""
        return timedelta(seconds=self.settings.refresh_grace_seconds)

    @property
    def password_least_chars(self) -> int:
        """How long a new password must be."""
        return self.settings.password_least_chars

    @property
    def lockout(self) -> Lockout:
        """How long logins pause after failures."""
        settings = self.settings
        return Lockout(settings.lockout_failures, settings.lockout_first_seconds, settings.lockout_longest_seconds)


def http_limits(settings: Settings) -> HttpLimits:
    """The frame's limits, as the settings say."""
    return HttpLimits(
        body_bytes=settings.body_limit_bytes,
        body_seconds=settings.body_timeout_seconds,
        header_bytes=settings.header_limit_bytes,
        headers=settings.header_limit,
        url_bytes=settings.url_limit_bytes,
        json_depth=settings.json_depth_limit,
        slow_seconds=settings.slow_request_seconds,
        access_log=settings.access_log,
        threads=settings.threads,
        queue=settings.queue_limit,
        page_size=settings.page_size,
        page_limit=settings.page_limit,
        at_least_seconds=settings.at_least_timeout_seconds,
        trusted_proxies=tuple(listed(settings.trusted_proxies)),
        proxy_header=settings.proxy_header.lower(),
        allowed_origins=tuple(listed(settings.allowed_origins)),
        behind_tls=settings.https_only,
    )


def live_limits(settings: Settings) -> LiveLimits:
    """What live readers may cost, as the settings say."""
    return LiveLimits(
        settings.live_readers,
        settings.live_readers_per_user,
        *_patience(settings),
        buffer_events=settings.live_buffer_events,
        buffer_bytes=settings.live_buffer_bytes,
    )


def watch_limits(settings: Settings) -> AudienceLimits:
    """What watchers of configuration may cost, as the settings say."""
    return AudienceLimits(settings.live_watchers, settings.live_watchers_per_user, *_patience(settings))


def _patience(settings: Settings) -> tuple[float, float, float]:
    """With whoever has a stream open: how long it may be silent, take nothing, and go unasked; in seconds."""
    return settings.live_heartbeat_seconds, settings.live_stall_seconds, settings.live_check_seconds
