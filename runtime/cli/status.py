"""`muniment status`: the whole platform on one screen."""

import http.client
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import click
import orjson

from infra.bus_status import BusStatus, bus_status
from infra.embedded import DataFolder
from infra.migrate import Limits, check_compatible, current_release
from infra.parts import Parts, PartStatus, parts_file, read_parts
from infra.settings import Settings
from projections.catalogue import BuildStatus, details
from runtime import modules
from runtime.cli.bus import print_bus
from runtime.cli.options import as_json
from runtime.cli.output import print_fields, print_json, print_table, text, utc
from runtime.cli.progress import duration
from runtime.cli.projections.catalogue import size
from runtime.cli.wired import NotRunning, Wired
from runtime.job_health import JobStatus, job_status
from runtime.joined import Member, members

PROBE_SECONDS = 2.0

COLOURS = {"ready": "green", "fine": "green", "starting": "yellow", "degraded": "yellow", "pending": "yellow"}


@dataclass(frozen=True, slots=True)
class Told:
    """What could be found out. `state` is that of `/readyz`, or `unreachable`."""

    release: str
    data: str
    url: str
    state: str
    reasons: list[str]
    supervised: bool
    parts: tuple[PartStatus, ...]
    schema: dict[str, str]
    head: int
    newest: datetime | None
    projections: list[BuildStatus] = field(default_factory=list)
    bus: BusStatus | None = None
    jobs: JobStatus | None = None
    modules: list[Member] = field(default_factory=list)


@click.command()
@as_json
@click.pass_obj
def status(wired: Wired, as_json: bool) -> None:
    """Tell the parts, the log, the views and the schema.

    Exit status 0 if it could be told, whatever it is (`state` in the JSON says whether requests are served); 1 if the
    platform isn't running.

    \b
    Example:
      muniment status --json | jq -e '.state == "ready"'
    """
    parts = read_parts(parts_file(DataFolder(wired.given.data)))
    told = _tell(wired, parts)
    if as_json:
        print_json(asdict(told) | {"parts": [_part(part) for part in told.parts]})
    else:
        _print(told)


def _tell(wired: Wired, parts: Parts | None) -> Told:
    settings = wired.given
    stored = _stored(wired, supervised=parts is not None)
    state, reasons = ask_readiness(settings)
    return Told(
        release=current_release(),
        data=str(settings.data.absolute()),
        url=f"http://{settings.host}:{settings.port}",
        state=state,
        reasons=reasons,
        supervised=parts is not None,
        parts=parts.parts if parts else (),
        **stored,
    )


def _stored(wired: Wired, *, supervised: bool) -> dict[str, Any]:
    """What PostgreSQL knows. Raises NotRunning, unless there is a supervisor, of whose parts something can be told."""
    try:
        with wired.connection() as connection:
            views = _views(connection)
            bus = bus_status(connection) if views and _has_bus(connection) else None
            head = connection.execute("select position, recorded_at from log_head").fetchone() if views else None
            jobs = job_status(connection) if views and _has_jobs(connection) else None
            joined = members(connection, modules.registry())
    except NotRunning:
        if not supervised:
            raise
        return {"schema": {"state": "unreachable", "message": "PostgreSQL doesn't answer"}, "head": 0, "newest": None}
    limits = Limits.from_settings(wired.given)
    found = check_compatible(wired.settings.postgres_url, wired.sources, limits=limits)
    position, newest = head or (0, None)
    return {
        "schema": {"state": found.state, "message": found.message},
        "head": position,
        "newest": newest if position else None,
        "projections": views,
        "jobs": jobs,
        "modules": joined,
        "bus": bus if bus and (bus.relay or wired.given.kafka) else None,
    }


def _views(connection: Any) -> list[BuildStatus]:
    """None where the schema isn't there yet, or is an older one."""
    row = connection.execute("select to_regclass('projection_verifications') is not null").fetchone()
    return details(connection, modules.projections()) if row and row[0] else []


def _has_bus(connection: Any) -> bool:
    """Not before the migration that brought what is counted."""
    row = connection.execute("select to_regclass('bus_counts') is not null").fetchone()
    return bool(row and row[0])


def _has_jobs(connection: Any) -> bool:
    row = connection.execute("select to_regclass('job_workers') is not null").fetchone()
    return bool(row and row[0])


def ask_readiness(settings: Settings) -> tuple[str, list[str]]:
    """What `/readyz` says, and why; `unreachable` where no API answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(host, settings.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/readyz")
        said = orjson.loads(connection.getresponse().read())
        return str(said["status"]), [str(reason) for reason in said["reasons"]]
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError, KeyError, TypeError):
        return "unreachable", ["no Muniment answers there"]
    finally:
        connection.close()


def _part(part: PartStatus) -> dict[str, Any]:
    return {
        "name": part.name,
        "state": str(part.state),
        "pid": part.pid,
        "since": part.since,
        "restarts": part.restarts,
        "last_exit": part.last_exit,
    }


def _member(member: Member) -> str:
    return member.name if member.is_here else f"{member.name} (missing here; it joined by {member.setting})"


def _print(told: Told) -> None:
    newest = f", the newest event of {utc(told.newest)} UTC" if told.newest else ""
    print_fields(
        {
            "release": told.release,
            "data": told.data,
            "api": f"{told.state} at {told.url}",
            "log": f"position {told.head}{newest}",
            "schema": told.schema["message"] or told.schema["state"],
        }
        | ({"modules": ", ".join(map(_member, told.modules))} if told.modules else {})
    )
    for reason in told.reasons:
        click.echo(f"  {click.style(text(reason), fg=COLOURS.get(told.state, 'red'))}")
    click.echo()
    if told.supervised:
        shown = [(p.name, str(p.state), p.pid, p.since, p.restarts, p.last_exit) for p in told.parts]
        print_table(("PART", "STATE", "PID", "SINCE (UTC)", "RESTARTS", "LAST EXIT"), shown)
    else:
        click.echo("No supervisor here: the parts are run one by one, or elsewhere.")
    click.echo()
    views = [
        (v.name, f"{v.version}.{v.build}{'' if v.active else ' (not read)'}", v.feed, v.position, v.lag_events,
         v.lag_seconds, v.events_per_second, v.parked, size(v.size_bytes), _verified(v))
        for v in told.projections
    ]  # fmt: skip
    print_table(("VIEW", "BUILD", "FEED", "POSITION", "LAG", "SECONDS", "RATE/S", "PARKED", "SIZE", "VERIFIED"), views)
    if told.jobs:
        click.echo(f"\njobs: {_jobs(told.jobs)}")
    if told.bus:
        click.echo()
        print_bus(told.bus)


def _jobs(jobs: JobStatus) -> str:
    """`2 workers, 5 running, the oldest waits for 3.0 s in mail`."""
    waits = "nothing waits"
    if jobs.oldest_queue is not None and jobs.oldest_seconds is not None:
        waits = f"the oldest waits for {duration(jobs.oldest_seconds)} in {jobs.oldest_queue}"
    return f"{jobs.workers} workers, {jobs.running} running, {waits}"


def _verified(view: BuildStatus) -> str:
    """`all, sound`, `standing, 2 streams differ`, or nothing."""
    if view.verified_at is None:
        return ""
    result = f"{view.differing_streams} streams differ" if view.differing_streams else "sound"
    return f"{view.verified_sample}, {result}"
