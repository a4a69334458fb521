"""Versions of a projection that this release doesn't read: of the release before, or left behind by an older one.

What is known of a build that isn't declared is in the database: its row, and its tables, which are told by their names.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from psycopg import Connection

from domain.builds import NoOtherBuild
from domain.errors import Conflict
from projections.engine import Build
from projections.projection import Projection
from projections.switch import StillRead, drop_unread
from projections.wishes import pending

FED_SECONDS = 2.0
"""How long it is watched whether a build's lanes on the bus move: with or without events they do every moment."""

WATCH_SECONDS = 0.1

_BUILDS = """
    select build, feed from projection_builds
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
_BUILD = "p.projection = %(projection)s and p.version = %(version)s and p.build = %(build)s"
# Whoever leads takes over what it feeds, under its own fence, and the fence of who led last stays. What nobody has led
# yet was made by a release that is only about to start.
_FOLLOWED = f"""
    select exists (select from projection_progress p left join leases l on l.name = 'follower'
                    where {_BUILD} and (p.fence = 0 or l.fence <= p.fence))
"""
_REBUILT = """
    select exists (select from leases
                    where name = 'rebuild ' || %(projection)s || ' v' || %(version)s and expires_at > clock_timestamp())
"""
_MOVED = f"""
    select min(p.position), min(p.position) >= min(h.position) from projection_progress p cross join log_head h
     where {_BUILD}
"""


class StillFed(Conflict):
    """Processes of another release feed this version; drop it when none of them runs any more."""

    code = "build-still-fed"


def unread_builds(
    connection: Connection[Any], declared: Iterable[Projection], name: str, version: int, number: int | None = None
) -> list[Build]:
    """The builds of a version that this release doesn't read, all or one; none where it reads it, or is too old for it.

    A version of the release before, which this one declares only to feed it, may be dropped although it is fed. Of one
    that isn't declared, what stands as its projection knows the names of its tables and nothing else; it may be a newer
    release's. Raises StillFed, NoOtherBuild.
    """
    own = {projection.version: projection for projection in declared if projection.name == name}
    if own and version >= max(own):
        return []
    rows = connection.execute(_BUILDS, {"projection": name, "version": version}).fetchall()
    found = [
        (Build(projection, build), feed)
        for build, feed in rows
        if (projection := own.get(version) or _known(connection, name, version, build))
    ]
    chosen = [(build, feed) for build, feed in found if number in {None, build.number}]
    if found and not chosen:
        raise NoOtherBuild(f"{name} v{version} has no build {number}")
    for build, feed in chosen:
        if version not in own and _is_fed(connection, build, feed):
            raise StillFed(f"{name} v{version} is fed by another release, or will be; drop it when none of that runs")
    return [build for build, _ in chosen]


def drop_unread_version(connection: Connection[Any], build: Build) -> None:
    """Drops a build that `unread_builds` has named; does nothing where somebody else was faster. Raises StillRead."""
    try:
        drop_unread(connection, build, lambda: connection.execute(_FORGET, build.key), though_active=True)
    except NoOtherBuild:
        connection.execute(_FORGET, build.key)


def settle_unread(connection: Connection[Any], declared: Sequence[Projection]) -> None:
    """Drops what was decided to go of versions that this release doesn't read: whoever decided it was killed.

    What somebody still feeds or reads is left for the next time. To be called before `settle`, which knows the versions
    that are read.
    """
    read = {(name, max(each.version for each in declared if each.name == name)) for name in {d.name for d in declared}}
    for wish in pending(connection):
        if wish.kind != "drop" or (wish.projection, wish.version) in read:
            continue
        with suppress(StillFed, StillRead, NoOtherBuild):
            for build in unread_builds(connection, declared, wish.projection, wish.version, wish.build):
                drop_unread_version(connection, build)


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


def _is_fed(connection: Connection[Any], build: Build, feed: str) -> bool:
    """Whether somebody brings it forward, or did until nobody fed anything any more."""
    match feed:
        case "follower":
            return _says_yes(connection, _FOLLOWED, build)
        case "rebuild":
            return _says_yes(connection, _REBUILT, build)
        case "faust":
            return _moves(connection, build)
        case _:
            return False


def _says_yes(connection: Connection[Any], query: str, build: Build) -> bool:
    row = connection.execute(query.encode(), build.key).fetchone()
    return bool(row and row[0])


def _moves(connection: Connection[Any], build: Build) -> bool:
    deadline, first = time.monotonic() + FED_SECONDS, None
    while True:
        position, is_level = connection.execute(_MOVED.encode(), build.key).fetchone() or (None, False)
        first = position if first is None else first
        if is_level or position != first:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(WATCH_SECONDS)
