"""Splits a file of SQL into its statements, so that a failure can name the one that failed.

The lexical rules are those of PostgreSQL (manual, 4.1 "Lexical Structure") and of psql's own splitter: strings, quoted
names, dollar quotes and nested comments hide semicolons, and so do parentheses and SQL-standard function bodies.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

FIRST_LINE_CHARACTERS = 100

_ESCAPED = r"(?:[^'\\]|\\.|'')*"
_TOKEN = re.compile(
    rf"""
      (?P<blank>   \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<text>    [eE]'{_ESCAPED}(?:'[ \t\r\f\v]*\n\s*'{_ESCAPED})*'
                 | '[^']*(?:''[^']*)*'
                 | "[^"]*(?:""[^"]*)*" )
    | (?P<dollar>  \$(?:[^\W\d]\w*)?\$ )
    | (?P<word>    [^\W\d][\w$]* )
    | (?P<number>  \d[\w.]* )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_TRANSACTION_CONTROL = re.compile(
    r"(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:\w+\s+)?to\b))\b",
    re.IGNORECASE,
)


class Unterminated(ValueError):
    """A string, quoted name, dollar quote or comment that never ends; `line` is where it begins."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(f"{what} never ends")
        self.line = line


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon, and the line of the file where it begins (the first is 1)."""

    text: str
    line: int

    @property
    def first_line(self) -> str:
        """Enough of it to recognise it."""
        line = self.text.split("\n", 1)[0].rstrip()
        return line if len(line) <= FIRST_LINE_CHARACTERS else line[: FIRST_LINE_CHARACTERS - 1] + "…"

    @property
    def controls_transaction(self) -> bool:
        """Whether it would begin or end a transaction."""
        return _TRANSACTION_CONTROL.match(self.text) is not None

    def line_at(self, position: int) -> int:
        """The line of the file at a character of the statement (the first is 1), as PostgreSQL's errors count."""
        return self.line + self.text.count("\n", 0, max(position - 1, 0))


def split(sql: str) -> tuple[Statement, ...]:
    """The statements of a file, in order. Raises Unterminated."""
    statements = []
    nesting = _Nesting()
    start = end = None
    for kind, begin, stop in _tokens(sql):
        if kind == "other" and sql[begin] == ";" and nesting.is_flat:
            if start is not None:
                statements.append(_statement(sql, start, end or stop))
            nesting, start = _Nesting(), None
            continue
        nesting.see(kind, sql[begin:stop])
        start, end = begin if start is None else start, stop
    if start is not None:
        statements.append(_statement(sql, start, end or len(sql)))
    return tuple(statements)


def _statement(sql: str, start: int, end: int) -> Statement:
    return Statement(sql[start:end], _line(sql, start))


def _line(sql: str, at: int) -> int:
    return sql.count("\n", 0, at) + 1


class _Nesting:
    """Where a semicolon doesn't end the statement: in parentheses, and in BEGIN ATOMIC ... END (psqlscan.l)."""

    def __init__(self) -> None:
        self._parentheses = 0
        self._blocks = 0
        self._previous = ""

    @property
    def is_flat(self) -> bool:
        return self._parentheses <= 0 and self._blocks == 0

    def see(self, kind: str, token: str) -> None:
        if kind == "other":
            self._parentheses += {"(": 1, ")": -1}.get(token, 0)
        word = token.lower() if kind == "word" else ""
        if (word == "atomic" and self._previous == "begin") or (word == "case" and self._blocks):
            self._blocks += 1
        elif word == "end" and self._blocks:
            self._blocks -= 1
        self._previous = word


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
        elif kind == "other" and match.group() in "'\"":
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
