"""Where the time goes from a save to its view over the bus: relay and stream worker with a clock at each stage.

    python -m benchmarks.stages [--rate 500] [--seconds 10] [--kafka HOST:PORT]

The processes are those of `muniment relay` and `muniment stream`, in which these functions are watched: who publishes
what was read, who hands a message from Faust to the feeder, who applies a batch, and each view's part of it. What a
clock costs falls on them, so `benchmarks.stream` says how long it takes without. Processor time is that of all
processes of a kind, by the clock's second and by event.
"""

import argparse
import json
import os
import statistics
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bus import Shape, kafka, shape
from benchmarks.common import quantile
from benchmarks.follower import BARE, WARM_UP_SECONDS, Ears, delays, saves
from infra.settings import Settings

Line = list[Any]


# --- inside the processes


class Clock:
    """Notes what happened when; written down at the end."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._lines: list[Line] = []

    def note(self, *what: Any) -> None:
        self._lines.append([*what])

    def watch(self, owner: Any, name: str, what: Callable[..., Any]) -> None:
        """Notes each call of a function: `what` of its arguments, when it began and when it ended."""
        watched = getattr(owner, name)

        def called(*arguments: Any, **named: Any) -> Any:
            began = time.monotonic()
            try:
                return watched(*arguments, **named)
            finally:
                self.note(*what(*arguments), began, time.monotonic())

        setattr(owner, name, called)

    def write_at_end(self, owner: Any, name: str) -> None:
        """After this function was called."""
        ending = getattr(owner, name)

        def ended(*arguments: Any) -> None:
            ending(*arguments)
            with self._path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in self._lines)
            self._lines.clear()

        setattr(owner, name, ended)


def be_relay(path: str) -> None:
    from runtime.relay import relay  # noqa: PLC0415
    from stream_apps.relay import _Term  # noqa: PLC0415

    clock = Clock(path)
    clock.watch(_Term, "_publish", lambda _, rows: ("published", rows[0].position, rows[-1].position))
    clock.write_at_end(_Term, "_close")
    relay(Settings.from_env())


def be_worker(path: str) -> None:
    from runtime.stream import stream  # noqa: PLC0415
    from stream_apps import feeder  # noqa: PLC0415
    from stream_apps.batches import Batches  # noqa: PLC0415
    from stream_apps.build_feed import BuildFeed  # noqa: PLC0415
    from stream_apps.feeder import Feeder  # noqa: PLC0415
    from stream_apps.inbox import Inbox  # noqa: PLC0415

    clock, put = Clock(path), Batches.put

    async def delivered(batches: Any, one: Any) -> None:
        headers = dict(one[0].message.headers)
        is_event = not headers["ce_type"].startswith(b"muniment.")
        now = time.monotonic()
        clock.note("delivered", int(headers["ce_position"]) if is_event else 0, now, now)
        await put(batches, one)

    Batches.put = delivered  # type: ignore[assignment, method-assign]
    clock.watch(Feeder, "handle", lambda _, batch: ("batch", len(batch)))
    clock.watch(Inbox, "open", lambda *_: ("opening messages", 0))
    clock.watch(Inbox, "of_this_past", lambda *_: ("asking the log for its past", 0))
    clock.watch(feeder, "advance_together", lambda _, moves: ("all views together", len(moves)))
    clock.watch(BuildFeed, "deliver", lambda feed, _: (f"view {feed.build.projection.name} by itself", 0))
    clock.write_at_end(Feeder, "close")
    stream(Settings.from_env())


# --- outside


def used() -> dict[str, float]:
    """Processor seconds by kind of process, of this one and all that it started."""
    found: dict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        try:
            line, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:
            continue
        kinds = {"--relay": "relay", "--worker": "stream worker", "postgres": "PostgreSQL", "java": "Kafka"}
        if kind := next((kinds[sign] for sign in kinds if sign in line), None):
            found[kind] += times.user + times.system
    return found


class Measured:
    """What was noted of one span."""

    def __init__(self, given: Shape, rate: float, seconds: float) -> None:
        folder = given.settings.data
        paths = {name: folder / f"{name}.lines" for name in ("relay", "worker")}
        parts = [given.script("benchmarks.stages", f"--{name}", str(path)) for name, path in paths.items()]
        conninfo = given.settings.postgres_url
        given.wait_until_sent()
        saves(conninfo, rate, WARM_UP_SECONDS)
        time.sleep(2.0)
        given.wait_until_visible()
        with Ears(conninfo) as ears:
            time.sleep(0.3)
            before, began = used(), time.monotonic()
            self.rows = saves(conninfo, rate, seconds)
            after, took = used(), time.monotonic() - began
            given.wait_until_visible()
            time.sleep(0.3)
        for part in reversed(parts):
            part.stop()
        self.heard = ears.heard
        self.used = {kind: (after[kind] - before.get(kind, 0.0)) / took for kind in sorted(after)}
        self.relay, self.worker = (
            [json.loads(line) for line in path.read_text().splitlines()] for path in paths.values()
        )

    def within(self, lines: Sequence[Line]) -> list[Line]:
        """Those that began in the span."""
        return [line for line in lines if self.rows[0][2] <= line[-2] <= self.rows[-1][2]]


def stages(measured: Measured) -> Iterator[tuple[str, list[float]]]:
    """The milliseconds of each event in each stage."""
    durable = {position: answered for position, _, answered in measured.rows}
    read: dict[int, float] = {}
    sent: dict[int, float] = {}
    for _, first, last, began, ended in measured.relay:
        read |= dict.fromkeys(range(first, last + 1), began)
        sent |= dict.fromkeys(range(first, last + 1), ended)
    delivered = {position: at for what, position, at, _ in measured.worker if what == "delivered"}
    batches = sorted((began, ended) for what, _, began, ended in measured.worker if what == "batch")
    starts = [began for began, _ in batches]
    taken, committed = {}, {}
    for position, at in delivered.items():
        if (index := bisect_left(starts, at)) < len(batches):
            taken[position], committed[position] = batches[index]
    yield "due to durable", [(answered - due) * 1000 for _, due, answered in measured.rows]
    yield "durable to read by the relay", between(durable, read, durable)
    yield "read to handed to librdkafka", between(read, sent, durable)
    yield "handed over to delivered by Faust", between(sent, delivered, durable)
    yield "delivered to taken by the feeder", between(delivered, taken, durable)
    yield "taken to committed by all views", between(taken, committed, durable)
    for name, heard in sorted(measured.heard.items()):
        if name != BARE:
            yield f"in all: durable to visible in {name}", delays(sorted(durable.items()), heard)


def between(former: Mapping[int, float], later: Mapping[int, float], wanted: Mapping[int, float]) -> list[float]:
    return [(later[each] - former[each]) * 1000 for each in wanted if each in former and each in later]


def main(rate: float, seconds: float, address: str) -> None:
    """Prints the stages, what a batch consists of, and what all of it uses."""
    with kafka(address) as brokers, shape(brokers) as given:
        measured = Measured(given, rate, seconds)
    print(f"{len(measured.rows)} events at {rate:g}/s, load average {os.getloadavg()[0]:.1f}; milliseconds of an event")
    for name, took in stages(measured):
        if took:
            spread = [quantile(took, share) for share in (0.5, 0.9, 0.99)]
            print(f"  {name:44} median {spread[0]:6.1f}   p90 {spread[1]:6.1f}   p99 {spread[2]:6.1f}")
    found: dict[str, list[float]] = defaultdict(list)
    for what, _, began, ended in measured.within(measured.worker):
        found[what].append((ended - began) * 1000)
    del found["delivered"]
    sizes = [line[1] for line in measured.within(measured.worker) if line[0] == "batch"]
    print(f"a batch ({len(sizes) / seconds:.0f}/s of {statistics.mean(sizes):.0f} messages); milliseconds")
    for name, took in found.items():
        print(f"  {name:44} mean   {statistics.mean(took):6.1f}   p99 {quantile(took, 0.99):6.1f}")
    print("processor, of a core, and microseconds for each event")
    for kind, share in measured.used.items():
        print(f"  {kind:44} {share:6.1%} {share / rate * 1e6:9.0f} us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a Kafka that runs already")
    parser.add_argument("--relay", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.relay:
        be_relay(chosen.relay)
    elif chosen.worker:
        be_worker(chosen.worker)
    else:
        main(chosen.rate, chosen.seconds, chosen.kafka)
