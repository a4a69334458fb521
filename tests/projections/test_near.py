"""What nearly matched is found in bounded steps, however much somebody has been given."""

from datetime import UTC, datetime
from uuid import uuid4

from domain.access import Mark
from projections.access.explaining import denied
from projections.access.history import Ended, History, RoleHistory, Span

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def mark(position: int) -> Mark:
    return Mark(position, NOON, "user:grace")


def test_a_thousand_wide_roles_that_lost_much_are_gone_through_in_a_moment():
    roles = {}
    for number in range(1000):
        role = roles[f"r{number}"] = RoleHistory()
        role.includes = {f"r{(number + 7 * step) % 1000}": Span(mark(1)) for step in range(1, 50)}
        for letter in range(20):
            name, at = f"page:a{letter}", mark(10_000 + 20 * number + letter)
            role.permissions[name] = Span(mark(2), Ended("permission-removed", name, at) if letter % 2 else None)
    given = {(name, "/"): (Span(mark(3)), None) for name in roles}
    history = History(uuid4(), 99_999, NOON, True, None, given, roles)
    # one by one, from each role to each, these would be billions of steps
    near = denied(history, "page:a1", "/acme").near
    assert [(each.kind, each.ended.position) for each in near if each.ended] == [
        ("permission-removed", 29_981),
        ("permission-removed", 29_961),
        ("permission-removed", 29_941),
    ]
