"""A process that an operator might start: `python rebuilding.py CONNINFO rebuild|switch|drop [RATE]`, to be killed."""

import itertools
import sys

from commands.builds import DropBuild, RequestRebuild, SwitchBuild, cut_over, drop_build, request_rebuild, roll_back
from domain.context import Actor, Context
from domain.errors import DomainError
from infra.dispatch import Dispatcher
from infra.event_store import Log
from projections.rebuild import Works, rebuild
from projections.rebuilds import other_build
from projections.switch import declared, settle, switchable
from projections.wishes import WISHES
from tests.projections.harbour import HARBOUR

CONTEXT = Context(Actor("operator", "grace"), "the-storm")


class Operator:
    """Decides, and lets it take effect."""

    def __init__(self, conninfo):
        self.log = Log(conninfo, inline=[WISHES])
        self.works = Works(conninfo, self.log)

    def decide(self, handler, command):
        position = Dispatcher(self.log).dispatch(handler, command, CONTEXT).position
        settle(self.works, declared([HARBOUR]), position)

    def rebuild(self, rate=None):
        with self.works.connect() as connection:
            build = other_build(connection, HARBOUR)
        rebuild(self.works, build, "grace", rate=rate)

    def switch(self):
        for back in itertools.cycle([False, True]):
            try:
                live, other = switchable(self.works, HARBOUR, back=back)
                self.decide(roll_back if back else cut_over, SwitchBuild("harbour", 1, other.number, live.number))
            except DomainError:
                continue

    def drop(self):
        while True:
            with self.works.connect() as connection:
                other = other_build(connection, HARBOUR)
            self.decide(drop_build, DropBuild("harbour", 1, other.number))
            self.decide(request_rebuild, RequestRebuild("harbour", 1))
            self.rebuild()


if __name__ == "__main__":
    operator = Operator(sys.argv[1])
    getattr(operator, sys.argv[2])(*map(int, sys.argv[3:]))
