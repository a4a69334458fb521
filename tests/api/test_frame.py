import asyncio
import logging

import pytest

from api.limits import HttpLimits
from domain.errors import Overloaded, Throttled, Unavailable
from tests.api.sample import ADA, GRACE

SHIPS = "/api/v1/ships"


@pytest.fixture
def victory(client):
    """The URL of a ship that is afloat."""
    return client.post(SHIPS, json={"name": "Victory", "tonnage": 2142}).headers["location"]


def code(response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert response.json()["status"] == response.status_code
    return response.status_code, response.json()["code"]


def fields(response) -> list[str]:
    return [error["field"] for error in response.json()["errors"]]


def ask(client, receive) -> list[dict]:
    """What is sent to a client whose body is received so."""
    sent = []

    async def send(message: dict) -> None:
        sent.append(message)

    head = [(b"authorization", b"Bearer adas-token")]
    scope = {"type": "http", "method": "POST", "path": SHIPS, "query_string": b"", "headers": head, "client": None}
    client.runner.run(client.app(scope, receive, send))
    return sent


class TestCommands:
    def test_what_is_created_is_named_with_its_place_version_and_position(self, client):
        answer = client.post(SHIPS, json={"name": "Victory"})
        assert answer.status_code == 201
        assert answer.headers["location"] == f"{SHIPS}/{answer.json()['id']}"
        assert (answer.headers["etag"], answer.headers["muniment-position"]) == ('"1"', "1")

    def test_a_command_without_result_answers_204(self, client, victory):
        answer = client.post(f"{victory}/name", json={"name": " Beagle "})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (204, b"", '"2"')
        assert client.get(victory).json()["name"] == "Beagle"

    def test_a_version_that_is_still_true_passes(self, client, victory):
        assert client.post(f"{victory}/name", json={"name": "A"}, headers={"if-match": '"1"'}).status_code == 204

    def test_a_version_of_yesterday_is_412(self, client, victory):
        client.post(f"{victory}/name", json={"name": "A"})
        answer = client.post(f"{victory}/name", json={"name": "B"}, headers={"if-match": '"1"'})
        assert code(answer) == (412, "stale")

    def test_a_version_where_none_is_meant_is_refused(self, client):
        answer = client.post(SHIPS, json={"name": "A"}, headers={"if-match": '"1"'})
        assert (code(answer), fields(answer)) == ((422, "invalid"), ["If-Match"])

    def test_the_context_says_who_from_where_and_in_which_trace(self, client, harbour):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        client.post(
            SHIPS, json={"name": "A"}, headers={"x-request-id": "tea", "traceparent": trace, "user-agent": "gull"}
        )
        (context,) = harbour.contexts
        assert (str(context.actor), context.correlation_id, context.traceparent) == (f"user:{ADA}", "tea", trace)
        assert (context.ip, context.user_agent) == ("192.0.2.7", "gull")

    def test_a_broken_rule_has_its_own_code(self, client, victory):
        assert code(client.post(SHIPS, json={"name": "Victory"})) == (409, "ship-taken")


class TestIdempotency:
    KEY = {"idempotency-key": '"laying-the-keel"'}

    def test_a_repetition_gets_the_first_answer_again(self, client, harbour):
        first, second = (client.post(SHIPS, json={"name": "Victory"}, headers=self.KEY) for _ in range(2))
        for name in ("location", "etag", "muniment-position"):
            assert second.headers[name] == first.headers[name]
        assert (second.status_code, second.json()) == (201, first.json())
        assert harbour.position == 1

    def test_another_body_under_the_same_key_is_422(self, client):
        client.post(SHIPS, json={"name": "Victory"}, headers=self.KEY)
        answer = client.post(SHIPS, json={"name": "Beagle"}, headers=self.KEY)
        assert code(answer) == (422, "idempotency-key-reused")

    def test_another_query_under_the_same_key_is_422(self, client, victory):
        first, second = (client.post(f"{victory}/flag?{flag}", headers=self.KEY) for flag in ("up=true", "up=false"))
        assert (first.status_code, code(second)) == (204, (422, "idempotency-key-reused"))

    def test_while_the_first_is_in_flight_the_second_is_409(self, client, harbour):
        harbour.receipts[f"user:{ADA}", f"POST {SHIPS}", "laying-the-keel"] = (b'\n{"name":"Victory"}', None)
        answer = client.post(SHIPS, content=b'{"name":"Victory"}', headers=self.KEY)
        assert code(answer) == (409, "idempotency-key-in-flight")

    def test_a_refused_command_gives_its_key_back(self, client, harbour, victory):
        assert code(client.post(SHIPS, json={"name": "Victory"}, headers=self.KEY)) == (409, "ship-taken")
        assert not harbour.receipts

    def test_a_bad_key_is_refused(self, client):
        answer = client.post(SHIPS, json={"name": "A"}, headers={"idempotency-key": "a b"})
        assert fields(answer) == ["Idempotency-Key"]


class TestQueries:
    def test_a_view_has_the_version_that_if_match_means(self, client, victory):
        answer = client.get(victory)
        assert (answer.json()["tonnage"], answer.headers["etag"]) == (2142, '"1"')

    def test_a_copy_that_is_still_good_isnt_sent_again(self, client, victory):
        answer = client.get(victory, headers={"if-none-match": '"1"'})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"1"')

    def test_pages_follow_each_other_without_gap_or_double(self, client):
        names = [f"Ship {n:02}" for n in range(7)]
        for name in reversed(names):
            client.post(SHIPS, json={"name": name})
        seen, cursor = [], None
        while True:
            page = client.get(SHIPS, params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
            seen += [ship["name"] for ship in page["items"]]
            if (cursor := page["next"]) is None:
                break
        assert seen == names

    def test_a_page_that_ends_with_the_list_is_the_last(self, client, victory):
        assert client.get(SHIPS, params={"limit": 1}).json()["next"] is None

    @pytest.mark.parametrize("limit", ["0", "-1", "201", "x", "99999999999999999999"])
    def test_a_page_has_a_size_within_the_limit(self, client, limit):
        assert fields(client.get(SHIPS, params={"limit": limit})) == ["limit"]

    def test_a_cursor_that_isnt_one_is_named(self, client):
        assert code(client.get(SHIPS, params={"cursor": "bm9wZQ"})) == (422, "invalid-cursor")

    def test_own_writes_can_be_asked_for(self, client, victory):
        answer = client.get(victory, headers={"muniment-at-least": "1"})
        assert (answer.status_code, answer.headers["muniment-position"]) == (200, "1")

    def test_a_view_that_stays_behind_says_so(self, client, harbour, victory):
        harbour.view_position = 0
        answer = client.get(victory, headers={"muniment-at-least": "1"})
        assert code(answer) == (503, "projection-behind")
        assert int(answer.headers["retry-after"]) > 0

    def test_a_position_that_doesnt_exist_is_unknown(self, client, victory):
        assert code(client.get(victory, headers={"muniment-at-least": "99"})) == (422, "position-unknown")

    def test_an_id_that_is_none_is_named(self, client):
        answer = client.get(f"{SHIPS}/42")
        assert (code(answer), fields(answer)) == ((422, "invalid"), ["ship_id"])


class TestTheGuard:
    def test_without_a_token_nobody_is_let_in(self, stranger):
        answer = stranger.get(SHIPS)
        assert code(answer) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"

    def test_with_a_bad_token_neither(self, stranger):
        answer = stranger.get(SHIPS, headers={"authorization": "Bearer forged"})
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'

    def test_without_the_permission_it_is_forbidden(self, grace):
        assert code(grace.post(SHIPS, json={"name": "A"})) == (403, "forbidden")

    def test_whoever_isnt_let_in_isnt_read(self, grace, stranger):
        assert stranger.post(SHIPS, content=b"{").status_code == 401
        assert grace.post(SHIPS, content=b"{").status_code == 403

    def test_every_refusal_is_recorded_with_who_what_and_why(self, grace, stranger, harbour):
        stranger.get(SHIPS)
        grace.post(SHIPS, json={"name": "A"})
        assert [(str(r.context.actor), r.action, r.code, r.permission) for r in harbour.refusals] == [
            ("anonymous:", f"GET {SHIPS}", "unauthenticated", "ship:read"),
            (f"user:{GRACE}", f"POST {SHIPS}", "forbidden", "ship:build"),
        ]

    def test_a_refusal_that_cant_be_recorded_is_503(self, grace, harbour, monkeypatch):
        async def fail(_: object) -> None:
            raise Unavailable

        monkeypatch.setattr(harbour, "record", fail)
        assert code(grace.get(SHIPS)) == (503, "unavailable")

    def test_any_token_opens_what_concerns_the_caller(self, grace):
        assert grace.get("/api/v1/whoami").json()["user"] == str(GRACE)

    def test_own_things_are_open_and_those_of_others_are_not(self, client, grace):
        assert grace.get(f"/api/v1/crew/{GRACE}").status_code == 200
        assert grace.get(f"/api/v1/crew/{ADA}").status_code == 403
        assert client.get(f"/api/v1/crew/{GRACE}").status_code == 200


class TestLimits:
    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_body_beyond_the_limit_is_413(self, make_client, streamed):
        async def chunks():
            for _ in range(100):
                yield b" " * 100

        client = make_client(HttpLimits(body_bytes=1000))
        answer = client.post("/api/v1/sink", content=chunks() if streamed else b" " * 10_000)
        assert code(answer) == (413, "body-too-large")

    def test_a_body_that_never_ends_is_408(self, make_client):
        async def forever() -> dict[str, str]:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits so long")

        assert ask(make_client(HttpLimits(body_seconds=0.01)), forever)[0]["status"] == 408

    def test_headers_beyond_the_limit_are_431(self, client):
        assert code(client.get(SHIPS, headers={"x-cargo": "x" * 20_000})) == (431, "headers-too-large")

    def test_a_url_beyond_the_limit_is_414(self, client):
        assert code(client.get(f"{SHIPS}?q=" + "x" * 9_000)) == (414, "url-too-long")

    @pytest.mark.parametrize(
        "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
    )
    def test_what_isnt_json_is_415(self, client, media_type):
        answer = client.post(SHIPS, content=b"{}", headers={"content-type": media_type})
        assert code(answer) == (415, "unsupported-media-type")

    @pytest.mark.parametrize(
        "media_type", ["application/json; charset=UTF-8", "application/merge-patch+json", "APPLICATION/JSON"]
    )
    def test_json_has_several_names(self, client, media_type):
        answer = client.post(SHIPS, content=b'{"name": "A"}', headers={"content-type": media_type})
        assert answer.status_code == 201

    def test_a_broken_body_is_400(self, client):
        assert code(client.post(SHIPS, content=b"{")) == (400, "malformed-json")
        assert code(client.post(SHIPS, content=b'{"name": "\xff"}')) == (400, "malformed")

    def test_half_a_surrogate_pair_in_a_name_is_refused(self, client):
        answer = client.post(SHIPS, content=rb'{"tonnage": "x", "\ud800": 1, "\ud800": 2}')
        assert answer.status_code == 422

    def test_every_wrong_field_is_named(self, client):
        answer = client.post(SHIPS, json={"name": "", "tonnage": 0, "sails": 3})
        assert fields(answer) == ["name", "tonnage", "sails"]

    def test_too_much_work_is_503(self, make_client, monkeypatch):
        client = make_client()

        async def full(*_: object) -> None:
            raise Overloaded

        monkeypatch.setattr(client.app.frame.threads, "run", full)
        answer = client.get(SHIPS)
        assert (code(answer), answer.headers["retry-after"]) == ((503, "overloaded"), "1")


class TestPaths:
    @pytest.mark.parametrize("path", ["/", "/nowhere", SHIPS + "/", "//api/v1/ships", "/api/v1/ships/a/b/c"])
    def test_an_unknown_path_is_404(self, client, path):
        assert code(client.get(path)) == (404, "no-such-route")

    def test_an_unknown_method_is_405_with_those_that_are_known(self, client):
        answer = client("DELETE", SHIPS)
        assert (code(answer), answer.headers["allow"]) == ((405, "method-not-allowed"), "GET, HEAD, OPTIONS, POST")

    def test_options_tells_the_methods(self, stranger):
        answer = stranger("OPTIONS", SHIPS)
        assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")

    def test_head_is_get_without_the_body(self, client, victory):
        head, get = client("HEAD", victory), client.get(victory)
        assert head.content == b""
        for name in ("content-length", "etag", "content-type"):
            assert head.headers[name] == get.headers[name]


class TestUnexpected:
    def test_a_bug_tells_the_client_nothing_but_where_to_look(self, client, caplog):
        with caplog.at_level(logging.ERROR):
            answer = client.post(SHIPS, json={"name": "Titanic"})
        assert code(answer) == (500, "internal-error")
        assert "iceberg" not in answer.text
        assert answer.headers["x-request-id"] in caplog.text
        assert "iceberg" in caplog.text

    def test_a_throttled_client_is_told_when_to_come_back(self, client, harbour, monkeypatch):
        async def throttle(*_: object) -> None:
            raise Throttled(retry_after_seconds=7)

        monkeypatch.setattr(harbour, "require", throttle)
        answer = client.get(SHIPS)
        assert (code(answer), answer.headers["retry-after"]) == ((429, "too-many-requests"), "7")

    def test_a_client_that_hangs_up_is_no_error(self, client, caplog):
        async def gone() -> dict[str, str]:
            return {"type": "http.disconnect"}

        assert (ask(client, gone), caplog.text) == ([], "")


class TestHeaders:
    def test_answers_are_neither_kept_nor_sniffed_nor_framed(self, client):
        headers = client.get("/api/v1/whoami").headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "strict-transport-security" not in headers

    def test_behind_tls_browsers_are_told_to_stay_there(self, make_client):
        headers = make_client(HttpLimits(behind_tls=True)).get("/api/v1/whoami").headers
        assert "max-age" in headers["strict-transport-security"]

    def test_the_request_id_comes_back(self, client):
        assert client.get("/nowhere", headers={"x-request-id": "tea"}).headers["x-request-id"] == "tea"

    def test_no_origin_is_allowed_by_default(self, client):
        headers = client.get("/api/v1/whoami", headers={"origin": "https://shop.example"}).headers
        assert not [name for name in headers if name.startswith("access-control")]

    def test_an_allowed_origin_may_read(self, make_client):
        client = make_client(HttpLimits(allowed_origins=("https://shop.example",)))
        headers = client.get("/api/v1/whoami", headers={"origin": "https://shop.example"}).headers
        assert headers["access-control-allow-origin"] == "https://shop.example"
        assert headers["vary"] == "origin"
        other = client.get("/api/v1/whoami", headers={"origin": "https://evil.example"}).headers
        assert "access-control-allow-origin" not in other

    def test_an_allowed_origin_is_told_in_advance_what_it_may_send(self, make_client):
        client = make_client(HttpLimits(allowed_origins=("https://shop.example",)))
        asking = {"origin": "https://shop.example", "access-control-request-method": "PUT"}
        answer = client("OPTIONS", "/api/v1/watches", headers=asking)
        assert answer.status_code == 204
        assert "PUT" in answer.headers["access-control-allow-methods"]

    def test_the_address_is_the_proxys_word_only_if_it_is_trusted(self, make_client):
        told = {"x-forwarded-for": "203.0.113.9"}
        assert make_client().get("/api/v1/whoami", headers=told).json()["ip"] == "192.0.2.7"
        trusting = make_client(HttpLimits(trusted_proxies=("192.0.2.0/24",)))
        assert trusting.get("/api/v1/whoami", headers=told).json()["ip"] == "203.0.113.9"


class TestStreams:
    def test_events_are_sent_as_they_come(self, stranger):
        answer = stranger.get("/api/v1/bell")
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.text.count('data: {"stroke":') == 3

    def test_a_client_that_comes_back_goes_on_where_it_was(self, stranger):
        answer = stranger.get("/api/v1/bell", headers={"last-event-id": "2"})
        assert [line for line in answer.text.splitlines() if line.startswith("id")] == ["id: 3"]

    def test_a_last_event_that_is_none_is_refused(self, stranger):
        assert fields(stranger.get("/api/v1/bell", headers={"last-event-id": "x"})) == ["Last-Event-ID"]
