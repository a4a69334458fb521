"""What an event means to an auditor, in the field's terms (OCSF 1.x, schema.ocsf.io)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ACCOUNT_CHANGE, AUTHENTICATION, AUTHORIZE_SESSION, API_ACTIVITY = 3001, 3002, 3003, 6003
"""Classes of OCSF."""

CREATE, READ, UPDATE, DELETE, OTHER = 1, 2, 3, 4, 99
"""Activities of its class API activity."""

SUCCESS, FAILURE = "success", "failure"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an event means to an auditor.

    `action` is a stable code, another one for success and for failure. `class_uid` and `activity_id` are OCSF's.
    `target` says on what it was done; `detail` which of the event's fields matter.
    """

    action: str
    class_uid: int
    activity_id: int
    target: Callable[[Any], str]
    detail: tuple[str, ...] = ()
    outcome: str = SUCCESS


def own(kind: str) -> Callable[[Any], str]:
    """The target is what the event's own stream is about: `user:0192…`."""
    return lambda event: f"{kind}:{event.originator_id}"


def named(kind: str, field: str) -> Callable[[Any], str]:
    """The target is named by a field of the event: `role:viewer`."""
    return lambda event: f"{kind}:{getattr(event, field)}"
