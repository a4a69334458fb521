"""Makes events of what comes in crowds: refused requests, and readings of the audit log."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from api.ports import Dispatcher, Refusal
from commands.audit import RecordRead, RecordRefusal, record_read, record_refusal
from domain.context import ANONYMOUS, Actor, Context
from infra.addresses import network_of
from infra.coalesce import Coalescer

READ = "read"
InThread = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Crowd:
    """What counts as the same: who (for strangers: from which network), what, and with which code."""

    actor: Actor
    ip: str | None
    action: str
    code: str
    permission: str | None
    context: Context = field(compare=False)


class Crowds:
    """Implements `api.ports.Refusals`. The first of a minute is durable before the answer."""

    def __init__(self, dispatcher: Dispatcher, in_thread: InThread) -> None:
        self._dispatcher = dispatcher
        self._in_thread = in_thread
        self._coalescer = Coalescer(self._record, _anything)

    async def record(self, refusal: Refusal) -> None:
        """A refused request."""
        context = refusal.context
        await self._coalescer.add(_crowd(context, refusal.action, refusal.code, refusal.permission))

    async def read(self, context: Context, action: str) -> None:
        """A reading of the audit log."""
        await self._coalescer.add(_crowd(context, action, READ, None))

    async def close(self) -> None:
        """Records the counts of this minute."""
        await self._coalescer.close()

    async def _record(self, crowd: Crowd, count: int) -> None:
        if crowd.code == READ:
            command: Any = RecordRead(crowd.action, count)
            await self._in_thread(self._dispatcher.dispatch, record_read, command, crowd.context)
        else:
            command = RecordRefusal(crowd.action, crowd.code, crowd.permission, count)
            await self._in_thread(self._dispatcher.dispatch, record_refusal, command, crowd.context)


def _crowd(context: Context, action: str, code: str, permission: str | None) -> Crowd:
    stranger = context.actor == ANONYMOUS
    where = network_of(context.ip) if stranger and context.ip else None
    return Crowd(context.actor, where, action, code, permission, context)


def _anything(crowd: Crowd) -> Crowd:
    """What is beyond the limit of different crowds is one."""
    context = Context(ANONYMOUS, crowd.context.correlation_id)
    return Crowd(ANONYMOUS, None, "*", crowd.code, None, context)
