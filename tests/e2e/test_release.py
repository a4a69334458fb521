"""A release that brings another version of a view is rolled out, process by process, while everybody works."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import ROOT, Caller, Platform, at_least, eventually, position
from tests.e2e.release import FEW_EVENTS, Released, next_release
from tests.e2e.test_builds import Worker, at_work


@pytest.fixture
def platform() -> Iterator[Platform]:
    """One of this test's own, of which it stops parts."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    platform = Platform(folder)
    try:
        yield platform.start()
    finally:
        platform.close()
    shutil.rmtree(folder, ignore_errors=True)


def versions(caller: Caller) -> set[tuple[int, bool, bool]]:
    """Of the view that the release changes: version, whether it is read, whether it is level."""
    items = caller.done("GET", "/api/v1/projections").json()["items"]
    return {(item["version"], item["active"], item["lag_events"] == 0) for item in items if item["name"] == "identity"}


def test_old_and_new_processes_serve_side_by_side_until_the_old_ones_end(platform: Platform, tmp_path: Path) -> None:
    old, new = Released(ROOT, platform.settings), Released(next_release(tmp_path), platform.settings)
    ada = platform.admin.registers("ada@engine.example", "Ada Byron")
    platform.admin.done("PATCH", f"/api/v1/users/{ada}", {"name": "Ada Lovelace"})
    for number in range(FEW_EVENTS // 2):
        platform.admin.registers(f"joan.{number}@colossus.example", "Joan Clarke")
    there = platform.babbage.same(platform.admin)
    former = [Worker(1, platform.admin, there), Worker(2, there, platform.admin)]

    with at_work(*former):
        migrated = new.call("migrate", "apply")
        assert migrated.returncode == 0, migrated.stderr
        grace = new.api()
        platform.started.callback(grace.stop)
        grace.start()
        unready = eventually(lambda: grace.anybody.get("/readyz"))
        assert (unready.status_code, unready.json()["status"]) == (503, "starting")
        refused = old.call("projections", "drop", "identity", "--version", "2")
        assert (refused.returncode, "doesn't know version 2" in refused.stderr) == (1, True)

        platform.follower.stop()
        platform.started.callback(new.follower().start().stop)
        grace.wait_until_ready()
        assert platform.sql("select asked_by, state from projection_rebuilds") == [("system:release", "following")]
        here = grace.same(platform.admin)
        both = [Worker(3, here, platform.admin), Worker(4, there, here)]
        with at_work(*both):
            eventually(lambda: all(worker.rounds > 10 for worker in both), 60)
        assert {(version, active) for version, active, _ in versions(here)} == {(1, True), (2, True)}
    assert [worker.complaints for worker in (*former, *both)] == [[], [], [], []]
    assert platform.sql("select renames from identity_users_v2_b1 where id = %s", ada) == [(1,)]
    shared = "select id, email, name, registered_position from identity_users_v{}_b1"
    eventually(lambda: {level for _, _, level in versions(here)} == {True})
    assert platform.sql(f"{shared.format(1)} except {shared.format(2)}") == []

    platform.ada.stop()
    platform.babbage.stop()
    dropped = new.call("projections", "drop", "identity", "--version", "1")
    assert dropped.stderr.splitlines()[-1] == "build 1 of identity is gone"
    renamed = here.done("PATCH", f"/api/v1/users/{ada}", {"name": "Augusta Ada King"})
    seen = here.done("GET", f"/api/v1/users/{ada}", **at_least(position(renamed)))
    assert seen.json()["name"] == "Augusta Ada King"
    assert versions(here) == {(2, True, True)}
    assert platform.sql("select to_regclass('identity_users_v1_b1')") == [(None,)]
