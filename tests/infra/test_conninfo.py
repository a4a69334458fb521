"""A server that vanishes without a word is noticed within seconds."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from infra.conninfo import bounded
from infra.recorder import Limits, LogDatastore


@pytest.mark.parametrize("given", ["host=harbour.example dbname=muniment", "postgresql://harbour.example/muniment"])
def test_limits_are_added_to_whatever_form(given):
    limits = conninfo_to_dict(bounded(given, 3))
    assert (limits["host"], limits["dbname"]) == ("harbour.example", "muniment")
    assert (limits["connect_timeout"], limits["tcp_user_timeout"]) == ("3", "15000")


def test_an_operators_own_limits_are_kept():
    limits = conninfo_to_dict(bounded("host=harbour.example tcp_user_timeout=60000 connect_timeout=20"))
    assert (limits["connect_timeout"], limits["tcp_user_timeout"]) == ("20", "60000")


def test_the_log_reads_within_them(database):
    datastore = LogDatastore(database, Limits())
    with datastore.connection() as connection:
        assert connection.info.get_parameters()["tcp_user_timeout"] == "15000"
    datastore.close()
