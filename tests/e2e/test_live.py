"""The log live, over HTTP, on the running platform."""

import random
import re
import threading
import time
from bisect import bisect_right

import pytest

from tests.api.serving import eventually
from tests.e2e.listening import Ear
from tests.e2e.platform import Api, Caller, Platform


def ear(platform: Platform, query: str = "", *, who: Caller | None = None, **options) -> Ear:
    token = (who or platform.admin).tokens["access_token"]
    return Ear(platform.ada.url, token, query, **options)


def head(platform: Platform) -> int:
    return int(platform.sql("select position from log_head")[0][0])


def metric(api: Api, name: str) -> float:
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", api.anybody.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def open_readers(platform: Platform) -> int:
    """Once those of the test before have gone."""
    eventually(lambda: metric(platform.ada, "muniment_events_readers") == 0)
    return int(metric(platform.ada, "muniment_events_readers"))


def test_what_is_recorded_is_told_at_once_and_without_secrets(platform: Platform):
    with ear(platform, f"?after={head(platform)}") as listening:
        assert listening.status == 200
        assert "content-type: text/event-stream" in listening.head.lower()
        platform.admin.registers("kay.mcnulty@arithmetic.example", "Kay McNulty")
        registered = next(m for m in listening.messages() if m.data["type"] == "identity.UserRegistered")
    assert registered.event == "message"
    assert registered.id == str(registered.data["position"])
    assert registered.data["body"] == {"email": "kay.mcnulty@arithmetic.example", "name": "Kay McNulty"}
    listed = platform.admin.get(f"/api/v1/events?after={registered.data['position'] - 1}&limit=1").json()["items"]
    assert listed == [registered.data]


def test_filters_choose_by_type_stream_and_actor(platform: Platform):
    start = head(platform)
    ada = platform.admin.registers("betty.holberton@arithmetic.example", "Betty Holberton")
    platform.admin.post(f"/api/v1/users/{ada}/suspend", {"reason": "a try"})
    everything = platform.sql(
        "select notification_id, topic, originator_id::text, convert_from(metadata, 'UTF8')::jsonb->>'actor'"
        " from stored_events where notification_id > %s order by 1",
        start,
    )
    chosen = {
        "&types=identity.UserSuspended,identity.UserRegistered": lambda row: row[1].startswith("identity.User"),
        f"&stream={ada}": lambda row: row[2] == ada,
        f"&actor=user:{platform.admin.me}&types=identity.UserSuspended": lambda row: row[1] == "identity.UserSuspended",
    }
    for query, takes in chosen.items():
        expected = [row[0] for row in everything if takes(row)]
        assert expected
        with ear(platform, f"?after={start}{query}") as listening:
            assert [message.data["position"] for message in listening.take(len(expected))] == expected
    with ear(platform, f"?after={start}&actor=user:{ada}") as listening:
        assert listening.take(1, seconds=0.5) == []


@pytest.mark.parametrize(
    ("query", "last_id", "status", "code"),
    [
        ("?types=identity.NoSuchEvent", None, 422, "invalid"),
        ("?after=minus-one", None, 422, "invalid"),
        ("?after=-1", None, 422, "invalid"),
        ("?stream=not-an-id", None, 422, "invalid"),
        ("?actor=nobody", None, 422, "invalid"),
        ("?colour=blue", None, 422, "invalid"),
        ("?after=9000000000000000000", None, 422, "position-unknown"),
        ("", "yesterday", 422, "invalid"),
        ("", "999999999999999", 422, "position-unknown"),
    ],
)
def test_what_is_wrong_is_said_before_the_stream_begins(platform: Platform, query, last_id, status, code):
    with ear(platform, query, last_id=last_id) as listening:
        assert listening.status == status
        assert f'"code":"{code}"' in listening.head + listening._raw.decode()


def test_without_the_permission_or_a_token_there_is_no_stream(platform: Platform, newcomer):
    with ear(platform, who=newcomer("Jean Bartik")) as listening:
        assert listening.status == 403
    with Ear(platform.ada.url, "no token at all") as listening:
        assert listening.status == 401
    assert open_readers(platform) == 0


def test_a_head_request_opens_nothing(platform: Platform):
    answer = platform.admin.ask("HEAD", "/api/v1/events/stream")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert open_readers(platform) == 0


def test_opening_a_stream_is_audited(platform: Platform, newcomer):
    analyst = newcomer("Marlyn Wescoff")
    platform.level()
    platform.admin.grants(analyst.me, "analyst")
    platform.level()
    with ear(platform, who=analyst) as listening:
        assert listening.status == 200
        found = platform.sql(
            "select 1 from stored_events where convert_from(state, 'UTF8') like '%%GET /api/v1/events/stream%%'"
            " and convert_from(metadata, 'UTF8') like %s",
            f"%user:{analyst.me}%",
        )
    assert found


def test_readers_that_are_killed_at_random_and_come_back_have_exactly_the_log(platform: Platform):
    chance = random.Random(7)  # noqa: S311 - for tests
    start, names, end = head(platform), iter(range(1000)), [0]
    writing = threading.Event()

    def write() -> None:
        while writing.is_set():
            platform.admin.registers(f"coder.{next(names)}@arithmetic.example", "Coder")

    def follow(query: str, found: list[int]) -> None:
        """Hangs up after some bytes or some time, and comes back with the id that a browser would send."""
        last_id, done = None, False
        while not done:
            with ear(platform, f"?after={start}{query}", last_id=last_id) as listening:
                for message in listening.take(chance.randrange(1, 30), seconds=chance.random()):
                    found.append(message.data["position"])
                last_id = listening.last_id or last_id
                done = not writing.is_set() and int(last_id or 0) >= end[0]

    queries = ["", "&types=identity.UserRegistered", f"&actor=user:{platform.admin.me}", "&types=identity.EmailClaimed"]
    results: list[list[int]] = [[] for _ in queries]
    writing.set()
    writers = [threading.Thread(target=write) for _ in range(2)]
    readers = [threading.Thread(target=follow, args=pair) for pair in zip(queries, results, strict=True)]
    for thread in (*writers, *readers):
        thread.start()
    time.sleep(2)
    end[0] = head(platform)
    writing.clear()
    for thread in (*writers, *readers):
        thread.join(60)
        assert not thread.is_alive()
    for query, found in zip(queries, results, strict=True):
        through = found[: bisect_right(found, end[0])]
        assert through == [position for position in expected(platform, start, query) if position <= end[0]]
        assert len(found) == len(set(found))
        assert through


def expected(platform: Platform, start: int, query: str) -> list[int]:
    """What the route that lists events says, page by page."""
    found: list[int] = []
    after: int | None = start
    while after is not None:
        page = platform.admin.done("GET", f"/api/v1/events?after={after}&limit=200{query}").json()
        found += [item["position"] for item in page["items"]]
        after = page["next"]
    return found
