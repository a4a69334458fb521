"""From an update's commit to 500 watchers of `GET /api/v1/config/{namespace}/watch` on one process.

Run: python -m benchmarks.config_watchers [UPDATES]
"""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.common import quantile, temporary_folder, told
from benchmarks.live import memory
from benchmarks.running import Platform
from runtime.demo.client import Client

WATCHERS = 500
NAMESPACE = "benchmark"
SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "number", "default": 0}, "filling": {"type": "string", "default": ""}},
}
AT = re.compile(rb'"at":([0-9.]+)')
SIZES = {"a document of 1 KB": 1_000, "a document of 100 KB": 100_000}


class Watcher:
    """One open stream; `arrived` are the delays of what it got, in seconds."""

    def __init__(self, reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        self.reading, self.writing = reading, writing
        self.arrived: list[float] = []

    async def read(self) -> None:
        """For ever. A document says when its update was sent, by this machine's clock; it counts once it is whole."""
        sent = 0.0
        while size := int(await self.reading.readline(), 16):
            part = await self.reading.readexactly(size + 2)
            if found := AT.search(part):
                sent = float(found[1])
            if sent and part.endswith(b"\n\n\r\n"):
                self.arrived.append(time.time() - sent)
                sent = 0.0


@asynccontextmanager
async def opened(url: str, token: str) -> AsyncIterator[Watcher]:
    place = urlsplit(url)
    reading, writing = await asyncio.open_connection(place.hostname, place.port, limit=4_194_304)
    path = f"/api/v1/config/{NAMESPACE}/watch"
    writing.write(f"GET {path} HTTP/1.1\r\nHost: muniment\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    head = await reading.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    try:
        yield Watcher(reading, writing)
    finally:
        writing.close()


def update(client: Client, filling: str) -> None:
    body = {"values": {"at": time.time(), "filling": filling}}
    client.do("PUT", f"/api/v1/config/{NAMESPACE}", body)


async def measure(platform: Platform, client: Client, size: int, updates: int) -> None:
    """Prints delays, and what the API process has used meanwhile."""
    async with AsyncExitStack() as stack:
        before = memory(platform)
        watchers = [await stack.enter_async_context(opened(platform.url, client.token or "")) for _ in range(WATCHERS)]
        tasks = [asyncio.create_task(watcher.read()) for watcher in watchers]
        await asyncio.sleep(1.0)
        for watcher in watchers:
            watcher.arrived.clear()
        used, most = platform.part("api"), 0.0
        for number in range(updates):
            await asyncio.to_thread(update, client, str(number) + "x" * size)
            await asyncio.sleep(1.0)
            most = max(most, memory(platform))
        await asyncio.sleep(1.0)
        share = (platform.part("api") - used) / updates
        for task in tasks:
            task.cancel()
        delays = [delay * 1000 for watcher in watchers for delay in watcher.arrived]
        print(f"  {updates * WATCHERS - len(delays)} of {updates * WATCHERS:,} weren't given: a newer one had come")
        told("  from update to watcher, median", [quantile(delays, 0.5)], unit=" ms")
        told("  from update to watcher, p99", [quantile(delays, 0.99)], "< 500", unit=" ms")
        told("  processor of the API for one update", [share * 1000], unit=" ms")
        told("  memory of the API: what the watchers add, at most", [most - before], "< 100", unit=" MB")
        told("  memory of the API, all of it", [most], unit=" MB", digits=0)


async def run(updates: int, data: Path) -> None:
    with Platform(data) as platform:
        client = platform.client()
        client.do("PUT", f"/api/v1/config-namespaces/{NAMESPACE}", {"schema": SCHEMA})
        for what, size in SIZES.items():
            print(f"{WATCHERS} watchers, {what}:")
            await measure(platform, client, size, updates)
        async with AsyncExitStack() as stack:
            for _ in range(WATCHERS):
                await stack.enter_async_context(opened(platform.url, client.token or ""))
            await asyncio.sleep(1.0)
            used, began = platform.part("api"), time.monotonic()
            await asyncio.sleep(10.0)
            share = (platform.part("api") - used) / (time.monotonic() - began)
            told(f"{WATCHERS} watchers, nothing happening: processor, of one core", [share * 100], unit=" %")


def main(updates: int = 20) -> None:
    with temporary_folder() as folder:
        asyncio.run(run(updates, folder / "data"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
