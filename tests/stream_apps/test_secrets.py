"""No hash, token or key material reaches the bus: every type of event is published, and every byte searched."""

from typing import Any, get_type_hints
from uuid import uuid4

import pytest

from domain.aggregate import SECRET
from infra.disclosure import marked
from infra.event_store import Log, Metadata
from infra.messages import Messages, Place
from runtime import modules
from tests.schemas import fields_of
from tests.stream_apps.carrying import layout_of, relay_setup, relaying, wait_until_sent
from tests.stream_apps.events import KINDS, SAMPLES, recorded

MARK = "never-to-be-seen"
METADATA = Metadata(actor="user:ada", correlation_id="loom").to_bytes()


def sample(kind, name, hint):
    """A value that can be recognised, of the field's type; a secret one carries the mark."""
    if marked(kind).get(name) == SECRET:
        mark = f"{MARK}-{kind.TOPIC}-{name}"
        marked_by_type = {str: mark, dict[str, Any]: {"a name": mark}}
        assert hint in marked_by_type, f"{kind.TOPIC}.{name}: say here how a secret of this type is marked"
        return marked_by_type[hint]
    return SAMPLES[hint]


@pytest.fixture
def published(database, kafka):
    """Every byte that stands on the broker after every type of event was published, and how many events."""
    prefix = f"t{uuid4().hex}"
    setup = relay_setup(database, kafka.config, prefix)
    kafka.make(setup.wanted.topics(1))
    log = Log(database)
    for kind in KINDS:
        hints = get_type_hints(kind)
        said = {name: sample(kind, name, hints[name]) for name in fields_of(kind)}
        log.save_events([recorded(1, kind, uuid4(), 1, said).event], metadata=METADATA)
    log.close()
    with relaying(setup):
        wait_until_sent(database, len(KINDS))
    return [
        part
        for messages in kafka.messages(layout_of(database).places).values()
        for message in messages
        for part in (message.key() or b"", message.value() or b"", *(content for _, content in message.headers()))
    ]


def test_no_secret_of_any_type_of_event_reaches_the_bus(published, database):
    types = {part.decode() for part in published if part.decode() in {kind.TOPIC for kind in KINDS}}
    assert types == {kind.TOPIC for kind in KINDS}
    assert [part for part in published if MARK.encode() in part] == []


def test_the_marked_secrets_did_stand_in_the_log(published, database):
    log = Log(database)
    secrets = [value for event in log.read(0, 1000) for value in event.fields().values() if MARK in str(value)]
    log.close()
    assert len(secrets) == sum(list(marked(kind).values()).count(SECRET) for kind in KINDS) > 0


@pytest.mark.parametrize("projection", modules.projections(), ids=lambda projection: projection.name)
def test_no_function_of_a_projection_needs_a_secret(projection):
    """Statements are checked where they are declared; functions only show it when they run."""
    messages, here = Messages(b"k" * 32), Place("muniment.tea", 0)
    for kind, action in projection.on.items():
        hints = get_type_hints(kind)
        said = {name: SAMPLES[hints[name]] for name in fields_of(kind)}
        message = messages.event(here, recorded(1, kind, uuid4(), 1, said), previous=0, layout=1)
        carried = messages.open(here, message.key, message.value, message.headers)
        if callable(action):
            action(carried.recorded)
        if callable(invalidation := projection.invalidates.get(kind)):
            list(invalidation(carried.recorded))
