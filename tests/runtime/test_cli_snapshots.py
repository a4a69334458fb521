"""`muniment snapshots`."""

from uuid import UUID, uuid4

from domain.jobs import JobKey
from infra.event_store import Log
from infra.recorder import Limits
from tests.runtime.cli_site import Site


def passed_on(site: Site, events: int) -> UUID:
    """A unique key that as many jobs have had, which somebody has looked at."""
    log = Log(site.settings.postgres_url, limits=Limits(snapshot_events=20))
    log.loader._code = lambda _: "here"
    key = JobKey(uuid4(), 60, uuid4())
    for _ in range(events - 1):
        key.pass_to(uuid4(), 60)
    log.save_work([key], metadata=b"{}")
    log.load(JobKey, key.id)
    log.close()
    return key.id


def test_lists_what_is_kept_by_kind(cli_site):
    for events in (30, 50, 10):
        passed_on(cli_site, events)

    (found,) = [each for each in cli_site.json("snapshots", "list")["items"] if each["kind"] == "jobs.JobKey"]

    assert (found["streams"], found["snapshots"], found["longest"], found["proved"]) == (2, 2, 50, 0)
    assert "jobs.JobKey" in cli_site.done("snapshots", "list").stdout


def test_drops_those_of_one_stream_or_all(cli_site):
    cli_site.done("snapshots", "drop")
    first, _ = passed_on(cli_site, 30), passed_on(cli_site, 30)

    assert cli_site.json("snapshots", "drop", first) == {"dropped": 1}
    assert cli_site.json("snapshots", "drop", first) == {"dropped": 0}
    assert "1 dropped" in cli_site.done("snapshots", "drop").stderr
    assert "no snapshots" in cli_site.done("snapshots", "list").stderr


def test_a_stream_is_named_by_its_id(cli_site):
    result = cli_site.call("snapshots", "drop", "everything")
    assert result.exit_code == 2
    assert "valid UUID" in result.output
