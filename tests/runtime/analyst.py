"""What an analyst has written: the handlers that the tests of replays name."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from domain.identity import User
from projections.projection import Projection
from runtime.analysis import Event

seen: Counter[str] = Counter()


def count(event: Event) -> None:
    seen[event.type] += 1


def show(event: Event) -> None:
    print(event)


def trip(event: Event) -> None:
    if event.type == "access.RoleDefined" and event.body["name"] == "auditor":
        raise ValueError("an auditor!")


def two_lines(_: Event) -> None:
    raise ValueError("one\ntwo")


def leave(_: Event) -> None:
    sys.exit(0)


async def later(_: Event) -> None: ...


class Lazily:
    def __call__(self, event: Event) -> Iterator[Event]:
        yield event


class Last:
    """Takes everything; `finish` returns what JSON has no form for, or raises."""

    said: Any = {("a", 1): 2}

    def __call__(self, event: Event) -> None: ...

    def finish(self) -> object:
        return self.said


class ByNumber(Last):
    said: Any = {1: 2}


class Unhappy(Last):
    def finish(self) -> object:
        raise LookupError("nothing to tell")


class Users:
    """By type, with methods; an instance is made for each replay."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.on = {"identity.UserReg*": "registered", User.Suspended: self.suspended}

    def registered(self, event: Event) -> None:
        self.ids.append(event.stream)

    def suspended(self, event: Event) -> None:
        self.ids.remove(event.stream)

    def finish(self) -> dict[str, Any]:
        return {"users": len(self.ids)}


class Typo:
    on = {"identity.UserRegisterd": print}


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no loom")


NAMES = Projection(
    name="names",
    version=1,
    tables="names (id uuid primary key, name text not null)",
    on={User.Registered: "insert into {names} values (%(stream)s, %(name)s)"},
)

NUMBER = 7
