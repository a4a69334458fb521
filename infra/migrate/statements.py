"""Splits a file of SQL into its statements, so that a failure can name the one that failed.

The lexical rules are those of PostgreSQL (manual, 4.1 "Lexical Structure") and of psql's own splitter: strings, quoted
names, dollar quotes and nested comments hide semicolons, and so do parentheses and SQL-standard function bodies.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

FIRST_LINE_CHARACTERS = 100


def _atomic(name: str, pattern: str) -> str:
    """Matches as much as it can and doesn't try again with less, so that a quote without an end is found out at once.

    By a lookahead and what it found: Python 3.11 before 3.11.5 goes wrong with possessive quantifiers (CPython,
    gh-101955).
    """
    return f"(?=(?P<{name}>{pattern}))(?P={name})"


_ESCAPED = r"(?:[^'\\]|\\.|'')*"
_CONTINUED = rf"(?:'[ \t\r\f\v]*\n\s*'{_ESCAPED})*"
_PLAIN = "(?:[^']|'')*"
_QUOTED_NAME = '(?:[^"]|"")*'
_TOKEN = re.compile(
    rf"""
      (?P<blank>   \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<text>    [eE]'{_atomic("escaped", _ESCAPED)}{_atomic("continued", _CONTINUED)}'
                 | '{_atomic("plain", _PLAIN)}'
                 | "{_atomic("quoted_name", _QUOTED_NAME)}" )
    | (?P<dollar>  \$(?:[^\W\d]\w*)?\$ )
    | (?P<word>    (?![eE]')[^\W\d][\w$]* )
    | (?P<number>  \d[\w.]* )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_TRANSACTION_CONTROL = re.compile(
    r"(?:begin|start transaction|commit|end|abort|prepare transaction|rollback(?! (?:\w+ )?to\b))\b"
)
_OPENING_WORDS = 3


class Unterminated(ValueError):
    """A string, quoted name, dollar quote or comment that never ends; `line` is where it begins."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(f"{what} never ends")
        self.line = line


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon, the line of the file where it begins (the first is 1), its first words."""

    text: str
    line: int
    opening: str

    @property
    def first_line(self) -> str:
        """Enough of it to recognise it."""
        line = self.text.split("\n", 1)[0].rstrip()
        return line if len(line) <= FIRST_LINE_CHARACTERS else line[: FIRST_LINE_CHARACTERS - 1] + "…"

    @property
    def controls_transaction(self) -> bool:
        """Whether it would begin or end a transaction."""
        return _TRANSACTION_CONTROL.match(self.opening) is not None

    def line_at(self, position: int) -> int:
        """The line of the file at a character of the statement (the first is 1), as PostgreSQL's errors count."""
        return self.line + self.text.count("\n", 0, max(position - 1, 0))


def split(sql: str) -> tuple[Statement, ...]:
    """The statements of a file, in order. Raises Unterminated."""
    statements: list[Statement] = []
    current = _Current()
    for kind, begin, end in _tokens(sql):
        if sql[begin] == ";" and current.is_flat:
            statements += current.statement(sql)
            current = _Current()
        else:
            current.add(kind, sql[begin:end], begin, end)
    statements += current.statement(sql)
    return tuple(statements)


def _line(sql: str, at: int) -> int:
    return sql.count("\n", 0, at) + 1


class _Current:
    """The statement that is being read, and whether a semicolon would end it.

    It wouldn't in parentheses (CREATE RULE) and in BEGIN ATOMIC ... END (psql's psqlscan.l does the same).
    """

    def __init__(self) -> None:
        self._begin = self._end = 0
        self._opening: list[str] = []
        self._previous = ""
        self._parentheses = 0
        self._blocks = 0

    @property
    def is_flat(self) -> bool:
        return self._parentheses <= 0 and self._blocks == 0

    def add(self, kind: str, token: str, begin: int, end: int) -> None:
        if self._end == 0:
            self._begin = begin
        self._end = end
        word = token.lower() if kind == "word" else token
        if len(self._opening) < _OPENING_WORDS:
            self._opening.append(word)
        self._parentheses += {"(": 1, ")": -1}.get(word, 0)
        if (self._previous, word) == ("begin", "atomic") or (word == "case" and self._blocks):
            self._blocks += 1
        elif word == "end" and self._blocks:
            self._blocks -= 1
        self._previous = word

    def statement(self, sql: str) -> list[Statement]:
        """The statement, or none if nothing was read."""
        if self._end == 0:
            return []
        return [Statement(sql[self._begin : self._end], _line(sql, self._begin), " ".join(self._opening))]


def _tokens(sql: str) -> Iterator[tuple[str, int, int]]:
    """What is neither blank nor comment: kind, begin, end."""
    at = 0
    while match := _TOKEN.match(sql, at):
        kind, begin = match.lastgroup or "other", at
        at = match.end()
        if kind == "blank":
            continue
        if kind == "comment":
            at = _comment_end(sql, begin)
            continue
        if kind == "dollar":
            at = _dollar_end(sql, begin, match.group())
        elif kind == "other" and match.group() in "'\"eE":
            raise Unterminated("a quote", _line(sql, begin))
        yield kind, begin, at


def _comment_end(sql: str, begin: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, begin):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise Unterminated("a comment", _line(sql, begin))


def _dollar_end(sql: str, begin: int, tag: str) -> int:
    end = sql.find(tag, begin + len(tag))
    if end < 0:
        raise Unterminated(f"the dollar quote {tag}", _line(sql, begin))
    return end + len(tag)
