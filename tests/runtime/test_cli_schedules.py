"""Schedules at the command line: by the same handlers as the API's, with the operator's name in the log."""

import signal
from uuid import uuid4

import psycopg
import pytest

from domain.jobs.schedule import Schedule
from tests.e2e.platform import eventually
from tests.runtime.cli_site import Site


@pytest.fixture
def name() -> str:
    return f"nightly-{uuid4().hex[:8]}"


def test_a_created_schedule_is_shown_at_once_and_the_operator_is_in_the_log(cli_site: Site, name):
    made = cli_site.done(
        "schedules", "create", name, "30 2 * * *", "muniment.noop", "--timezone", "Europe/Vienna", "--missed", "once",
        "--as", "babbage",
    )  # fmt: skip
    assert f"{name} is due next at" in made.stderr
    shown = cli_site.json("schedules", "show", name)
    assert (shown["cron"], shown["timezone"], shown["type"]) == ("30 2 * * *", "Europe/Vienna", "muniment.noop")
    assert (shown["missed"], shown["state"], shown["last"]) == ("once", "active", None)
    assert shown["next"] is not None
    [event] = [e for e in cli_site.events("jobs.ScheduleCreated") if e.stream == Schedule.create_id(name)]
    assert event.metadata.actor == "operator:babbage"
    assert name in cli_site.done("schedules", "list").stdout
    assert name in cli_site.done("schedules", "show", name).stdout


def test_changes_only_what_is_given(cli_site: Site, name):
    cli_site.done("schedules", "create", name, "@daily", "muniment.noop", "--queue", "kitchen")
    cli_site.done("schedules", "change", name, "--cron", "@hourly", "--queue", "default", "--priority", "5")
    shown = cli_site.json("schedules", "show", name)
    assert (shown["cron"], shown["queue"], shown["priority"], shown["missed"]) == ("@hourly", None, 5, "skip")
    assert cli_site.call("schedules", "change", name).exit_code == 2


def test_pauses_resumes_and_deletes(cli_site: Site, name):
    cli_site.done("schedules", "create", name, "@daily", "muniment.noop")
    cli_site.done("schedules", "pause", name, "--reason", "the warehouse is moving")
    shown = cli_site.json("schedules", "show", name)
    assert (shown["state"], shown["reason"], shown["next"]) == ("paused", "the warehouse is moving", None)
    assert "skips these" in cli_site.done("schedules", "next", name).stderr
    cli_site.done("schedules", "resume", name)
    assert cli_site.json("schedules", "delete", name)["position"] > 0
    gone = cli_site.call("schedules", "show", name)
    assert (gone.exit_code, gone.stderr) == (1, "Error: There is no such schedule.\n")
    assert cli_site.json("schedules", "runs", name) == {"items": [], "next": None}


def test_tells_when_an_expression_is_due(cli_site: Site, name):
    asked = ["schedules", "next", "--cron", "30 2 * * *", "--timezone", "Europe/Vienna", "--after", "2026-03-28"]
    found = cli_site.json(*asked, "--count", 2)
    assert [item["local"] for item in found["items"]] == ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00"]
    assert "2026-03-29 01:00:00" in cli_site.done(*asked).stdout
    cli_site.done("schedules", "create", name, "0 9 * * mon", "muniment.noop")
    assert len(cli_site.json("schedules", "next", name, "--count", 3)["items"]) == 3


def test_the_scheduler_fires_what_is_due_by_the_logs_clock(cli_site: Site, name):
    cli_site.done("schedules", "create", name, "* * * * *", "muniment.noop")
    process = cli_site.process("scheduler")
    try:
        with psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as connection:
            # As a machine's clock does that is put forward and then back: the log's stays where it has been.
            connection.execute("update log_head set recorded_at = clock_timestamp() + interval '70 seconds'")
        runs = eventually(lambda: cli_site.json("schedules", "runs", name, "--outcome", "fired")["items"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    shown = cli_site.json("schedules", "show", name)["last"]
    assert (shown["instant"], shown["job_id"]) == (runs[0]["instant"], runs[0]["job_id"])


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["create", "tea", "61 * * * *", "muniment.noop"], 1, "the minute isn't valid"),
        (["create", "tea", "0 0 30 2 *", "muniment.noop"], 1, "never due"),
        (["create", "tea", "@daily", "muniment.noop", "--timezone", "Mars"], 1, "IANA time zone"),
        (["create", "tea", "@daily", "coffee.brew"], 1, "no job type"),
        (["create", "Tea Time", "@daily", "muniment.noop"], 1, "lower-case"),
        (["create", "tea", "@daily", "muniment.noop", "--args", "{"], 2, "isn't JSON"),
        (["create", "tea", "@daily", "muniment.noop", "--args", "[]"], 2, "JSON object"),
        (["create", "tea", "@daily", "muniment.noop", "--args", '{"sugar": 2}'], 1, "args.sugar"),
        (["create", "tea", "@daily", "muniment.noop", "--missed", "never"], 2, "--missed"),
        (["create", "tea", "@daily", "muniment.noop", "--missed-limit", "0"], 2, "--missed-limit"),
        (["pause", "nothing"], 1, "no such schedule"),
        (["runs", "nothing"], 1, "no such schedule"),
        (["next"], 2, "--cron"),
        (["next", "tea", "--cron", "@daily"], 2, "--cron"),
        (["next", "--cron", "often"], 1, "five fields"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cli_site: Site, arguments, status, says):
    result = cli_site.call("schedules", *arguments)
    assert result.exit_code == status
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
