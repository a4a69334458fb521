"""Reads the migrations of all modules from their folders, in the order in which they are applied."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from infra.migrate.model import Migration, MigrationError, Source
from infra.migrate.statements import Statement, Unterminated, split

_MODULE = re.compile(r"[a-z][a-z0-9_-]*")
_FILE = re.compile(r"(?!0000)(\d{4})_([a-z0-9_]+)\.sql")
_LOOKS_LIKE_ONE = re.compile(r"\d.*|.*\.sql", re.IGNORECASE)
_LOOKS_LIKE_DIRECTIVE = re.compile(r"--\s*(no.transaction|compatible)\b", re.IGNORECASE)
_COMPATIBLE = re.compile(r"--\s*compatible:\s*(\d+\.\d+\.\d+)\s*")
_NO_TRANSACTION = re.compile(r"--\s*no-transaction\s*")


def load(sources: Iterable[Source]) -> list[Migration]:
    """Every migration of every module, dependencies first, numbers ascending within a module.

    Raises MigrationError: a cycle, an unknown dependency, a module given twice, a badly named file, a number given
    twice, a file that isn't UTF-8 SQL.
    """
    return [migration for source in in_order(list(sources)) for migration in _of_module(source)]


def in_order(sources: Sequence[Source]) -> list[Source]:
    """The sources with dependencies first; where these leave a choice, as given. Raises MigrationError."""
    by_module = {source.module: source for source in sources}
    _check_names(sources, by_module)
    ordered: dict[str, Source] = {}

    def visit(source: Source, path: tuple[str, ...]) -> None:
        if source.module in path:
            cycle = " -> ".join((*path[path.index(source.module) :], source.module))
            raise MigrationError("module-cycle", f"modules depend on each other in a circle: {cycle}")
        if source.module in ordered:
            return
        for name in source.depends_on:
            visit(by_module[name], (*path, source.module))
        ordered[source.module] = source

    for source in sources:
        visit(source, ())
    return list(ordered.values())


def _check_names(sources: Sequence[Source], by_module: dict[str, Source]) -> None:
    if len(by_module) < len(sources):
        twice = next(s.module for s in sources if by_module[s.module] is not s)
        raise MigrationError("duplicate-module", f"module {twice} is given twice")
    for source in sources:
        if not _MODULE.fullmatch(source.module):
            raise MigrationError("bad-module", f"{source.module!r} is not a module's name (a-z, 0-9, _ and -)")
        for name in source.depends_on:
            if name not in by_module:
                raise MigrationError(
                    "unknown-dependency", f"module {source.module} depends on {name}, which there isn't"
                )


def _of_module(source: Source) -> list[Migration]:
    try:
        paths = sorted(path for path in source.folder.iterdir() if _LOOKS_LIKE_ONE.fullmatch(path.name))
    except OSError as error:
        raise MigrationError("no-folder", f"{source.module}: can't read {source.folder}: {error.strerror}") from error
    by_number: dict[int, Migration] = {}
    for path in paths:
        migration = read(source.module, path)
        if other := by_number.get(migration.number):
            raise MigrationError(
                "duplicate-number", f"{migration.file}: number {migration.number:04} is also that of {other.file}"
            )
        by_number[migration.number] = migration
    return list(by_number.values())


def read(module: str, path: Path) -> Migration:
    """One file. Raises MigrationError."""
    match = _FILE.fullmatch(path.name)
    file = f"{module}/{path.name}"
    if match is None:
        raise MigrationError("bad-name", f"{file}: a migration is named NNNN_what_it_does.sql, from 0001 on")
    sql = _text(file, path)
    transactional, compatible_from = _directives(file, sql)
    return Migration(
        module=module,
        number=int(match[1]),
        name=match[2],
        path=path,
        sql=sql,
        checksum=hashlib.sha256(sql.encode()).hexdigest(),
        transactional=transactional,
        compatible_from=compatible_from,
        statements=_statements(file, sql),
    )


def _text(file: str, path: Path) -> str:
    try:
        # a checkout with other line ends must not look like an edit
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise MigrationError("not-text", f"{file}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise MigrationError("unreadable", f"{file}: can't be read: {error.strerror}") from error


def _directives(file: str, sql: str) -> tuple[bool, str | None]:
    """Whether it runs in a transaction, and the release from which on code is compatible."""
    transactional, compatible_from, at_top = True, None, True
    for number, line in enumerate(sql.split("\n"), start=1):
        at_top = at_top and (not line.strip() or line.startswith("--"))
        compatible, no_transaction = _COMPATIBLE.fullmatch(line), _NO_TRANSACTION.fullmatch(line)
        if (compatible or no_transaction) and not at_top:
            raise MigrationError("bad-directive", f"{file}:{number}: directives stand above the first statement")
        if compatible:
            compatible_from = compatible[1]
        elif no_transaction:
            transactional = False
        elif at_top and _LOOKS_LIKE_DIRECTIVE.match(line):
            raise MigrationError(
                "bad-directive", f"{file}:{number}: write `-- no-transaction` or `-- compatible: 1.2.3`, not `{line}`"
            )
    return transactional, compatible_from


def _statements(file: str, sql: str) -> tuple[Statement, ...]:
    try:
        statements = split(sql)
    except Unterminated as error:
        raise MigrationError("bad-sql", f"{file}:{error.line}: {error}") from error
    if not statements:
        raise MigrationError("empty", f"{file}: there is no statement in it")
    for statement in statements:
        if statement.controls_transaction:
            raise MigrationError(
                "transaction-control",
                f"{file}:{statement.line}: the runner begins and commits, a migration doesn't: {statement.first_line}",
            )
    return statements
