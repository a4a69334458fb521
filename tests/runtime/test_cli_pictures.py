"""Stories and charts, as they are typed."""

import json
import re
from datetime import datetime
from uuid import uuid4

import psycopg
import pytest

from infra.wanted import CORRELATION_SQL
from runtime.cli.pictures import ASCII, UNICODE, sparkline
from tests.runtime.cli_site import Site


@pytest.fixture(scope="module")
def correlation(cli_site: Site) -> str:
    cli_site.user("ada@engine.example")
    return cli_site.events("identity.UserRegistered")[-1].metadata.correlation_id


def recorded_by_log(site: Site, correlation: str) -> list[int]:
    return [e.position for e in site.events() if e.metadata.correlation_id == correlation]


def test_a_story_is_a_tree_of_what_was_recorded_together_and_why(cli_site: Site, correlation):
    story = cli_site.json("events", "story", correlation)
    assert story["correlation_id"] == correlation
    assert story["events"] == len(recorded_by_log(cli_site, correlation))
    assert not story["truncated"]
    (request,) = story["steps"]
    assert request["kind"] == "request"
    assert request["actor"].startswith("operator:")
    assert {"identity.UserRegistered", "identity.EmailClaimed"} <= {event["type"] for event in request["events"]}
    assert "password" not in json.dumps(story)


def test_a_story_can_be_read(cli_site: Site, correlation):
    told = cli_site.done("events", "story", correlation).stdout
    lines = told.splitlines()
    assert lines[0].startswith(correlation)
    assert re.search(r"\d+  identity\.UserRegistered  \+0\.0 ms  .*name=", told)
    assert all(line.lstrip(" │").startswith(("├─", "└─")) for line in lines[1:])


def test_a_story_is_plain_where_the_terminal_is(cli_site: Site, correlation, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli_site.done("events", "story", correlation).stdout.isascii()


def test_a_story_that_is_cut_says_so(cli_site: Site, correlation):
    result = cli_site.done("events", "story", correlation, "--limit", 1)
    assert "cut: there are more than 1 events" in result.stderr
    assert cli_site.json("events", "story", correlation, "--limit", 1)["truncated"]


@pytest.mark.parametrize(
    "odd", ["nothing-like-this", 'a"b', "a\\", "\u00e9\u4e2d", "%s", "'; drop table x --", "x" * 3000]
)
def test_an_unknown_correlation_is_one_line(cli_site: Site, odd):
    result = cli_site.call("events", "story", odd)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Nothing was recorded under the correlation")
    assert len(result.stderr.splitlines()) == 1


def test_a_correlation_is_found_by_an_index(cli_site: Site):
    with psycopg.connect(cli_site.settings.postgres_url) as connection:
        connection.execute("set enable_seqscan = off")
        plan = connection.execute(
            f"explain select * from stored_events where {CORRELATION_SQL} = 'x'".encode()
        ).fetchall()
    assert "stored_events_correlation" in str(plan)


def test_a_chart_counts_what_the_log_holds(cli_site: Site, correlation):
    chart = cli_site.json("events", "chart", "--width", 12)
    log = cli_site.events()
    assert sum(row["total"] for row in chart["rows"]) <= len(cli_site.events())
    totals = {row["name"]: row["total"] for row in chart["rows"]}
    for topic in ("identity.UserRegistered", "access.RoleDefined"):
        assert totals[topic] == len([e for e in log if e.topic == topic])
    for row in chart["rows"]:
        assert sum(row["counts"]) == row["total"]
        assert len(row["counts"]) == len(chart["starts"]) == 12
    starts = [datetime.fromisoformat(start) for start in chart["starts"]]
    for event in log:
        span = max(n for n, start in enumerate(starts) if start <= event.recorded_at)
        (row,) = (row for row in chart["rows"] if row["name"] == event.topic)
        assert row["counts"][span] > 0


def test_a_chart_is_drawn_in_rows(cli_site: Site, correlation):
    drawn = cli_site.done("events", "chart", "--width", 20, "--types", "identity.*").stdout.splitlines()
    assert drawn[0].split()[0].startswith("identity.")
    assert any(line.startswith("all ") for line in drawn)
    assert set("".join(drawn)) & set(UNICODE.blocks)
    assert drawn[-1].startswith("each character is ")


def test_a_chart_is_ascii_where_the_terminal_is_plain(cli_site: Site, correlation, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert cli_site.done("events", "chart").stdout.isascii()


def test_logins_are_drawn_by_outcome(cli_site: Site):
    with psycopg.connect(cli_site.settings.postgres_url) as connection:
        base, at = connection.execute("select position, recorded_at from log_head").fetchone() or (0, None)
        rows = [("identity.SessionOpened", "{}")] * 3 + [("identity.LoginFailed", '{"reason":"wrong-password"}')] * 2
        for n, (topic, state) in enumerate(rows, start=1):
            connection.execute(
                "insert into stored_events values (%s, 1, %s, %s, %s, %s, '{}')",
                (uuid4(), topic, state.encode(), base + n, at),
            )
        connection.execute("update log_head set position = %s", (base + len(rows),))
        # nobody else is to stumble over made-up events: they are looked at and taken away again
        from infra.charting import count_events
        from infra.exporting.rows import Selection

        chart = count_events(connection, Selection(base, base + 5), "outcome", 10)
        connection.rollback()
    assert {name: sum(counts) for name, counts in chart.rows.items()} == {"success": 3, "failure: wrong-password": 2}
    assert cli_site.call("events", "chart", "--by", "outcome", "--types", "identity.*").exit_code == 2


@pytest.mark.parametrize(
    ("options", "status"),
    [(["--from", "999999999"], 1), (["--width", "3"], 2), (["--types", "no.Such"], 2), (["--by", "colour"], 2)],
)
def test_what_cannot_be_drawn_is_one_line(cli_site: Site, options, status):
    assert cli_site.call("events", "chart", *options).exit_code == status


def test_an_empty_range_is_no_error(cli_site: Site, correlation):
    result = cli_site.done("events", "chart", "--types", "identity.KeyRevoked", "--to", 1)
    assert result.stdout == ""
    assert result.stderr.startswith("nothing to draw")


@pytest.mark.parametrize("pen", [UNICODE, ASCII])
def test_a_sparkline_shows_something_for_the_smallest_and_the_most_for_the_largest(pen):
    drawn = sparkline([0, 1, 500, 1000], 1000, pen.blocks)
    assert drawn[0] == " "
    assert drawn[1] == pen.blocks[0]
    assert drawn[3] == pen.blocks[-1]
    assert sparkline([0, 0], 0, pen.blocks) == "  "
