"""The story of one request, over HTTP, on the running platform with its reactions."""

from typing import Any

from tests.api.serving import eventually
from tests.e2e.platform import PASSWORD, Platform

WHO = {"email": "ruth.teitelbaum@arithmetic.example", "name": "Ruth Teitelbaum", "password": PASSWORD}


def every_event(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        found for step in steps for event in step["events"] for found in (event, *every_event(event["led_to"]))
    ]  # fmt: skip


def test_a_registration_is_told_with_the_reactions_to_it(platform: Platform):
    story_id = "ruths-first-day"
    platform.admin.done("POST", "/api/v1/users", WHO, headers={"x-request-id": story_id})

    def told() -> dict[str, Any]:
        story: dict[str, Any] = platform.admin.done("GET", f"/api/v1/events/stories/{story_id}").json()
        return story

    eventually(lambda: told()["reactions"] >= 1)
    story = told()
    (request,) = story["steps"]
    assert (request["kind"], request["actor"]) == ("request", f"user:{platform.admin.me}")
    registered = next(event for event in request["events"] if event["type"] == "identity.UserRegistered")
    assert registered["led_to"]
    for step in registered["led_to"]:
        assert step["kind"] == "reaction"
        assert step["actor"].startswith("system:")
        assert step["causation_id"] == registered["id"]
        assert step["after_ms"] >= 0
    listed = platform.admin.done("GET", f"/api/v1/events?correlation={story_id}&limit=200").json()["items"]
    assert sorted(event["position"] for event in every_event(story["steps"])) == [item["position"] for item in listed]
    assert story["events"] == len(listed)
    assert "password" not in {name for event in every_event(story["steps"]) for name in event["body"]}


def test_a_story_needs_the_right_to_read_events_and_something_to_tell(platform: Platform, newcomer):
    path = "/api/v1/events/stories"
    assert newcomer("Frances Spence").get(f"{path}/ruths-first-day").status_code == 403
    assert platform.admin.get(f"{path}/never-heard-of").json()["code"] == "correlation-not-found"
    assert platform.admin.get(f"{path}/x?limit=0").status_code == 422
    assert platform.admin.get(f"{path}/x?limit=1001").status_code == 422
