"""The AsyncAPI document is what stands on the bus: it is up to date, and real messages satisfy it."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import jsonschema_rs
import pytest
from hypothesis import given, settings

from infra.messages import Messages, Place, marks_of_all
from runtime.asyncapi import text
from tests.docs import DOCS
from tests.stream_apps.events import KINDS, any_recorded

DOCUMENT = json.loads((DOCS / "asyncapi.json").read_text())
MESSAGES = Messages(b"k" * 32)
HERE = Place("muniment.identity", 3)
NOON = datetime(2026, 5, 17, 12, tzinfo=UTC)


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def at(reference):
    node = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def satisfies(message, name):
    described = DOCUMENT["components"]["messages"][name]
    headers = {key: content.decode() for key, content in message.headers}
    for part, said in ((described["headers"], headers), (described["payload"], json.loads(message.value))):
        jsonschema_rs.validator_for(part | {"components": DOCUMENT["components"]}).validate(said)


def test_the_document_is_up_to_date():
    assert (DOCS / "asyncapi.json").read_text() == text(), "run: python -m runtime.asyncapi > docs/asyncapi.json"


def test_every_reference_leads_somewhere():
    assert all(at(reference) for reference in references(DOCUMENT))


def test_every_message_of_a_channel_is_of_its_module():
    for module, channel in DOCUMENT["channels"].items():
        modules = {name.partition(".")[0] for name in channel["messages"]}
        assert modules == {module, "muniment"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TOPIC)
def test_real_messages_satisfy_it(kind):
    @settings(max_examples=5, deadline=None)
    @given(any_recorded([kind]))
    def satisfied(sent):
        satisfies(MESSAGES.event(HERE, sent, previous=1, layout=1), kind.TOPIC)

    satisfied()


def test_watermarks_and_pointers_satisfy_it():
    satisfies(MESSAGES.watermark(HERE, "a:1", NOON, position=9, previous=5, layout=1), "muniment.watermark")
    newest = {"muniment.identity": 5, "muniment.projections": 9}
    marks = marks_of_all(b"a:1", NOON, position=9, newest=newest)
    satisfies(
        MESSAGES.watermarks(HERE, b"a:1", NOON, position=9, previous=5, layout=1, marks=marks),
        "muniment.watermarks",
    )
    satisfies(MESSAGES.pointer(HERE, uuid4(), 1, NOON, position=9, previous=5, layout=1), "muniment.pointer")
