"""Regular expressions of schemas, matched in linear time whoever wrote them (RE2: Cox, "Regular Expression Matching
in the Wild", 2010).

ECMA-262's lookaround and backreferences aren't regular, and are refused.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import re2

PATTERN_LIMIT_CHARS = 1_000
MEMORY_BYTES: Final = 1 << 20
"""Of one compiled pattern. Whatever would need more, such as repetitions of repetitions, is refused."""

_ESCAPED = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|/|.)", re.DOTALL)


class UnfitPattern(ValueError):
    """A pattern that isn't taken; the message says why."""


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Says of a text whether the pattern is found anywhere in it (ECMA-262's meaning of unanchored).

    Raises UnfitPattern.
    """
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
    return lambda text: found.search(text) is not None


def _translated(pattern: str) -> str:
    r"""`\u00e9` is `\x{00e9}` there, and `\/` a plain slash."""

    def translate(match: re.Match[str]) -> str:
        digits = match[1] or match[2]
        return f"\\x{{{digits}}}" if digits else "/" if match[0] == r"\/" else match[0]

    return _ESCAPED.sub(translate, pattern)


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
