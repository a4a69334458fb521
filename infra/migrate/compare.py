"""Files against records: what is pending, what was edited, what is of other software. Pure functions."""

from collections.abc import Sequence

from infra.migrate.model import Entry, Migration, Problem, Record, State, release_key

Key = tuple[str, int]


def pending(migrations: Sequence[Migration], records: Sequence[Record]) -> list[Migration]:
    """The migrations without a record, in the order in which they are applied."""
    recorded = {_key(record) for record in records}
    return [migration for migration in migrations if _key(migration) not in recorded]


def entries(migrations: Sequence[Migration], records: Sequence[Record]) -> list[Entry]:
    """Every migration that has a file or a record: files in order, then records without a file."""
    by_key = {_key(record): record for record in records}
    found = [_entry(migration, by_key.pop(_key(migration), None)) for migration in migrations]
    return found + [
        Entry(record.module, record.number, record.name, "missing", None, record) for record in by_key.values()
    ]


def problems(migrations: Sequence[Migration], records: Sequence[Record], release: str) -> list[Problem]:
    """Why these files can't be applied to this database by this release, or its code can't run on it."""
    last_file = _last(migrations)
    last_record = _last(records)
    found = []
    for entry in entries(migrations, records):
        if entry.state == "edited" and entry.record is not None:
            found.append(_edited(entry, entry.record))
        elif entry.state == "pending" and entry.number < last_record.get(entry.module, 0):
            found.append(_out_of_order(entry, last_record[entry.module]))
        elif entry.state == "missing" and entry.record is not None:
            found += _missing(entry.record, last_file.get(entry.module, 0), release)
    return found


def _key(item: Migration | Record) -> Key:
    return item.module, item.number


def _last(items: Sequence[Migration] | Sequence[Record]) -> dict[str, int]:
    last: dict[str, int] = {}
    for item in items:
        last[item.module] = max(item.number, last.get(item.module, 0))
    return last


def _entry(migration: Migration, record: Record | None) -> Entry:
    state: State = "pending"
    if record is not None:
        same = (record.checksum, record.name) == (migration.checksum, migration.name)
        state = "applied" if same else "edited"
    return Entry(migration.module, migration.number, migration.name, state, migration, record)


def _edited(entry: Entry, record: Record) -> Problem:
    change = "was edited" if entry.name == record.name else f"has the number of {record.file}, which was applied"
    return Problem(
        "edited",
        entry.file,
        f"{entry.file} {change} after it was applied (by {record.applied_by} on {record.applied_at:%Y-%m-%d}): "
        "put it back and write a new migration",
    )


def _out_of_order(entry: Entry, last: int) -> Problem:
    return Problem(
        "out-of-order",
        entry.file,
        f"{entry.file} is pending, but {entry.module} is already at {last:04}: give it a higher number",
    )


def _missing(record: Record, last_file: int, release: str) -> list[Problem]:
    if record.number < last_file:
        message = f"{record.file} was applied, but its file is gone, though {record.module} goes on to {last_file:04}"
        return [Problem("removed", record.file, f"{message}: put it back")]
    oldest = record.compatible_from
    if oldest is not None and release_key(release) >= release_key(oldest):
        return []
    if last_file == 0:
        advice = f"is MUNIMENT_MODULES complete? (it was applied by {record.applied_by}, and this is {release})"
        message = f"{record.file} was applied, but there is no module {record.module} here: {advice}"
        return [Problem("newer-software", record.file, message)]
    needs = f"works with {oldest} and later" if oldest else "works only with software that has it"
    return [
        Problem(
            "newer-software",
            record.file,
            f"the database is of newer software: {record.file} (by {record.applied_by}) {needs}, and this is {release}",
        )
    ]
