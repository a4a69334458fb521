"""A process takes up what is stored, on a real PostgreSQL: at its start, while it runs, after a lost connection."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from commands.configuration import ChangeConfiguration, change_configuration
from domain.configuration import DocumentSchema, NamespaceName
from domain.context import Actor, Context
from infra.configuration.heads import HEADS
from infra.configuration.instance import Instance, for_one_command
from infra.configuration.instances import Acknowledgement, instances
from infra.configuration.schemas import SCHEMAS
from infra.configuration.telling import Acknowledgements
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.settings import Settings
from muniment_client.secrets import Environment, SecretStores

CONTEXT = Context(Actor("operator", "ada"), "c")
NO_STORES = SecretStores([])


class Own:
    """The platform's own namespaces; `lenient` ones take anything, as those of another release may."""

    def __init__(self, *, lenient: bool = False, version: int = 1) -> None:
        self.file: dict[str, Any] = {}
        anything = DocumentSchema({"type": "object"}, version)
        self.schemas = dict.fromkeys(SCHEMAS, anything) if lenient else SCHEMAS

    def consent(self, *_: Any) -> None:
        """Anybody's."""


class Administrator:
    """Changes configuration, as any process of the platform does."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.log = Log(database, inline=(HEADS,))
        self.dispatcher = Dispatcher(self.log)

    def store(self, namespace: str, own: Own | None = None, **values: Any) -> int:
        """The position of the change."""
        command = ChangeConfiguration(NamespaceName(namespace), values, own or Own())
        return self.dispatcher.dispatch(change_configuration, command, CONTEXT).position

    def store_what_only_others_take(self, namespace: str, version: int = 1, **values: Any) -> int:
        return self.store(namespace, Own(lenient=True, version=version), **values)


@pytest.fixture
def admin(database: str) -> Iterator[Administrator]:
    made = Administrator(database)
    with closing(made.log):
        yield made


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """The level of the log is the process's, and the tests share one."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


def settings(database: str, **given: Any) -> Settings:
    return Settings(postgres_url=database, log_level="warning", **given)


class Told:
    """Hears what an instance tells."""

    def __init__(self) -> None:
        self.words: list[Acknowledgement] = []

    def start(self) -> None:
        """Nothing."""

    def tell(self, acknowledgement: Acknowledgement) -> None:
        self.words.append(acknowledgement)

    def close(self) -> None:
        """Nothing."""


@contextmanager
def running(database: str, told: Told | None = None, **given: Any) -> Iterator[Instance]:
    with Instance(settings(database, **given), "worker", NO_STORES) as instance:
        instance.start(told)
        assert instance.listening.wait(10)
        yield instance


def cut(database: str) -> None:
    """Ends the connections by which configuration is heard of."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'muniment configuration' and datname = current_database()"
        )


def eventually(true: Callable[[], Any], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it didn't come to pass"
        time.sleep(0.005)


def test_what_is_stored_counts_from_the_beginning(database, admin):
    position = admin.store("api", page_size=7)
    with Instance(settings(database), "worker", NO_STORES) as instance:
        assert instance.live.settings.page_size == 7
    assert (instance.live.current.version, instance.live.current.running["api"]) == (position, 2)


def test_what_is_stored_while_it_runs_counts_within_a_second_and_is_told(database, admin):
    told = Told()
    with running(database, told) as instance:
        began = time.monotonic()
        position = admin.store("api", page_size=7)
        eventually(lambda: instance.live.settings.page_size == 7)
        assert time.monotonic() - began < 1.0
        eventually(lambda: told.words[-1].position == position)
    assert told.words[0].running["api"] == 0
    assert told.words[-1].running["api"] == 2


def test_a_change_that_takes_effect_at_a_swap_is_seen_by_who_wants_to_know(database, admin):
    with running(database) as instance:
        heard: list[int] = []
        instance.live.on_swap(lambda snapshot: heard.append(snapshot.settings.page_size))
        admin.store("api", page_size=7)
        eventually(lambda: heard)
    assert heard == [7]


def test_the_level_of_the_log_is_what_is_stored(database, admin):
    with running(database):
        assert logging.getLogger().level == logging.WARNING
        admin.store("platform", log_level="debug")
        eventually(lambda: logging.getLogger().level == logging.DEBUG)
        admin.store("platform")
        eventually(lambda: logging.getLogger().level == logging.WARNING)


def test_what_was_stored_while_its_connection_was_cut_is_caught_up_with(database, admin):
    with running(database) as instance:
        cut(database)
        for size in range(1, 6):
            admin.store("api", page_size=size)
        eventually(lambda: instance.live.settings.page_size == 5)
        # and it hears again
        admin.store("api", page_size=9)
        eventually(lambda: instance.live.settings.page_size == 9)


def test_a_refusal_is_told_with_its_fields_and_the_last_good_one_stays_until_a_better_one_comes(
    database, admin, caplog
):
    told = Told()
    with running(database, told) as instance:
        admin.store("api", page_size=7)
        eventually(lambda: instance.live.settings.page_size == 7)
        position = admin.store_what_only_others_take("api", page_size=0)
        eventually(lambda: instance.refused)
        assert instance.live.settings.page_size == 7
        eventually(lambda: "api" in told.words[-1].refused)
        word = told.words[-1]
        assert (word.running["api"], word.refused["api"].version) == (2, 3)
        assert [each.field for each in word.refused["api"].errors] == ["page_size"]
        assert word.position < position
        admin.store("api", page_size=8)
        eventually(lambda: instance.live.settings.page_size == 8 and not instance.refused)
    assert "version 3 of api can't be used here (page_size: " in caplog.text
    assert "version 2 counts" in caplog.text


def test_beside_a_newer_release_the_last_good_document_stays_and_other_namespaces_go_on(database, admin):
    with running(database) as instance:
        admin.store("api", page_size=7)
        admin.store_what_only_others_take("api", 2, page_size=8, a_key_of_tomorrow=True)
        eventually(lambda: instance.refused)
        assert "schema 2; this process knows 1" in instance.refused["api"].errors[0].message
        admin.store("identity", bcrypt_cost=5)
        eventually(lambda: instance.live.settings.bcrypt_cost == 5)
        assert instance.live.settings.page_size == 7


def test_a_good_version_that_was_missed_before_a_bad_one_is_taken_up(database, admin):
    admin.store("api", page_size=7)
    instance = Instance(settings(database), "worker", NO_STORES)  # it doesn't listen yet
    admin.store("api", page_size=8)
    admin.store_what_only_others_take("api", page_size=0)
    with instance:
        instance.start()
        eventually(lambda: instance.refused)
        assert (instance.live.settings.page_size, instance.refused["api"].version) == (8, 4)


def test_a_start_with_an_unusable_version_falls_back_to_the_last_good_one_and_says_so_loudly(database, admin, caplog):
    admin.store("api", page_size=7)
    admin.store_what_only_others_take("api", page_size=-1)
    admin.store_what_only_others_take("api", page_size=-2)
    with Instance(settings(database), "worker", NO_STORES) as instance:
        assert (instance.live.settings.page_size, instance.live.current.running["api"]) == (7, 2)
        assert instance.refused["api"].version == 4
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "version 4 of api can't be used here" in record.getMessage()


def test_a_start_without_postgres_runs_with_the_environment_and_takes_up_what_is_stored_later(database, admin):
    admin.store("api", page_size=7)
    # an address where nobody answers at the start, and PostgreSQL later
    instance = Instance(settings("host=/nowhere dbname=nothing"), "worker", NO_STORES)
    assert instance.live.settings.page_size == Settings().page_size
    instance._conninfo = database
    with instance:
        instance.start()
        eventually(lambda: instance.live.settings.page_size == 7)


def test_a_command_takes_what_is_stored_and_asks_no_store_of_secrets(database, admin):
    admin.store("onboarding", smtp_url="secret://mail", mail_from="a@b.example", verification_seconds=77)
    live = for_one_command(settings(database))
    assert live.settings.verification_seconds == 77


def test_a_database_that_was_never_migrated_is_no_hindrance(empty_database):
    assert for_one_command(settings(empty_database)).current.version == 0


def test_customers_namespaces_and_those_of_tomorrow_are_let_be(database, admin):
    with running(database) as instance:
        before = instance.live.current
        admin.store("api", page_size=7)
        eventually(lambda: instance.live.current is not before)
        assert set(instance.live.current.running) == set(SCHEMAS)


def test_a_rotated_secret_is_in_force_once_it_is_noticed(database, admin):
    environ = {"MUNIMENT_SECRET_MAIL": "smtp://one.example"}
    admin.store("onboarding", smtp_url="secret://mail", mail_from="a@b.example")
    with Instance(settings(database), "worker", SecretStores([Environment(environ)])) as instance:
        instance.start()
        url: Any = instance.live.settings.smtp_url
        assert url.reveal() == "smtp://one.example"
        before = instance.live.current.version
        environ["MUNIMENT_SECRET_MAIL"] = "smtp://two.example"
        instance._watch.look()  # what its thread does now and then
        eventually(lambda: instance.live.settings.smtp_url.reveal() == "smtp://two.example")  # type: ignore[attr-defined]
        assert instance.live.current.version == before


def test_every_event_says_under_which_configuration_it_was_decided(database, admin):
    with running(database) as instance:
        dispatcher = Dispatcher(admin.log, live=instance.live)
        position = admin.store("api", page_size=7)
        eventually(lambda: instance.live.current.version == position)
        command = ChangeConfiguration(NamespaceName("identity"), {"bcrypt_cost": 5}, Own())
        second = dispatcher.dispatch(change_configuration, command, replace(CONTEXT, config_version=1)).position
        assert [each.metadata.config_version for each in admin.log.read(position, 10)] == [position, position]
        eventually(lambda: instance.live.current.version == second)


def test_what_it_says_is_in_the_table_and_its_row_goes_with_it(database, admin):
    def connect() -> Any:
        return psycopg.connect(database, autocommit=True)

    with psycopg.connect(database, autocommit=True) as connection, running(database) as instance:
        tells = Acknowledgements(connect, instance.presence, instance.namespaces)
        instance.start = None  # type: ignore[assignment,method-assign]  # it runs already
        instance._tells = tells
        tells.tell(instance._built.acknowledgement)
        tells.start()
        admin.store("api", page_size=7)
        eventually(lambda: [each.version for each in instances(connection, "api")] == [2])
        instance.stop()
        assert instances(connection, "api") == []


def test_two_processes_that_read_at_different_times_end_with_the_same(database, admin):
    with running(database) as one, running(database) as other:
        for size in range(1, 30):
            admin.store("api", page_size=size)
        for each in (one, other):
            eventually(lambda each=each: each.live.settings.page_size == 29)  # type: ignore[misc]
        assert one.live.current.version == other.live.current.version
