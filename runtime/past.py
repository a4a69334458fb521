"""Recognises, before anything is fed or served, that the log has another past than what was made from it.

So it is after a restore to an older position, however that was done, and after a standby was promoted that had not
heard of everything. What is ahead of the log, or differs from it, is discarded and made anew, never trusted.
"""

import logging
from contextlib import closing

import psycopg
from prometheus_client import Counter

from infra.conninfo import bounded
from infra.event_store import Log
from infra.past import LOCK, forget, is_strange
from infra.refill import refill
from infra.settings import Settings
from projections.past import discard_strange, drop_discarded
from runtime import modules
from stream_apps.past import put_back

logger = logging.getLogger("muniment.past")

FOUND = Counter("muniment_pasts_discarded", "Times that the log had another past than what was made from it")
LOCK_TIMEOUT_SECONDS = 30.0


def discard_other_past(settings: Settings) -> bool:
    """Whether there was another past; then nothing of it counts any more. Cheap where there is none.

    Of several who look at once one acts. Raises psycopg.Error.
    """
    with psycopg.connect(bounded(settings.postgres_url), autocommit=True) as connection:
        if not is_strange(connection):
            return False
        with closing(Log(settings.postgres_url)) as log:
            _discard(connection, log, settings)
        drop_discarded(connection, modules.projections())
    return True


def _discard(connection: "psycopg.Connection[tuple[object, ...]]", log: Log, settings: Settings) -> None:
    inline = modules.inline_tables()
    with connection.transaction():
        connection.execute("select set_config('statement_timeout', '0', true)")
        connection.execute("select set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_SECONDS * 1000:.0f}ms",))
        connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        if not is_strange(connection):
            return
        views = discard_strange(connection, modules.projections())
        # From here on nothing is recorded until this is done: inline tables must fit the log in each commit.
        connection.execute("select position from log_head for update")
        reactions = put_back(connection, modules.reactions(settings))
        refill(connection, log.mapper, inline)
        forget(connection, "the log has another past")
    FOUND.inc()
    logger.warning(
        "the log has another past than what was made from it; made anew: %s", ", ".join([*views, *reactions])
    )
