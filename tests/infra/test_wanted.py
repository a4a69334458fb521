"""What is looked for in the metadata is found, and nothing else, whatever strangers have written there."""

from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.audit import Entry
from domain.context import Actor, Context
from infra.event_store import Log, Metadata
from infra.wanted import Wanted

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        '"',
        "\\",
        '","correlation_id":"x',
        '\\","actor":"user:1',
        "\x00",
        "x" * 5_000,
        "é" * 3_000,
        "%s",
        '"correlation_id":"',
    ]
)


@pytest.fixture
def log(database: str):
    made = Log(database)
    yield made
    made.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(correlations=st.lists(TEXTS.filter(bool), min_size=1, max_size=5, unique=True), name=TEXTS)
def test_an_event_is_found_by_its_correlation_and_by_its_actor(log: Log, correlations, name):
    start, actor = log.head(), Actor("service", name)
    for correlation in correlations:
        entry = Entry("a.try", str(uuid4()), "success", {}, None)
        metadata = Metadata.from_context(Context(actor, correlation, user_agent=name or None))
        log.save_work([entry], metadata=metadata.to_bytes())
    for number, correlation in enumerate(correlations, start=1):
        assert [e.position for e in log.search(Wanted(correlation=correlation), start, 10)] == [start + number]
    found = log.search(Wanted(actor=str(actor)), start, 10)
    assert [event.metadata.correlation_id for event in found] == correlations
