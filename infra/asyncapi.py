"""The AsyncAPI 3 document of the bus: every topic, every type of message, every field that may stand there.

    python -m runtime.asyncapi > docs/asyncapi.json

It is also the list, to be read and reviewed, of what leaves the event store: secret fields aren't in it.
"""

from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

from domain.aggregate import PERSONAL
from infra.disclosure import marked
from infra.envelope import CONTENT_TYPE, SOURCE
from infra.event_store import Metadata
from infra.messages import POINTER, WATERMARK, WATERMARKS, published
from infra.topics import topic_name

DIGITS = {"type": "string", "pattern": "^[0-9]+$"}
TEXT = {"type": "string"}
OPTIONAL_HEADERS = ("ce_subject", "ce_correlationid", "ce_causationid", "ce_traceparent", "ce_watermarks")
CONTROL = "projections"
"""In whose topic the watermarks of all stand."""

SCHEMAS = "#/components/schemas/"

_HEADERS: dict[str, dict[str, Any]] = {
    CONTENT_TYPE: {"const": "application/json"},
    "ce_specversion": {"const": "1.0"},
    "ce_id": TEXT | {"description": "The event's id, `stream:version`; of a watermark, that and its place."},
    "ce_source": {"const": SOURCE},
    "ce_type": TEXT | {"description": "The event's type."},
    "ce_time": TEXT | {"format": "date-time", "description": "When the event was recorded."},
    "ce_subject": TEXT | {"format": "uuid", "description": "The event's stream, which is the message's key, too."},
    "ce_position": DIGITS | {"description": "The event's position in the log."},
    "ce_previous": DIGITS | {"description": "The position of the event before it in this partition and layout."},
    "ce_layout": DIGITS | {"description": "The number of the layout whose chain this is."},
    "ce_correlationid": TEXT | {"description": "Shared by all that follows from one request."},
    "ce_causationid": TEXT | {"description": "The event that led to this one."},
    "ce_traceparent": TEXT | {"description": "W3C Trace Context."},
    "ce_watermarks": TEXT
    | {
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": f"{SCHEMAS}watermarks"},
        "description": "Through which position all that stands in this partition of any topic is sent.",
    },
    "ce_seal": {
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "HMAC-SHA-256 over place, key, headers and value.",
    },
}


def document(types: Mapping[str, type[Any]], version: str) -> dict[str, Any]:
    """The document for these event types by topic, in this release."""
    modules: dict[str, list[str]] = {}
    for topic in sorted(types):
        modules.setdefault(topic.partition(".")[0], []).append(topic)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Muniment: the log on Kafka",
            "version": version,
            "license": {"name": "Apache-2.0"},
            "description": "Each event of the log, as a CloudEvent 1.0 in Kafka's binary mode. docs/bus.md tells more.",
        },
        "defaultContentType": "application/json",
        "channels": {module: _channel(module, topics) for module, topics in modules.items()},
        "operations": {f"carry-{module}": _operation(module) for module in modules},
        "components": {
            "messages": {topic: _event_message(topic, types[topic]) for topic in sorted(types)}
            | {WATERMARK: _watermark(), WATERMARKS: _watermarks(), POINTER: _pointer()},
            "schemas": {
                "headers": {
                    "type": "object",
                    "properties": _HEADERS,
                    "required": [name for name in _HEADERS if name not in OPTIONAL_HEADERS],
                },
                "metadata": _metadata(),
                "watermarks": _marks(),
                "nothing": {"type": "object", "additionalProperties": False},
            },
        },
    }


def _channel(module: str, topics: list[str]) -> dict[str, Any]:
    names = [*topics, WATERMARK, *([WATERMARKS] if module == CONTROL else []), POINTER]
    address = topic_name("muniment", module, 1)
    return {
        "address": address,
        "description": f"Another incarnation's topic is `{address}.k2`, and so on. MUNIMENT_KAFKA_PREFIX changes the"
        " first part.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": {"bindingVersion": "0.5.0", "topicConfiguration": {"cleanup.policy": ["delete"]}}},
    }


def _operation(module: str) -> dict[str, Any]:
    return {"action": "send", "channel": {"$ref": f"#/channels/{module}"}, "summary": "The relay carries the log."}


def _event_message(topic: str, kind: type[Any]) -> dict[str, Any]:
    summary = (kind.__doc__ or "").strip().partition("\n")[0]
    return {
        "name": topic,
        **({"summary": summary} if summary and not summary.startswith(kind.__name__ + "(") else {}),
        "headers": {"$ref": f"{SCHEMAS}headers"},
        "payload": {
            "type": "object",
            "properties": {"event": _fields(kind), "metadata": {"$ref": f"{SCHEMAS}metadata"}},
            "required": ["event", "metadata"],
            "additionalProperties": False,
        },
    }


def _fields(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    marks = marked(kind)  # type: ignore[arg-type]  # a class is hashable
    fields: dict[str, Any] = {}
    for name in published(kind):  # type: ignore[arg-type]  # a class is hashable
        personal = {"x-personal": True} if marks.get(name) == PERSONAL else {}
        fields[name] = msgspec.json.schema(hints.get(name, str)) | personal
    if (version := getattr(kind, "class_version", 1)) > 1:
        fields["class_version"] = {"const": version}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _metadata() -> dict[str, Any]:
    hints = get_type_hints(Metadata)
    properties = {name: msgspec.json.schema(hints[name]) for name in Metadata.__struct_fields__}
    return {"type": "object", "properties": properties}


def _watermark() -> dict[str, Any]:
    return {
        "name": WATERMARK,
        "summary": "This partition has nothing between `previous` and `position`. Not part of the chain; has no key.",
        "headers": {"$ref": f"{SCHEMAS}headers"},
        "payload": {"$ref": f"{SCHEMAS}nothing"},
    }


def _watermarks() -> dict[str, Any]:
    return {
        "name": WATERMARKS,
        "summary": "The header `ce_watermarks` of a partition in which no event could carry it. Has no key.",
        "headers": {"$ref": f"{SCHEMAS}headers"},
        "payload": {"$ref": f"{SCHEMAS}nothing"},
    }


def _marks() -> dict[str, Any]:
    count = {"type": "integer", "minimum": 0}
    properties = {
        "position": count | {"description": "Through which position it is sent."},
        "id": TEXT | {"description": "The id of the event there, `stream:version`."},
        "time": TEXT | {"format": "date-time", "description": "When that was recorded."},
        "newest": {
            "type": "object",
            "description": "The position of the newest event in this partition, by topic.",
            "additionalProperties": count,
        },
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _pointer() -> dict[str, Any]:
    return {
        "name": POINTER,
        "summary": "There is an event that is too large for a message or can't be read: the log has it.",
        "headers": {"$ref": f"{SCHEMAS}headers"},
        "payload": {"$ref": f"{SCHEMAS}nothing"},
    }
