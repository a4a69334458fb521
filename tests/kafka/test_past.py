"""A store that was restored to an older position, with real relays and workers on a Kafka that stayed ahead of it."""

from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from domain.access import UserAssignments
from infra.layouts import current_layout
from infra.settings import Settings
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from runtime import modules
from runtime.core import open_core
from runtime.start import first_facts
from stream_apps.spreads import spread_of
from tests.cutting import cut_back, keep
from tests.e2e.platform import eventually
from tests.kafka.parts import part
from tests.runtime.cli_site import Site, key
from tests.runtime.test_past import active, granted, make_admin, register

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

PATIENCE_SECONDS = 60


@pytest.fixture
def settings(kafka_server, database, tmp_path, valkey):
    settings = Settings(
        data=tmp_path, postgres_url=database, redis_url=valkey, master_key=key(b"m"), pepper=key(b"p"),
        claim_key=key(b"c"), admin_password="she-who-must-be-obeyed", bcrypt_cost=4, pool_size=4, port=1,
        kafka=kafka_server, kafka_prefix=f"t{uuid4().hex}", kafka_partitions=2, default_role="analyst",
    )  # fmt: skip
    with psycopg.connect(database, autocommit=True) as connection:
        ensure_builds(connection, modules.projections())
    first_facts(settings, lambda _: None)
    return settings


@pytest.fixture
def connection(database):
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def core(settings):
    with open_core(settings) as core:
        yield core


LEVEL = """
    select count(*) > 0 and bool_and(b.feed = 'faust' and b.layout = (select max(layout) from bus_layouts))
           and min(p.position) >= (select position from log_head)
           and (select min(position) from reaction_progress) >= (select position from log_head)
      from projection_builds b join projection_progress p using (projection, version, build, layout) where b.active
"""


def level(connection, build=1):
    eventually(
        lambda: set(active(connection).values()) == {build} and connection.execute(LEVEL).fetchone()[0],
        PATIENCE_SECONDS,
        0.1,
    )


def assignments(core, user):
    """What was ever assigned to somebody, as the log has it."""
    return [
        recorded
        for recorded in core.log.read(0, 10_000, [UserAssignments.RoleAssigned.TOPIC])
        if recorded.stream == UserAssignments.create_id(user)
    ]


def assert_seen(settings, head):
    """What `muniment status` tells about the bus while it runs."""
    told = Site(settings).json("status")
    bus = told["bus"]
    assert (bus["relay"]["position"], bus["relay"]["lag_events"], bus["relay"]["incarnation"]) == (head, 0, 2)
    assert (len(bus["relays"]), len(bus["workers"])) == (1, 1)
    assert {lane["position"] for lane in bus["lanes"] if lane["active"]} == {head}

    def counted():
        counts = {each["metric"] for each in Site(settings).json("status")["bus"]["counts"]}
        return {"muniment_relay_events_total", "muniment_relay_incarnations_total"} <= counts

    eventually(counted, 10, 0.5)


def test_everything_is_made_anew_on_new_topics_and_what_was_lost_grants_nothing(settings, core, connection, tmp_path):
    logs = tmp_path / "relay.log", tmp_path / "stream.log"
    with part(settings, "relay", logs[0]), part(settings, "stream", logs[1]):
        level(connection)
        ada = register(core, "ada@engine.example")
        level(connection)
        keep(connection)
        bob = register(core, "bob@builder.example")
        make_admin(core, bob)
        level(connection)
        assert bob in granted(connection)
    cut_back(connection)
    eve = register(core, "eve@apple.example")  # the restored log goes on, at positions that Kafka has had
    with part(settings, "relay", logs[0]), part(settings, "stream", logs[1]):
        level(connection, build=2)
        assert current_layout(connection).incarnation == 2
        grace = register(core, "grace@compiler.example")
        level(connection, build=2)
        spread = spread_of(connection)
        assert_seen(settings, core.log.head())
    assert bob not in granted(connection)
    assert {ada, eve, grace} <= granted(connection)
    assert [len(assignments(core, user)) for user in (ada, eve, grace)] == [1, 1, 1]
    for projection in modules.projections():
        assert fold_views(settings.postgres_url, core.log, Build(projection, 2), spread) == (core.log.head(), [])
    said = "".join(each.read_text() for each in logs)
    assert "Traceback" not in said
    assert "another past" in said


def test_a_restored_store_on_a_kafka_without_anything_goes_on(settings, core, connection, tmp_path):
    """As where topics were lost together with the store's newest part."""
    logs = tmp_path / "relay.log", tmp_path / "stream.log"
    with part(settings, "relay", logs[0]), part(settings, "stream", logs[1]):
        register(core, "ada@engine.example")
        level(connection)
        keep(connection)
        register(core, "bob@builder.example")
        level(connection)
    cut_back(connection)
    elsewhere = replace(settings, kafka_prefix=f"t{uuid4().hex}")
    with part(elsewhere, "stream", logs[1]):
        # The worker listens to topics that the relay then gives up: it starts anew by itself.
        eventually(lambda: logs[1].read_text().count("partitions are ours") == 2, PATIENCE_SECONDS, 0.1)
        with part(elsewhere, "relay", logs[0]):
            eventually(lambda: "there are other topics now: starts anew" in logs[1].read_text(), PATIENCE_SECONDS, 0.1)
            register(core, "grace@compiler.example")
            level(connection, build=2)
            spread = spread_of(connection)
    for projection in modules.projections():
        assert fold_views(settings.postgres_url, core.log, Build(projection, 2), spread) == (core.log.head(), [])
