"""Documents as text that people edit: JSON with comments and commas where it pleases, which holds every document.

What is shown says of each key what it means, within which bounds, and what holds where nothing is stored: such keys
stand there as comments, to be taken in by deleting the `//`. What was wrong stands above its line, behind a `//!`.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from domain.errors import FieldError
from runtime.cli.config.shared import Shown
from runtime.cli.output import printable

WIDTH = 100
NOTE = "//!"
ERRORS_SHOWN = 50

# What nothing closes goes to the end, so that it isn't looked at again from each of its characters.
_STRING = r'"(?:\\.|[^"\\\n])*+"?'
_COMMENT = r"//[^\n]*+|/\*(?s:.*?)(?:\*/|\Z)"
_PASSED = re.compile(rf"(?P<text>{_STRING})|{_COMMENT}|,(?=(?:\s++|{_COMMENT})*+[}}\]])")
_TOKEN = re.compile(rf"{_STRING}|[{{}}\[\]:]")
_NOT_BLANK = re.compile(r"[^ \t\r\n]")


class Unreadable(Exception):
    """A text is no document; `line` (1 and up) is where, if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.message = message
        self.line = line


def parsed(text: str) -> dict[str, Any]:
    """The document. Raises Unreadable: no JSON, a key that is given twice, not an object."""
    plain = _without_comments(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
    try:
        found = json.loads(plain, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(f"this isn't JSON: {error.msg}, at column {error.colno}", error.lineno) from None
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except ValueError as error:  # such as thousands of digits
        raise Unreadable(str(error).partition(";")[0]) from None
    if not isinstance(found, dict):
        raise Unreadable("a document is a JSON object: {...}")
    return found


def rendered(shown: Shown, stored: Mapping[str, Any], said: Sequence[str] = ()) -> str:
    """The text to edit: these values in place of the stored ones. `said` stands above it, as notes."""
    fixed = shown.schema.restart_only
    keys = [key for key in (*shown.schema.properties, *stored) if key not in fixed or key in stored]
    lines = [*(f"{NOTE} {line}" for each in said for line in _wrapped(each, "")), *_comments(_head(shown), "")]
    lines += ["{"]
    for key in dict.fromkeys(keys):
        lines += [*_comments(_about(shown, key), "  "), *_entry(shown, key, stored), ""]
    lines = [*lines[:-1], "}"] if lines[-1] == "" else [*lines, "}"]
    if fixed:
        lines += ["", *_comments(["These take effect at a restart only, and are set by variables:"], "")]
        lines += [
            _comment(f"  {variable or key}: {_shortly(shown.whole.get(key))}", "") for key, variable in fixed.items()
        ]
    return "\n".join(lines) + "\n"


def without_notes(text: str) -> str:
    """What somebody has written, without what was said about it."""
    return "\n".join(line for line in text.split("\n") if not line.lstrip().startswith(NOTE))


def annotated(text: str, errors: Iterable[FieldError], said: str) -> str:
    """The same text, with each error above the line of its key; `text` has no notes."""
    places = _places(text)
    above: dict[int, list[str]] = {}
    for error in list(errors)[:ERRORS_SHOWN]:
        where = places.get(_key_of(error.field, places), 0)
        above.setdefault(where, []).append(f"{error.field}: {error.message}" if error.field else error.message)
    return _with_notes(text, above, said)


def pointed_out(text: str, error: Unreadable, said: str) -> str:
    """The same text, with the error above the line where it is."""
    return _with_notes(text, {(error.line or 1) - 1 if error.line else 0: [error.message]}, said)


def _with_notes(text: str, above: Mapping[int, Sequence[str]], said: str) -> str:
    lines = [f"{NOTE} {line}" for line in _wrapped(said, "")]
    for number, line in enumerate(text.split("\n")):
        indent = line[: len(line) - len(line.lstrip())]
        lines += [f"{indent}{NOTE} {each}" for message in above.get(number, ()) for each in _wrapped(message, indent)]
        lines.append(line)
    return "\n".join(lines)


def _without_comments(text: str) -> str:
    """The same with blanks in place of comments and of commas that nothing follows, so that places stay."""
    return _PASSED.sub(lambda found: found["text"] or _NOT_BLANK.sub(" ", found[0]), text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise Unreadable(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise Unreadable(f"{name} is no number that JSON has")


def _places(text: str) -> dict[str, int]:
    """The line (0 and up) of each key of the document, as far as it can be read."""
    plain, depth, last, found = _without_comments(text), 0, None, dict[str, int]()
    line, counted = 0, 0
    for token in _TOKEN.finditer(plain):
        if token[0] in "{[":
            depth += 1
        elif token[0] in "}]":
            depth -= 1
        elif token[0] == ":":
            if depth == 1 and last is not None:
                line, counted = line + plain.count("\n", counted, last.start()), last.start()
                found.setdefault(_name(last[0]), line)
        else:
            last = token
    return found


def _name(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted


def _key_of(field: str, keys: Iterable[str]) -> str:
    """The key that a path begins with: keys may have dots in them."""
    fitting = (key for key in keys if field == key or field.startswith((f"{key}.", f"{key}[")))
    return max(fitting, key=len, default="")


_HOW = (
    "What stands here without // is stored and counts in every process; what has it is what holds otherwise: take it"
    " away to store another value, put it there to go back. Save and leave the editor to store this; delete everything"
    " to give up."
)


def _head(shown: Shown) -> list[str]:
    return [f"Configuration of {shown.name}, version {shown.head.version}.", "", _HOW]


def _about(shown: Shown, key: str) -> Iterator[str]:
    """What a key means, within which bounds, and what holds where nothing is stored."""
    said = shown.schema.properties.get(key, {})
    if text := said.get("description"):
        yield f"{text}"
    facts = [*facts_of(said)]
    if "default" in said:
        facts.append(f"default {_shortly(said['default'])}")
    if key in shown.file:
        facts.append(f"the environment says {_shortly(shown.file[key])}")
    if facts:
        yield "; ".join(facts)


def facts_of(said: Mapping[str, Any]) -> Iterator[str]:
    """Kind, unit, bounds and choices of a value, in words."""
    if "enum" in said:
        yield "one of " + ", ".join(map(_shortly, said["enum"]))
    elif kind := said.get("type"):
        yield kind if isinstance(kind, str) else " or ".join(map(str, kind))
    if unit := said.get("x-unit"):
        yield f"in {unit}"
    bounds = [f"{word} {said[name]:,}" for name, word in _BOUNDS if isinstance(said.get(name), int | float)]
    if bounds:
        yield ", ".join(bounds)
    if "pattern" in said:
        yield f"such as {said['examples'][0]}" if said.get("examples") else f"matching {said['pattern']}"
    if said.get("x-secret") is True:
        yield "a secret: only a reference is stored, secret://name or secret://name#version"
    if said.get("x-restart") is True:
        yield "takes effect at a restart only"


_BOUNDS = (
    ("minimum", "at least"), ("exclusiveMinimum", "more than"), ("maximum", "at most"),
    ("exclusiveMaximum", "less than"), ("multipleOf", "a multiple of"), ("minLength", "characters: at least"),
    ("maxLength", "characters: at most"), ("minItems", "items: at least"), ("maxItems", "items: at most"),
)  # fmt: skip


def _entry(shown: Shown, key: str, stored: Mapping[str, Any]) -> list[str]:
    if key in stored:
        return [f"  {line}" for line in _assigned(key, stored[key])]
    value = shown.whole[key] if key in shown.whole else _example(shown.schema.properties.get(key, {}))
    return [f"  // {line}" for line in _assigned(key, value)]


def _assigned(key: str, value: Any) -> list[str]:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    return f"{orjson.dumps(key).decode()}: {text},".split("\n")


def _example(said: Mapping[str, Any]) -> Any:
    """Something of the right kind, for a key that has no default."""
    for given in (said.get("examples"), said.get("enum")):
        if given:
            return given[0]
    kind = said.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    blanks: dict[Any, Any] = {"boolean": False, "integer": 0, "number": 0, "array": [], "object": {}, "null": None}
    return said.get("minimum", blanks.get(kind, ""))


def _shortly(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _comments(paragraphs: Iterable[str], indent: str) -> list[str]:
    return [_comment(line, indent) for each in paragraphs for line in _wrapped(each, indent)]


def _comment(line: str, indent: str) -> str:
    return f"{indent}// {line}".rstrip()


def _wrapped(text: str, indent: str) -> list[str]:
    """No character of it begins another line or drives a terminal: it may come from strangers."""
    words = printable(" ".join(text.split()))
    return textwrap.wrap(words, WIDTH - len(indent) - 4, break_long_words=False, break_on_hyphens=False) or [""]
