"""Every event either means something to an auditor or is declared routine."""

import pytest

from domain.audit import Entry
from infra.transcoding import event_types
from projections.audit import AUDIT, AUDITED, ROUTINE
from runtime import modules

assert modules.MODULES  # so that every module's events are known

EVENTS = event_types("domain")


@pytest.mark.parametrize("topic", sorted(EVENTS))
def test_the_event_is_either_audited_or_declared_routine(topic):
    kind = EVENTS[topic]
    audited, routine = kind in {*AUDITED, Entry.Recorded}, kind in ROUTINE
    assert audited != routine, f"put {topic} into AUDITED or into ROUTINE of projections/audit.py"


def test_what_is_audited_becomes_an_entry():
    assert set(AUDIT.on) == {*AUDITED, Entry.Recorded}


def test_success_and_failure_have_different_codes():
    outcomes = {(meaning.action, meaning.outcome) for meaning in AUDITED.values()}
    assert len(outcomes) == len({action for action, _ in outcomes})


def test_nothing_is_declared_that_doesnt_exist():
    assert {*AUDITED, Entry.Recorded, *ROUTINE} <= set(EVENTS.values())
