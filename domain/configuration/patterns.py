"""Regular expressions of schemas, matched in linear time whoever wrote them (RE2: Cox, "Regular Expression Matching
in the Wild", 2010).

ECMA-262's lookaround and backreferences aren't regular, and are refused.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import re2

PATTERN_LIMIT_CHARS = 1_000
MEMORY_BYTES: Final = 1 << 20
"""Of one compiled pattern. Whatever would need more, such as repetitions of repetitions, is refused."""
KEPT_INSTRUCTIONS: Final = 4_000_000
"""Of all compiled patterns that are kept, 16 bytes each."""
UNFIT_INSTRUCTIONS: Final = 10_000

_ESCAPED = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|/|.)", re.DOTALL)


class UnfitPattern(ValueError):
    """A pattern that isn't taken; the message says why."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. `size` are the instructions of its program: each may be looked at for each character."""

    compiled: Any
    size: int

    def is_in(self, text: str) -> bool:
        """Whether it is found anywhere in the text (ECMA-262's meaning of unanchored)."""
        return self.compiled.search(text) is not None


class _Kept:
    """The patterns that were used last, of so many instructions altogether."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._patterns: OrderedDict[str, Pattern] = OrderedDict()
        self._lock = Lock()

    def get(self, text: str) -> Pattern | None:
        with self._lock:
            if text in self._patterns:
                self._patterns.move_to_end(text)
            return self._patterns.get(text)

    def put(self, text: str, pattern: Pattern) -> None:
        with self._lock:
            if text not in self._patterns:
                self._patterns[text] = pattern
                self._size += pattern.size
            while self._size > self._limit:
                self._size -= self._patterns.popitem(last=False)[1].size


_kept = _Kept(KEPT_INSTRUCTIONS)


def compiled(pattern: str) -> Pattern:
    """A pattern, ready to be matched. Raises UnfitPattern."""
    found = _kept.get(pattern)
    if found is None:
        found = _compiled(pattern)
        _kept.put(pattern, found)
    return found


def size_of(pattern: str) -> int:
    """The instructions of its program; of one that isn't taken, what it costs at worst to find that out."""
    try:
        return compiled(pattern).size
    except UnfitPattern:
        return UNFIT_INSTRUCTIONS


def _compiled(pattern: str) -> Pattern:
    if len(pattern) > PATTERN_LIMIT_CHARS:
        raise UnfitPattern(f"has {len(pattern):,} characters; at most {PATTERN_LIMIT_CHARS:,} are taken")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = MEMORY_BYTES
    try:
        found: Any = re2.compile(_translated(pattern), options)
    except (re2.error, UnicodeError) as error:
        raise UnfitPattern(f"is no regular expression in RE2's syntax: {_reason(error)}") from None
    return Pattern(found, found.programsize)


def _translated(pattern: str) -> str:
    r"""`\u00e9` is `\x{00e9}` there, and `\/` a plain slash."""

    def translate(match: re.Match[str]) -> str:
        digits = match[1] or match[2]
        return f"\\x{{{digits}}}" if digits else "/" if match[0] == r"\/" else match[0]

    return _ESCAPED.sub(translate, pattern)


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
