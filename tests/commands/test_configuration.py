"""Configuration on the real log: decided on what is there, whole; nothing is lost where several decide at once."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from commands.configuration import (
    Changed,
    Validated,
)
from domain.configuration import (
    ABSENT,
    HIDDEN,
    Change,
    DocumentSchema,
    InvalidDocument,
    Namespace,
    NamespaceNotFound,
    NewerDocument,
)
from domain.errors import Forbidden, Invalid, Stale
from infra.configuration.heads import Head
from infra.dispatch import WriteConflict
from tests.commands.configuration_site import SHOP, TEA, TEA_SCHEMA, Own, fields

# --- changing


def test_the_first_change_opens_the_namespace(site):
    assert site.change({"cups": 5}, reason=" for the party ") == Changed(2, changed=True)
    opened, changed = site.events()
    assert (opened.topic, changed.topic) == ("configuration.NamespaceOpened", "configuration.ConfigurationChanged")
    assert changed.fields() == {
        "name": "tea", "values": {"cups": 5}, "schema_version": 1, "keys": ["cups"], "reason": "for the party",
        "restores": None,
    }  # fmt: skip
    assert site.head() == Head("tea", Namespace.id_of("tea"), 2, 2, 1, {"cups": 5}, None, 0, {"cups": 2})
    assert site.announced == ["config:tea"]


def test_what_is_equal_records_nothing(site):
    site.change({"cups": 5, "leaves": "oolong"})
    head = site.log.head()
    for values, mode in (({"leaves": "oolong", "cups": 5}, "replace"), ({"cups": 5}, "merge"), ({}, "merge")):
        assert site.change(values, mode) == Changed(2, changed=False)
    assert site.change({"pot": None}, "merge") == Changed(2, changed=False)
    assert site.log.head() == head


def test_an_empty_document_for_a_namespace_that_nobody_changed_opens_nothing(site):
    assert site.change({}) == Changed(0, changed=False)
    assert site.log.head() == 0


def test_a_replacement_forgets_what_it_doesnt_name(site):
    site.change({"cups": 5, "leaves": "oolong"})
    site.change({"leaves": "sencha"})
    assert site.stored() == {"leaves": "sencha"}
    assert site.head().key_versions == {"cups": 3, "leaves": 3}


def test_a_patch_keeps_what_it_doesnt_name_and_null_goes_back_to_the_default(site):
    site.change({"cups": 5, "leaves": "oolong"})
    site.patch({"leaves": None})
    assert site.stored() == {"cups": 5}


def test_an_object_that_is_a_default_is_patched_as_it_is_shown(site):
    site.patch({"pot": {"size": 3}})
    assert site.stored() == {"pot": {"size": 3, "lid": True}}
    site.patch({"pot": {"lid": None}})
    assert site.stored() == {"pot": {"size": 3}}


def test_nothing_is_stored_where_one_field_is_wrong(site):
    with pytest.raises(InvalidDocument) as error:
        site.patch({"cups": 0, "leaves": "oolong", "sugar": 1, "pot": "big"})
    assert fields(error) == {"values.cups", "values.sugar", "values.pot"}
    assert site.log.head() == 0


def test_what_takes_effect_at_a_restart_is_refused_by_the_variables_name(site):
    for mode in ("replace", "merge"):
        with pytest.raises(InvalidDocument, match="set MUNIMENT_PORT") as error:
            site.change({"port": 81, "cups": 3}, mode)
        assert fields(error) == {"values.port"}


def test_who_sends_back_what_is_shown_isnt_refused(site):
    own = Own(file={"tea": {"port": 443, "key": HIDDEN}})
    shown = TEA_SCHEMA.merged({}, own.file["tea"])
    assert (shown["port"], shown["key"]) == (443, HIDDEN)
    site.change(shown | {"cups": 3}, own=own)
    assert site.stored() == {"cups": 3, "leaves": "assam", "pot": {"size": 1.5, "lid": True}}
    with pytest.raises(InvalidDocument) as error:
        site.change(shown | {"port": 80}, own=own)
    assert fields(error) == {"values.port"}


def test_a_secrets_value_is_refused_and_stands_nowhere(site):
    with pytest.raises(InvalidDocument) as error:
        site.patch({"key": "hunter2"})
    assert "hunter2" not in repr((error.value, error.value.errors))
    site.patch({"key": "secret://tea#3"})
    assert site.stored() == {"key": "secret://tea#3"}


def test_what_jsonb_spells_otherwise_comes_back_as_it_was(site):
    site.declare({"type": "object"})
    values = {
        "large": 1e22,
        "small": 5e-324,
        "whole": 3.0,
        "most": 2**63 - 1,
        "text": "snow ☃ 😀",
        "list": [None, True],
    }
    site.change(values, name=SHOP)
    assert site.stored(SHOP) == values
    assert site.change(site.stored(SHOP), name=SHOP).changed is False


def test_what_gives_people_something_is_changed_by_who_may_give_it(site):
    for attempt in (site.change, site.patch, site.validate):
        with pytest.raises(Forbidden):
            attempt({"leaves": "gold"})
    assert site.log.head() == 0


def test_a_document_of_a_megabyte_is_stored(site):
    site.declare({"type": "object"})
    values = {f"k{n}": "x" * 980 for n in range(1000)}
    site.change(values, name=SHOP)
    assert site.stored(SHOP) == values
    with pytest.raises(InvalidDocument, match="1,001 keys"):
        site.change(values | {"one more": 1}, name=SHOP)


def test_nobody_changes_what_isnt_there(site):
    with pytest.raises(NamespaceNotFound):
        site.change({"price": 1}, name=SHOP)
    with pytest.raises(NamespaceNotFound):
        site.rollback(0, name=SHOP)


@pytest.mark.parametrize("reason", ["x" * 1001, "a\0b"])
def test_a_reason_that_cant_be_stored_is_refused(site, reason):
    with pytest.raises(Invalid) as error:
        site.change({"cups": 3}, reason=reason)
    assert fields(error) == {"reason"}


# --- several at once


def test_patches_of_different_keys_at_once_lose_nothing(site):
    site.declare({"type": "object"}, name="crowd")
    writers, rounds = 8, 12

    def write(writer: int) -> None:
        for number in range(rounds):
            merged = {f"k{writer}": number, "shared": {f"w{writer}": number}}
            while True:  # on a busy machine somebody may find others faster every time, and is told to try again
                with suppress(WriteConflict):
                    site.patch(merged, name="crowd")
                    break

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, range(writers)))
    last = rounds - 1
    assert site.stored("crowd") == {f"k{n}": last for n in range(writers)} | {
        "shared": {f"w{n}": last for n in range(writers)}
    }
    assert site.head("crowd").version == 2 + writers * rounds


def test_of_those_who_have_seen_one_version_one_wins(site):
    """Two administrators, each with If-Match: who was slower reads again, and no edit is lost."""
    site.change({"cups": 1})
    wins = []

    def increment(_: int) -> None:
        for _ in range(10):
            while True:
                seen = site.head()
                try:
                    wins.append(site.patch({"cups": seen.document["cups"] + 1}, if_match=seen.version).version)
                    break
                except Stale:
                    continue

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(increment, range(4)))
    assert site.stored() == {"cups": 41}
    assert sorted(wins) == list(range(3, 43))


def test_the_version_of_a_namespace_that_nobody_changed_is_nought(site):
    with pytest.raises(Stale):
        site.change({"cups": 3}, if_match=1)
    site.change({"cups": 3}, if_match=0)
    with pytest.raises(Stale):
        site.change({"cups": 4}, if_match=0)


def test_who_is_too_late_is_refused_even_where_nothing_would_change(site):
    site.change({"cups": 3})
    with pytest.raises(Stale):
        site.change({"cups": 3}, if_match=0)


def test_two_first_declarations_at_once_are_one_namespace(site):
    schemas = [{"type": "object", "title": str(n)} for n in range(6)]
    with ThreadPoolExecutor(6) as threads:
        versions = sorted(threads.map(lambda schema: site.declare(schema).version, schemas))
    assert versions == [2, 3, 4, 5, 6, 7]
    assert (site.head(SHOP).declarations, site.head(SHOP).version) == (6, 7)


# --- documents of other schemas


def spoons_to_grams(values: dict[str, Any]) -> dict[str, Any]:
    return {("grams" if key == "spoons" else key): value for key, value in values.items()}


NUMBER = {"type": "number"}
OLDER = Own({TEA: DocumentSchema({"properties": {"spoons": NUMBER, "cups": NUMBER}, "additionalProperties": False})})
NEWER = Own(
    {
        TEA: DocumentSchema(
            {"properties": {"grams": NUMBER, "cups": NUMBER}, "additionalProperties": False}, 2, {1: spoons_to_grams}
        )
    }
)


def test_a_stored_document_that_the_new_schema_refuses_is_brought_up_and_patched(site):
    site.change({"spoons": 2}, own=OLDER)
    site.patch({"cups": 3}, own=NEWER)
    assert (site.stored(), site.head().schema_version) == ({"grams": 2, "cups": 3}, 2)
    assert site.events()[-1].fields()["keys"] == ["cups"]


def test_bringing_a_document_up_is_no_change_of_it(site):
    site.change({"spoons": 2}, own=OLDER)
    assert site.change({"grams": 2}, own=NEWER) == Changed(2, changed=False)


def test_a_rollback_brings_the_former_document_up(site):
    site.change({"spoons": 2}, own=OLDER)
    site.change({"grams": 7}, own=NEWER)
    site.rollback(2, own=NEWER)
    assert site.stored() == {"grams": 2}


def test_a_process_of_the_release_before_touches_no_document_that_it_doesnt_understand(site):
    """Old and new processes side by side, during a roll-out."""
    site.change({"spoons": 2}, own=OLDER)
    site.change({"grams": 7}, own=NEWER)
    head = site.log.head()
    for attempt in (
        lambda: site.patch({"cups": 1}, own=OLDER),
        lambda: site.change({"spoons": 1}, own=OLDER),
        lambda: site.rollback(2, own=OLDER),
        lambda: site.validate({"spoons": 1}, own=OLDER),
    ):
        with pytest.raises(NewerDocument, match="written for schema 2; this process knows 1"):
            attempt()
    assert site.log.head() == head


def broken(_: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("spoons")


def test_a_document_that_cant_be_brought_up_can_be_replaced(site):
    site.change({"spoons": 2}, own=OLDER)
    own = Own({TEA: DocumentSchema(NEWER.schemas[TEA].json_schema, 2, {1: broken})})
    with pytest.raises(InvalidDocument, match="can't be brought from schema 1 to 2"):
        site.patch({"cups": 1}, own=own)
    assert site.validate({"grams": 4}, own=own).changes == [Change("grams", ABSENT, 4), Change("spoons", 2, ABSENT)]
    site.change({"grams": 4}, own=own)
    assert (site.stored(), site.head().schema_version) == ({"grams": 4}, 2)


def test_a_namespace_that_was_changed_many_times_is_loaded_as_it_is(site):
    site.declare({"type": "object"})
    for number in range(450):
        site.patch({f"k{number % 7}": number, "deep": {"last": number}}, name=SHOP)
    wanted = {f"k{number % 7}": number for number in range(450)} | {"deep": {"last": 449}}
    assert site.stored(SHOP) == wanted
    assert site.validate(wanted, name=SHOP) == Validated(452, [])
    assert site.past.document(SHOP, 100)[0]["deep"] == {"last": 97}


# --- trying out


def test_trying_a_change_out_says_what_it_would_do_and_records_nothing(site):
    site.change({"cups": 5, "leaves": "oolong"})
    head = site.log.head()
    assert site.validate({"cups": 6, "pot": {"size": 2}}) == Validated(
        2, [Change("cups", 5, 6), Change("leaves", "oolong", ABSENT), Change("pot", ABSENT, {"size": 2})]
    )
    assert site.validate({"leaves": None}, "merge") == Validated(2, [Change("leaves", "oolong", ABSENT)])
    assert site.validate({"cups": 5}, "merge") == Validated(2, [])
    with pytest.raises(InvalidDocument) as error:
        site.validate({"cups": 0, "sugar": 1})
    assert fields(error) == {"values.cups", "values.sugar"}
    assert site.log.head() == head
