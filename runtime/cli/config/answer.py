"""What came of an update: its version, and what every process makes of it."""

from dataclasses import dataclass
from typing import Any

import click
import msgspec
import psycopg

from api.configuration.instances import InstanceView, UpdatedView, updated
from commands.configuration import Changed
from domain.errors import DomainError
from infra.configuration.waiting import Answered, wait_for_answers
from infra.dispatch import Outcome
from infra.event_store import Log
from infra.settings import Settings
from runtime.cli.config.shared import look
from runtime.cli.output import print_json, print_table, printable, say
from runtime.cli.progress import duration
from runtime.cli.wired import Wired

REFUSED_STATUS = 3
"""Exit status where it is stored, but somebody refuses to run with it."""

TITLES = ("PART", "HOST", "PID", "VERSION", "STATE", "AGE")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long to wait for the instances, and after what silence one counts as gone. In seconds."""

    answer: float
    lease: float


def waiting(wired: Wired, log: Log) -> Waiting:
    """As it is configured. Raises ClickException where PostgreSQL is away."""
    try:
        values = look(wired, log, "configuration").whole
        return Waiting(float(values["config_answer_seconds"]), float(values["config_lease_seconds"]))
    except (DomainError, LookupError, TypeError, ValueError):  # written by a newer release, say
        return Waiting(Settings.config_answer_seconds, Settings.config_lease_seconds)


def tell(wired: Wired, log: Log, name: str, outcome: Outcome[Changed], as_json: bool) -> None:
    """Waits for the instances, and prints what they say. Exits with REFUSED_STATUS where one refuses."""
    view = updated(_answered(wired, log, name, outcome.result.version))
    if as_json:
        told: dict[str, Any] = msgspec.to_builtins(view)
        print_json({"changed": outcome.result.changed, **told, "position": outcome.position})
    else:
        say(_headline(name, outcome.result, view))
        print_instances(view.instances)
    if view.counts.refused:
        click.get_current_context().exit(REFUSED_STATUS)


def _answered(wired: Wired, log: Log, name: str, version: int) -> Answered:
    """It is stored by now: whatever fails from here on, Ctrl-C too, fails no more than the answer."""
    try:
        seconds = waiting(wired, log)
        with wired.connection() as connection:
            return wait_for_answers(connection, name, version, seconds.answer, seconds.lease)
    except (psycopg.Error, click.ClickException, KeyboardInterrupt):
        return Answered(name, version, (), known=False)


def _headline(name: str, result: Changed, view: UpdatedView) -> str:
    first = f"{name} is at version {result.version}" if result.changed else f"nothing changed: {name} stays as it is"
    counts = view.counts
    if not view.instances:
        return f"{first}; {'nobody runs with it yet' if view.complete else 'who runs with it is not known'}"
    said = [
        f"{count} {state}"
        for count, state in ((counts.applied, "applied"), (counts.refused, "refused"), (counts.pending, "pending"))
        if count
    ]
    return f"{first}: {', '.join(said)}"


def print_instances(instances: list[InstanceView]) -> None:
    """A line for each, and under who refuses why."""
    rows = [
        (each.part, each.host, each.pid, each.version, _state(each), duration(each.age_seconds)) for each in instances
    ]
    print_table(TITLES, rows)
    for each in instances:
        for error in each.errors if each.state == "refused" else ():
            say(f"{each.part} {each.pid}: {printable(error.field)}: {printable(error.message)}")


def _state(instance: InstanceView) -> str:
    return f"refused {instance.refused}" if instance.state == "refused" else instance.state
