"""Brings the views for SQL tools up to this release, where that is possible: nothing of the platform needs them."""

from collections.abc import Callable

import psycopg

from infra.analytics.schema import NoAnalytics, Refreshed, refresh
from infra.settings import Settings
from infra.transcoding import event_types


def ensure_analytics(settings: Settings, say: Callable[[str], None]) -> Refreshed | None:
    """Makes the views that this release's events need; says what stands in the way, if something does."""
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        try:
            return refresh(connection, event_types())
        except NoAnalytics as error:
            say(f"views for SQL tools: {error}")
            return None
