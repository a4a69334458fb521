"""Configuration on the real log: decided on what is there, whole; nothing is lost where several decide at once."""

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from commands.configuration import (
    ChangeConfiguration,
    Changed,
    DeclareNamespace,
    Mode,
    RollbackConfiguration,
    Validated,
    WithdrawNamespace,
    change_configuration,
    declare_namespace,
    rollback_configuration,
    validate_configuration,
    withdraw_namespace,
)
from domain.configuration import (
    ABSENT,
    HIDDEN,
    Change,
    DocumentSchema,
    InvalidDocument,
    InvalidSchema,
    Namespace,
    NamespaceName,
    NamespaceNotFound,
    NamespaceReserved,
    NewerDocument,
    TooManyNamespaces,
    VersionNotFound,
    merge_patch,
)
from domain.configuration.document import Values
from domain.context import Actor, Context
from domain.errors import Forbidden, Invalid, Stale
from domain.ports import Work
from infra.configuration.heads import HEADS, Head, read_heads
from infra.configuration.past import NamespacePast
from infra.dispatch import Dispatcher
from infra.event_store import Log, Recorded
from infra.refill import refill

TEA = NamespaceName("tea")
SHOP = NamespaceName("shop")
TEA_SCHEMA = DocumentSchema(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "cups": {"type": "integer", "minimum": 1, "default": 2},
            "leaves": {"type": "string", "default": "assam"},
            "pot": {"type": "object", "default": {"size": 1.5, "lid": True}},
            "port": {"type": "integer", "default": 80, "x-restart": True, "x-variable": "MUNIMENT_PORT"},
            "key": {"type": "string", "default": "", "x-secret": True},
        },
    }
)
SHOP_SCHEMA = {"type": "object", "properties": {"price": {"type": "number", "minimum": 0}}, "required": ["price"]}


@dataclass(frozen=True)
class Own:
    """The platform's own namespaces, as this process knows them."""

    schemas: Mapping[str, DocumentSchema] = field(default_factory=lambda: {TEA: TEA_SCHEMA})
    file: Mapping[str, Values] = field(default_factory=dict)

    def consent(self, work: Work, name: str, before: Values, after: Values) -> None:
        if after.get("leaves") == "gold" != before.get("leaves"):
            raise Forbidden


OWN = Own()


class Site:
    """A log with configuration, and somebody who decides about it."""

    def __init__(self, database: str) -> None:
        self.log = Log(database, inline=[HEADS])
        self.pool: ConnectionPool[Any] = ConnectionPool(
            database, min_size=1, max_size=12, open=True, kwargs={"autocommit": True}
        )
        self.past = NamespacePast(self.pool, self.log)
        self.dispatcher = Dispatcher(self.log)
        self.announced: list[str] = []
        self.log.on_announce(self.announced.extend)

    def do(self, handler: Any, command: Any, if_match: int | None = None) -> Any:
        match = None if if_match is None else (Namespace.id_of(command.name), if_match)
        context = Context(Actor("operator", "ada"), str(uuid4()))
        return self.dispatcher.dispatch(handler, command, context, if_match=match).result

    def change(
        self, values: Values, mode: Mode = "replace", *, name: str = TEA, own: Own = OWN, reason: str = "",
        if_match: int | None = None,
    ) -> Changed:  # fmt: skip
        command = ChangeConfiguration(NamespaceName(name), values, own, mode, reason)
        return self.do(change_configuration, command, if_match)

    def patch(self, values: Values, **more: Any) -> Changed:
        return self.change(values, "merge", **more)

    def rollback(self, version: int, *, name: str = TEA, own: Own = OWN, reason: str = "") -> Changed:
        command = RollbackConfiguration(NamespaceName(name), version, own, self.past, reason)
        return self.do(rollback_configuration, command)

    def validate(self, values: Values, mode: Mode = "replace", *, name: str = TEA, own: Own = OWN) -> Validated:
        return self.do(validate_configuration, ChangeConfiguration(NamespaceName(name), values, own, mode))

    def declare(self, schema: Any = SHOP_SCHEMA, values: Values | None = None, name: str = SHOP) -> Changed:
        return self.do(declare_namespace, DeclareNamespace(NamespaceName(name), schema, OWN, values))

    def withdraw(self, name: str = SHOP, reason: str = "") -> None:
        self.do(withdraw_namespace, WithdrawNamespace(NamespaceName(name), OWN, reason))

    def head(self, name: str = TEA) -> Head:
        with self.pool.connection() as connection:
            return read_heads(connection, [name])[0]

    def stored(self, name: str = TEA) -> dict[str, Any]:
        return self.head(name).document

    def events(self) -> list[Recorded]:
        return self.log.read(0, 10_000)

    def close(self) -> None:
        self.pool.close()
        self.log.close()


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    site = Site(database)
    yield site
    site.close()


def fields(error: Any) -> set[str]:
    return {each.field for each in error.value.errors}


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
            site.patch({f"k{writer}": number, "shared": {f"w{writer}": number}}, name="crowd")

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


@pytest.mark.parametrize("declared", [3, 4])
def test_there_are_as_many_namespaces_as_may_be_and_those_that_there_are_can_be_declared_anew(site, declared):
    def declare(name: str, schema: Any) -> Changed:
        command = DeclareNamespace(NamespaceName(name), schema, OWN, declared=declared, limit=3)
        return site.do(declare_namespace, command)

    site.declare(name="shop")
    with pytest.raises(TooManyNamespaces, match="At most 3 may be declared"):
        declare("till", SHOP_SCHEMA)
    assert declare("shop", {"type": "object"}).changed
    site.withdraw("shop")
    with pytest.raises(TooManyNamespaces):
        declare("shop", SHOP_SCHEMA)


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


# --- the customers' own


def test_a_namespace_is_declared_and_then_has_a_document(site):
    assert site.declare() == Changed(2, changed=True)
    site.change({"price": 5}, name=SHOP)
    head = site.head(SHOP)
    assert (head.version, head.schema_version, head.declarations, head.schema) == (3, 1, 1, SHOP_SCHEMA)
    with pytest.raises(InvalidDocument) as error:
        site.change({"price": -1}, name=SHOP)
    assert fields(error) == {"values.price"}
    assert site.announced == ["config:shop", "config:shop"]


def test_the_same_schema_again_records_nothing(site):
    site.declare()
    assert site.declare(dict(reversed(SHOP_SCHEMA.items()))) == Changed(2, changed=False)


def test_another_schema_has_to_take_what_is_stored(site):
    site.declare()
    site.change({"price": 5}, name=SHOP)
    with pytest.raises(InvalidDocument) as error:
        site.declare({"type": "object", "properties": {"price": {"maximum": 4}}, "required": ["currency"]})
    assert fields(error) == {"values.price", "values.currency"}
    assert site.head(SHOP).declarations == 1


def test_another_schema_comes_with_its_document_in_one_save(site):
    site.declare()
    site.change({"price": 5}, name=SHOP)
    cents = {"type": "object", "properties": {"cents": {"type": "integer"}}, "additionalProperties": False}
    assert site.declare(cents, {"cents": 500}) == Changed(5, changed=True)
    head = site.head(SHOP)
    assert (head.document, head.schema_version, head.declarations) == ({"cents": 500}, 2, 2)
    declared, changed = site.events()[-2:]
    assert (declared.position + 1, declared.metadata.correlation_id) == (
        changed.position, changed.metadata.correlation_id,
    )  # fmt: skip


def test_the_platforms_own_cant_be_declared(site):
    with pytest.raises(NamespaceReserved):
        site.declare(name=TEA)


def test_what_is_no_schema_declares_nothing(site):
    with pytest.raises(InvalidSchema):
        site.declare({"type": "array"})
    assert site.log.head() == 0


def test_a_namespace_that_is_withdrawn_is_no_more_and_begins_anew(site):
    site.declare()
    site.change({"price": 5}, name=SHOP)
    site.withdraw(reason="closed")
    for attempt in (
        lambda: site.change({"price": 6}, name=SHOP),
        lambda: site.validate({"price": 6}, name=SHOP),
        lambda: site.rollback(3, name=SHOP),
        site.withdraw,
    ):
        with pytest.raises(NamespaceNotFound):
            attempt()
    with site.pool.connection() as connection:
        assert read_heads(connection) == []
    assert site.declare({"type": "object"}) == Changed(5, changed=True)
    assert site.head(SHOP) == Head("shop", Namespace.id_of("shop"), 5, 5, 0, {}, {"type": "object"}, 2, {})
    site.rollback(3, name=SHOP)
    assert site.stored(SHOP) == {"price": 5}
    assert [each.kind for each in site.past.entries(SHOP, 10)] == [
        "rolled-back", "declared", "withdrawn", "changed", "declared",
    ]  # fmt: skip
    assert [site.past.document(SHOP, version)[0] for version in range(7)] == [
        {}, {}, {}, {"price": 5}, {}, {}, {"price": 5},
    ]  # fmt: skip


def test_nobody_withdraws_what_isnt_theirs(site):
    site.change({"cups": 3})
    with pytest.raises(NamespaceReserved):
        site.withdraw(TEA)
    with pytest.raises(NamespaceNotFound):
        site.withdraw()


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
