"""Whole commands, and what each layer costs: the same one-event change, with one more layer each time.

    python -m benchmarks.commands [--rounds 5] [--seconds 2]

32 threads of one process on a durable PostgreSQL. The command renames a user: it loads the user from its stream,
decides, and saves one event with its metadata in a commit that may also write inline tables. Only what a layer adds
differs; the last one is what a request with an Idempotency-Key does between its body and its answer.
"""

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID, uuid4

from eventsourcing.persistence import StoredEvent
from psycopg_pool import ConnectionPool

from benchmarks.common import postgres, ratios, told
from benchmarks.saves import METADATA, STATE, THREADS, TOPIC, rate
from commands.identity import RegisterUser, RenameUser, register_user, rename_user
from domain.context import Actor, Context
from domain.identity import EmailAddress, PersonName, User
from infra.dispatch import Dispatcher
from infra.event_store import Log, Metadata
from infra.receipts import ReceiptedDispatcher, Receipts
from infra.recorder import LogRecorder, Save
from infra.work import UnitOfWork
from runtime import modules

USERS = 4_000
CONTEXT = Context(Actor("user", str(UUID(int=1))), "bench")
WARM_UP_SECONDS = 0.5


@dataclass(frozen=True)
class Used:
    """One use of an Idempotency-Key."""

    key: str
    actor: str = "user:bench"
    route: str = "PATCH /api/v1/users/{id}"
    body: bytes = b'{"name":"Ada King"}'
    status: int = 204

    def encode(self, _: object) -> bytes:
        return b"null"


class Layers:
    """Each adds something to the one before."""

    def __init__(self, conninfo: str) -> None:
        self.log = Log(conninfo, inline=modules.inline_tables())
        self.dispatcher = Dispatcher(self.log)
        self.pool: ConnectionPool = ConnectionPool(
            conninfo, min_size=1, max_size=16, kwargs={"autocommit": True}, open=True
        )
        self.receipts = Receipts(self.pool, b"k" * 32)
        self.receipted = ReceiptedDispatcher(self.dispatcher, self.receipts)
        self.users = self._register()
        self._names = itertools.count()

    def _register(self) -> "itertools.cycle[UUID]":
        def register(number: int) -> UUID:
            email = EmailAddress(f"user{number}@engine.example")
            command = RegisterUser(email, uuid4(), PersonName("Ada"), "hash")
            return self.dispatcher.dispatch(register_user, command, CONTEXT).result

        with ThreadPoolExecutor(THREADS) as pool:
            return itertools.cycle(list(pool.map(register, range(USERS))))

    def recorder(self) -> None:
        """A row that exists already, through the group commit."""
        assert isinstance(self.log.recorder, LogRecorder)
        self.log.recorder.save(Save([StoredEvent(uuid4(), 1, TOPIC, STATE)], METADATA))

    def event(self) -> None:
        """The same with an event made, encoded and stamped with its metadata."""
        user = User(f"{uuid4()}@engine.example", "Ada", "hash")
        self.log.save_work([user], metadata=Metadata.from_context(CONTEXT).to_bytes())

    def load(self) -> None:
        """Only the load: an aggregate from its stream."""
        UnitOfWork(self.log, CONTEXT).get(User, next(self.users))

    def command(self) -> None:
        """Load, decide, save."""
        self.dispatcher.dispatch(rename_user, self._renaming(), CONTEXT)

    def receipt_in_commit(self) -> None:
        """The same with the receipt in the commit."""
        self.receipted.dispatch(rename_user, self._renaming(), CONTEXT, receipt=Used(str(uuid4())))

    def whole(self) -> None:
        """The same with the key reserved first."""
        used = Used(str(uuid4()))
        self.receipts.reserve(used)
        self.receipted.dispatch(rename_user, self._renaming(), CONTEXT, receipt=used)

    def _renaming(self) -> RenameUser:
        return RenameUser(next(self.users), f"Ada {next(self._names)}")

    def close(self) -> None:
        self.pool.close()
        self.log.close()


@contextmanager
def layers() -> Iterator[Layers]:
    with postgres() as conninfo:
        made = Layers(conninfo)
        try:
            yield made
        finally:
            made.close()


def timed(run: Callable[[], None], threads: int, seconds: float) -> tuple[float, float]:
    """Operations per second, and microseconds of this process's processor time for each."""
    before = sum(os.times()[:2])
    per_second = rate(run, threads, seconds)
    return per_second, (sum(os.times()[:2]) - before) / (per_second * seconds) * 1e6


def main(rounds: int, seconds: float) -> None:
    """Prints operations per second of each layer, and its share of the bare save's."""
    with layers() as made:
        steps: dict[str, Callable[[], None]] = {
            "bare save through the recorder": made.recorder,
            "+ event made, encoded, with its metadata": made.event,
            "(only the load of an aggregate, without a save)": made.load,
            "+ load and decide: the command": made.command,
            "+ receipt in the commit": made.receipt_in_commit,
            "+ key reserved first: the whole command": made.whole,
        }
        runs = {f"{what}, {THREADS} threads": partial(timed, step, THREADS) for what, step in steps.items()}
        runs["a lone command, without receipts"] = partial(timed, made.command, 1)
        runs["a lone whole command"] = partial(timed, made.whole, 1)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for run in runs.values():
            run(WARM_UP_SECONDS)
        for _ in range(rounds):
            for name, run in runs.items():
                found[name].append(run(seconds))
        report(found)


def report(found: dict[str, list[tuple[float, float]]]) -> None:
    for name, each in found.items():
        processor = statistics.median(used for _, used in each)
        told(f"{name} ({processor:,.0f} us of processor)", [per_second for per_second, _ in each], digits=0, unit="/s")
    print()
    bare, *others = found.values()
    for name, each in list(zip(found, (bare, *others), strict=True))[1:6]:
        told(f"{name} / bare save", ratios([r for r, _ in each], [r for r, _ in bare]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    main(given.rounds, given.seconds)
