"""Feeds a range of the log, in order, to an analyst's own function, object or class."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from infra.exporting.rows import Selection, chunks
from infra.transcoding import event_types
from projections.projection import Projection
from runtime.analysis import Event, event_of
from runtime.ranges import matching

Handle: TypeAlias = Callable[[Event], object]


class NoHandler(Exception):
    """What was named can't be imported, or can't take events; the message says why."""


class HandlerFailed(Exception):
    """The handler raised. `event` is the one it was given; what lies before it was handled."""

    def __init__(self, event: Event, error: BaseException) -> None:
        self.event = event
        super().__init__(f"raised {_said(error)}")


class FinishFailed(Exception):
    """Every event was handled, and then `finish` raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"finish raised {_said(error)}")


@dataclass(frozen=True, slots=True)
class Handler:
    """Who takes the events: of which types (all if empty), and what is to be called in the end, if anything."""

    name: str
    handles: Mapping[str, Handle] | Handle
    finish: Callable[[], object] | None = None

    @property
    def types(self) -> tuple[str, ...]:
        """The types that it wants; empty for all."""
        return tuple(self.handles) if isinstance(self.handles, Mapping) else ()

    def narrowed(self, selection: Selection) -> Selection | None:
        """The part of the selection that it wants; None if that is nothing."""
        if not self.types:
            return selection
        wanted = [name for name in self.types if not selection.topics or name in selection.topics]
        return replace(selection, topics=tuple(wanted)) if wanted else None

    def take(self, event: Event) -> None:
        """Raises HandlerFailed."""
        handle = self.handles[event.type] if isinstance(self.handles, Mapping) else self.handles
        try:
            handle(event)
        except (Exception, SystemExit) as error:
            raise HandlerFailed(event, error) from error

    def end(self) -> object:
        """What `finish` returns, if there is one. Raises FinishFailed."""
        try:
            return self.finish() if self.finish else None
        except (Exception, SystemExit) as error:
            raise FinishFailed(error) from error


@dataclass
class Reached:
    """How far a replay has come: everything through `position` was handled, `events` of them in this run."""

    position: int
    events: int = 0
    told: Callable[[int], None] = field(default=lambda _: None)


def replay(conninfo: str, selection: Selection, handler: Handler, reached: Reached) -> object:
    """Every selected event to the handler, in the order of positions; what its `finish` returns.

    `reached` is kept up to date, so that whoever is interrupted can say where to go on. Raises HandlerFailed,
    FinishFailed, Unavailable, NewerSoftware.
    """
    wanted = handler.narrowed(selection)
    if wanted is not None:
        for chunk in chunks(conninfo, wanted):
            for row in chunk.rows:
                handler.take(event_of(row, personal=selection.personal))
                reached.position = row[0]
                reached.events += 1
            reached.position = chunk.position
            reached.told(chunk.position)
    reached.position = selection.upto
    return handler.end()


def imported(target: str) -> Any:
    """What `module:name` names, seen from the present folder, too. Raises NoHandler."""
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise NoHandler(f"{target!r}: name it module:function, such as tally:count")
    _see_present_folder()
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise NoHandler(f"there is no module {error.name!r} here (in {Path.cwd()}, or installed)") from error
        raise NoHandler(f"{module} can't be imported: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the module's own code does
        raise NoHandler(f"{module} can't be imported: {_said(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise NoHandler(f"{module} has no {name!r}")
        found = getattr(found, part)
    return found


def handler_of(target: str) -> Handler:
    """The handler that `module:name` names: a function of an event; an object with `on`, a map from event types
    (names such as `identity.*`, or classes) to functions; a class whose instances are either. Raises NoHandler.
    """
    found = imported(target)
    if isinstance(found, Projection):
        raise NoHandler(f"{target} is a Projection, which needs tables: say --into POSTGRES_URL")
    if isinstance(found, type):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise NoHandler(f"{target}() raised {_said(error)}") from error
    finish = getattr(found, "finish", None)
    on = getattr(found, "on", None)
    if isinstance(on, Mapping):
        return Handler(target, _by_type(target, found, on), finish if callable(finish) else None)
    if callable(found):
        _refuse_idle(target, found)
        return Handler(target, found, finish if callable(finish) else None)
    raise NoHandler(f"{target} is neither a function, nor has it `on`, a map from event types to functions")


def _by_type(target: str, owner: object, on: Mapping[Any, Any]) -> dict[str, Handle]:
    handles: dict[str, Handle] = {}
    for key, value in on.items():
        handle = getattr(owner, value, None) if isinstance(value, str) else value
        if not callable(handle):
            raise NoHandler(f"{target}: what stands for {key!r} in `on` can't be called")
        _refuse_idle(target, handle)
        name = getattr(key, "TOPIC", key)
        if not isinstance(name, str):
            raise NoHandler(f"{target}: {key!r} in `on` is no event type")
        try:
            handles |= dict.fromkeys(matching([name], list(event_types())), handle)
        except Exception as error:
            raise NoHandler(f"{target}: {error}") from error
    return handles


def _refuse_idle(target: str, handle: Any) -> None:
    """A call of these does nothing: it makes a coroutine, or a generator, that nobody would run."""
    called = handle if inspect.isroutine(handle) else getattr(handle, "__call__", handle)  # noqa: B004
    if inspect.iscoroutinefunction(called) or inspect.isgeneratorfunction(called):
        raise NoHandler(f"{target} is asynchronous, or yields: calling it would do nothing; name a plain function")


def _said(error: BaseException) -> str:
    """An error of somebody's own code in one line, with where it came from."""
    place = next(reversed(traceback.extract_tb(error.__traceback__)), None)
    where = f" ({Path(place.filename).name}:{place.lineno})" if place else ""
    return f"{' '.join(f'{type(error).__name__}: {error}'.split())}{where}"


def _see_present_folder() -> None:
    """An installed command doesn't see it otherwise. It stays, for what the module imports later."""
    present = str(Path.cwd())
    if present not in sys.path:
        sys.path.insert(0, present)
