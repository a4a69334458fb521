"""What one user holds: the same as their grants, however it is put together."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from domain.access import NOWHERE, Assignment, RoleContent, covers
from projections.access.facts import UserFacts
from projections.access.held import Held

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NAMES, PATTERNS = ["a", "b", "c", "d"], ["x:read", "x:*", "y:read", "*"]
SCOPES = ["/", "/acme", "/acme/eu", "/acmeco"]

roles = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(
        RoleContent,
        st.sets(st.sampled_from(PATTERNS)).map(lambda held: dict.fromkeys(held, NOWHERE)),
        st.sets(st.sampled_from(NAMES)).map(lambda held: dict.fromkeys(held, NOWHERE)),
    ),
)
assignments = st.lists(
    st.builds(
        Assignment,
        st.sampled_from(NAMES),
        st.sampled_from(SCOPES),
        st.sampled_from([None, NOON, NOON + timedelta(seconds=1)]),
    )
)


def facts(given_, defined, suspended=None):
    return UserFacts(uuid4(), 7, NOON, suspended, tuple(given_), defined)


@given(assignments, roles, st.sampled_from([None, NOWHERE]))
def test_it_allows_what_the_grants_allow_here_and_on_the_other_side_of_the_cache(given_, defined, suspended):
    found = facts(given_, defined, suspended)
    held, again = Held.of(found), Held.decode(Held.of(found).encode())
    for scope in [*SCOPES, "/acme/eu/paris"]:
        for wanted in ("x:read", "x:write", "y:read", "z:read"):
            allowed = any(covers(grant.pattern, wanted) and grant.counts_at(scope) for grant in found.grants())
            assert held.allows(wanted, scope) == again.allows(wanted, scope) == allowed


def test_a_wide_role_at_a_thousand_scopes_is_resolved_once():
    names = [f"r{n}" for n in range(50)]
    wide = {
        name: RoleContent(
            dict.fromkeys((f"{name}p{n}:read" for n in range(500)), NOWHERE),
            dict.fromkeys(names[k + 1 : k + 2], NOWHERE),
        )
        for k, name in enumerate(names)
    }
    found = facts([Assignment("r0", f"/s{n}", None) for n in range(1000)], wide)
    held = Held.of(found)  # 25 million grants, one by one, would take minutes
    assert held.allows("r49p499:read", "/s999/below")
    assert len(held.encode()) < 1_000_000
