"""The check: may this user do that there? From memory where it is sure, else from the view, else from the store."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack
from uuid import UUID

import msgspec
from prometheus_client import Histogram

from domain.errors import DomainError, Forbidden, ProjectionBehind, Unavailable
from infra.cache import CacheAside, Level, Loaded
from infra.caches import Caches
from infra.configuration.live import Live
from infra.event_store import Log
from infra.listener import Listener
from infra.moments import AsOf
from infra.settings import Settings
from projections.access.explaining import Explained, best, explain_fold, granted
from projections.access.facts import UserFacts, fold_user
from projections.access.held import Held, asked, at
from projections.access.reader import AccessReader
from projections.access.view import ACCESS

log = logging.getLogger(__name__)

T = TypeVar("T")
Consistency = Literal["fast", "full"]

LAG_SECONDS = 5.0
AT_LEAST_SECONDS = 5.0
AT_ONCE = 16
"""Users of a batch who are looked up at the same time."""

BUCKETS = (0.000005, 0.00001, 0.000025, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)
SECONDS = Histogram(
    "muniment_check_seconds", "How long checks take, by where the answer came from", ["level"], buckets=BUCKETS
)


class Basis(TypedDict, total=False):
    """What a decision is made from: the view or the store, as of when, and at least at which position."""

    consistency: Consistency
    as_of: AsOf | None
    at_least: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Whether it is allowed, and the log position at which that holds."""

    allowed: bool
    position: int


class Caller(Protocol):
    """Who asks."""

    @property
    def user_id(self) -> UUID: ...


class Decisions:
    """Answers checks. Never allows from what is known to be old, and never when in doubt.

    `executor` runs what reads the event store. `lag_seconds` is how far behind the log the view may be before the
    event store is asked; `size` bounds the users who are remembered. With `live` these are as the configuration says.
    """

    def __init__(
        self,
        store: Log,
        reader: AccessReader,
        caches: Caches,
        listener: Listener,
        executor: Executor,
        *,
        size: int = 10_000,
        lag_seconds: float = LAG_SECONDS,
        at_least_seconds: float = AT_LEAST_SECONDS,
        live: Live | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._listener = listener
        self._track = listener.track(ACCESS.name)
        self._executor = executor
        self._live = live or Live.of(
            Settings(access_cache_size=size, access_lag_seconds=lag_seconds, at_least_timeout_seconds=at_least_seconds)
        )
        self.cache: CacheAside[Held] = caches.cache(
            ACCESS.name,
            load=self._load,
            encode=Held.encode,
            decode=Held.decode,
            size=self._live.value(lambda s: s.access_cache_size),
        )
        self._remembered = self.cache.local.get
        levels: tuple[Level, ...] = ("local", "valkey", "sql", "store")
        self._observe: dict[Level, Callable[[float], None]] = {each: SECONDS.labels(each).observe for each in levels}
        self._observe_local = self._observe["local"]

    @property
    def log(self) -> Log:
        """The event store that is asked where the view can't be trusted."""
        return self._store

    async def decide(self, user_id: UUID, permission: str, scope: str = "/", *, at_least: int = 0) -> Decision:
        """The fast check; without suspending where the user is remembered.

        With `at_least`, an answer that holds at that position or later. Raises Invalid, Unavailable (also Starting),
        ProjectionBehind, PositionUnknown.
        """
        begun = perf_counter()
        now = monotonic()
        track = self._track
        # Public fields and no calls: this is what happens thousands of times a second.
        if (
            now < self._listener.fresh_until
            and now - track.behind_since < self._live.current.settings.access_lag_seconds
        ):
            known = self._remembered(user_id)
            if known is not None and at_least <= track.position:
                decision = Decision(known.value.allows(permission, scope), max(known.position, track.position))
                self._observe_local(perf_counter() - begun)
                return decision
        found = await self._find(user_id, at_least)
        decision = Decision(found.value.allows(permission, scope), found.position)
        self._observe[found.level](perf_counter() - begun)
        return decision

    async def require(self, caller: Caller, permission: str, scope: str) -> None:
        """Raises Forbidden, Unavailable."""
        if not (await self.decide(caller.user_id, permission, scope)).allowed:
            raise Forbidden(f"This needs {permission} at {scope}.")

    async def decide_many(
        self, checks: Sequence[tuple[UUID, str, str]], *, at_least: int = 0
    ) -> tuple[list[bool], int]:
        """Many checks of (user, permission, scope), and the least position at which they hold. Raises as `decide`."""
        for _, permission, scope in checks:
            asked(permission)
            at(scope)
        room = asyncio.Semaphore(AT_ONCE)

        async def find(user_id: UUID) -> Loaded[Held]:
            async with room:
                return await self._find(user_id, at_least)

        users = list({user_id for user_id, _, _ in checks})
        found = dict(zip(users, await asyncio.gather(*map(find, users)), strict=True))
        position = min((each.position for each in found.values()), default=self._track.position)
        return [found[user_id].value.allows(permission, scope) for user_id, permission, scope in checks], position

    async def decide_from(self, user_id: UUID, permission: str, scope: str = "/", **basis: Unpack[Basis]) -> Decision:
        """A decision that isn't taken from memory: at any position or time, or folded. Raises as `explain`."""
        begun = perf_counter()
        wanted, _ = asked(permission)
        place = at(scope)
        level, facts = await self.facts(user_id, marks=False, **basis)
        allowed = best(facts, wanted, place) is not None
        self._observe[level](perf_counter() - begun)
        return Decision(allowed, facts.position)

    async def explain(self, user_id: UUID, permission: str, scope: str = "/", **basis: Unpack[Basis]) -> Explained:
        """A decision with its reason, at any position or time. Raises as `decide`, and Invalid for `as_of`."""
        begun = perf_counter()
        wanted, _ = asked(permission)
        place = at(scope)
        level, facts = await self.facts(user_id, **basis)
        grant = best(facts, wanted, place)
        if grant:
            explained = granted(facts.position, grant)
        else:
            # What is missing only the event store tells, and for what is asked of now, at its own head.
            if level != "store":
                facts = await self._fold(user_id, basis.get("as_of"))
            explained = await self._in_thread(explain_fold, self._store, facts, wanted, place)
        self._observe[level if grant else "store"](perf_counter() - begun)
        return explained

    async def facts(
        self,
        user_id: UUID,
        *,
        consistency: Consistency = "fast",
        as_of: AsOf | None = None,
        at_least: int = 0,
        marks: bool = True,
    ) -> tuple[Level, UserFacts]:
        """What the decision is made from, never from memory. Without `marks`, not who did what. Raises as `explain`."""
        if at_least:
            await self._wait(at_least)
        if consistency == "full":
            return "store", await self._fold(user_id, as_of)
        if as_of is None:
            facts = await self._reader.facts(user_id, marks=marks)
        else:
            try:
                facts = await self._reader.facts_at(user_id, as_of, marks=marks)
            except ProjectionBehind:
                if self._lags(self._listener.lag_seconds(ACCESS.name)):
                    return "store", await self._fold(user_id, as_of)
                await self._wait((await self._reader.moment(as_of))[0])
                facts = await self._reader.facts_at(user_id, as_of, marks=marks)
        if self._trusts(facts, current=as_of is None):
            return "sql", facts
        return "store", await self._fold(user_id, as_of)

    async def _find(self, user_id: UUID, at_least: int) -> Loaded[Held]:
        if at_least:
            await self._wait(at_least)
        if self._lags(self._listener.lag_seconds(ACCESS.name)):
            return self._loaded("store", await self._fold(user_id, None))
        return await self.cache.get(user_id)

    async def _load(self, user_id: UUID) -> Loaded[Held]:
        """The cache's source: the view; the event store where the view can't be trusted."""
        facts = await self._reader.facts(user_id)
        if self._trusts(facts, current=True):
            return self._loaded("sql", facts)
        return self._loaded("store", await self._fold(user_id, None))

    def _trusts(self, facts: UserFacts, *, current: bool) -> bool:
        return facts.complete and not (current and self._lags(facts.lag_seconds))

    def _lags(self, seconds: float) -> bool:
        return seconds >= self._live.settings.access_lag_seconds

    @staticmethod
    def _loaded(level: Level, facts: UserFacts) -> Loaded[Held]:
        expiry = facts.earliest_expiry()
        seconds = (expiry - facts.moment).total_seconds() if expiry else float("inf")
        # What comes from the store is newer than what the view's invalidations speak of.
        return Loaded(Held.of(facts), facts.position, seconds if level == "sql" else 0.0, level)

    async def _fold(self, user_id: UUID, as_of: AsOf | None) -> UserFacts:
        """From the event store, at the head unless asked otherwise. Raises Unavailable."""
        if as_of is None:
            return await self._in_thread(self._fold_now, user_id)
        position, moment = await self._reader.moment(as_of)
        return await self._in_thread(partial(fold_user, self._store, user_id, position, moment))

    def _fold_now(self, user_id: UUID) -> UserFacts:
        position = self._store.head()
        return fold_user(self._store, user_id, position, self._store.now())

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        except DomainError:
            raise
        except Exception as error:
            # Whatever is wrong with the log or with one event in it: in doubt nothing is granted.
            log.exception("a check couldn't be answered from the event store")
            raise Unavailable from error

    async def _wait(self, position: int) -> None:
        """Until this process has handled the view's invalidations through the position."""
        if position <= self._track.position:
            return
        if self._listener.fresh:
            await self._listener.wait([ACCESS.name], position, self._live.settings.at_least_timeout_seconds)
        elif await self._reader.position() < position:
            # Nobody tells us when it gets there, so the caller shall try again.
            raise ProjectionBehind
