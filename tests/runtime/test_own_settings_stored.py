"""What is stored of the settings of a module of one's own: taken up, refused and told of like the platform's."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from commands.configuration import (
    ChangeConfiguration,
    DeclareNamespace,
    WithdrawNamespace,
    change_configuration,
    declare_namespace,
    withdraw_namespace,
)
from domain.configuration import InvalidDocument, NamespaceName, NamespaceReserved
from domain.context import Actor, Context
from infra.configuration.heads import HEADS, read_heads
from infra.configuration.instance import Instance, for_one_command
from infra.configuration.instances import State, holds, instances
from infra.configuration.telling import Acknowledgements
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.own_settings import Own
from infra.refill import refill
from infra.settings import Settings
from muniment_client.secrets import Environment, SecretStores
from runtime.cli.config import shared
from runtime.joined import NamespaceTaken, join
from runtime.module import ConfigSchema
from tests.runtime.bakery import BAKERY, MODULE, SCHEMA, BakerySettings, fails, joined, with_

CONTEXT = Context(Actor("operator", "ada"), "c")


class Town:
    """A database, and who changes what is stored in it."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.log = Log(database, inline=(HEADS,))
        self.dispatcher = Dispatcher(self.log)

    def settings(self, schema: ConfigSchema | None = SCHEMA) -> Settings:
        """Of a process with the bakery, or without."""
        own = () if schema is None else (Own(schema, schema.settings()),)
        return Settings(postgres_url=self.database, log_level="warning", own=own)

    def does(self, handler: Any, command: Any) -> Any:
        return self.dispatcher.dispatch(handler, command, CONTEXT).result

    def store(self, schema: ConfigSchema = SCHEMA, **values: Any) -> None:
        own = shared.Own(self.settings(schema))
        self.does(change_configuration, ChangeConfiguration(NamespaceName("bakery"), values, own))

    def declare(self, values: dict[str, Any] | None = None) -> None:
        """By a process that hasn't the bakery."""
        own = shared.Own(self.settings(None))
        self.does(declare_namespace, DeclareNamespace(NamespaceName("bakery"), {"type": "object"}, own, values))

    def withdraw(self) -> None:
        """By a process that has the bakery, as the operator's command may be."""
        self.does(withdraw_namespace, WithdrawNamespace(NamespaceName("bakery"), shared.Own(self.settings())))

    def process(self, schema: ConfigSchema | None = SCHEMA, **secrets: str) -> Instance:
        stores = SecretStores([Environment({f"MUNIMENT_SECRET_{name}": value for name, value in secrets.items()})])
        return Instance(self.settings(schema), "worker", stores)

    @contextmanager
    def running(self, schema: ConfigSchema | None = SCHEMA) -> Iterator[Instance]:
        """A process that follows what is stored, and tells."""
        with self.process(schema) as made:
            made.start(Acknowledgements(self.connect, made.presence, made.namespaces))
            assert made.listening.wait(10)
            yield made

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.database, autocommit=True)

    def told(self) -> list[tuple[str, State]]:
        """Who says what to the newest version."""
        with self.connect() as connection:
            (head,) = read_heads(connection, ["bakery"])
            return [(each.id, each.state(head.version)) for each in instances(connection, "bakery")]


@pytest.fixture
def town(database: str) -> Iterator[Town]:
    before = logging.getLogger().level
    made = Town(database)
    with closing(made.log):
        yield made
    logging.getLogger().setLevel(before)


def comes_to_pass(true: Callable[[], Any]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_every_process_with_the_module_takes_up_what_is_stored_and_one_without_is_not_asked(town):
    with town.running() as one, town.running() as other, town.running(None) as without:
        assert one.live.settings.of(BakerySettings).oven_degrees == 220
        town.store(oven_degrees=250)
        both = {(one.presence.id, State.APPLIED), (other.presence.id, State.APPLIED)}
        comes_to_pass(lambda: set(town.told()) == both)
        assert one.live.settings.of(BakerySettings) == BakerySettings(oven_degrees=250)
        assert one.live.current.version == town.log.head()
        assert (without.live.current.version, without.refused) == (0, {})


def test_a_process_of_another_release_refuses_what_its_own_declaration_doesnt_take(town):
    @dataclass(frozen=True)
    class Older(BakerySettings):
        oven_degrees: int = BAKERY(220, "of the oven", hot=True, least=100, most=240)

    with town.running() as newer, town.running(ConfigSchema(Older)) as older:
        town.store(oven_degrees=250)
        said = {(newer.presence.id, State.APPLIED), (older.presence.id, State.REFUSED)}
        comes_to_pass(lambda: set(town.told()) == said)
        (error,) = older.refused["bakery"].errors
        assert (error.field, error.message) == ("oven_degrees", "must be at most 240")
        assert older.live.settings.of(Older).oven_degrees == 220


def test_a_command_at_the_machine_has_what_is_stored(town):
    town.store(oven_degrees=250)
    assert for_one_command(town.settings()).settings.of(BakerySettings).oven_degrees == 250


def test_what_is_wrong_is_named_and_nothing_is_stored(town):
    with pytest.raises(InvalidDocument) as refused:
        town.store(oven_degrees=900, cellar="/attic", rest_hours=20, butter=1)
    assert {error.field: error.message for error in refused.value.errors} == {
        "values.oven_degrees": "must be at most 300",
        "values.cellar": "takes effect at a restart only: set MUNIMENT_BAKERY_CELLAR and start the processes anew",
        "values.rest_hours": "at most longest_rest_hours, which is 12.0",
        "values.butter": "is unknown",
    }
    assert town.log.head() == 0


def test_a_rule_that_fails_takes_nothing_and_keeps_nobody_elses_configuration_away(town):
    failing = replace(SCHEMA, rules=(fails,))
    with pytest.raises(InvalidDocument) as refused:
        town.store(failing, oven_degrees=250)
    (error,) = refused.value.errors
    assert (error.field, error.message) == ("values", "a rule of this namespace fails with ZeroDivisionError")
    with town.running(failing) as bakery:
        town.store(SCHEMA, oven_degrees=250)  # a process of another release has stored it
        comes_to_pass(lambda: "bakery" in bakery.refused)
        own = shared.Own(town.settings())
        town.does(change_configuration, ChangeConfiguration(NamespaceName("api"), {"page_size": 7}, own))
        comes_to_pass(lambda: bakery.live.settings.page_size == 7)
        assert bakery.live.settings.of(BakerySettings).oven_degrees == 220


def test_a_document_of_the_release_before_is_brought_up(town):
    town.store(oven_degrees=250)
    renamed = replace(SCHEMA, version=2, upcasts={1: lambda values: {"oven_degrees": values["oven_degrees"] - 10}})
    with town.process(renamed) as newer:
        assert newer.live.settings.of(BakerySettings).oven_degrees == 240


def test_a_secret_is_stored_by_its_name_and_used_by_its_value(town):
    town.store(supplier_key="secret://mill")
    with town.process(MILL="flour-power") as has:
        key: Any = has.live.settings.of(BakerySettings).supplier_key
        assert (key.reveal(), str(key)) == ("flour-power", "(hidden)")
    with town.process() as lacks:
        assert [error.field for error in lacks.refused["bakery"].errors] == ["supplier_key"]


def test_what_somebody_has_declared_under_its_name_is_not_the_modules_document(town):
    """A process without the module has let it be declared while others ran with it."""
    with town.running() as bakery:
        town.declare({"oven_degrees": 130})
        town.declare({"oven_degrees": "none"})
        with town.connect() as connection:
            assert holds(connection, "bakery")
            assert not holds(connection, "butcher")
        assert (bakery.live.settings.of(BakerySettings).oven_degrees, bakery.refused) == (220, {})
    with town.process() as later, town.connect() as connection:
        assert later.live.settings.of(BakerySettings).oven_degrees == 220
        assert not holds(connection, "bakery")


# --- the same name for services of somebody's own


def test_a_namespace_that_somebody_has_declared_keeps_a_module_of_its_name_out_until_it_is_withdrawn(town):
    whole = joined(with_(config_schema=SCHEMA))
    town.declare()
    with town.connect() as connection, pytest.raises(NamespaceTaken) as refused:
        join(connection, whole, Settings())
    assert str(refused.value).startswith("MUNIMENT_MODULES: the namespace bakery of configuration")
    assert "\n" not in str(refused.value)
    town.withdraw()
    with pytest.raises(NamespaceReserved):
        town.withdraw()
    with town.connect() as connection:
        join(connection, whole, Settings())
    town.store(oven_degrees=250)
    town.store(oven_degrees=260)
    with town.connect() as connection:
        written = read_heads(connection)
        with connection.transaction():
            refill(connection, town.log.mapper, (HEADS,))
        assert read_heads(connection) == written
    with town.process() as bakery:
        assert bakery.live.settings.of(BakerySettings).oven_degrees == 260


def test_a_module_without_settings_keeps_nobody_from_a_namespace_of_its_name(town):
    town.declare()
    with town.connect() as connection:
        join(connection, joined(MODULE), Settings())


def test_a_process_without_the_module_doesnt_let_its_namespace_be_declared_while_something_is_stored(town):
    town.store(oven_degrees=250)
    with pytest.raises(NamespaceReserved):
        town.declare()
    town.store()  # the module is retired, and gives its name back
    town.declare()
