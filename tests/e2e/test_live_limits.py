"""What ends a stream, and how many one process keeps open: on an API process of its own, with small limits."""

import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from domain.audit import Entry
from domain.context import Context
from infra.event_store import Log, Metadata
from runtime import modules
from tests.api.serving import eventually
from tests.e2e.listening import Ear
from tests.e2e.platform import Api, Caller, Platform
from tests.e2e.test_live import head, metric

READERS = 1_000


@pytest.fixture(scope="module")
def small(running_platform: Platform) -> Iterator[Api]:
    limits = {"live_buffer_events": 50, "live_heartbeat_seconds": 0.5, "live_check_seconds": 0.5,
              "live_readers": READERS, "live_readers_per_user": READERS}  # fmt: skip
    api = running_platform.api("small", **limits)
    api.start()
    try:
        api.wait_until_ready()
        yield api
    finally:
        api.stop()


def listening(api: Api, who: Caller, query: str = "", **options) -> Ear:
    return Ear(api.url, who.tokens["access_token"], query, **options)


def record(platform: Platform, events: int, chars: int) -> None:
    """Large facts, in one save."""
    log = Log(platform.settings.postgres_url, inline=modules.inline_tables())
    try:
        entries = [Entry("a.try", "target", "success", {"filling": "x" * chars}, None) for _ in range(events)]
        log.save_work(entries, metadata=Metadata.from_context(Context.system("test", "filling")).to_bytes())
    finally:
        log.close()


def test_a_client_that_stops_reading_is_cut_off_and_goes_on_where_it_was(platform: Platform, small: Api):
    start = head(platform)
    query = f"?after={start}&types=audit.EntryRecorded"
    with listening(small, platform.admin, query, receive=4096) as slow:
        assert slow.status == 200
        for _ in range(60):
            record(platform, 40, 8_000)
            time.sleep(0.02)
            if metric(small, "muniment_events_readers_ended_total"):
                break
        assert metric(small, "muniment_events_readers_ended_total") == 1
        told = list(slow.messages())
        assert slow.ended
    *events, last = told
    assert (last.event, last.data["reason"]) == ("cut-off", "too-slow")
    assert last.id == str(last.data["position"]) == str(events[-1].data["position"])
    assert slow.retry >= 2000
    positions = [row[0] for row in platform.sql(
        "select notification_id from stored_events where notification_id > %s and topic = 'audit.EntryRecorded'"
        " order by 1", start,
    )]  # fmt: skip
    with listening(small, platform.admin, query, last_id=slow.last_id) as again:
        rest = again.take(len(positions) - len(events))
    assert [message.data["position"] for message in (*events, *rest)] == positions


def test_a_stream_ends_with_its_session(platform: Platform, small: Api, newcomer):
    analyst = newcomer("Adele Goldstine")
    platform.admin.grants(analyst.me, "analyst")
    eventually(lambda: listening_status(small, analyst) == 200)
    with listening(small, analyst, f"?after={head(platform)}&types=identity.KeyRevoked") as ear:
        assert ear.take(1, seconds=0.3) == []
        analyst.done("POST", "/api/v1/auth/logout")
        began = time.monotonic()
        (last,) = ear.messages(10)
        assert time.monotonic() - began < 5
    assert (last.event, last.data["reason"]) == ("refused", "session-ended")


def test_a_stream_ends_with_the_permission(platform: Platform, small: Api, newcomer):
    analyst = newcomer("Kathleen Antonelli")
    platform.admin.grants(analyst.me, "analyst")
    eventually(lambda: listening_status(small, analyst) == 200)
    with listening(small, analyst, f"?after={head(platform)}&types=identity.KeyRevoked") as ear:
        platform.admin.revokes(analyst.me, "analyst")
        (last,) = ear.messages(10)
    assert (last.event, last.data["reason"]) == ("refused", "forbidden")


def listening_status(api: Api, who: Caller) -> int:
    with listening(api, who) as ear:
        return ear.status


def test_a_silent_stream_shows_that_it_lives_and_how_far_it_is(platform: Platform, small: Api):
    with listening(small, platform.admin, f"?after={head(platform)}&types=identity.KeyRevoked") as ear:
        platform.admin.registers("klara.von.neumann@arithmetic.example", "Klara von Neumann")
        end = head(platform)
        for _ in range(20):
            assert ear.take(1, seconds=0.5) == []
            if int(ear.last_id or 0) >= end:
                break
        assert int(ear.last_id) >= end


@pytest.mark.timeout(120)
def test_a_thousand_readers_of_one_process_all_get_what_is_recorded(platform: Platform, small: Api):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    start = head(platform)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        ears = [stack.enter_context(listening(small, platform.admin, f"?after={start}")) for _ in range(READERS)]
        assert {ear.status for ear in ears} == {200}
        assert metric(small, "muniment_events_readers") == READERS
        with listening(small, platform.admin) as one_too_many:
            assert one_too_many.status in {429, 503}
        platform.admin.registers("herman.goldstine@arithmetic.example", "Herman Goldstine")
        for ear in ears:
            assert any(message.data["type"] == "identity.UserRegistered" for message in ear.messages(30))
    eventually(lambda: metric(small, "muniment_events_readers") == 0)


def test_a_process_that_stops_says_so_to_its_readers(platform: Platform):
    api = platform.api("stopping")
    api.start()
    api.wait_until_ready()
    with listening(api, platform.admin, f"?after={head(platform)}&types=identity.KeyRevoked") as ear:
        assert ear.take(1, seconds=0.3) == []
        began = time.monotonic()
        api.stop()
        assert time.monotonic() - began < 8
        (last,) = ear.messages(10)
    assert (last.event, last.data["reason"]) == ("stopping", "stopping")
    assert ear.retry >= 1000
