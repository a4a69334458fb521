"""Values of secrets as a process uses them: fetched once, fetched anew now and then, and kept while a store is down."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from muniment_client.secrets.hidden import Hidden
from muniment_client.secrets.lane import Lane
from muniment_client.secrets.store import Reference, SecretError, SecretNotFound, SecretStore, SecretValue

logger = logging.getLogger(__name__)

KEPT_LIMIT = 10_000
"""Secrets that a process remembers."""


class Named(Protocol):
    """A reference in whatever form: its text is `secret://name#version`."""

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds, a value counts as new, the last good one stands while none comes, an answer may take."""

    refresh_seconds: float = 30.0
    last_good_seconds: float = 3_600.0
    timeout_seconds: float = 5.0


@dataclass(slots=True)
class _Kept:
    value: SecretValue
    good_at: float
    error: str = ""


@dataclass(slots=True)
class _Used:
    value: Hidden
    expired: bool = False


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """A store: why it can't be asked (empty: it can), and how often what came of asking."""

    kind: str
    down: str
    outcomes: Counter[str]


@dataclass(frozen=True, slots=True)
class Status:
    """How it stands with the secrets in use: how many, and how many of them couldn't be fetched anew.

    Of these, `stale` are as last fetched, and `expired` were fetched too long ago to be used again.
    `left_seconds` is when the next one expires.
    """

    stores: tuple[StoreStatus, ...]
    used: int
    stale: int
    expired: int
    left_seconds: float

    def reasons(self) -> list[str]:
        """What is wrong, for whoever asks: no names of secrets. The log says which, and why."""
        found = []
        if self.stale:
            found.append(
                f"secrets: {self.stale} can't be fetched; the last good values stand for {self.left_seconds:.0f} s more"
            )
        if self.expired:
            found.append(f"secrets: {self.expired} can't be fetched, and the last good values are too old")
        return found


class SecretStores:
    """The stores, asked one after the other: the first that has a secret gives it.

    One that doesn't answer ends the search, since what it has may be another value than a later one's. Safe for
    threads. Keeps what it fetched; `keep` says what is still used.
    """

    def __init__(
        self,
        stores: Sequence[SecretStore],
        patience: Patience = Patience(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience = patience
        self._lanes = [Lane(store, timeout_seconds=patience.timeout_seconds, clock=clock) for store in stores]
        self._troubles = [""] * len(stores)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Reference, _Kept] = {}
        self._used: dict[Reference, _Used] = {}

    def resolve(self, reference: Named) -> Hidden:
        """The value, to be used from now on: `changed()` will tell of it. Raises SecretError, without any value."""
        asked = Reference.parse(str(reference))
        value = self._current(asked)
        with self._lock:
            self._used[asked] = _Used(value)
        return value

    def look(self, reference: Named) -> Hidden:
        """The value, to be looked at only: by who checks a configuration that may come. Raises SecretError."""
        return self._current(Reference.parse(str(reference)))

    def keep(self, references: Iterable[Named]) -> None:
        """Says which are in use; the others are forgotten."""
        used = {Reference.parse(str(reference)) for reference in references}
        with self._lock:
            self._used = {each: given for each, given in self._used.items() if each in used}
            self._kept = {each: kept for each, kept in self._kept.items() if each in used}

    def changed(self) -> tuple[Reference, ...]:
        """Asks the stores anew. Those whose value is another one than `resolve` gave last, or holds no longer.

        Tells of a rotation until the new value was resolved, of an end once.
        """
        with self._lock:
            used = dict(self._used)
        found = tuple(each for each, given in used.items() if self._is_changed(each, given))
        self._forget_looks()
        return found

    def maintain(self) -> None:
        """What stores need although nobody asks them: Vault's token is renewed. Trouble is told of once."""
        for number, lane in enumerate(self._lanes):
            trouble = ""
            try:
                lane.ask(lane.store.maintain, counted=False)
            except SecretError as error:
                trouble = str(error)
            if trouble and not self._troubles[number]:
                logger.warning("%s", trouble)
            self._troubles[number] = trouble

    def status(self) -> Status:
        """As it is known now; asks nobody."""
        now = self._clock()
        with self._lock:
            failing = [kept for each in self._used if (kept := self._kept.get(each)) and kept.error]
            left = [self._left(kept, now) for kept in failing]
            expired = sum(1 for seconds in left if seconds <= 0)
            return Status(
                tuple(StoreStatus(lane.store.kind, lane.down, Counter(lane.outcomes)) for lane in self._lanes),
                len(self._used),
                len(failing) - expired,
                expired,
                min((seconds for seconds in left if seconds > 0), default=0.0),
            )

    def _current(self, reference: Reference) -> Hidden:
        with self._lock:
            kept = self._kept.get(reference)
        if kept and not kept.error and self._clock() - kept.good_at < self.patience.refresh_seconds:
            return kept.value.value
        return self._fetch(reference).value

    def _fetch(self, reference: Reference) -> SecretValue:
        """What the stores have now, else the last good value while it stands. Raises SecretError."""
        begun = self._clock()
        try:
            value = self._ask(reference)
        except SecretError as error:
            return self._last_good(reference, error)
        self._store(reference, _Kept(value, begun))
        return value

    def _ask(self, reference: Reference) -> SecretValue:
        missing: list[str] = []
        for lane in self._lanes:
            try:
                return lane.ask(partial(lane.store.fetch, reference))
            except SecretNotFound as error:
                missing.append(str(error).removeprefix(f"{reference}: "))
        raise SecretNotFound(f"{reference}: " + ("; ".join(missing) or "there is no store of secrets"))

    def _store(self, reference: Reference, kept: _Kept) -> None:
        with self._lock:
            former = self._kept.get(reference)
            if former is None and len(self._kept) >= KEPT_LIMIT:
                del self._kept[next(iter(self._kept))]
            if former is None or former.good_at <= kept.good_at:
                self._kept[reference] = kept
        if former and former.error:
            logger.info("%s: fetched again", reference)

    def _last_good(self, reference: Reference, error: SecretError) -> SecretValue:
        with self._lock:
            kept = self._kept.get(reference)
            if kept is None:
                raise error from None
            first, kept.error = not kept.error, str(error)
            left = self._left(kept, self._clock())
        if left <= 0:
            raise error from None
        if first:
            logger.warning("%s; the last good value of %s stands for %d s", error, reference, left)
        return kept.value

    def _left(self, kept: _Kept, now: float) -> float:
        return kept.good_at + self.patience.last_good_seconds - now

    def _is_changed(self, reference: Reference, given: _Used) -> bool:
        try:
            value = self._fetch(reference).value
        except SecretError as error:
            is_new, given.expired = not given.expired, True
            if is_new:
                logger.error("%s; the last good value of %s is too old", error, reference)  # noqa: TRY400
            return is_new
        was_expired, given.expired = given.expired, False
        return was_expired or value != given.value

    def _forget_looks(self) -> None:
        """What was only looked at isn't kept for longer than a fetched value counts as new."""
        past = self._clock() - self.patience.refresh_seconds
        with self._lock:
            self._kept = {e: kept for e, kept in self._kept.items() if e in self._used or kept.good_at > past}
