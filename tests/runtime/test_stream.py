"""When a stream worker gives a sign of life, when none, and when it gives itself up."""

import time
from dataclasses import dataclass
from typing import Any

import pytest

from infra.settings import Settings
from runtime.stream import BUSY_SECONDS, beat_if_well
from stream_apps.bus import Deaf

SETTINGS = Settings(stream_stuck_seconds=20.0)


@dataclass
class Feeder:
    """As far as it is asked how it is."""

    busy_seconds: float = 0.0
    silent_seconds: float = 0.0

    @property
    def alive_at(self) -> float:
        return time.monotonic() - self.busy_seconds


def beats(feeder: Any) -> int:
    heard: list[None] = []
    beat_if_well(feeder, SETTINGS, lambda: heard.append(None))
    return len(heard)


@pytest.mark.parametrize(
    ("feeder", "signs"),
    [
        (Feeder(), 1),
        (Feeder(busy_seconds=BUSY_SECONDS - 10, silent_seconds=19), 1),
        (Feeder(busy_seconds=BUSY_SECONDS + 10), 0),
    ],
    ids=["idle", "busy", "stuck"],
)
def test_gives_a_sign_of_life_unless_it_is_stuck(feeder: Feeder, signs: int) -> None:
    assert beats(feeder) == signs


def test_who_hears_nothing_gives_itself_up_so_that_the_group_learns_of_it() -> None:
    with pytest.raises(Deaf, match="for 21 s"):
        beats(Feeder(silent_seconds=21))


def test_who_is_stuck_leaves_it_to_the_guard_since_nothing_could_be_stopped_in_good_order() -> None:
    assert beats(Feeder(busy_seconds=BUSY_SECONDS + 10, silent_seconds=21)) == 0
