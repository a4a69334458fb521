"""Operators see how far reactions are and mend what they parked, by the same handlers as the API."""

from uuid import uuid4

import psycopg
import pytest

from infra.dispatch import Dispatcher
from infra.event_store import Log
from projections.facts import read
from runtime.modules import reactions
from stream_apps.driver import Driver
from tests.runtime.cli_site import Site


@pytest.fixture
def parked(cli_site: Site):
    """A reaction whose default role doesn't exist: drives what there is, as the follower would."""

    def drive() -> None:
        log = Log(cli_site.settings.postgres_url)
        [reaction] = [each for each in reactions(settings) if each.name == "default-role"]
        with psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as connection:
            driver = Driver(connection, log, Dispatcher(log), reaction)
            position = driver.take_over()
            while facts := read(log, position, 100):
                position = driver.apply(facts, position)
        log.close()

    settings = type(cli_site.settings)(default_role="ghost@/castle")
    drive()
    cli_site.user(f"ada.{uuid4().hex[:8]}@engine.example")
    drive()
    return drive


def items(cli_site, *arguments):
    return cli_site.json("reactions", *arguments)["items"]


def test_operators_see_retry_and_skip_what_a_reaction_parked(cli_site: Site, parked):
    [status] = [each for each in items(cli_site, "list") if each["name"] == "default-role"]
    assert (status["parked"], status["topic"]) == (1, "*")
    [cause] = items(cli_site, "parked", "default-role")
    assert cause["topic"] == "identity.UserRegistered"
    assert "role-not-found" in cli_site.done("reactions", "parked", "default-role").stdout
    assert "Traceback" in cli_site.done("reactions", "parked", "default-role", "--traceback").stdout
    cli_site.done("reactions", "retry", "default-role")
    parked()
    [again] = items(cli_site, "parked", "default-role")
    assert again["attempts"] == 2
    cli_site.done("reactions", "skip", "default-role", again["position"], "--reason", "haunted")
    parked()
    assert items(cli_site, "parked", "default-role") == []
    refused = cli_site.call("reactions", "skip", "default-role", again["position"], "--reason", "haunted")
    assert refused.exit_code == 1


def test_a_reaction_that_isnt_there_is_named(cli_site: Site):
    refused = cli_site.call("reactions", "parked", "dancing")
    assert refused.exit_code == 1
    assert "email-verification" in refused.output
