from tests.projections.conftest import row
from tests.projections.harbour import Ship


def test_a_saved_event_becomes_a_row(follower, record, visible, connection):
    ship = Ship("Cutty Sark", ["red ensign"])
    ship.moor(3)
    ship.load(10, {"keemun": 7, "lapsang": 3})
    position = record(ship)
    visible.wait("harbour", position)
    visible.wait("keepers", position)
    assert row(connection, ship.id) == ("Cutty Sark", 3, 10)
