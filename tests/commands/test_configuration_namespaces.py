"""Namespaces of the customers' own, on the real log: declared, declared anew, withdrawn."""

from typing import Any

import pytest

from commands.configuration import (
    Changed,
    DeclareNamespace,
    declare_namespace,
)
from domain.configuration import (
    InvalidDocument,
    InvalidSchema,
    Namespace,
    NamespaceName,
    NamespaceNotFound,
    NamespaceReserved,
    TooManyNamespaces,
)
from infra.configuration.heads import Head, read_heads
from tests.commands.configuration_site import OWN, SHOP, SHOP_SCHEMA, TEA, fields


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
