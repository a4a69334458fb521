"""The layouts of the bus as the consumers' engines know them."""

from typing import Any

from psycopg import Connection

from projections.lanes import Spread

_LAYOUT = """
    select layout, partitions, topics, incarnation from bus_layouts
     where layout = coalesce(%(layout)s, (select max(layout) from bus_layouts))
"""


def spread_of(connection: Connection[Any], layout: int | None = None) -> Spread | None:
    """How a layout spreads the log; the newest unless one is asked for. None if there is none such."""
    row = connection.execute(_LAYOUT, {"layout": layout}).fetchone()
    if row is None:
        return None
    number, partitions, topics, incarnation = row
    suffix = "" if incarnation == 1 else f".k{incarnation}"
    return Spread(number, partitions, {topic.removesuffix(suffix).rpartition(".")[2]: topic for topic in topics})
