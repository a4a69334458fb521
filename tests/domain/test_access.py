"""Permissions, scopes, roles, assignments, and what comes of them."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.access import (
    MAX_ASSIGNMENTS,
    MAX_PERMISSIONS,
    ROOT,
    Assignment,
    ExpiryInThePast,
    NotAssigned,
    Pattern,
    Permission,
    Role,
    RoleBuiltIn,
    RoleContent,
    RoleCycle,
    RoleName,
    RoleNotFound,
    Scope,
    TooManyAssignments,
    UserAssignments,
    active,
    holds,
    reach,
    resolve,
)
from domain.access.grants import NOWHERE
from domain.errors import Invalid

ADA = UUID("00000000-0000-7000-8000-000000000ada")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)

words = st.from_regex(r"[a-z0-9]{1,4}(?:[.\-][a-z0-9]{1,3})?", fullmatch=True)
permissions = st.builds("{}:{}".format, words, words)
patterns = permissions | st.builds("{}:*".format, words) | st.just("*")
segments = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=5).filter(
    lambda text: text not in (".", "..")
)
paths = st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts))


def content(*held: str, includes: tuple[str, ...] = ()) -> RoleContent:
    return RoleContent(dict.fromkeys(held, NOWHERE), dict.fromkeys(includes, NOWHERE))


# Permissions


@pytest.mark.parametrize(
    ("pattern", "wanted", "covered"),
    [
        ("*", "kettle:boil", True),
        ("kettle:*", "kettle:boil", True),
        ("kettle:*", "kettle:*", True),
        ("kettle:boil", "kettle:boil", True),
        ("kettle:boil", "kettle:*", False),
        ("kettle:*", "*", False),
        ("kettle:*", "kettle-lid:open", False),
        ("kettle:boil", "kettle:boil-over", False),
    ],
)
def test_a_pattern_covers_what_it_stands_for(pattern, wanted, covered):
    assert Pattern(pattern).covers(Pattern(wanted)) is covered


@given(patterns, patterns, patterns)
def test_covering_is_reflexive_and_transitive(a, b, c):
    assert Pattern(a).covers(Pattern(a))
    if Pattern(a).covers(Pattern(b)) and Pattern(b).covers(Pattern(c)):
        assert Pattern(a).covers(Pattern(c))


@pytest.mark.parametrize(
    "text",
    ["", "kettle", "kettle:", ":boil", "*:boil", "Kettle:boil", "kettle:bo*", "kettle:boil ", "a:b:c", "kettle:é"],
)
def test_refuses_what_is_no_permission(text):
    with pytest.raises(Invalid) as refusal:
        Pattern(text, field="permissions[3]")
    assert refusal.value.errors[0].field == "permissions[3]"


def test_refuses_an_endless_permission():
    with pytest.raises(Invalid):
        Pattern("kettle:" + "b" * 200)


def test_asks_for_one_permission_never_for_a_pattern():
    with pytest.raises(Invalid):
        Permission("kettle:*")


# Scopes


@given(paths)
def test_normalising_a_scope_twice_changes_nothing_more(path):
    assert Scope(Scope(path)) == Scope(path)


@given(paths, paths)
def test_a_scope_covers_exactly_itself_and_what_lies_below(upper, lower):
    a, b = Scope(upper), Scope(lower)
    above = [part for part in a.split("/") if part]
    below = [part for part in b.split("/") if part]
    assert a.covers(b) == (below[: len(above)] == above)
    assert a.covers(b) == (a in set(b.up()))


def test_a_scope_is_compared_by_segments():
    assert Scope("/acme").covers(Scope("/acme/eu"))
    assert not Scope("/acme").covers(Scope("/acmeco"))


def test_a_slash_at_the_end_and_the_form_of_accents_make_no_difference():
    assert Scope("/cafe\u0301/") == Scope("/caf\u00e9")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "acme",
        "//",
        "/acme//eu",
        "/acme/../eu",
        "/./acme",
        "/acme eu",
        "/acme\u200b",
        "/a\x00",
        "/" + "x" * 600,
        "/x" * 17,
    ],
)
def test_refuses_what_is_no_scope(text):
    with pytest.raises(Invalid) as refusal:
        Scope(text)
    assert refusal.value.errors[0].field == "scope"


# Roles


def test_two_roles_of_one_name_have_one_id():
    first, second = (Role.define(RoleName("gardener"), [Pattern("rose:prune")]) for _ in range(2))
    assert first.id == second.id


def test_a_change_to_the_same_set_records_nothing():
    role = Role.define(RoleName("gardener"), [Pattern("rose:prune"), Pattern("lawn:mow")])
    role.change_permissions([Pattern("lawn:mow"), Pattern("rose:prune"), Pattern("lawn:mow")])
    assert len(role.pending_events) == 1


def test_a_role_cannot_include_itself():
    with pytest.raises(RoleCycle):
        Role.define(RoleName("ouroboros"), [], [RoleName("ouroboros")])


def test_a_removed_role_holds_nothing_and_cannot_be_changed():
    role = Role.define(RoleName("alchemist"), [Pattern("gold:make")])
    role.remove()
    role.remove()
    assert not role.permissions
    assert len(role.pending_events) == 2
    with pytest.raises(RoleNotFound):
        role.change_permissions([Pattern("lead:make")])


def test_a_built_in_role_stays():
    with pytest.raises(RoleBuiltIn):
        Role.define(RoleName("admin"), [Pattern("*")], builtin=True).remove()


def test_a_role_holds_a_bounded_number_of_permissions():
    with pytest.raises(Invalid):
        Role.define(RoleName("polymath"), [Pattern(f"science:s{n}") for n in range(MAX_PERMISSIONS + 1)])


@pytest.mark.parametrize("text", ["", "Gardener", "head gardener", "-x", "x-", "a/b", "x" * 65])
def test_refuses_what_is_no_name_of_a_role(text):
    with pytest.raises(Invalid):
        RoleName(text)


# Assignments


def test_assigning_twice_records_nothing_more():
    assignments = UserAssignments(user_id=ADA)
    assignments.assign("analyst", "/engine", None, NOON)
    assignments.assign("analyst", "/engine", None, NOON)
    assert len(assignments.pending_events) == 2


def test_assigning_again_moves_the_expiry():
    assignments = UserAssignments(user_id=ADA)
    assignments.assign("analyst", "/engine", NOON + timedelta(hours=1), NOON)
    assignments.assign("analyst", "/engine", None, NOON)
    assert list(assignments.assigned.values()) == [None]


def test_refuses_an_expiry_that_has_passed():
    with pytest.raises(ExpiryInThePast):
        UserAssignments(user_id=ADA).assign("analyst", "/", NOON, NOON)


def test_revokes_only_what_is_there():
    assignments = UserAssignments(user_id=ADA)
    assignments.assign("analyst", "/engine", None, NOON)
    with pytest.raises(NotAssigned):
        assignments.revoke("analyst", "/")
    assignments.revoke("analyst", "/engine")
    with pytest.raises(NotAssigned):
        assignments.revoke("analyst", "/engine")


def test_a_user_has_a_bounded_number_of_assignments():
    assignments = UserAssignments(user_id=ADA)
    for number in range(MAX_ASSIGNMENTS):
        assignments.assign("analyst", f"/engine/{number}", None, NOON)
    with pytest.raises(TooManyAssignments):
        assignments.assign("analyst", "/one-more", None, NOON)


# What comes of them


def test_a_role_gives_what_its_included_roles_hold_and_says_by_which_path():
    roles = {
        "editor": content("page:write", includes=("viewer",)),
        "viewer": content("page:read", includes=("guest",)),
        "guest": content("page:see"),
    }
    grants = {grant.pattern: grant.path for grant in resolve([Assignment("editor", "/", None)], roles)}
    assert grants["page:see"] == ("editor", "viewer", "guest")


def test_an_included_role_that_is_gone_gives_nothing():
    assert reach(["editor", "ghost"], {"editor": content(includes=("ghost",))}) == {"editor": ("editor",)}


role_graphs = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(content, patterns, includes=st.lists(st.sampled_from("abcdef"), max_size=3).map(tuple)),
)


@given(st.sampled_from("abcdef"), role_graphs)
def test_reach_is_the_closure_of_includes_even_around_a_cycle(start, roles):
    closure = {start} & roles.keys()
    while added := {i for name in closure for i in roles[name].includes if i in roles} - closure:
        closure |= added
    paths = reach([start], roles)
    assert paths.keys() == closure
    assert all(path[0] == start and path[-1] == name for name, path in paths.items())


def test_an_assignment_counts_until_it_expires():
    given_until_noon = [Assignment("analyst", "/", NOON)]
    assert list(active(given_until_noon, NOON - timedelta(microseconds=1)))
    assert not list(active(given_until_noon, NOON))


def test_one_holds_a_pattern_only_below_the_scope_and_only_as_long():
    grants = resolve([Assignment("cook", "/palace", NOON)], {"cook": content("soup:*")})
    assert holds(grants, "soup:*", "/palace/kitchen", NOON)
    assert not holds(grants, "soup:*", ROOT, NOON)
    assert not holds(grants, "soup:stir", "/palace", None)
    assert not holds(grants, "*", "/palace", NOON)
