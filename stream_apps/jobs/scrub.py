"""What is kept of an error: bounded, and without secrets."""

import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from domain.jobs import JobType
from domain.jobs.policy import ERROR_LIMIT_CHARS, TRACEBACK_LIMIT_CHARS
from infra.disclosure import SECRET_CHARS, without_rows

LEFT_OUT = "(left out)"
_FRAMES = 40
"""Frames of a traceback, the innermost ones."""
SCRUBBED_CHARS = 200_000
"""Of a longer text the rest is dropped unread: others say what is in it, such as the body of somebody's answer."""
CUT_CHARS = 1_000
"""What stands before such a cut is dropped as well, and as much as the longest value that is to be hidden: half of a
secret isn't recognised.
"""
_PATTERNS = (
    # a name that says so, and what it is set to
    (re.compile(r"(?i)((?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|credential)s?[\"']?\s*[:=]\s*)"
                r"(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)"), r"\1" + LEFT_OUT),
    # what stands in an Authorization header
    (re.compile(r"(?i)\b(basic|bearer)\s+[A-Za-z0-9+/=._~-]{8,}"), r"\1 " + LEFT_OUT),
    # user and password of a URL
    (re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]*(?=@)"), LEFT_OUT),
    # JSON Web Tokens; none begins within a word of its own letters, or a long word of many beginnings took for ever
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), LEFT_OUT),
    # keys in PEM
    (re.compile(r"-----BEGIN [A-Z ]*KEY-----.*?(-----END [A-Z ]*KEY-----|$)", re.DOTALL), LEFT_OUT),
)  # fmt: skip


def error_text(error: BaseException, hidden: Iterable[str] = ()) -> str:
    """The kind of error and its message, bounded and scrubbed of what is `hidden` and of what looks like a secret."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - somebody else's code, and the worst moment for it to fail
        said = "(it can't say what)"
    text = f"{type(error).__qualname__}: {said}" if said else type(error).__qualname__
    return _cut(scrubbed(without_rows(text, error), hidden), ERROR_LIMIT_CHARS)


def traceback_text(error: BaseException, hidden: Iterable[str] = ()) -> str:
    """Where it came from, the innermost frames; bounded and scrubbed. It has source lines, never values."""
    text = "".join(traceback.format_exception(error, limit=-_FRAMES))
    text = scrubbed(without_rows(text, error), hidden)
    if len(text) <= TRACEBACK_LIMIT_CHARS:
        return text
    # The middle goes: where it was, and what it says at the end.
    half = TRACEBACK_LIMIT_CHARS // 2 - 3
    return f"{text[:half]}\n...\n{text[-half:]}"


def scrubbed(text: str, hidden: Iterable[str] = ()) -> str:
    """The text without these values, and without what looks like a secret. Takes time as the text is long."""
    was_cut = len(text) > SCRUBBED_CHARS
    text, longest_first = text[:SCRUBBED_CHARS], sorted(hidden, key=len, reverse=True)
    for value in longest_first:
        text = text.replace(value, LEFT_OUT)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    if was_cut:
        text = text[: -max([CUT_CHARS, *map(len, longest_first)])] + "..."
    return storable(text)


def storable(text: str) -> str:
    """The text without what neither JSON nor PostgreSQL can store: lone surrogates, and the NUL character."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\\0")


def hidden_values(job_type: JobType | None, args: Mapping[str, Any]) -> list[str]:
    """The texts in those arguments that are declared personal or secret."""
    marked = job_type.marks if job_type else {}
    return [text for name in marked if name in args for text in _texts(args[name]) if len(text) >= SECRET_CHARS]


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
