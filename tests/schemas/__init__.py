"""The recorded form of every event type: what is stored can't be changed, only followed by a new version."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

import domain
from infra.transcoding import event_types

RECORDED = Path(__file__).with_name("events.json")
LEFT_OUT = {"originator_id", "originator_version", "originator_topic", "timestamp"}

Fields = dict[str, Any]
Schemas = dict[str, dict[str, Fields]]
"""topic -> version -> field -> JSON Schema"""


def recorded() -> Schemas:
    """What `events.json` says."""
    return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}


def catalogue() -> dict[str, type[Any]]:
    """Every event type of the domain, by topic."""
    for module in pkgutil.walk_packages(domain.__path__, "domain."):
        importlib.import_module(module.name)
    return event_types("domain")


def version_of(kind: type[Any]) -> int:
    return getattr(kind, "class_version", 1)


def fields_of(kind: type[Any]) -> Fields:
    """The stored fields with the JSON Schema of each; what is stored of nested types counts, too."""
    hints = get_type_hints(kind)
    names = sorted(set(kind.__dataclass_fields__) - LEFT_OUT)
    return {name: without_prose(schema_of(hints[name])) for name in names}


def schema_of(declared: Any) -> Any:
    try:
        return msgspec.json.schema(declared)
    except TypeError:
        return str(declared)


def without_prose(schema: Any) -> Any:
    """Documentation may change freely."""
    if isinstance(schema, dict):
        return {key: without_prose(value) for key, value in schema.items() if key not in ("title", "description")}
    return [without_prose(item) for item in schema] if isinstance(schema, list) else schema


def objections(known: Schemas, kinds: dict[str, type[Any]]) -> list[str]:
    """Why these types can't follow the recorded ones; empty if they can."""
    found = [f"{topic} is gone, and its events can't be read any more" for topic in known if topic not in kinds]
    for topic, kind in kinds.items():
        versions, version = known.get(topic, {}), version_of(kind)
        if versions and version < max(map(int, versions)):
            found.append(f"{topic} went back to version {version}")
        if str(version) in versions and versions[str(version)] != fields_of(kind):
            found.append(f"{topic} has changed: give it class_version = {version + 1} and an upcast")
        steps = [f"upcast_v{step}_v{step + 1}" for step in range(1, version)]
        found += [f"{topic} has no {step}" for step in steps if not hasattr(kind, step)]
    return found


def unrecorded(known: Schemas, kinds: dict[str, type[Any]]) -> list[str]:
    """Topics whose present version isn't recorded yet."""
    return [topic for topic, kind in kinds.items() if str(version_of(kind)) not in known.get(topic, {})]


def record(known: Schemas, kinds: dict[str, type[Any]]) -> Schemas:
    """The schemas with what is new in them. Raises ValueError for what may not be recorded."""
    if refused := objections(known, kinds):
        raise ValueError("\n".join(refused))
    new = {topic: {str(version_of(kinds[topic])): fields_of(kinds[topic])} for topic in unrecorded(known, kinds)}
    return {topic: known.get(topic, {}) | new.get(topic, {}) for topic in sorted({*known, *new})}
