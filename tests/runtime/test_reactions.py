"""Who drives the reactions of the platform: the follower, or with Kafka the stream workers."""

import psycopg
import pytest

from infra import reaction_store as store
from infra.messages import Place
from infra.settings import SettingsError
from runtime import modules
from runtime.core import open_core
from runtime.reactions import for_follower, for_stream, take_back
from stream_apps.spreads import spread_of
from tests.e2e.platform import eventually
from tests.runtime.cli_site import Site

TOPICS = [f"muniment.{module}" for module in ("access", "audit", "identity", "projections")]


@pytest.fixture
def core(cli_site: Site):
    with open_core(cli_site.settings) as core:
        yield core


def layouts(core):
    with psycopg.connect(core.settings.postgres_url) as connection:
        return {
            reaction.name: {place.layout for place in store.places_of(connection, reaction.name)}
            for reaction in modules.reactions(core.settings)
        }


def test_reactions_go_to_the_stream_workers_and_come_back(core):
    with psycopg.connect(core.settings.postgres_url, autocommit=True) as connection:
        connection.execute(
            "insert into bus_layouts (layout, incarnation, partitions, topics, types_digest, from_position, reason)"
            " values (1, 1, 2, %s, '', 0, 'a test')",
            (TOPICS,),
        )
    driven = {each.reaction.name for each in for_follower(core)}
    assert driven == {"default-role", "email-verification", "onboarding", "verification-mail"}
    workers = for_stream(core)
    with psycopg.connect(core.settings.postgres_url) as connection:
        spread = spread_of(connection)
    for worker in workers:
        worker.own(spread, [Place(topic, number) for topic in TOPICS for number in range(2)])
        worker.tick(core.log.head())
    eventually(lambda: set(map(tuple, layouts(core).values())) == {(1,)})
    for worker in workers:
        worker.close()
    take_back(core)
    take_back(core)
    assert set(map(tuple, layouts(core).values())) == {(0,)}


def test_a_default_role_that_cant_be_one_stops_the_start(cli_site: Site):
    with pytest.raises(SettingsError, match="MUNIMENT_DEFAULT_ROLE"):
        modules.reactions(type(cli_site.settings)(default_role="Not A Role"))
