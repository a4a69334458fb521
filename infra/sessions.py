"""Which sessions live: remembered as long as this process hears of every end at once, else asked of the store."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from prometheus_client import Counter
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from domain.errors import Unauthenticated, Unavailable
from infra.configuration.live import given

LOOKUPS = Counter("muniment_session_lookups_total", "Where the answer whether a session lives came from", ["source"])
_FROM_MEMORY, _FROM_STORE = LOOKUPS.labels("memory"), LOOKUPS.labels("store")

REMEMBERED_ENDS = 10_000

_ALIVE = """
    select s.ended_position is null and s.opened_position > coalesce(f.not_before, 0)
    from sessions s left join session_floors f on f.user_id = s.user_id
    where s.id = %s and s.user_id = %s
"""


_MAY_HAVE_EXPIRED = """
    select s.id from sessions s join stored_events e on e.notification_id = s.opened_position
     where s.ended_position is null and s.id > %(after)s and e.recorded_at < %(before)s
     order by s.id limit %(limit)s
"""


class SessionEnded(Unauthenticated):
    """This session has ended."""

    code = "session-ended"


def who_may_have_expired(
    connection: Connection[TupleRow], opened_before: datetime, after: UUID, limit: int
) -> list[UUID]:
    """Sessions that were opened so long ago and haven't ended, in the order of their ids. Raises psycopg.Error."""
    values = {"before": opened_before, "after": after, "limit": limit}
    return [id_ for (id_,) in connection.execute(_MAY_HAVE_EXPIRED, values)]


class StoredSessions:
    """Asks the inline table, which is right at the moment of commit."""

    def __init__(self, pool: ConnectionPool[Connection[TupleRow]]) -> None:
        self._pool = pool

    def alive(self, session_id: UUID, user_id: UUID) -> bool:
        """Whether this session of this user lives. Raises Unavailable."""
        try:
            with self._pool.connection() as connection:
                row = connection.execute(_ALIVE, (session_id, user_id)).fetchone()
        except (psycopg.Error, PoolTimeout):
            raise Unavailable("Sessions can't be verified right now.") from None
        return bool(row and row[0])


@dataclass(frozen=True, slots=True)
class _Known:
    user_id: UUID
    began: int


class Sessions:
    """The sessions that this process knows to live.

    Each end that is announced gets a number. What was read is trusted only if no end of its session or user was
    announced since the read began, so a slow reader can't bring an ended session back.
    """

    def __init__(
        self, stored: StoredSessions, executor: Executor, fresh: Callable[[], bool], *, size: int | Callable[[], int]
    ) -> None:
        """`fresh` says whether announcements are coming through; `size` bounds what is remembered."""
        self._stored = stored
        self._executor = executor
        self._fresh = fresh
        self._size = given(size)
        self._lock = threading.Lock()
        self._known: OrderedDict[UUID, _Known] = OrderedDict()
        self._ends: dict[UUID, int] = {}
        self._count = 0
        self._forgotten = 0

    def knows(self, session_id: UUID, user_id: UUID) -> bool:
        """Whether it is sure from memory that this session lives."""
        known = self._known.get(session_id)
        if known is None or known.user_id != user_id or not self._fresh() or self._ended_since(session_id, known):
            return False
        _FROM_MEMORY.inc()
        return True

    async def require_alive(self, session_id: UUID, user_id: UUID) -> None:
        """Raises SessionEnded, Unavailable."""
        if self.knows(session_id, user_id):
            return
        _FROM_STORE.inc()
        began = self._count
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._executor, self._stored.alive, session_id, user_id):
            raise SessionEnded
        self._remember(session_id, _Known(user_id, began))

    def announced(self, announcement: str) -> None:
        """Takes `session:<id>`, `user:<id>`, or `*` for anything may have ended."""
        kind, _, id_ = announcement.partition(":")
        with self._lock:
            self._count += 1
            if kind == "*" or len(self._ends) >= REMEMBERED_ENDS:
                self._forget()
            elif kind in {"session", "user"}:
                self._ends[UUID(id_)] = self._count

    def forget(self) -> None:
        """Announcements may have been missed."""
        self.announced("*")

    def _forget(self) -> None:
        """Reads that are under way count as begun before everything ended."""
        self._known.clear()
        self._ends.clear()
        self._forgotten = self._count

    def _ended_since(self, session_id: UUID, known: _Known) -> bool:
        ends = self._ends
        newest = max(ends.get(session_id, 0), ends.get(known.user_id, 0), self._forgotten)
        return newest > known.began

    def _remember(self, session_id: UUID, known: _Known) -> None:
        with self._lock:
            self._known[session_id] = known
            size = self._size()
            while len(self._known) > size:
                self._known.popitem(last=False)
