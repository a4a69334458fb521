"""An installation in miniature: a log, the access view with a feed that moves when told to, and API processes."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from commands.access import (
    AssignRole,
    ChangeIncludes,
    ChangePermissions,
    CreateRole,
    RevokeRole,
    assign_role,
    change_includes,
    change_permissions,
    create_role,
    revoke_role,
)
from domain.access import Pattern, RoleName, Scope
from domain.context import Actor, Context
from domain.identity import User
from infra.caches import Caches
from infra.dispatch import Dispatcher
from infra.event_store import Log, Metadata
from infra.invalidation import Invalidator
from infra.listener import Listener
from infra.recorder import Limits
from projections.access import ACCESS, AccessReader, Decisions
from projections.builds import ensure_builds
from projections.engine import Applied, Build, Engine
from projections.facts import read

SEAL_KEY = b"a seal key of thirty-two bytes.."
SYSTEM = Actor("system", "a test")


class World:
    """The writing side. `tombstones` is called after each commit of the view, as the feed does."""

    def __init__(self, database: str, valkey: str | None = None) -> None:
        self.database, self.valkey = database, valkey
        self.log = Log(database, limits=Limits(pool_seconds=1.0))
        self.dispatcher = Dispatcher(self.log)
        self.connection = psycopg.connect(database, autocommit=True)
        self.invalidator = Invalidator(database, valkey)
        self.tombstones: Callable[[Applied], None] = self._bury
        ensure_builds(self.connection, [ACCESS])
        self.build = Build(ACCESS, 1)
        self.engine = Engine(self.connection, self.log, self.build, committed=self._committed)
        self.position = 0
        self.hold_lease()

    def _committed(self, applied: Applied) -> None:
        self.tombstones(applied)

    def _bury(self, applied: Applied) -> None:
        self.invalidator.committed(applied.build.projection.name, applied.invalidate, applied.position)

    def hold_lease(self, seconds: float = 3600) -> None:
        self.connection.execute(
            "insert into leases values ('follower', 'a test', 1, clock_timestamp() + %s * interval '1 second')"
            " on conflict (name) do update set expires_at = excluded.expires_at",
            (seconds,),
        )

    def feed(self) -> int:
        """Brings the view to the head of the log; its position."""
        while batch := read(self.log, self.position, 1000):
            self.position = self.engine.apply(batch, self.position)
        return self.position

    def run(self, handler: Any, command: Any, actor: Actor = SYSTEM) -> int:
        return self.dispatcher.dispatch(handler, command, Context(actor, "a test")).position

    def user(self, name: str) -> UUID:
        user = User(email=f"{name}@engine.example", name=name, password="hashed")
        self.save(user)
        return user.id

    def save(self, *aggregates: Any, by: str = "system:a test") -> int:
        return self.log.save_work(aggregates, metadata=Metadata(by, "a test").to_bytes()).position

    def role(self, name: str, *held: str, includes: tuple[str, ...] = ()) -> int:
        command = CreateRole(RoleName(name), tuple(map(Pattern, held)), tuple(map(RoleName, includes)))
        return self.run(create_role, command)

    def permissions(self, name: str, *held: str) -> int:
        return self.run(change_permissions, ChangePermissions(RoleName(name), tuple(map(Pattern, held))))

    def includes(self, name: str, *included: str) -> int:
        return self.run(change_includes, ChangeIncludes(RoleName(name), tuple(map(RoleName, included))))

    def assign(self, user: UUID, role: str, scope: str = "/", until: datetime | None = None) -> int:
        return self.run(assign_role, AssignRole(user, RoleName(role), Scope(scope), until))

    def revoke(self, user: UUID, role: str, scope: str = "/") -> int:
        return self.run(revoke_role, RevokeRole(user, RoleName(role), Scope(scope)))

    def suspend(self, user: UUID) -> int:
        aggregate: Any = self.log.repository.get(user)
        aggregate.suspend("a test")
        return self.save(aggregate)

    def close(self) -> None:
        self.connection.close()
        self.invalidator.close()
        self.log.close()


@contextmanager
def world_of(database: str, valkey: str | None = None) -> Any:
    world = World(database, valkey)
    try:
        yield world
    finally:
        world.close()


@dataclass
class Process:
    """The reading side: what one API process has."""

    listener: Listener
    caches: Caches
    reader: AccessReader
    decisions: Decisions

    async def may(self, user: UUID, permission: str, scope: str = "/") -> bool:
        return (await self.decisions.decide(user, permission, scope)).allowed

    def remembers(self, user: UUID) -> bool:
        return self.decisions.cache.local.get(user) is not None

    async def heard(self) -> None:
        """Everything committed before this call has been handled."""
        await self.listener.caught_up()


@asynccontextmanager
async def process_of(
    database: str,
    valkey: str | None,
    log: Log,
    *,
    seal_key: bytes = SEAL_KEY,
    listener_database: str | None = None,
    start_seconds: float = 10,
    **options: Any,
) -> AsyncIterator[Process]:
    listener = Listener(listener_database or database, {"access": 1}, leases=["follower"], beat_seconds=0.1)
    caches = Caches(database, listener, seal_key=seal_key, redis_url=valkey)
    reader = AccessReader(database)
    with ThreadPoolExecutor(4) as executor:
        decisions = Decisions(log, reader, caches, listener, executor, **options)
        await reader.open()
        await listener.start(start_seconds)
        try:
            yield Process(listener, caches, reader, decisions)
        finally:
            await listener.stop()
            await caches.close()
            await reader.close()
