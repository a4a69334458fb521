"""A drill: traffic, and things that happen to the platform meanwhile; then a look at whether all is as the log says."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event
from typing import TypeAlias

from runtime.core import build_core
from tests.e2e.platform import ADMIN
from tests.kafka import record
from tests.kafka.full_shape import FullShape
from tests.kafka.traffic import MAY_END, Asker, Commander, Sent

Mishap: TypeAlias = Callable[[], None]

COMMANDERS = 8
COMMANDS_PER_SECOND = 260.0
CHECKS_PER_SECOND = 25.0
LEAST_GRANTED = 20
SHOWN = 10
END_SECONDS = 2.0
"""How long the traffic goes on when everything has happened."""


@dataclass
class Drill:
    """Two series of mishaps, each in order, at random moments, beside each other: so a relay dies while there is no
    broker, and while there is one. `seed` decides the moments.
    """

    shape: FullShape
    seed: int
    sent: list[Sent] = field(default_factory=list)
    seconds: float = 0.0
    _ended: Event = field(default_factory=Event)

    def run(self, *series: Sequence[Mishap], longest_seconds: float) -> None:
        """Until all has happened. Raises what a mishap, a commander or an asker has failed with."""
        core = build_core(self.shape.settings)
        commanders: list[Commander] = []
        caller = self.shape.api.login(*ADMIN)
        self._askers = [Asker(caller, commanders, CHECKS_PER_SECOND, own=own) for own in (False, True)]
        with ExitStack() as stack:
            stack.callback(core.close)
            for number in range(COMMANDERS):
                commander = Commander(core, self.seed * COMMANDERS + number, COMMANDS_PER_SECOND / COMMANDERS)
                commanders.append(stack.enter_context(commander))
            for asker in self._askers:
                stack.enter_context(asker)
            self._began = time.monotonic()
            try:
                self._let_happen(series, longest_seconds)
            except BaseException:
                print(self.shape.logs(), flush=True)
                raise
            time.sleep(END_SECONDS)
        self.seconds = time.monotonic() - self._began
        self.sent = [each for commander in commanders for each in commander.sent]

    def _let_happen(self, series: Sequence[Sequence[Mishap]], longest_seconds: float) -> None:
        tasks = [
            self.shape.hands.submit(self._series, mishaps, random.Random(self.seed * 10 + number), longest_seconds)  # noqa: S311
            for number, mishaps in enumerate(series)
        ]
        for task in tasks:
            task.result()

    def _series(self, mishaps: Sequence[Mishap], chance: random.Random, longest_seconds: float) -> None:
        for mishap in mishaps:
            if self._ended.wait(chance.uniform(0.05, longest_seconds)):
                return
            began = time.monotonic()
            try:
                mishap()
            except BaseException:
                self._ended.set()
                raise
            name = getattr(mishap, "__name__", None) or mishap.func.__name__  # type: ignore[attr-defined]
            print(f"{began - self._began:6.1f} {name} ({time.monotonic() - began:.1f} s)", flush=True)

    def check(self, least_per_second: float) -> None:
        """Everything that must be so, whatever happened. Prints the figures."""
        quiet_seconds = self.shape.wait_until_quiet()
        log, ends = self.shape.log, record.tally(self.sent)
        answers = [answer for asker in self._askers for answer in asker.answers]
        users = record.workflows(log)
        verdict = record.judged(log, answers)
        print(f"{dict(ends)} commands in {self.seconds:.0f} s: {len(self.sent) / self.seconds:.0f} a second")
        print(f"level {quiet_seconds:.1f} s after the last of it; {log.head()} events; {len(users)} newcomers")
        granted, unanswered = sum(each.allowed for each in answers), sum(each.unanswered for each in self._askers)
        print(
            f"{len(answers)} checks, {granted} granted ({len(verdict.wrong_grants)} wrongly); {unanswered} unanswered"
        )
        print(f"{verdict.too_strict} were stricter than the log")
        reasons = Counter(ended.reason for ended in self.shape.ended)
        print("ended by themselves:", *(f"{count} x {reason}" for reason, count in reasons.items()), sep="\n    ")
        wrong = {
            "ends": ends.keys() - MAY_END,
            "promises": record.broken_promises(log, self.sent),
            "grants": verdict.wrong_grants,
            "too old": [each for each in answers if each.position < each.at_least],
            "workflows": record.wrong_workflows(users),
            "parked": self.shape.parked(),
            "views": self.shape.differences(),
        }
        found = {name: list(what)[:SHOWN] for name, what in wrong.items() if what}
        assert not found, f"{found}\n{self.shape.logs()}"
        assert granted > LEAST_GRANTED
        rate = sum(each.is_sure for each in self.sent) / self.seconds
        assert rate > least_per_second, f"all was as it must be, but of only {rate:.0f} commands a second"
