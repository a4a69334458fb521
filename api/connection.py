"""The client at the other end: whether it is still there (ASGI's `receive`, once the request's body was read)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

R = TypeVar("R")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client hung up before it was answered: nobody is told anything any more."""


async def disconnected(receive: Receive) -> None:
    """Returns when the client has hung up. What else it still sends isn't read by anybody."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, waiting: Coroutine[Any, Any, R]) -> R:
    """What it comes to. Who hangs up before ends it, so that nothing is kept for nobody. Raises ClientGone."""
    waits = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((waits, gone), return_when=asyncio.FIRST_COMPLETED)
        if waits.done():
            return waits.result()
        raise ClientGone
    finally:
        for task in (waits, gone):
            task.cancel()
        await asyncio.gather(waits, gone, return_exceptions=True)
