"""Rebuilding by the command line: what is printed, what is refused, what a killed process leaves behind."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from infra.event_store import Log
from projections.access import ACCESS
from projections.identity import USERS
from projections.rebuild import leased
from projections.rebuilds import start, status
from runtime import modules
from runtime.rebuilds import Keeper, Pauses, works
from tests.runtime.cli_site import Site, site


@pytest.fixture
def here(database: str, tmp_path: Path) -> Iterator[Site]:
    with site(database, tmp_path) as made:
        yield made


def test_from_rebuild_to_drop(here):
    here.user("ada@engine.example")
    done = here.done("projections", "rebuild", "identity")
    assert "identity build 2 is level at" in done.stderr
    assert "events in" in done.stderr
    compared = here.json("projections", "diff", "identity")
    assert (compared["differences"], compared["live"], compared["other"]) == (0, 1, 2)
    assert here.json("projections", "cutover", "identity")["build"] == 2
    assert "no second build" not in here.done("users", "list").output
    assert here.json("projections", "rollback", "identity")["former"] == 2
    assert here.json("projections", "drop", "identity")["build"] == 2
    said = [event.topic for event in here.events() if event.topic.startswith("projections.")]
    assert said == [
        "projections.RebuildRequested",
        "projections.CutOverDecided",
        "projections.RollbackDecided",
        "projections.BuildDropDecided",
    ]


def test_a_difference_is_shown_with_what_each_build_says_and_the_event_behind_it(here):
    ada = here.user("ada@engine.example")
    here.done("projections", "rebuild", "identity")
    with psycopg.connect(here.settings.postgres_url, autocommit=True) as connection:
        connection.execute("update identity_users_v1_b2 set suspended_at = '2026-01-31' where id = %s", (ada,))
    shown = here.done("projections", "diff", "identity").stdout
    assert '{"suspended_at":null}' in shown
    assert '{"suspended_at":"2026-01-31T00:00:00' in shown
    assert "identity.UserRegistered at" in shown


def test_a_difference_in_what_is_personal_is_counted_and_not_shown(here):
    ada = here.user("ada@engine.example")
    here.done("projections", "rebuild", "identity")
    with psycopg.connect(here.settings.postgres_url, autocommit=True) as connection:
        connection.execute("update identity_users_v1_b2 set name = 'Augusta' where id = %s", (ada,))
    shown = here.done("projections", "diff", "identity").stdout
    found = here.json("projections", "diff", "identity")
    assert '{"name":"(personal)"}' in shown
    assert (found["differences"], found["rows"][0]["columns"]) == (1, ["name"])
    for said in (shown, str(found)):
        assert not {word for word in ("Augusta", "Byron", "ada@engine.example") if word in said}


def test_what_a_former_release_has_left_behind_is_dropped_by_its_version(here, monkeypatch):
    drop = ("projections", "drop", "identity", "--version", 1)
    assert "is the one that is read" in here.call(*drop, "--build", 1).stderr
    monkeypatch.setattr(modules, "declared", lambda: (replace(USERS, version=2), ACCESS))
    assert "is fed by another release" in here.call(*drop).stderr
    with psycopg.connect(here.settings.postgres_url, autocommit=True) as connection:  # a follower of this release
        connection.execute("update leases set fence = fence + 1 where name = 'follower'")
    assert "no build 7" in here.call(*drop, "--build", 7).stderr
    assert here.json(*drop)["build"] == 1
    assert "no second build" in here.call(*drop).stderr
    with psycopg.connect(here.settings.postgres_url) as connection:
        assert connection.execute("select to_regclass('identity_users_v1_b1')").fetchone() == (None,)
        assert connection.execute("select count(*) from projection_wishes").fetchone() == (0,)
    assert here.events("projections.BuildDropDecided")[-1].event.projection_version == 1


def test_the_audit_view_which_refuses_changes_is_rebuilt_and_dropped_too(here):
    here.done("projections", "rebuild", "audit")
    assert here.json("projections", "diff", "audit")["differences"] == 0
    here.done("projections", "cutover", "audit")
    here.done("projections", "drop", "audit")
    assert [row["action"] for row in here.json("audit", "list", "--limit", "3")["items"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["diff", "identity"], "identity has no second build"),
        (["cutover", "identity"], "identity has no second build"),
        (["rollback", "identity"], "identity has no second build"),
        (["drop", "identity"], "identity has no second build"),
        (["drop", "identity", "--build", "1"], "build 1 is the one that is read"),
        (["drop", "identity", "--build", "7"], "identity has no build 7"),
        (["rebuild", "tea"], "There is no projection 'tea'"),
        (["rebuild", "identity", "--version", "9"], "doesn't know version 9 of 'identity'"),
    ],
)
def test_what_cannot_be_done_is_one_line(here, arguments, said):
    refused = here.call("projections", *arguments)
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not [event for event in here.events() if event.topic.startswith("projections.")]


def test_a_second_rebuild_at_once_is_told_who_runs_the_first(here):
    log = Log(here.settings.postgres_url)
    try:
        with leased(works(here.settings, log), USERS, "operator:ada on engine, process 7"):
            refused = here.call("projections", "rebuild", "identity")
    finally:
        log.close()
    assert refused.exit_code == 1
    assert "identity is being worked on by operator:ada on engine, process 7" in refused.stderr


def test_ctrl_c_stops_it_and_the_same_command_goes_on(here):
    for number in range(30):
        here.user(f"ada{number}@engine.example")
    process = here.process("projections", "rebuild", "identity", "--rate", "5")
    try:
        wait_until(lambda: is_running(here))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1
    assert said.strip().splitlines()[-1].startswith("Error: stopped at ")
    again = here.done("projections", "rebuild", "identity", "--rate", "1000000")
    assert "was begun; going on from" in again.stderr


def is_running(here):
    with psycopg.connect(here.settings.postgres_url) as connection:
        found = status(connection, USERS)
        return found is not None and found.state == "building" and found.position > 0


def wait_until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_the_pauses_before_a_failed_process_is_started_again_grow_until_one_has_run_well():
    pauses = Pauses()
    assert [pauses.after(0.1) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [pauses.after(60), pauses.after(1)] == [1, 2]
    assert [pauses.after(1, failed=False), pauses.after(1)] == [0, 1]


def test_a_rebuild_that_nobody_attends_is_started_and_after_a_kill_started_again_by_the_keeper(here):
    for number in range(30):
        here.user(f"ada{number}@engine.example")
    log = Log(here.settings.postgres_url)
    keeper = Keeper(here.settings, works(here.settings, log), modules.declared(), lambda: True)
    with psycopg.connect(here.settings.postgres_url, autocommit=True) as connection:
        build = start(connection, ACCESS, asked_by="user:ada", rate=20)
        try:
            wait_until(lambda: keeper.look(connection) or status(connection, ACCESS).position > 0)
            (child,) = keeper._children.values()
            child._process.kill()
            child._process.wait()
            connection.execute("update projection_rebuilds set rate = null")
            later = "clock_timestamp() + interval '60 s'"  # nobody waits until the dead one's lease runs out
            connection.execute(f"update leases set expires_at = {later} where name like 'rebuild%'")
            wait_until(lambda: keeper.look(connection) or status(connection, ACCESS).state == "following")
        finally:
            keeper.stop()
            log.close()
        assert build.number == 2
