"""The application: Starlette, with the frame in the place of its middleware stack."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from threading import current_thread, main_thread
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from api.docs import docs_route
from api.frame import Frame
from api.health import health_routes
from api.limits import HttpLimits
from api.metrics import HttpCollector, Refresh, metrics_route
from api.openapi import OpenApi, openapi_route
from api.ports import Services
from api.routing import Route
from infra.configuration.live import given


class _Others:
    """Starlette's own router: lifespan, and routes that a module brings as Starlette's."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def takes(self, scope: Any) -> bool:
        """Whether one of Starlette's routes answers to this path."""
        return any(route.matches(scope)[0] is not Match.NONE for route in self._app.router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app.router(scope, receive, send)


class Application(Starlette):
    """Starlette whose requests are answered by the frame.

    Starlette's error handling isn't in the way: the frame turns every error into a problem document itself. Plain
    Starlette routes (`others`) work beside the tables; they are neither guarded nor documented.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        services: Services,
        limits: HttpLimits | Callable[[], HttpLimits] | None = None,
        *,
        registry: CollectorRegistry = REGISTRY,
        others: Sequence[BaseRoute] = (),
        lifespan: Lifespan[Any] | None = None,
        version: str = "0",
        refresh_metrics: Refresh | None = None,
    ) -> None:
        super().__init__(routes=others, lifespan=lambda _: self._life(lifespan))
        self.router.redirect_slashes = False
        limits = given(limits or HttpLimits())
        own = CollectorRegistry()
        tables = [*routes, *health_routes(services.readiness), metrics_route(registry, own, refresh=refresh_metrics)]
        document = OpenApi(tables, limits(), version).document()
        tables += [openapi_route(document), docs_route(document)]
        self._stops: list[Callable[[], None]] = []
        self.frame = Frame(tables, services, limits, _Others(self))
        own.register(HttpCollector(self.frame.counts, self._gauges))

    def build_middleware_stack(self) -> ASGIApp:
        """The frame is all there is."""
        return self.frame

    def _gauges(self) -> dict[str, float]:
        threads = self.frame.threads
        return {
            "calls_taken": threads.taken,
            "calls_room": threads.room,
            "threads": threads.size,
            "streams": self.frame.sender.open_streams,
        }

    @asynccontextmanager
    async def _life(self, lifespan: Lifespan[Any] | None) -> AsyncIterator[Any]:
        _on_stop(asyncio.get_running_loop(), self._stop)
        async with nullcontext() if lifespan is None else lifespan(self) as state:
            yield state
        await asyncio.to_thread(self.frame.close)

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Called in the event loop as soon as the process is asked to end: for whoever keeps an answer waiting."""
        self._stops.append(callback)

    def _stop(self) -> None:
        self.frame.sender.close()
        for callback in self._stops:
            callback()

    def close(self) -> None:
        """Ends open streams and waits for running calls, where nobody runs the lifespan."""
        self.frame.close()


def _on_stop(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Calls `stop` as soon as the process is asked to end.

    The server waits for open answers before it ends the lifespan, so streams that go on forever have to learn of it
    earlier, and so do long polls. The loop's own handlers stay in place: they are called after ours.
    """
    if current_thread() is not main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _first(loop, stop, signal.getsignal(number)))


def _first(loop: asyncio.AbstractEventLoop, stop: Callable[[], None], then: Any) -> Callable[[int, Any], Any]:
    def handle(number: int, frame: Any) -> Any:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop)
        if callable(then):
            return then(number, frame)
        if then is signal.SIG_DFL:  # nobody else handles it: do what would have been done
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        return None

    return handle
