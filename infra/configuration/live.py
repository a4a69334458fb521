"""What a process runs with: one immutable snapshot of all configuration, replaced by one assignment.

Whoever begins something (a request, a job, a settlement, a reaction) binds the snapshot of that moment and has it to
the end, in the threads that it uses, too: nothing ever sees half of two versions. What lives longer than that reads
`current` each time.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self, TypeVar

from infra.settings import Settings
from muniment_client.live import Live as Holder

T = TypeVar("T")

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All configuration at one moment.

    `settings` are complete: defaults, the environment, what is stored, secrets resolved. `version` is the log position
    of the newest configuration event in it; 0: nothing is stored. `running` are the versions of the namespaces.
    """

    settings: Settings
    version: int = 0
    running: Mapping[str, int] = field(default_factory=lambda: NOTHING)


_BOUND: ContextVar[Snapshot | None] = ContextVar("muniment_snapshot", default=None)
_bound = _BOUND.get


class Live:
    """The snapshot in force. `Live.of(settings)` is one that never changes: for tests, and for who runs one command."""

    __slots__ = ("_holder", "current")

    def __init__(self, first: Snapshot) -> None:
        self.current = first
        """A slot of a class without `__getattr__`: nothing that can change is read faster."""
        self._holder: Holder[Snapshot] = Holder()
        self._holder.on_swap(self._swap)
        self.offer(first)

    @classmethod
    def of(cls, settings: Settings, version: int = 0) -> Self:
        """These settings, for good."""
        return cls(Snapshot(settings, version))

    def offer(self, snapshot: Snapshot) -> None:
        """Swaps it in, and tells who wants to know. One at a time."""
        self._holder.offer(snapshot.version, lambda: snapshot)

    def on_swap(self, callback: Callable[[Snapshot], object]) -> Callable[[], None]:
        """Called with each new snapshot once it is in force, in the thread that offered it; must be quick.

        Returns what ends that.
        """
        return self._holder.on_swap(callback)

    def _swap(self, snapshot: Snapshot) -> None:
        self.current = snapshot

    @property
    def bound(self) -> Snapshot:
        """The snapshot of what is being carried out here; outside of anything, the one in force."""
        return _bound() or self.current

    @property
    def settings(self) -> Settings:
        """Those of `bound`."""
        return (_bound() or self.current).settings

    def bind(self, snapshot: Snapshot | None = None) -> "Binding":
        """`with live.bind() as snapshot`: from here to its end one snapshot counts. What is bound already stays so.

        Who goes on elsewhere with what was begun gives the snapshot that it was begun with.
        """
        return Binding(self, snapshot)

    def value(self, read: Callable[[Settings], T]) -> Callable[[], T]:
        """A function that reads a setting when it is called: for who knows no settings, only what it needs of them."""
        return lambda: read((_bound() or self.current).settings)


class Binding:
    """See `Live.bind`."""

    __slots__ = ("_live", "_snapshot", "_token")

    def __init__(self, live: Live, snapshot: Snapshot | None = None) -> None:
        """`snapshot`: this one is bound, where none is; by default the one in force."""
        self._live = live
        self._snapshot = snapshot
        self._token: Token[Snapshot | None] | None = None

    def __enter__(self) -> Snapshot:
        found = _bound()
        if found is None:
            found = self._snapshot or self._live.current
            self._token = _BOUND.set(found)
        return found

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._token is not None:
            try:  # noqa: SIM105 - `suppress` takes as long as all the rest of this
                _BOUND.reset(self._token)
            except ValueError:
                pass  # a coroutine that nobody finished is closed in whose context it happens to be


def bind_here(snapshot: Snapshot) -> None:
    """Binds it for the rest of this task, which has a context of its own."""
    _BOUND.set(snapshot)


class Derived(Generic[T]):
    """What is made of the settings, once for each snapshot; a call gives that of the snapshot that is bound."""

    __slots__ = ("_live", "_made", "_make")

    def __init__(self, live: Live, make: Callable[[Settings], T]) -> None:
        self._live = live
        self._make = make
        self._made: tuple[Snapshot, T] | None = None

    def __call__(self) -> T:
        return self._of(_bound() or self._live.current)

    @property
    def current(self) -> T:
        """That of the snapshot in force, whatever is bound: for what outlives a request."""
        return self._of(self._live.current)

    def _of(self, snapshot: Snapshot) -> T:
        made = self._made  # read once: another thread may put another pair in its place
        if made is None or made[0] is not snapshot:
            made = self._made = (snapshot, self._make(snapshot.settings))
        return made[1]


def given(value: T | Callable[[], T]) -> Callable[[], T]:
    """A function that gives the value: what is hot comes as one already, what is fixed as the value itself."""
    return value if callable(value) else lambda: value
