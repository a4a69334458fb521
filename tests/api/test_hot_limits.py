"""Limits that change while requests are under way: one that has begun keeps its own to its end."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from api.app import Application
from api.routing import SELF, Asked, Endpoint, Query
from api.threads import Threads
from domain.errors import Overloaded
from infra.configuration.live import Derived, Live, Snapshot
from infra.settings import Settings
from runtime.ports import http_limits
from tests.api.sample import ROUTES, Harbour, services

BASE = Settings(page_size=2)


@dataclass
class Gate:
    """Where a request waits in its midst."""

    arrived: asyncio.Event
    opened: asyncio.Event


class Quay:
    """The sample application with a configuration that changes."""

    def __init__(self) -> None:
        self.live = Live.of(BASE)
        self.harbour = Harbour()
        self.gate: Gate | None = None
        self.app = Application(
            [*ROUTES, self.slow, self.told],
            replace(services(self.harbour), live=self.live),
            Derived(self.live, http_limits),
        )

    @property
    def slow(self) -> Endpoint:
        async def seen(asked: Asked) -> dict[str, Any]:
            """What a request sees before and behind a swap, in the loop and in a thread."""
            before = [asked.limits.page_size, self.live.settings.page_size, asked.context.config_version]
            assert self.gate
            self.gate.arrived.set()
            await self.gate.opened.wait()
            here = [asked.limits.page_size, self.live.settings.page_size, asked.context.config_version]
            there = await asked.in_thread(lambda: [self.live.settings.page_size, self.live.bound.version])
            return {"before": before, "here": here, "there": there}

        return Endpoint("GET", "/api/v1/seen", seen, permission=SELF, result=dict[str, Any])

    @property
    def told(self) -> Query:
        def config_version(look: Any) -> dict[str, int]:
            """The configuration that a query is answered under, in its thread."""
            return {"version": self.live.bound.version}

        return Query("GET", "/api/v1/told", dict[str, int], config_version, permission=SELF)

    def store(self, version: int, **values: Any) -> None:
        self.live.offer(Snapshot(replace(BASE, **values), version))

    async def ask(self, path: str, method: str = "GET", **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 4321))
        headers = {"authorization": "Bearer adas-token", **options.pop("headers", {})}
        async with httpx.AsyncClient(transport=transport, base_url="http://harbour.example", headers=headers) as client:
            return await client.request(method, path, **options)


@pytest.fixture
def quay() -> Iterator[Quay]:
    made = Quay()
    yield made
    made.app.close()


def test_a_request_keeps_the_configuration_that_it_began_with_and_the_next_one_has_the_new(quay):
    async def story() -> tuple[Any, Any]:
        quay.gate = Gate(asyncio.Event(), asyncio.Event())
        first = asyncio.create_task(quay.ask("/api/v1/seen"))
        await quay.gate.arrived.wait()
        quay.store(7, page_size=5)
        second = asyncio.create_task(quay.ask("/api/v1/seen"))
        while not quay.gate.opened.is_set():
            await asyncio.sleep(0.01)
            quay.gate.opened.set()
        return (await first).json(), (await second).json()

    old, new = asyncio.run(story())
    assert old == {"before": [2, 2, 0], "here": [2, 2, 0], "there": [2, 0]}
    assert new == {"before": [5, 5, 7], "here": [5, 5, 7], "there": [5, 7]}


def test_a_page_is_as_long_as_the_configuration_says_now(quay):
    def items() -> int:
        return len(asyncio.run(quay.ask("/api/v1/ships")).json()["items"])

    for number in range(9):
        body = {"name": f"ship {number}"}
        assert asyncio.run(quay.ask("/api/v1/ships", "POST", json=body)).status_code == 201
    assert items() == 2
    quay.store(3, page_size=6)
    assert items() == 6
    quay.store(4, page_limit=3, page_size=3)
    answer = asyncio.run(quay.ask("/api/v1/ships?limit=4"))
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"field": "limit", "message": "at most 3"}])


def remarks(what: Any) -> dict[str, Any]:
    return {"path": "/api/v1/watches", "method": "PUT", "json": {"watches": [], "remarks": {"a": what}}}


@pytest.mark.parametrize(
    ("setting", "request_", "status"),
    [
        ({"body_limit_bytes": 1024}, remarks("a" * 2000), 413),
        ({"url_limit_bytes": 256}, {"path": "/api/v1/ships?q=" + "a" * 300}, 414),
        ({"header_limit": 8}, {"path": "/api/v1/whoami", "headers": {f"x-{n}": "a" for n in range(9)}}, 431),
        ({"header_limit_bytes": 1024}, {"path": "/api/v1/whoami", "headers": {"x-long": "a" * 1100}}, 431),
        ({"json_depth_limit": 4}, remarks({"b": {"c": {"d": 1}}}), 422),
    ],
    ids=["body", "url", "headers", "header-bytes", "depth"],
)  # fmt: skip
def test_limits_of_requests_hold_as_soon_as_they_are_stored(quay, setting, request_, status):
    before = asyncio.run(quay.ask(**dict(request_)))
    assert before.status_code == 200
    quay.store(1, **setting)
    assert asyncio.run(quay.ask(**dict(request_))).status_code == status
    quay.store(2)
    assert asyncio.run(quay.ask(**dict(request_))).status_code == 200


def test_headers_for_browsers_follow_the_configuration(quay):
    origin = {"headers": {"origin": "https://shop.example"}}
    assert "access-control-allow-origin" not in asyncio.run(quay.ask("/api/v1/whoami", **origin)).headers
    quay.store(1, allowed_origins="https://shop.example", https_only=True)
    headers = asyncio.run(quay.ask("/api/v1/whoami", **origin)).headers
    assert headers["access-control-allow-origin"] == "https://shop.example"
    assert "strict-transport-security" in headers


def test_proxies_are_trusted_from_the_moment_that_they_are_named(quay):
    forwarded = {"headers": {"x-forwarded-for": "203.0.113.9"}}
    assert asyncio.run(quay.ask("/api/v1/whoami", **forwarded)).json()["ip"] == "192.0.2.7"
    quay.store(1, trusted_proxies="192.0.2.0/24")
    assert asyncio.run(quay.ask("/api/v1/whoami", **forwarded)).json()["ip"] == "203.0.113.9"


def test_a_query_in_its_thread_has_the_requests_configuration(quay):
    quay.store(9)
    assert asyncio.run(quay.ask("/api/v1/told")).json() == {"version": 9}


def test_how_many_may_wait_for_a_thread_follows_the_configuration():
    room = [0]
    threads = Threads(1, lambda: room[0])

    async def story() -> str:
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            asyncio.run_coroutine_threadsafe(opened.wait(), loop).result()

        first = asyncio.create_task(threads.run(wait))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await threads.run(str)
        room[0] = 1
        second = asyncio.create_task(threads.run(str))
        await asyncio.sleep(0)
        opened.set()
        await first
        return await second

    assert asyncio.run(story()) == ""
    threads.close()


def test_a_stream_that_goes_on_for_long_holds_no_snapshot(quay):
    """It begins within a request, and would keep that one's configuration for hours."""

    async def story() -> int:
        async def swell(asked: Asked) -> None:
            assert quay.live.bound.version == 0

        app = Application(
            [Endpoint("POST", "/api/v1/swell", swell, permission=SELF, answers=204)], quay.app.frame.services
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://harbour.example") as client:
            await client.post("/api/v1/swell", headers={"authorization": "Bearer adas-token"})
        quay.store(5)
        app.close()
        return quay.live.bound.version  # this task ran the request

    assert asyncio.run(story()) == 5
