"""What was stored, on the real log: going back to it, asking for it, and what follows from it."""

import random
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.configuration import (
    Changed,
)
from domain.configuration import (
    InvalidDocument,
    Namespace,
    VersionNotFound,
    merge_patch,
)
from infra.configuration.heads import HEADS, Head, read_heads
from infra.refill import refill
from tests.commands.configuration_site import SHOP, Site, fields

# --- going back


def test_a_rollback_stores_a_former_document_once_more_and_says_so(site):
    for cups in (3, 4, 5):
        site.change({"cups": cups, "leaves": "oolong"})
    assert site.rollback(3, reason="too many") == Changed(5, changed=True)
    assert site.stored() == {"cups": 4, "leaves": "oolong"}
    last = site.events()[-1].fields()
    assert (last["restores"], last["reason"], last["keys"]) == (3, "too many", ["cups"])


def test_a_rollback_to_before_everything_stores_nothing(site):
    site.change({"cups": 3})
    site.rollback(0)
    assert site.stored() == {}


def test_a_rollback_to_what_is_there_records_nothing(site):
    site.change({"cups": 3})
    assert site.rollback(2) == Changed(2, changed=False)


@pytest.mark.parametrize("version", [3, 2**31 - 1, -1])
def test_there_is_no_way_back_to_a_version_that_never_was(site, version):
    site.change({"cups": 3})
    with pytest.raises(VersionNotFound):
        site.rollback(version)


def test_a_former_document_has_to_fit_todays_schema(site):
    site.declare()
    site.change({"price": 5}, name=SHOP)
    site.declare(
        {"type": "object", "properties": {"price": {"type": "string"}}, "required": ["price"]}, {"price": "5 €"}
    )
    with pytest.raises(InvalidDocument) as error:
        site.rollback(3, name=SHOP)
    assert fields(error) == {"values.price"}


# --- the past


def test_the_past_is_told_newest_first_with_who_and_why(site):
    site.declare()
    site.change({"price": 5}, name=SHOP, reason="first")
    site.change({"price": 6}, name=SHOP, reason="dearer")
    site.rollback(3, name=SHOP, reason="too dear")
    told = site.past.entries(SHOP, 10)
    assert [(each.version, each.kind, each.reason, each.keys, each.restores) for each in told] == [
        (5, "rolled-back", "too dear", ["price"], 3),
        (4, "changed", "dearer", ["price"], None),
        (3, "changed", "first", ["price"], None),
        (2, "declared", "", [], None),
    ]
    assert {each.actor for each in told} == {"operator:ada"}
    assert [each.version for each in site.past.entries(SHOP, 2, before=5)] == [4, 3]


def test_every_version_of_the_past_is_as_it_was(site):
    site.declare()
    heads = {0: Head(SHOP, Namespace.id_of(SHOP), 0, 0, 0, {}, None, 0, {}), 2: site.head(SHOP)}
    for price in (5, 6):
        site.change({"price": price, "was": price - 1}, name=SHOP)
        heads[site.head(SHOP).version] = site.head(SHOP)
    site.patch({"was": None}, name=SHOP)
    heads[5] = site.head(SHOP)
    for version, head in heads.items():
        assert site.past.head(SHOP, version) == (
            head or Head("shop", Namespace.id_of("shop"), 0, 0, 0, {}, None, 0, {})
        )
    for version in (2, 3, 4, 5):
        assert site.past.version_at(SHOP, heads[version].position) == (version, heads[version].position)


names = (f"model{number}" for number in count())
VALUES = st.dictionaries(
    st.sampled_from("abc"),
    st.none() | st.integers(0, 2) | st.dictionaries(st.sampled_from("xy"), st.none() | st.integers(0, 2), max_size=2),
    max_size=3,
)
STEPS = st.lists(
    st.tuples(st.just("replace"), VALUES) | st.tuples(st.just("merge"), VALUES) | st.tuples(st.just("back"), st.none()),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.randoms(use_true_random=False))
def test_whatever_is_decided_the_document_is_that_of_a_model(site: Site, steps: Any, chance: random.Random):
    """The model: a list of documents, of which the last one counts."""
    name = next(names)
    site.declare({"type": "object"}, name=name)
    versions: list[dict[str, Any]] = [{}, {}, {}]
    for kind, values in steps:
        now = versions[-1]
        if kind == "back":
            version = chance.randrange(len(versions))
            wanted = versions[version]
            done = site.rollback(version, name=name)
        else:
            wanted = merge_patch(now, values) if kind == "merge" else values
            done = site.change(values, kind, name=name)
        if wanted != now:
            versions.append(wanted)
        assert done == Changed(len(versions) - 1, changed=wanted != now)
        assert site.stored(name) == versions[-1]
    assert [site.past.document(name, version)[0] for version in range(len(versions))] == versions


def test_the_heads_can_be_filled_anew_from_the_log(site):
    site.declare()
    site.change({"price": 1e22, "list": [1.5, None]}, name=SHOP)
    site.change({"cups": 5, "leaves": "oolong"})
    site.patch({"leaves": None})
    for _ in range(2):
        site.declare(name="closed")
        site.change({"price": 1}, name="closed")
        site.withdraw("closed")
    with site.pool.connection() as connection:
        before = read_heads(connection)
        with connection.transaction():
            connection.execute("select position from log_head for update")
            refill(connection, site.log.mapper, [HEADS])
        assert read_heads(connection) == before
        assert [head.namespace for head in before] == ["shop", "tea"]
