"""Processes are killed, frozen and cut off while configuration changes; in the end each runs with the newest."""

import os
import shutil
import tempfile
import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.configuration.instances import State
from tests.e2e.configured import (
    CHOICES,
    SECRET,
    SECRET_REFERENCE,
    WRONG,
    Administrator,
    Fleet,
    Mishaps,
)
from tests.e2e.platform import ADMIN, eventually

RACES_EACH = 5
"""One of so many updates is a race of two administrators for one version."""
WRONG_EACH = 10
LONGEST_PAUSE_SECONDS = 0.3
"""Between updates: or all would be over before who was killed is there again."""
RECOVERY_SECONDS = 60.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets have little room."""
    path = Path(tempfile.mkdtemp(prefix="muniment-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def seed() -> int:
    return int(os.environ.get("DRILL_SEED", datetime.now(UTC).microsecond))


def drill(fleet: Fleet, updates: int, mishaps: int) -> None:
    """So many updates and mishaps; and then what must be so."""
    admins = [Administrator(fleet, caller) for caller in fleet.admins] + [Administrator(fleet)]
    troubles = Mishaps(fleet)
    began = time.monotonic()
    for number in range(updates):
        time.sleep(fleet.chance.uniform(0, LONGEST_PAUSE_SECONDS))
        troubles.mend()
        if fleet.chance.random() < mishaps / updates:
            troubles.one()
        if number % RACES_EACH == 1:
            race(fleet, admins)
        elif number % WRONG_EACH == 3:
            assert fleet.chance.choice(admins).is_refused(*fleet.chance.choice(WRONG))
        else:
            one_update(fleet, admins)
    took = time.monotonic() - began
    troubles.mend(everything=True)
    recovering = time.monotonic()
    while not fleet.is_level() and time.monotonic() - recovering < RECOVERY_SECONDS:
        fleet.keep()
        time.sleep(0.05)
    fleet.level(1.0)
    heard = sum((admin.heard for admin in admins), Tally())
    waited = sorted(1e3 * each.seconds for admin in admins for each in admin.stored if each.complete)
    print(
        f"{updates} updates in {took:.0f} s, {dict(troubles.happened)}, {dict(heard)},"
        f" level after {time.monotonic() - recovering:.1f} s;"
        f" {len(waited)} answers to which nobody was missing, median {waited[len(waited) // 2] if waited else 0:.0f} ms"
    )
    check_history(fleet, admins)
    check_what_runs(fleet)


def choice(fleet: Fleet) -> tuple[str, dict[str, Any]]:
    """What to change, and to what."""
    namespace, key = fleet.chance.choice(sorted(CHOICES))
    return namespace, {key: fleet.chance.randint(*CHOICES[namespace, key])}


def one_update(fleet: Fleet, admins: list[Administrator]) -> None:
    """By anybody. Who gets no answer leaves it at that; the one at the machine keeps at it until it is stored."""
    admin, (namespace, values) = fleet.chance.choice(admins), choice(fleet)
    if admin.caller is not None:
        admin.patch(namespace, values)
    else:
        eventually(lambda: admin.patch(namespace, values) or is_so(fleet, namespace, values), 30, pause_seconds=0.1)


def is_so(fleet: Fleet, namespace: str, values: dict[str, Any]) -> bool:
    return values.items() <= fleet.document(namespace).items()


def race(fleet: Fleet, admins: list[Administrator]) -> None:
    """Two have read the same version and change it at once, each something else: at most one of them does."""
    namespace, values = choice(fleet)
    version = fleet.versions().get(namespace, 0)
    (key, value), (low, high) = next(iter(values.items())), CHOICES[namespace, next(iter(values))]
    others = {key: low + (value + 1 - low) % (high - low + 1)}
    first, second = fleet.chance.sample(admins, k=2)
    made: list[int | None] = []
    threads = [
        threading.Thread(target=lambda admin=admin, to=to: made.append(admin.patch(namespace, to, if_match=version)))
        for admin, to in ((first, values), (second, others))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len([each for each in made if each is not None]) <= 1, (namespace, version, made)


def check_history(fleet: Fleet, admins: list[Administrator]) -> None:
    """Every answered update is the version that it was said to be, once; none is there that nobody asked for."""
    rows = fleet.sql(
        "select h.namespace, e.originator_version, convert_from(e.state, 'UTF8')::jsonb ->> 'reason'"
        " from stored_events e join configuration_heads h on h.stream = e.originator_id"
        " where e.topic = 'configuration.ConfigurationChanged'"
    )
    recorded = {(namespace, version): mark for namespace, version, mark in rows}
    stored = {(each.namespace, each.version): each.mark for admin in admins for each in admin.stored}
    assert len(stored) == sum(len(admin.stored) for admin in admins)
    assert {place: recorded.get(place) for place in stored} == stored
    lost = {mark for admin in admins for mark in admin.lost}
    assert {mark for place, mark in recorded.items() if place not in stored} <= lost
    assert len(set(recorded.values())) == len(recorded)


def check_what_runs(fleet: Fleet) -> None:
    """Not only what the processes say: what they do."""
    position = fleet.newest_position()
    everything = fleet.sql("select id, position, running from configuration_instances where namespace = '*'")
    alive = {each.id for each in fleet.instances("api")}
    assert {at for name, at, _ in everything if name in alive} == {position}
    lifetime = fleet.document("identity").get("access_token_seconds", 86_400)
    for api in fleet.apis:
        answers = [api.login(*ADMIN).tokens for _ in range(4)]
        assert {answer["expires_in"] for answer in answers} == {lifetime}
    head = fleet.sql("select position from log_head")[0][0]
    fleet.apis[0].login(*ADMIN)
    decided = fleet.sql(
        "select convert_from(metadata, 'UTF8')::jsonb ->> 'config_version' from stored_events"
        " where notification_id > %s and topic = 'identity.SessionOpened'",
        head,
    )
    assert {int(version) for (version,) in decided} == {position}


def test_whoever_is_killed_frozen_or_cut_off_runs_with_the_newest_in_the_end(folder: Path) -> None:
    number = seed()
    print(f"DRILL_SEED={number}")
    with Fleet(folder, many=False, seed=number) as fleet:
        drill(fleet, updates=40, mishaps=8)


@pytest.mark.faults
@pytest.mark.timeout(1_500)
def test_five_hundred_updates_while_eight_processes_are_killed_frozen_and_cut_off(folder: Path) -> None:
    number = seed()
    print(f"DRILL_SEED={number}")
    with Fleet(folder, many=True, seed=number) as fleet:
        drill(
            fleet,
            updates=int(os.environ.get("DRILL_UPDATES", "500")),
            mishaps=int(os.environ.get("DRILL_KILLS", "150")),
        )
        check_who_lacks_a_secret(fleet)


def check_who_lacks_a_secret(fleet: Fleet) -> None:
    """One process can't have a secret that all others have: it refuses, says which field, and stays as it was."""
    admin = Administrator(fleet)
    version = admin.patch("onboarding", {"smtp_url": SECRET_REFERENCE, "mail_from": "muniment@mail.example"})
    assert version
    fleet.level()
    found = fleet.instances("onboarding")
    (deaf,) = [each for each in found if each.state(version) is State.REFUSED]
    assert fleet.deaf is not None
    assert deaf.pid == fleet.deaf.process.pid
    assert deaf.refused is not None
    assert [each.field for each in deaf.refused.errors] == ["smtp_url"]
    assert deaf.version < version
    assert {each.state(version) for each in found if each is not deaf} == {State.APPLIED}
    for member in fleet.members:
        assert SECRET not in member.part.log.read_text()
