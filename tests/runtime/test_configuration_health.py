"""What probes and metrics tell about who runs which configuration."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from psycopg_pool import ConnectionPool

from domain.errors import FieldError
from infra.configuration.instances import Acknowledgement, Presence, Refused, tell
from infra.configuration.standing import standing
from runtime.configuration_health import InstanceGauges, configuration_reasons

WRONG = (FieldError("bcrypt_cost", "at least 10"),)


class AtOnce:
    """An executor that runs what it is given before it returns."""

    def submit(self, function: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function())
        return done


class Site:
    """Namespaces at some version, and processes that say something about them."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def stored(self, namespace: str, version: int, seconds_ago: float = 0.0, schema: str | None = None) -> None:
        """As if the newest event of the log had stored it."""
        stream = uuid4()
        (position,) = self.connection.execute(
            "update log_head set position = position + 1 returning position"
        ).fetchone()
        self.connection.execute(
            "insert into stored_events (originator_id, originator_version, topic, state, metadata, notification_id,"
            " recorded_at) values (%s, 1, '', '', '', %s, clock_timestamp() - make_interval(secs => %s))",
            (stream, position, seconds_ago),
        )
        self.connection.execute(
            "insert into configuration_heads (namespace, stream, version, position, schema_version, document, schema)"
            " values (%s, %s, %s, %s, 1, '{}', %s)",
            (namespace, stream, version, position, schema),
        )

    def says(self, name: str, namespace: str = "*", **running: int) -> None:
        tell(self.connection, Presence(name, "worker", "engine", 1), Acknowledgement(running), namespace=namespace)

    def refuses(self, name: str, running: int, version: int) -> None:
        word = Acknowledgement({"identity": running}, {"identity": Refused(version, WRONG)})
        tell(self.connection, Presence(name, "worker", "engine", 1), word)

    def reasons(self) -> list[str]:
        return configuration_reasons(standing(self.connection))


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield Site(connection)


def test_nothing_is_wrong_where_nothing_was_changed_or_all_run_the_newest(site):
    site.says("ada", identity=0)
    assert site.reasons() == []
    site.stored("identity", 2, seconds_ago=60)
    site.says("ada", identity=2)
    assert site.reasons() == []


def test_a_refusal_is_told_at_once_but_not_where_and_why(site):
    site.stored("identity", 2)
    site.says("ada", identity=2)
    site.refuses("babbage", 1, 2)
    assert site.reasons() == ["configuration: 1 process refuses version 2 of identity"]
    site.refuses("grace", 1, 2)
    assert site.reasons() == ["configuration: 2 processes refuse version 2 of identity"]


def test_who_is_behind_has_a_moment_to_catch_up(site):
    site.stored("identity", 2, seconds_ago=2)
    site.stored("api", 2, seconds_ago=20)
    site.says("ada", identity=1, api=2)
    assert site.reasons() == []
    site.says("babbage", identity=2, api=1)
    (reason,) = site.reasons()
    assert reason.startswith("configuration: 1 process hasn't taken up version 2 of api for 2")


def test_customers_services_that_refuse_make_the_platform_no_worse(site):
    site.stored("shop", 2, seconds_ago=60, schema="{}")
    site.says("web-1", "shop", shop=1)
    assert site.reasons() == []


@pytest.fixture
def scrape(database: str) -> Iterator[Callable[[str], dict[tuple[str, ...], float]]]:
    with ConnectionPool(database, kwargs={"autocommit": True}, min_size=1, open=True) as pool:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(InstanceGauges(pool, AtOnce()))  # type: ignore[arg-type]

        def scraped(name: str) -> dict[tuple[str, ...], float]:
            families = text_string_to_metric_families(generate_latest(registry).decode())
            samples = [sample for family in families for sample in family.samples if sample.name == name]
            return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}

        yield scraped


def test_instances_are_counted_by_namespace_and_state(site, scrape):
    site.stored("identity", 2)
    site.stored("shop", 3, schema="{}")
    site.says("ada", identity=2)
    site.says("grace", identity=1)
    site.refuses("babbage", 1, 2)
    site.says("web-1", "shop", shop=3)
    assert scrape("muniment_config_instances") == {
        ("identity", "applied"): 1, ("identity", "pending"): 1, ("identity", "refused"): 1,
        ("shop", "applied"): 1, ("shop", "pending"): 0, ("shop", "refused"): 0,
    }  # fmt: skip
    assert scrape("muniment_config_version") == {("identity",): 2, ("shop",): 3}


def test_a_scrape_doesn_t_fail_without_postgresql():
    with ConnectionPool(
        "host=/nowhere", kwargs={"autocommit": True}, min_size=0, max_size=1, open=True, timeout=0.1
    ) as pool:
        assert [family.samples for family in InstanceGauges(pool, AtOnce()).collect()] == [[], []]  # type: ignore[arg-type]
