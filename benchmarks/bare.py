"""The peer over HTTP: an empty route of bare Starlette that reads its body, on the platform's own server."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from infra.settings import Settings
from runtime.serve import serve


async def empty(request: Request) -> JSONResponse:
    """Reads the body, answers nothing."""
    await request.body()
    return JSONResponse({})


def app() -> Starlette:
    """What granian's worker calls."""
    return Starlette(routes=[Route("/empty", empty, methods=["POST"]), Route("/ready", empty)])


if __name__ == "__main__":
    serve(Settings.from_env(), "benchmarks.bare:app")
