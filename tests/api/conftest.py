"""The sample application, and a client that talks ASGI to it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from api.app import Application
from api.limits import HttpLimits
from tests.api.sample import Harbour, application
from tests.api.serving import Served


class Client:
    """A client for tests that aren't coroutines. `bearer` is sent unless a request says otherwise."""

    def __init__(self, app: Application, bearer: str = "adas-token", peer: str = "192.0.2.7") -> None:
        self.app, self.headers, self.peer = app, {"authorization": f"Bearer {bearer}"} if bearer else {}, peer
        self.runner = asyncio.Runner()

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        options["headers"] = {**self.headers, **options.get("headers", {})}
        return self.runner.run(self.request(method, path, **options))

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, client=(self.peer, 4321))
        async with httpx.AsyncClient(transport=transport, base_url="http://harbour.example") as client:
            return await client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self("PUT", path, **options)


MakeClient = Callable[..., Client]


@pytest.fixture
def harbour() -> Harbour:
    return Harbour()


@pytest.fixture
def make_client(harbour: Harbour) -> Iterator[MakeClient]:
    made = []

    def make(limits: HttpLimits | None = None, **options: Any) -> Client:
        made.append(Client(application(harbour, limits), **options))
        return made[-1]

    yield make
    for client in made:
        client.runner.close()
        client.app.close()


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    """Ada calls."""
    return make_client()


@pytest.fixture
def grace(make_client: MakeClient) -> Client:
    """Grace calls, who may do nothing in particular."""
    return make_client(bearer="graces-token")


@pytest.fixture
def stranger(make_client: MakeClient) -> Client:
    """Nobody knows who calls."""
    return make_client(bearer="")


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The sample application on granian."""
    served = Served(tmp_path_factory.mktemp("granian") / "log")
    yield served
    served.stop()
    assert "Traceback" not in served.log.read_text()
