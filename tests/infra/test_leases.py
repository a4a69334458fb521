"""One holder at a time, by the database's clock."""

import psycopg
import pytest

from infra import leases

HOUR = 3600.0


@pytest.fixture
def connection(database):
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def expire(connection):
    connection.execute("update leases set expires_at = clock_timestamp() - interval '1 second'")


def test_only_one_gets_it(connection):
    assert leases.acquire(connection, "lamp", "ida", HOUR)
    assert leases.acquire(connection, "lamp", "grace", HOUR) is None
    assert leases.acquire(connection, "foghorn", "grace", HOUR)
    assert leases.held(connection, "lamp")


def test_each_holder_gets_a_higher_fence(connection):
    first = leases.acquire(connection, "lamp", "ida", HOUR)
    leases.release(connection, first)
    assert not leases.held(connection, "lamp")
    second = leases.acquire(connection, "lamp", "ida", HOUR)
    expire(connection)
    third = leases.acquire(connection, "lamp", "grace", HOUR)
    assert first.fence < second.fence < third.fence


def test_what_has_run_out_is_not_renewed(connection):
    lease = leases.acquire(connection, "lamp", "ida", HOUR)
    assert leases.renew(connection, lease) == 0
    expire(connection)
    assert leases.renew(connection, lease) is None


def test_who_lost_it_can_not_release_it(connection):
    lost = leases.acquire(connection, "lamp", "ida", HOUR)
    expire(connection)
    assert leases.acquire(connection, "lamp", "grace", HOUR)
    leases.release(connection, lost)
    assert leases.held(connection, "lamp")


def test_who_lost_the_connection_gets_its_own_lease_back(connection):
    before = leases.acquire(connection, "lamp", "ida", HOUR)
    after = leases.acquire(connection, "lamp", "ida", HOUR)
    assert after.fence > before.fence
    assert leases.renew(connection, before) is None


def test_a_clock_that_goes_back_bars_nobody_for_long(connection):
    """The holder died with the machine, whose clock was an hour ahead."""
    before = leases.acquire(connection, "lamp", "ida", 3)
    connection.execute("update leases set expires_at = expires_at + interval '1 hour'")
    after = leases.acquire(connection, "lamp", "grace", 3)
    assert after.fence > before.fence
    assert leases.renew(connection, before) is None
