"""`muniment schedules`: what is enqueued when, what became of each occurrence, and what comes next."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

import click
import orjson

from commands.jobs.schedules import (
    ChangePlan,
    CreateSchedule,
    DeleteSchedule,
    PauseSchedule,
    PlanRequest,
    ResumeSchedule,
    change_plan,
    create_schedule,
    delete_schedule,
    pause_schedule,
    prepare_plan,
    resume_schedule,
)
from domain.jobs.cron import Cron, cron_of
from domain.jobs.occurrence import Outcome
from domain.jobs.schedule import DEFAULT_MISSED_LIMIT, MISSED_LIMIT, Missed, Overlap, ScheduleName
from projections import schedules as view
from projections.schedules import SCHEDULE_VIEW, ScheduleView
from runtime import modules
from runtime.cli.operator import dispatch
from runtime.cli.options import Moment, acting, as_json, limited
from runtime.cli.output import print_fields, print_json, print_page, print_table, say
from runtime.cli.views import ask
from runtime.cli.wired import Wired

F = TypeVar("F", bound=Callable[..., Any])

PREVIEW_LIMIT = 100


class JsonObject(click.ParamType):
    """Arguments as a JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Raises BadParameter."""
        if isinstance(value, dict):
            return value
        try:
            found = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            self.fail(f"isn't JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail('must be a JSON object, such as \'{"to": "ada@engine.example"}\'', param, ctx)
        return found


class OrDefault(click.ParamType):
    """A value of another kind, or `default` for that of the job's type."""

    def __init__(self, kind: click.ParamType) -> None:
        self._kind = kind
        self.name = kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """None for `default`. Raises BadParameter."""
        return None if value == "default" else self._kind.convert(value, param, ctx)


def _options(*, missed: str | None, missed_limit: int | None, overlap: str | None) -> Callable[[F], F]:
    """Those that say how a plan is kept."""
    found = [
        click.option("--timezone", metavar="ZONE", help="The IANA name, such as Europe/Vienna. At first UTC."),
        click.option(
            "--args", type=JsonObject(), metavar="JSON",
            help="The job's arguments, as a JSON object; of a change those that change.",
        ),
        click.option(
            "--missed", type=click.Choice(get_args(Missed)), default=missed, show_default=missed is not None,
            help="What becomes of times that were missed.",
        ),
        click.option(
            "--missed-limit", type=click.IntRange(1, MISSED_LIMIT), default=missed_limit,
            show_default=missed_limit is not None, help="How many of the newest `all` catches up.",
        ),
        click.option(
            "--overlap", type=click.Choice(get_args(Overlap)), default=overlap, show_default=overlap is not None,
            help="Whether a job is enqueued while that of the time before isn't finished.",
        ),
        click.option("--queue", type=OrDefault(click.STRING), help="The queue, in place of the type's (`default`)."),
        click.option("--priority", type=OrDefault(click.INT), help="The priority, in place of the type's (`default`)."),
    ]  # fmt: skip

    def add(function: F) -> F:
        for option in reversed(found):
            function = option(function)
        return function

    return add


name_argument = click.argument("name", metavar="NAME")
reason_option = click.option("--reason", default="", help="Why, for whoever reads the history.")


@click.group()
def schedules() -> None:
    """Which jobs are enqueued when, and what became of each time.

    CRON is five fields (minute, hour, day, month, weekday), or @hourly, @daily, @weekly, @monthly, @yearly.

    \b
    Example:
      muniment schedules create nightly "30 2 * * *" report.make --timezone Europe/Vienna --missed once
      muniment schedules next nightly
    """


@schedules.command("list")
@limited
@click.option("--cursor", metavar="NAME", default="", help="Go on where the page before has ended.")
@as_json
@click.pass_obj
def list_(wired: Wired, limit: int, cursor: str, as_json: bool) -> None:
    """List the schedules by name.

    \b
    Example:
      muniment schedules list
    """
    found = ask(wired, lambda read: view.schedules(read, limit + 1, (cursor,)), SCHEDULE_VIEW)
    rows = found[:limit]
    if not as_json:
        shown = [
            (row.name, row.cron, row.timezone, row.type, row.standing, row.next_due, row.last and row.last.outcome)
            for row in rows
        ]
        print_table(("NAME", "CRON", "ZONE", "TYPE", "STATE", "NEXT", "LAST"), shown)
        rows_or_dicts: list[Any] = list(rows)
    else:
        rows_or_dicts = [_described(row) for row in rows]
    print_page(rows_or_dicts, len(found), lambda _: rows[-1].name, as_json, "schedules")


@schedules.command("show")
@name_argument
@as_json
@click.pass_obj
def show(wired: Wired, name: str, as_json: bool) -> None:
    """Show one schedule: its plan, how it stands, its newest occurrence and its next.

    \b
    Example:
      muniment schedules show nightly
    """
    row = ask(wired, lambda read: view.schedule_by_name(read, name), SCHEDULE_VIEW)
    described = _described(row)
    if as_json:
        print_json(described)
        return
    last = row.last and f"{row.last.instant:%Y-%m-%d %H:%M:%S} {row.last.outcome} ({row.last.reason})"
    print_fields({**described, "args": orjson.dumps(row.args).decode(), "last": last})


@schedules.command("create")
@name_argument
@click.argument("cron", metavar="CRON")
@click.argument("type_", metavar="TYPE")
@_options(missed="skip", missed_limit=DEFAULT_MISSED_LIMIT, overlap="allow")
@acting
@as_json
@click.pass_obj
def create(wired: Wired, /, name: str, cron: str, type_: str, actor: str, as_json: bool, **options: Any) -> None:
    """Enqueue a job of a type whenever it is due from now on.

    \b
    Example:
      muniment schedules create nightly "30 2 * * *" report.make --timezone Europe/Vienna --args '{"days": 1}'
    """
    request = PlanRequest(cron=cron, type=type_, **_given(options))
    with wired.core() as core:
        command = CreateSchedule(ScheduleName(name), prepare_plan(modules.job_types(), request))
        outcome = dispatch(core, create_schedule, command, actor)
    due = command.plan.times.next(datetime.now(UTC))
    _done({"name": name, "next": due}, f"{name} is due next at {due}", outcome.position, as_json)


@schedules.command("change")
@name_argument
@click.option("--cron", metavar="CRON", help="When.")
@click.option("--type", "type", metavar="TYPE", help="The type of job.")
@_options(missed=None, missed_limit=None, overlap=None)
@acting
@as_json
@click.pass_obj
def change(wired: Wired, /, name: str, actor: str, as_json: bool, **options: Any) -> None:
    """Change what is given, and keep the rest. It takes effect at once.

    \b
    Example:
      muniment schedules change nightly --cron "0 3 * * *" --queue default
    """
    given = {key: value for key, value in options.items() if _was_given(key)}
    if not given:
        raise click.UsageError("say what to change: --cron, --timezone, --type, --args, --missed, ...")
    with wired.core() as core:
        command = ChangePlan(ScheduleName(name), modules.job_types(), given)
        outcome = dispatch(core, change_plan, command, actor)
    _done({"name": name}, f"{name} goes by that from now on", outcome.position, as_json)


@schedules.command("pause")
@name_argument
@reason_option
@acting
@as_json
@click.pass_obj
def pause(wired: Wired, name: str, reason: str, actor: str, as_json: bool) -> None:
    """Let nothing fire from now on: what is due meanwhile is skipped.

    \b
    Example:
      muniment schedules pause nightly --reason "the warehouse is moving"
    """
    with wired.core() as core:
        outcome = dispatch(core, pause_schedule, PauseSchedule(ScheduleName(name), reason), actor)
    _done({"name": name}, f"{name} is paused", outcome.position, as_json)


@schedules.command("resume")
@name_argument
@reason_option
@acting
@as_json
@click.pass_obj
def resume(wired: Wired, name: str, reason: str, actor: str, as_json: bool) -> None:
    """Let it fire again from now on.

    \b
    Example:
      muniment schedules resume nightly
    """
    with wired.core() as core:
        outcome = dispatch(core, resume_schedule, ResumeSchedule(ScheduleName(name), reason), actor)
    _done({"name": name}, f"{name} is active", outcome.position, as_json)


@schedules.command("delete")
@name_argument
@reason_option
@acting
@as_json
@click.pass_obj
def delete(wired: Wired, name: str, reason: str, actor: str, as_json: bool) -> None:
    """End a schedule. What it did stays to be seen; its name may be used again.

    \b
    Example:
      muniment schedules delete nightly
    """
    with wired.core() as core:
        outcome = dispatch(core, delete_schedule, DeleteSchedule(ScheduleName(name), reason), actor)
    _done({"name": name}, f"{name} is no more", outcome.position, as_json)


@schedules.command("runs")
@name_argument
@click.option("--outcome", type=click.Choice([each.value for each in Outcome]), help="Only these.")
@limited
@click.option("--cursor", type=Moment(), metavar="TIME", help="Go on where the page before has ended.")
@as_json
@click.pass_obj
def runs(wired: Wired, name: str, outcome: str | None, limit: int, cursor: datetime | None, as_json: bool) -> None:
    """List the occurrences of a schedule with their outcomes, the newest first.

    \b
    Example:
      muniment schedules runs nightly --outcome skipped
    """
    after = (cursor,) if cursor else None
    found = ask(wired, lambda read: view.runs(read, name, limit + 1, after, outcome), SCHEDULE_VIEW)
    rows = found[:limit]
    if not as_json:
        print_table(
            ("AT", "OUTCOME", "JOB", "REASON"), [(row.instant, row.outcome, row.job_id, row.reason) for row in rows]
        )
    print_page(
        [asdict(row) for row in rows] if as_json else rows, len(found),
        lambda _: rows[-1].instant.astimezone(UTC).isoformat().replace("+00:00", "Z"), as_json, "occurrences",
    )  # fmt: skip


@schedules.command("next")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--cron", metavar="CRON", help="Of this expression, in place of a schedule's.")
@click.option("--timezone", metavar="ZONE", default="UTC", show_default=True, help="The zone of that expression.")
@click.option("--count", type=click.IntRange(1, PREVIEW_LIMIT), default=10, show_default=True, help="How many.")
@click.option("--after", type=Moment(), help="After when; by default from now on.")
@as_json
@click.pass_obj
def next_(
    wired: Wired, name: str | None, cron: str | None, timezone: str, count: int, after: datetime | None, as_json: bool
) -> None:
    """Tell when a schedule is due next; or an expression that isn't one yet.

    \b
    Example:
      muniment schedules next nightly --count 3
      muniment schedules next --cron "30 2 * * *" --timezone Europe/Vienna --after 2026-03-28
    """
    if (name is None) == (cron is None):
        raise click.UsageError("name a schedule, or give --cron")
    state = None
    if name is None:
        times = Cron.parse(cron or "", timezone)
    else:
        row = ask(wired, lambda read: view.schedule_by_name(read, name), SCHEDULE_VIEW)
        times, state = cron_of(row.cron, row.timezone), row.standing
    due = times.preview(after or datetime.now(UTC), count)
    items = [{"at": at, "local": at.astimezone(times.zone).isoformat()} for at in due]
    if as_json:
        print_json({"state": state, "items": items})
        return
    print_table(("UTC", times.timezone), [(item["at"], item["local"]) for item in items])
    if state not in {None, "active"}:
        say(f"{name} is {state}: it skips these until it is resumed")


def _described(row: ScheduleView) -> dict[str, Any]:
    """What the API shows of it."""
    found = {"name": row.name, "state": row.standing, "next": row.next_due, **asdict(row)}
    return {name: value for name, value in found.items() if name not in {"id", "now", "standing", "type_version"}}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _was_given(name: str) -> bool:
    """`default` is a value, and is None here: so it is asked where the value comes from."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _done(fields: Mapping[str, Any], message: str, position: int, as_json: bool) -> None:
    if as_json:
        print_json({**fields, "position": position})
    else:
        say(message)
