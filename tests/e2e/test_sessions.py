"""Logging in and out, seen from two API processes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import jwt
import pytest

from tests.e2e.platform import ADMIN, PASSWORD, Api, Caller, Platform, eventually

EFFECTIVE_SECONDS = 2.0
"""What is promised, whatever has failed; a few milliseconds if nothing has."""
LOOKING_SECONDS = 0.3
"""What looking itself may take on a busy machine."""


def refresh(api: Api, token: str) -> httpx.Response:
    return api.anybody.post("/api/v1/auth/refresh", {"refresh_token": token})


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_somebody_can_log_in_at_another_process_in_the_instant_after_registration(platform):
    platform.follower.freeze()
    try:
        for n in range(5):
            platform.admin.registers(f"katherine.{n}@orbit.example", "Katherine Johnson")
            katherine = platform.babbage.login(f"katherine.{n}@orbit.example")
            assert katherine.get("/api/v1/auth/me").json()["name"] == "Katherine Johnson"
    finally:
        platform.follower.thaw()


def test_an_access_token_can_be_verified_with_the_published_keys(platform, newcomer):
    token = newcomer("Dorothy Vaughan").tokens["access_token"]
    header = jwt.get_unverified_header(token)
    keys = jwt.PyJWKSet.from_dict(platform.babbage.anybody.get("/.well-known/jwks.json").json())
    claims = jwt.decode(token, keys[header["kid"]], algorithms=["EdDSA"], audience="muniment", issuer="muniment")
    assert header["typ"] == "at+jwt"
    assert claims["exp"] - claims["iat"] == platform.settings.access_token_seconds


@pytest.mark.parametrize(
    ("email", "password"),
    [("nobody@nowhere.example", PASSWORD), (ADMIN[0], "the-eagle-has-not-landed"), ("not an address", PASSWORD)],
)
def test_a_failed_login_doesnt_tell_whether_the_address_is_known(platform, email, password):
    answer = platform.ada.anybody.post("/api/v1/auth/login", {"email": email, "password": password})
    document = answer.json()
    del document["request_id"]
    assert answer.status_code == 401
    assert document == {
        "type": "/docs#problem-invalid-credentials",
        "title": "Invalid credentials",
        "status": 401,
        "detail": document["detail"],
        "code": "invalid-credentials",
    }
    assert set(answer.headers) == set(login_headers(platform))


def login_headers(platform: Platform) -> httpx.Headers:
    body = {"email": "nobody.else@nowhere.example", "password": PASSWORD}
    return platform.ada.anybody.post("/api/v1/auth/login", body).headers


def test_a_failed_login_leaves_as_many_events_whether_or_not_the_address_is_known(platform, newcomer):
    counts = []
    for email in (newcomer("Mary Jackson").email, "mary.who@nowhere.example"):
        before = platform.sql("select position from log_head")[0][0]
        answer = platform.ada.anybody.post("/api/v1/auth/login", {"email": email, "password": "wrong-and-long-enough"})
        assert answer.status_code == 401
        counts.append([row[0] for row in platform.sql(EVENTS_AFTER, before)])
    assert counts[0] == counts[1]


EVENTS_AFTER = (
    # what a login leaves; the newcomer's own workflow may still be under way
    "select topic from stored_events where notification_id > %s and topic like 'identity.Login%%'"
    " order by notification_id"
)


def test_sixty_four_refreshes_of_one_token_over_two_processes_are_one_lineage(platform, newcomer):
    alan = newcomer("Alan Turing")
    with ThreadPoolExecutor(64) as crowd:
        for _ in range(3):
            token = alan.tokens["refresh_token"]
            apis = [platform.ada, platform.babbage] * 32
            answers = list(crowd.map(lambda api, token=token: refresh(api, token), apis))
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.json()["refresh_token"] for answer in answers}) == 1
            alan.tokens = answers[0].json()
    assert alan.tokens["refresh_token"] != token
    generations = "select count(*) from stored_events where originator_id = %s and topic = 'identity.SessionRefreshed'"
    assert platform.sql(generations, alan.tokens["session_id"]) == [(3,)]


def test_a_token_that_is_older_than_its_predecessor_ends_the_session(platform, newcomer):
    joan = newcomer("Joan Clarke")
    second = refresh(platform.ada, joan.tokens["refresh_token"]).json()
    third = refresh(platform.babbage, second["refresh_token"]).json()
    assert code(refresh(platform.babbage, joan.tokens["refresh_token"])) == (401, "refresh-token-reused")
    assert not platform.babbage.same(joan).is_let_in
    eventually(lambda: not joan.is_let_in)
    assert code(refresh(platform.ada, third["refresh_token"])) == (401, "invalid-refresh-token")


@pytest.fixture
def strict(platform: Platform) -> Iterator[Api]:
    """A process that knows no grace."""
    api = platform.api("strict", refresh_grace_seconds=0).start()
    api.wait_until_ready()
    yield api
    api.stop()


def test_the_predecessor_ends_the_session_once_the_grace_is_over(platform, strict, newcomer):
    gordon = newcomer("Gordon Welchman")
    second = refresh(strict, gordon.tokens["refresh_token"]).json()
    assert code(refresh(strict, gordon.tokens["refresh_token"])) == (401, "refresh-token-reused")
    assert not strict.same(gordon).is_let_in
    eventually(lambda: not gordon.is_let_in)
    assert code(refresh(platform.babbage, second["refresh_token"])) == (401, "invalid-refresh-token")


def logs_out(platform: Platform, somebody: Caller) -> None:
    somebody.done("POST", "/api/v1/auth/logout")


def is_revoked(platform: Platform, somebody: Caller) -> None:
    platform.admin.done("DELETE", f"/api/v1/sessions/{somebody.tokens['session_id']}")


def is_suspended(platform: Platform, somebody: Caller) -> None:
    platform.admin.done("POST", f"/api/v1/users/{somebody.me}/suspend", {"reason": "lost the Enigma key"})


def changes_the_password(platform: Platform, somebody: Caller) -> None:
    body = {"current_password": PASSWORD, "new_password": "another-rather-long-engine"}
    somebody.done("POST", f"/api/v1/users/{somebody.me}/password", body)


ENDS = [logs_out, is_revoked, is_suspended, changes_the_password]


def nothing(platform: Platform) -> None:
    """All is well."""


def the_follower_is_dead(platform: Platform) -> None:
    platform.follower.kill()


def the_others_listener_is_cut_off(platform: Platform) -> None:
    platform.proxy.cut()


def the_others_listener_is_frozen(platform: Platform) -> None:
    platform.proxy.freeze()


FAILURES = [nothing, the_follower_is_dead, the_others_listener_is_cut_off, the_others_listener_is_frozen]


def all_is_well_again(platform: Platform) -> None:
    platform.proxy.mend()
    if platform.follower.process.poll() is not None:
        platform.follower.start()
    platform.babbage.wait_until_ready()


@pytest.fixture(params=FAILURES, ids=lambda failure: failure.__name__)
def failure(request, platform):
    yield request.param
    all_is_well_again(platform)


def test_the_end_of_a_session_is_effective_at_once_here_and_soon_everywhere(platform, failure, newcomer):
    people = [newcomer("Charles Babbage") for _ in ENDS]
    others = [platform.babbage.same(somebody) for somebody in people]
    assert all(other.is_let_in for other in others)  # so the other process remembers these sessions
    failure(platform)
    ended = []
    for end, somebody in zip(ENDS, people, strict=True):
        end(platform, somebody)
        ended.append(time.monotonic())
        assert not somebody.is_let_in
    seconds = []
    for moment, other in zip(ended, others, strict=True):
        eventually(lambda other=other: not other.is_let_in, pause_seconds=0.001)
        seconds.append(time.monotonic() - moment)
    print(failure.__name__, [f"{each * 1e3:.0f} ms" for each in seconds])
    assert max(seconds) < EFFECTIVE_SECONDS + LOOKING_SECONDS
    all_is_well_again(platform)
    assert not any(other.is_let_in for other in others)  # what was missed meanwhile isn't forgotten
    for somebody in people:
        assert refresh(platform.babbage, somebody.tokens["refresh_token"]).status_code == 401
