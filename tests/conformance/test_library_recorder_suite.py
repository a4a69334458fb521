"""The library's own suite for recorders, run against ours. Its printing benchmarks are left out."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from eventsourcing.persistence import StoredEvent

from infra.recorder import Limits, LogDatastore, LogRecorder

# The suite's module also holds cases for ciphers, and imports one that needs a package we have no use for.
with patch.dict(sys.modules, {"eventsourcing.cipher": SimpleNamespace(AESCipher=None)}):
    from eventsourcing.tests import persistence as suite


class RecorderOverDatabase:
    """What the library's cases need: a recorder on a fresh log."""

    @pytest.fixture(autouse=True)
    def _recorder(self, database: str) -> Iterator[None]:
        self.recorder = LogRecorder(LogDatastore(database, Limits()))
        yield
        self.recorder.close()

    def create_recorder(self) -> LogRecorder:
        return self.recorder


class TestApplicationRecorder(RecorderOverDatabase, suite.ApplicationRecorderTestCase[LogRecorder]):
    def test_performance(self) -> None:
        """Prints a time; asserts nothing."""

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestPositionsDontInterleave(RecorderOverDatabase, suite.NonInterleavingNotificationIDsBaseCase):
    pass


class TestAggregateRecorder(RecorderOverDatabase, suite.RecorderTestCase):
    """The library's case for recorders without positions expects None from an insert: here with positions."""

    def test_insert_and_select(self) -> None:
        recorder, stream = self.recorder, self.new_originator_id()
        events = [StoredEvent(stream, version, f"topic{version}", b"state%d" % version) for version in (1, 2, 3)]

        self.assert_events_eq(recorder.select_events(stream), [])
        assert recorder.insert_events([]) == []
        assert recorder.insert_events(events[:1]) == [1]
        assert recorder.insert_events(events[1:]) == [2, 3]

        self.assert_events_eq(recorder.select_events(stream), events)
        self.assert_events_eq(recorder.select_events(stream, gt=1), events[1:])
        self.assert_events_eq(recorder.select_events(stream, lte=2), events[:2])
        self.assert_events_eq(recorder.select_events(stream, gt=1, lte=2), events[1:2])
        self.assert_events_eq(recorder.select_events(stream, desc=True), events[::-1])
        self.assert_events_eq(recorder.select_events(stream, desc=True, limit=1), events[2:])
        self.assert_events_eq(recorder.select_events(stream, limit=1), events[:1])
