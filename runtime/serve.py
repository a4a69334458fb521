"""The API as granian's worker runs it: composed when the worker starts, from the environment."""

import asyncio
import gc
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any
from uuid import UUID

import msgspec
import prometheus_client
import psycopg
from granian import Granian
from granian.constants import Interfaces, Loops
from granian.http import HTTP1Settings
from prometheus_client import CollectorRegistry
from psycopg import AsyncConnection
from starlette.applications import Starlette

from api.app import Application
from api.configuration import watch
from api.configuration.watch import Documents
from api.configuration.watching import Watches
from api.crowds import Crowds
from api.events import PERMISSION, LogSource
from api.live import StillAllowed, Tail
from api.ports import Services
from infra.accounts import Accounts
from infra.authenticator import Authenticator
from infra.cache import Loaded
from infra.caches import Caches
from infra.configuration.instance import Instance
from infra.configuration.live import Derived, Live, Snapshot
from infra.configuration.schemas import file_values, schemas_of, settings_of
from infra.embedded import DataFolder
from infra.embedded.parent import end_with_parent
from infra.listener import Listener
from infra.migrate import check_compatible
from infra.parts import parts_file
from infra.receipts import ReceiptedDispatcher
from infra.secret_stores import open_secret_stores
from infra.sessions import Sessions, StoredSessions
from infra.settings import Settings
from infra.throttle import Throttle
from projections.access import Decisions
from projections.access.reader import AccessReader
from projections.identity import USERS, UserRow, user_by_id
from projections.projection import Projection
from projections.read import Answer, Read, Reader
from runtime import modules
from runtime.bus_gauges import BusGauges
from runtime.configuration_health import InstanceGauges
from runtime.configuration_ports import ConfigurationPorts, waits
from runtime.configured import begin, instance_of
from runtime.core import build_core, located
from runtime.gauges import Gauges, ReactionGauges
from runtime.job_gauges import JobGauges
from runtime.past import discard_other_past
from runtime.ports import Ports, http_limits, live_limits, watch_limits
from runtime.readiness import Readiness
from runtime.view_gauges import ViewGauges

FEED_LEASE = "follower"
OTHER_FILES = 1_000
"""Open files beside the clients' connections: to PostgreSQL and Valkey, libraries, logs."""
LEAST_BACKPRESSURE = 8_192
"""Connections that the server takes; past the limits, which may be raised while it runs, the API itself refuses."""
LOOKUP_THREADS = 8
"""Threads for what a request needs before it is let in: sessions, accounts, grants that aren't in memory."""


class Views:
    """Implements `api.ports.Reader`: projections by name."""

    def __init__(self, reader: Reader, projections: Sequence[Projection]) -> None:
        self._reader = reader
        self._by_name = {projection.name: projection for projection in projections}

    def look(self, query: Callable[[Read], Any], projections: Sequence[str]) -> Answer[Any]:
        """Raises Starting while one of them has no view of this release."""
        return self._reader.run(query, *(self._by_name[name] for name in projections))


class Api:
    """Everything that one API process consists of, and its life."""

    def __init__(self, given: Settings | Instance) -> None:
        """Of bare settings it is one whose configuration never changes."""
        self.instance = given if isinstance(given, Instance) else None
        self.configuration = given.live if isinstance(given, Instance) else Live.of(given)
        self.settings = settings = given.base if isinstance(given, Instance) else given
        stores = self.instance.secrets if self.instance is not None else None
        self.secrets = open_secret_stores(settings) if stores is None else stores
        self.core = build_core(self.configuration)
        self._cached_by: dict[str, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.lookups = ThreadPoolExecutor(LOOKUP_THREADS, "lookup")
        self.projections = modules.projections()
        self.listener = Listener(
            settings.postgres_url,
            {projection.name: projection.version for projection in self.projections},
            leases=(FEED_LEASE,),
            fresh_seconds=self.configuration.value(lambda s: s.listener_fresh_seconds),
        )
        self.caches = Caches(
            settings.postgres_url,
            self.listener,
            seal_key=self.core.secrets.derive("shared-cache"),
            redis_url=settings.redis_url,
            lease=FEED_LEASE,
            local_seconds=self.configuration.value(lambda s: s.cache_seconds),
            shared_seconds=self.configuration.value(lambda s: s.shared_cache_seconds),
        )
        self.access_reader = AccessReader(settings.postgres_url)
        self.reader = Reader(self.core.pool.connection)
        self.sessions = self._sessions()
        self.authenticator = self._authenticator()
        self.readiness = self._readiness()
        self.bus_gauges = BusGauges(self.core.pool, self.lookups)
        self.decisions = self._decisions()
        self.live = Tail(
            LogSource(self.core.log),
            StillAllowed(self.authenticator, self.decisions, PERMISSION),
            self.listener,
            live_limits(settings),
        )
        self.watches = Watches(
            Documents(self.core.pool.connection, schemas_of(settings), partial(file_values, settings)),
            StillAllowed(self.authenticator, self.decisions, watch.PERMISSION),
            self.listener,
            watch_limits(settings),
        )
        self.ports = self._ports()
        self.listener.on_announce(self._announced)
        self.listener.on_announce(self.live.announced)  # after what has forgotten the sessions
        self.listener.on_announce(self.watches.announced)
        self.listener.on_commit(lambda _: self.live.wake())
        self.listener.on_connect(self._reconnected)
        # what our own commits end is forgotten before they are answered
        self.core.log.on_announce(self._announced)
        self.app = self._application()
        self.app.on_stop(self.watches.end)
        self.configuration.on_swap(self._reconfigured)
        self._reconfigured(self.configuration.current)

    def _sessions(self) -> Sessions:
        stored = StoredSessions(self.core.pool)
        size = self.configuration.value(lambda s: s.session_cache_size)
        return Sessions(stored, self.lookups, lambda: self.listener.fresh, size=size)

    def _authenticator(self) -> Authenticator:
        return Authenticator(
            self.core.tokens,
            self.sessions,
            size=self.configuration.value(lambda s: s.token_cache_size),
            fresh=lambda: self.listener.fresh,
            reread=lambda: asyncio.get_running_loop().run_in_executor(self.lookups, self.core.keys.reload),
            clock=lambda: self.core.keys.now().timestamp(),
        )

    def _readiness(self) -> Readiness:
        return Readiness(
            self.core.pool,
            self.listener,
            self.projections,
            self.lookups,
            schema=lambda: check_compatible(self.settings.postgres_url, modules.sources()),
            redis_url=self.settings.redis_url,
            parts_file=parts_file(DataFolder(self.settings.data)),
            kafka=self.settings.kafka,
            lease_seconds=self.configuration.value(lambda s: s.config_lease_seconds),
            own=self._secret_reasons,
        )

    def _secret_reasons(self) -> list[str]:
        spoilt = self.instance.reasons if self.instance is not None else []
        return [*self.secrets.status().reasons(), *spoilt]

    def _ports(self) -> Ports:
        core, value = self.core, self.configuration.value
        return Ports(
            live_settings=self.configuration,
            secrets=core.secrets,
            log=core.log,
            pool=core.pool,
            keys=core.keys,
            tokens=core.tokens,
            passwords=core.passwords,
            accounts=Accounts(core.log, self.lookups),
            throttle=Throttle(
                self.settings.redis_url,
                per_account=value(lambda s: s.login_account_limit),
                per_address=value(lambda s: s.login_address_limit),
            ),
            crowds=Crowds(self._dispatcher(), self._in_thread),
            views=self.reader,
            projections={projection.name: projection for projection in self.projections},
            decisions=self.decisions,
            users=self.caches.cache(
                USERS.name,
                load=self._load_user,
                encode=msgspec.json.encode,
                decode=lambda data: msgspec.json.decode(data, type=UserRow),
                size=value(lambda s: s.user_cache_size),
            ),
            live=self.live,
            watches=self.watches,
            configuration=ConfigurationPorts(
                self.settings,
                self.configuration,
                waits(self.listener, core.pool, self._in_thread, self.configuration),
                self.secrets,
            ),
            in_thread=self._in_thread,
        )

    def _decisions(self) -> Decisions:
        return Decisions(
            self.core.log,
            self.access_reader,
            self.caches,
            self.listener,
            self.lookups,
            live=self.configuration,
        )

    def _dispatcher(self) -> ReceiptedDispatcher:
        return ReceiptedDispatcher(self.core.dispatcher, self.core.receipts)

    def _reconfigured(self, snapshot: Snapshot) -> None:
        """What lives longer than requests takes the new limits over; who calls is another thread."""
        allow_open_files(snapshot.settings)
        self.core.passwords.change_dummy()
        caches = {each.name: getattr(snapshot.settings, each.name) for each in settings_of(self.settings, "caches")}
        if self._cached_by not in ({}, caches) and self._loop is not None:
            self._loop.call_soon_threadsafe(self._forget)
        self._cached_by = caches
        self.live.limits = live_limits(snapshot.settings)
        self.watches.audience.limits = watch_limits(snapshot.settings)

    def _forget(self) -> None:
        """What is remembered was remembered under other limits: a smaller cache is small at once."""
        self.caches.forget()
        self.sessions.forget()
        self.authenticator.forget()

    def _announced(self, announcements: Sequence[str]) -> None:
        for announcement in announcements:
            self.sessions.announced(announcement)
            if announcement in {"keyring", "*"}:
                self.core.keys.forget()
                self.authenticator.forget()

    async def _reconnected(self, _: AsyncConnection[Any]) -> None:
        """Ends of sessions may have been announced while nobody listened, and other connections be broken too."""
        self._announced(["*"])
        self.live.announced(["*"])
        self.watches.announced(["*"])
        self.live.doubt()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.lookups, self.core.pool.check)
        # Another server may answer now. If it has another past, what that discards is announced on this connection.
        await loop.run_in_executor(self.lookups, discard_other_past, self.settings)

    def _application(self) -> Application:
        services = Services(
            authenticator=self.authenticator,
            authoriser=self.ports.decisions,
            dispatcher=self._dispatcher(),
            receipts=self.core.receipts,
            reader=Views(self.reader, self.projections),
            positions=self.listener,
            refusals=self.ports.crowds,
            readiness=self.readiness,
            ports=self.ports,
            live=self.configuration,
        )
        return Application(
            modules.routes(),
            services,
            Derived(self.configuration, http_limits),
            registry=self._registry(),
            lifespan=self._lifespan,
            version=version("muniment"),
            refresh_metrics=self.bus_gauges.refresh,
        )

    def _registry(self) -> CollectorRegistry:
        views = {projection.name: projection.version for projection in self.projections}
        prometheus_client.REGISTRY.register(
            Gauges(
                self.listener,
                views,
                {"commands-and-queries": self.core.pool},
                self.core.passwords,
                lambda: self.live.open_readers,
                lambda: self.watches.open_watchers,
            )
        )
        prometheus_client.REGISTRY.register(ReactionGauges(self.core.pool, self.lookups))
        prometheus_client.REGISTRY.register(ViewGauges(self.core.pool, self.lookups, self.projections))
        prometheus_client.REGISTRY.register(JobGauges(self.core.pool, self.lookups, modules.job_types().queues))
        prometheus_client.REGISTRY.register(InstanceGauges(self.core.pool, self.lookups))
        prometheus_client.REGISTRY.register(self.bus_gauges)
        return prometheus_client.REGISTRY

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        await self.access_reader.open()
        with suppress(psycopg.Error):  # then it is done at the listener's first connection
            await asyncio.to_thread(discard_other_past, self.settings)
        # the one computes while the other waits
        await asyncio.gather(asyncio.to_thread(self.core.passwords.prepare_dummy), self.listener.start())
        if self.instance is not None:
            begin(self.instance, self.core)
        gc.freeze()  # what stands by now stays; nobody looks for garbage among it while requests wait
        yield
        if self.instance is not None:
            await asyncio.to_thread(self.instance.stop)
        self.live.close()
        self.watches.close()
        await self.ports.crowds.close()
        self.app.close()
        await self.listener.stop()
        await self.access_reader.close()
        await self.caches.close()
        await self.readiness.close()
        await self.ports.throttle.close()
        self.lookups.shutdown(wait=False, cancel_futures=True)
        self.core.close()

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await self.app.frame.in_thread(function, *arguments)

    async def _load_user(self, user_id: UUID) -> Loaded[UserRow]:
        """Raises UserNotFound, which isn't remembered."""
        answer = await self._in_thread(self.reader.run, lambda read: user_by_id(read, user_id), USERS)
        return Loaded(answer.value, answer.position)


def app() -> Application:
    """What granian's worker calls. Its settings come from the environment."""
    end_with_parent()  # a killed master's worker would go on answering, with nobody to end it
    settings = located(Settings.from_env())
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    settings = modules.load(settings)
    return Api(instance_of(settings, "api")).app


def allow_open_files(settings: Settings) -> None:
    """Every live reader is an open file, and 1,024 is what many systems begin with: as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.live_readers + settings.live_watchers + settings.queue_limit + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def serve(settings: Settings, target: str = "runtime.serve:app") -> None:
    """Runs the API until SIGTERM or SIGINT. `target` makes the application (`module:function`)."""
    allow_open_files(settings)
    os.environ.update(settings.to_env())
    Granian(
        target,
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=settings.api_workers,
        respawn_failed_workers=True,
        log_access=False,
        websockets=False,
        backpressure=max(settings.queue_limit + settings.threads + settings.live_readers, LEAST_BACKPRESSURE),
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=65_536),
        workers_kill_timeout=2,
    ).serve()
