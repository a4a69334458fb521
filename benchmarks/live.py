"""From a save to readers of `GET /api/v1/events/stream`: 100 at 100 events/s; 1,000 open on one process.

Run: python -m benchmarks.live [SECONDS]
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import psutil

from benchmarks.common import family, quantile, temporary_folder, told
from benchmarks.running import Platform
from domain.audit import Entry
from domain.context import Context
from infra.event_store import Log, Metadata
from infra.settings import Settings
from runtime import modules
from runtime.core import located

READERS, CROWD = 100, 1_000
RATE_PER_SECOND = 100
TYPES = "audit.EntryRecorded"
METADATA = Metadata.from_context(Context.system("benchmark", "live")).to_bytes()


class Reader:
    """One open stream; `arrived` are the delays of what it got, in seconds."""

    def __init__(self, reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        self.reading, self.writing = reading, writing
        self.arrived: list[float] = []

    async def read(self) -> None:
        """For ever. An event says in its detail when its save began, by this machine's clock."""
        while line := await self.reading.readline():
            if line.startswith(b"data: "):
                now = time.time()
                self.arrived.append(now - orjson.loads(line[6:])["body"]["detail"]["at"])


@asynccontextmanager
async def opened(url: str, token: str, after: int) -> AsyncIterator[Reader]:
    place = urlsplit(url)
    reading, writing = await asyncio.open_connection(place.hostname, place.port)
    path = f"/api/v1/events/stream?after={after}&types={TYPES}"
    writing.write(f"GET {path} HTTP/1.1\r\nHost: muniment\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    head = await reading.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    try:
        yield Reader(reading, writing)
    finally:
        writing.close()


def save(log: Log) -> None:
    detail = {"at": time.time()}
    log.save_work([Entry("benchmark.live", "target", "success", detail, None)], metadata=METADATA)


async def saved(log: Log, rate_per_second: float, seconds: float) -> int:
    """Saves of one event each, evenly."""
    count = round(rate_per_second * seconds)
    began = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate_per_second - time.monotonic()))
        await asyncio.to_thread(save, log)
    return count


async def measure(platform: Platform, log: Log, token: str, readers: int, rate: float, seconds: float) -> list[float]:
    """The delays at all readers. Prints what the API process has used meanwhile."""
    async with AsyncExitStack() as stack:
        before = memory(platform)
        after = log.head()
        ears = [await stack.enter_async_context(opened(platform.url, token, after)) for _ in range(readers)]
        tasks = [asyncio.create_task(ear.read()) for ear in ears]
        await saved(log, rate, 1.0)
        await asyncio.sleep(1.0)
        for ear in ears:
            ear.arrived.clear()
        used, began = platform.part("api"), time.monotonic()
        count = await saved(log, rate, seconds)
        share = (platform.part("api") - used) / (time.monotonic() - began)
        await asyncio.sleep(2.0)
        for task in tasks:
            task.cancel()
        missed = sum(count - len(ear.arrived) for ear in ears)
        print(f"{readers} readers, {rate:g} events/s: {missed} missed of {count * readers:,}")
        told("  processor of the API, of one core", [share * 100], unit=" %", digits=0)
        told("  memory of the API, with the readers / before", [memory(platform) / before])
        told("  memory of the API", [memory(platform)], unit=" MB", digits=0)
        return [delay * 1000 for ear in ears for delay in ear.arrived]


def memory(platform: Platform) -> float:
    """Of the API process and its worker, in MB."""
    (api,) = (each for each in psutil.Process(platform.pid).children() if each.cmdline()[-1:] == ["api"])
    return sum(float(each.memory_info().rss) for each in family(api.pid)) / 1e6


async def run(seconds: float, data: Path) -> None:
    with Platform(data) as platform:
        log = Log(located(Settings(data=data)).postgres_url, inline=modules.inline_tables())
        token = platform.client().token or ""
        try:
            for readers, rate, goal in ((READERS, RATE_PER_SECOND, "< 100"), (CROWD, 10, "")):
                delays = await measure(platform, log, token, readers, rate, seconds)
                told("  from save to reader, median", [quantile(delays, 0.5)], unit=" ms")
                told("  from save to reader, p99", [quantile(delays, 0.99)], goal, unit=" ms")
            open_only = platform.part("api")
            async with AsyncExitStack() as stack:
                for _ in range(CROWD):
                    await stack.enter_async_context(opened(platform.url, token, log.head()))
                opening = platform.part("api") - open_only
                open_only, began = platform.part("api"), time.monotonic()
                await asyncio.sleep(seconds)
                share = (platform.part("api") - open_only) / (time.monotonic() - began)
                told(f"opening {CROWD:,} readers", [opening * 1000 / CROWD], unit=" ms of processor each")
                told(f"{CROWD:,} readers, nothing happening: processor, of one core", [share * 100], unit=" %")
        finally:
            log.close()


def main(seconds: float = 10.0) -> None:
    with temporary_folder() as folder:
        asyncio.run(run(seconds, folder / "data"))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
