"""The chains of one layout: what was sent to each partition, and what the next message there must say. No I/O."""

from collections.abc import Mapping

from infra.layouts import Reached
from infra.messages import Place


class Chains:
    """Counts on from how far each chain has come.

    Whoever counts on from any earlier state of the same chains comes to the same links: so a relay that takes over,
    or one that runs beside another, sends the same chain again and no other.
    """

    def __init__(self, reached: Mapping[Place, Reached]) -> None:
        self._at = {place: [each.position, each.previous] for place, each in reached.items()}
        self.level = max(position for position, _ in self._at.values())
        """The position from which on all chains have come as far: below it, some tell of later events already."""

    @property
    def start(self) -> int:
        """The position behind which at least one chain goes on."""
        return min(position for position, _ in self._at.values())

    def link(self, place: Place, position: int) -> int | None:
        """Takes the event at this position into its chain: the event before it; None where it stands there already."""
        at = self._at[place]
        sent, previous = at
        if position <= sent:
            return None
        at[:] = position, position
        return previous

    def previous(self, place: Place) -> int:
        """The newest event there."""
        return self._at[place][1]

    def newest(self, partition: int) -> dict[str, int]:
        """The newest event in this partition of each topic."""
        return {place.topic: previous for place, (_, previous) in self._at.items() if place.partition == partition}

    def behind(self, position: int, *, everywhere: bool = False) -> dict[Place, int]:
        """Lets all chains keep up with the log: the newest event of each that needs a watermark for it.

        `everywhere`: those, too, that were thought to be up to date.
        """
        late = {
            place: previous
            for place, (sent, previous) in self._at.items()
            if sent < position or (everywhere and sent == position)
        }
        for place in late:
            self._at[place][0] = position
        return late
