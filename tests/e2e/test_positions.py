"""A reader can ask for its own writes, and for those of others."""

from collections.abc import Iterator

import pytest

from tests.e2e.platform import Api, Platform, at_least, eventually, position


@pytest.fixture(scope="module")
def hasty(running_platform: Platform) -> Iterator[Api]:
    """A process that doesn't wait long."""
    api = running_platform.api("hasty", at_least_timeout_seconds=0.3).start()
    api.wait_until_ready()
    yield api
    api.stop()


def test_what_was_written_through_one_process_is_read_through_the_other(platform):
    there = platform.babbage.same(platform.admin)
    for n in range(20):
        registered = platform.admin.done(
            "POST",
            "/api/v1/users",
            {
                "email": f"annie.{n}@harvard.example",
                "name": "Annie Jump Cannon",
                "password": "oh-be-a-fine-girl-kiss-me",
            },
        )
        user = registered.json()["id"]
        answer = there.done("GET", f"/api/v1/users/{user}", **at_least(position(registered)))
        assert answer.json()["name"] == "Annie Jump Cannon"
        assert position(answer) >= position(registered)
    found = there.done("GET", "/api/v1/users?q=annie&limit=200", **at_least(position(registered))).json()
    assert len(found["items"]) == 20


def test_without_the_follower_a_reader_is_told_that_the_view_is_behind(platform, hasty):
    platform.follower.kill()
    try:
        written = platform.admin.registers("henrietta@leavitt.example", "Henrietta Leavitt")
        registered = platform.sql("select position from log_head")[0][0]
        reader = hasty.same(platform.admin)
        behind = reader.get(f"/api/v1/users/{written}", **at_least(registered))
        assert (behind.status_code, behind.json()["code"]) == (503, "projection-behind")
        assert int(behind.headers["retry-after"]) > 0
        assert reader.get(f"/api/v1/users/{written}").status_code == 404
        assert hasty.login("henrietta@leavitt.example").is_let_in
    finally:
        platform.follower.start()
    there = platform.babbage.same(platform.admin)
    eventually(lambda: there.get(f"/api/v1/users/{written}", **at_least(registered)).is_success)
    assert there.done("GET", f"/api/v1/users/{written}", **at_least(registered)).json()["name"] == "Henrietta Leavitt"


@pytest.mark.parametrize("path", ["/api/v1/users", "/api/v1/audit", "/api/v1/roles"])
def test_a_position_that_isnt_there_yet_is_unknown(platform, path):
    answer = platform.admin.get(path, **at_least(10**12))
    assert (answer.status_code, answer.json()["code"]) == (422, "position-unknown")
    checked = platform.admin.check(platform.admin.me, "lamp:light", **at_least(10**12))
    assert (checked.status_code, checked.json()["code"]) == (422, "position-unknown")


def test_the_log_is_not_read_from_a_position_that_isnt_there_yet(platform):
    answer = platform.admin.get("/api/v1/events", params={"after": 10**12})
    assert (answer.status_code, answer.json()["code"]) == (422, "position-unknown")


@pytest.mark.parametrize("text", ["soon", "-1", "1e3", "9" * 400, "1.0", ""])
def test_a_position_that_isnt_a_number_is_refused(platform, text):
    answer = platform.admin.get("/api/v1/users", headers={"muniment-at-least": text})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "Muniment-At-Least"


def test_the_log_tells_its_events_in_the_order_of_their_positions_without_gaps_or_secrets(platform):
    after, positions, text = 0, [], ""
    while after is not None:
        page = platform.admin.done("GET", "/api/v1/events", params={"after": after, "limit": 100})
        positions += [item["position"] for item in page.json()["items"]]
        text, after = text + page.text, page.json()["next"]
    assert positions == list(range(1, len(positions) + 1))
    assert "$2b$" not in text
    assert "token_hash" not in text
