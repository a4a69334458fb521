"""What operators decide about parked events is recorded, with who did it."""

from collections.abc import Iterator

import pytest

from commands.projections import RetryParked, SkipParked, retry_parked, skip_parked
from domain.context import Actor, Context
from domain.errors import Invalid
from infra.dispatch import Dispatcher
from infra.event_store import Log

CONTEXT = Context(Actor("operator", "grace"), "the-storm")


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    log = Log(database)
    yield log
    log.close()


@pytest.fixture
def dispatcher(log):
    return Dispatcher(log)


def test_a_retry_is_recorded_with_who_asked_for_it(dispatcher, log):
    dispatcher.dispatch(retry_parked, RetryParked("harbour"), CONTEXT)
    (recorded,) = log.read(0, 10)
    assert (recorded.topic, recorded.metadata.actor) == ("projections.RetryRequested", "operator:grace")
    assert recorded.fields() == {"projection": "harbour", "stream": None}


def test_a_skip_is_recorded_once_with_its_reason(dispatcher, log):
    skip = SkipParked("harbour", 7, "  lost with all hands ")
    dispatcher.dispatch(skip_parked, skip, CONTEXT)
    dispatcher.dispatch(skip_parked, skip, CONTEXT)
    (recorded,) = log.read(0, 10)
    assert (recorded.topic, recorded.metadata.actor) == ("projections.EventSkipped", "operator:grace")
    assert recorded.fields() == {"projection": "harbour", "position": 7, "reason": "lost with all hands"}


@pytest.mark.parametrize("reason", ["", "   ", "because " * 200])
def test_a_skip_without_a_reason_is_refused(dispatcher, log, reason):
    with pytest.raises(Invalid, match="say why"):
        dispatcher.dispatch(skip_parked, SkipParked("harbour", 7, reason), CONTEXT)
    assert log.head() == 0
