"""What a row may show: everything but what is personal. Rows hold no secrets; those never leave the store."""

from typing import Any

from domain.aggregate import PERSONAL
from infra.disclosure import marked
from projections.projection import Projection

OF_THE_REQUEST = frozenset({"ip", "user_agent"})
"""Metadata that tells something about a person."""


class Disclosure:
    """A column is personal if it is called as a personal field of an event that the view is made from."""

    def __init__(self, projection: Projection) -> None:
        fields = {name for event in projection.on for name, mark in marked(event).items() if mark == PERSONAL}
        self.personal = frozenset(fields | OF_THE_REQUEST)

    def shown(self, row: dict[str, Any] | None) -> dict[str, Any] | None:
        """The row without its personal columns."""
        return None if row is None else {name: value for name, value in row.items() if name not in self.personal}
