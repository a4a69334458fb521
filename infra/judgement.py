"""Which saves of a group may be appended, as if they came one by one."""

from collections.abc import Sequence
from uuid import UUID

from eventsourcing.persistence import IntegrityError

from infra.save import Save

Pair = tuple[UUID, int]


def judge(
    saves: Sequence[Save], existing: set[Pair], newest: dict[UUID, int]
) -> tuple[list[Save], list[tuple[Save, IntegrityError]]]:
    """Walks the group in order. Who contradicts what is recorded gets its error.

    Returns the winners, and their rivals: who contradicts only an earlier save of the group, and would be right if that
    one came to nothing.
    """
    winners: list[Save] = []
    rivals: list[tuple[Save, IntegrityError]] = []
    ahead, after = set(existing), dict(newest)
    for save in saves:
        conflict = _conflict(save, ahead, after)
        if conflict is None:
            winners.append(save)
            ahead.update(save.pairs)
            after.update((stream, max(after[stream], version)) for stream, version in save.pairs if stream in after)
        elif winners and not _conflict(save, existing, newest):
            rivals.append((save, conflict))
        else:
            save.error = conflict
    return winners, rivals


def _conflict(save: Save, existing: set[Pair], newest: dict[UUID, int]) -> IntegrityError | None:
    if len(set(save.pairs)) < len(save.pairs):
        return IntegrityError("the save has one version of a stream twice")
    for stream, version in save.pairs:
        if (stream, version) in existing:
            return IntegrityError(f"stream {stream} has version {version} already")
    for stream, version in save.guards:
        if newest[stream] != version:
            return IntegrityError(f"stream {stream} is at version {newest[stream]}, no longer at {version}")
    return None
