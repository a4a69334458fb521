"""Decisions about builds that haven't taken effect yet: written in the decision's own commit, gone with its effect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from domain.builds import BuildDrop, CutOver, Rebuild, Rollback
from infra.inline import Inline

_WISH = """
    insert into projection_wishes (position, kind, projection, version, {columns}, actor)
    values (%(position)s, '{kind}', %(projection)s, %(projection_version)s, {values}, %(actor)s)
"""


def _of_build(kind: str) -> str:
    return _WISH.format(kind=kind, columns="build", values="%(build)s")


WISHES = Inline(
    name="projections",
    on={
        Rebuild.Requested: _WISH.format(kind="rebuild", columns="rate, attended", values="%(rate)s, %(attended)s"),
        CutOver.Decided: _of_build("cutover"),
        Rollback.Decided: _of_build("rollback"),
        BuildDrop.Decided: _of_build("drop"),
    },
)

_PENDING = """
    select position, kind, projection, version, build, rate, attended, actor
      from projection_wishes order by position
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """One decision: `kind` is rebuild, cutover, rollback or drop; `position` is that of its event."""

    position: int
    kind: str
    projection: str
    version: int
    build: int | None
    rate: int | None
    attended: bool
    actor: str

    @property
    def key(self) -> Mapping[str, Any]:
        """The build's columns in the tables of the engine."""
        return {"projection": self.projection, "version": self.version, "build": self.build}


def pending(connection: Connection[Any]) -> list[Wish]:
    """What hasn't taken effect yet, in the order in which it was decided."""
    with connection.cursor(row_factory=class_row(Wish)) as cursor:
        return cursor.execute(_PENDING).fetchall()


def forget(connection: Connection[Any], wish: Wish) -> None:
    """It has taken effect, in the transaction that the connection is in; or it can't any more."""
    connection.execute("delete from projection_wishes where position = %s", (wish.position,))
