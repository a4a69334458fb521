"""The log live, over HTTP, on the running platform."""

from tests.e2e.listening import Ear
from tests.e2e.platform import Caller, Platform


def ear(platform: Platform, query: str = "", *, who: Caller | None = None, **options) -> Ear:
    token = (who or platform.admin).tokens["access_token"]
    return Ear(platform.ada.url, token, query, **options)


def head(platform: Platform) -> int:
    return int(platform.sql("select position from log_head")[0][0])


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
