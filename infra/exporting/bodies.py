"""What events say, from the bytes that are stored: by a list of what each type may say, so nothing else gets out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec
import orjson
from msgspec import UNSET, Raw, Struct, UnsetType

from infra.exporting.columns import shown_fields
from infra.transcoding import EventMapper, NewerSoftware, OrjsonTranscoder, event_type

S = TypeVar("S", bound=Struct)

_transcoder = OrjsonTranscoder()


class Unreadable(Exception):
    """An event's stored bytes don't make what its type promises."""


class Said(Struct):
    """The metadata that is shown. `ip` and `user_agent` are personal."""

    actor: str = ""
    correlation_id: str = ""
    causation_id: str | None = None
    config_version: int = 0
    ip: str | None = None
    user_agent: str | None = None


_said = msgspec.json.Decoder(Said)


def said(metadata: bytes) -> Said:
    """Who, and because of what. Raises Unreadable."""
    try:
        return _said.decode(metadata)
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from error


@dataclass(frozen=True, slots=True)
class Shape(Generic[S]):
    """How the events of one type are read: into structs with these fields and no others."""

    topic: str
    kind: type[Any]
    version: int
    struct: type[S]
    decoder: "msgspec.json.Decoder[S]"

    def read(self, state: bytes) -> S:
        """The fields, of the newest version. Raises Unreadable, NewerSoftware."""
        try:
            found = self.decoder.decode(state)
            if found.class_version != self.version:  # type: ignore[attr-defined]  # every shape has it
                found = self.decoder.decode(self._upcast(state))
        except NewerSoftware:
            raise
        except Exception as error:  # an upcast may fail in any way
            raise Unreadable(f"{self.topic}: {error}") from error
        found.class_version = 1  # type: ignore[attr-defined]  # the default, which isn't written
        return found

    def _upcast(self, state: bytes) -> bytes:
        upcast = EventMapper.upcast(self.kind, orjson.loads(state))
        return _transcoder.encode(upcast | {"class_version": self.version})


def shape(topic: str, name: str, types: Mapping[str, Any]) -> Shape[Any]:
    """Reads these fields of a type, as these types of msgspec's; what is missing is UNSET.

    Raises NewerSoftware for a topic that this release doesn't know.
    """
    kind = event_type(topic)
    version = getattr(kind, "class_version", 1)
    # stored without a version, an event is of the first
    fields = [(field, declared | UnsetType, UNSET) for field, declared in types.items()]
    struct = msgspec.defstruct(name, [*fields, ("class_version", int, 1)], omit_defaults=True)
    return Shape(topic, kind, version, struct, msgspec.json.Decoder(struct))


@cache
def verbatim(topic: str, personal: bool) -> Shape[Any]:
    """Reads the fields that may be shown, as the JSON that they are. Raises NewerSoftware."""
    names = shown_fields(event_type(topic), personal)  # type: ignore[arg-type]  # a class is hashable
    return shape(topic, "Verbatim", dict.fromkeys(names, Raw))


@cache
def plain(topic: str, personal: bool) -> Shape[Any]:
    """Reads the fields that may be shown, as plain values of JSON. Raises NewerSoftware."""
    names = shown_fields(event_type(topic), personal)  # type: ignore[arg-type]  # a class is hashable
    return shape(topic, "Plain", dict.fromkeys(names, Any))


def body(topic: str, state: bytes, personal: bool) -> dict[str, Any]:
    """What an event says, as plain values of JSON. Raises Unreadable, NewerSoftware."""
    found: Any = plain(topic, personal)
    read = found.read(state)
    names = found.struct.__struct_fields__[:-1]
    return {name: value for name in names if (value := getattr(read, name)) is not UNSET}
