"""Builds of versions that this release doesn't declare any more, or of projections that it hasn't: nobody feeds them.

What is known of such a build is in the database: its row, and its tables, which are told by their names.
"""

from collections.abc import Iterable
from typing import Any

from psycopg import Connection

from projections.engine import Build
from projections.projection import Projection
from projections.switch import drop_unread

_BUILDS = """
    select build from projection_builds
     where projection = %(projection)s and version = %(version)s order by build
"""
_NAMES = "select distinct projection from projection_builds where projection <> %s"
_TABLES = """
    select relname from pg_class
     where relkind = 'r' and relnamespace = current_schema()::regnamespace
       and starts_with(relname, %(prefix)s) and right(relname, length(%(suffix)s)) = %(suffix)s
     order by 1
"""
_FORGET = """
    delete from projection_wishes
     where kind = 'drop' and projection = %(projection)s and version = %(version)s and build = %(build)s
"""


def leftover(connection: Connection[Any], declared: Iterable[Projection], name: str, version: int) -> list[Build]:
    """The builds of a version that isn't declared; none where it is, or where it is a newer release's.

    What stands as their projection knows the names of its tables, and nothing else.
    """
    own = {projection.version for projection in declared if projection.name == name}
    if own and (version in own or version > max(own)):
        return []
    rows = connection.execute(_BUILDS, {"projection": name, "version": version}).fetchall()
    known = [(_known(connection, name, version, build), build) for (build,) in rows]
    return [Build(projection, build) for projection, build in known if projection]


def drop_leftover(connection: Connection[Any], build: Build) -> None:
    """Drops a build that nobody can read any more. Raises NoOtherBuild, StillRead."""
    drop_unread(connection, build, lambda: connection.execute(_FORGET, build.key), though_active=True)


def _known(connection: Connection[Any], name: str, version: int, build: int) -> Projection | None:
    prefix, suffix = f"{name}_", f"_v{version}_b{build}"
    found = connection.execute(_TABLES, {"prefix": prefix, "suffix": suffix}).fetchall()
    # `ship_yards_v1_b1` may be the table `yards` of `ship`, or one of a projection that is called `ship_yards`.
    others = [f"{other}_" for (other,) in connection.execute(_NAMES, (name,)).fetchall() if other.startswith(prefix)]
    cores = [table.removesuffix(suffix) for (table,) in found]
    tables = [core.removeprefix(prefix) for core in cores if not any(core.startswith(other) for other in others)]
    if not tables:
        return None
    return Projection(name=name, version=version, tables="; ".join(f"{table} ()" for table in tables), on={})
