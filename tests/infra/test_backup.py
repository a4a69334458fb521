"""A backup's file: what is written is read again, and nothing else is."""

import os
import resource
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.aggregate import derived_id
from infra.backup import form
from infra.backup.form import BusAt, Header, ReactionAt, Trailer
from infra.backup.load import Fact, load
from infra.backup.moment import header_of
from infra.backup.packing import pack
from infra.backup.problems import BackupError, Damaged
from infra.backup.source import Backup
from infra.backup.take import write
from infra.backup.target import Sink, new_file
from infra.layouts import Wanted, current_layout
from runtime import modules

assert modules.MODULES  # so that every module's events are known

KEY = b"k" * 32
WHEN = datetime(2026, 5, 1, tzinfo=UTC)
TOPICS = ("identity.UserRegistered", "identity.SessionOpened", "access.RoleAssigned")
BUS = Wanted("muniment", 4, TOPICS)
FACT = Fact(StoredEvent(derived_id("restoration", "one"), 1, "log.Restored", b"{}"), b'{"actor":"operator:ada"}')
ALL = f"select {', '.join(form.COLUMNS)} from stored_events order by notification_id"

Rows = list[tuple[str, bytes, bytes, int]]
"""Topic, state, metadata, and how many microseconds after the event before."""
rows_of_a_log = st.lists(
    st.tuples(st.sampled_from(TOPICS), st.binary(max_size=300), st.binary(max_size=80), st.integers(0, 10**6)),
    min_size=1,
    max_size=60,
)


def fill(connection: psycopg.Connection[Any], rows: Rows) -> None:
    """Each event begins a stream or goes on with the one before."""
    when = WHEN
    for position, (topic, state, metadata, later) in enumerate(rows, start=1):
        when += timedelta(microseconds=later)
        stream, version = derived_id("ship", str(position // 3)), position % 3 + 1
        connection.execute(
            "insert into stored_events (originator_id, originator_version, topic, state, metadata, notification_id,"
            " recorded_at) values (%s, %s, %s, %s, %s, %s, %s)",
            (stream, version, topic, state, metadata, position, when),
        )
    connection.execute("update log_head set position = %s, recorded_at = %s", (len(rows), when))


def empty(connection: psycopg.Connection[Any]) -> None:
    connection.execute("truncate stored_events")
    connection.execute("update log_head set position = 0, recorded_at = 'epoch'")


def taken(connection: psycopg.Connection[Any], *, header: Header | None = None) -> bytes:
    out = BytesIO()
    write(connection.info.dsn, Sink(out), header or header_of(connection, {"master_key": "m"}), KEY)
    return out.getvalue()


def read(data: bytes) -> tuple[Backup, list[bytes]]:
    backup = Backup(BytesIO(data), "a.backup")
    rows = [block.rows for block in backup.blocks()]
    backup.check_seal(KEY)
    return backup, rows


def bring(connection: psycopg.Connection[Any], *files: bytes) -> int:
    return load(
        connection,
        [Backup(BytesIO(data), "a.backup") for data in files],
        FACT,
        lambda _: None,
        seal_key=KEY,
        bus=BUS,
    )


def small_header(position: int = 6, **changes: Any) -> Header:
    made = Header(
        release="1.0.0", created_at=WHEN, after=0, after_event="", position=position, head_event="e", recorded_at=WHEN,
        keys={"master_key": "m"}, types={"a.B": 1}, columns=form.COLUMNS,
    )  # fmt: skip
    return Header(**({name: getattr(made, name) for name in made.__struct_fields__} | changes))


def small_file(
    header: Header | None = None, *, order: tuple[int, ...] = (0, 1, 2), line: bytes = form.FIRST_LINE
) -> bytes:
    """Three blocks of two events, as `write` makes them."""
    out = BytesIO()
    sink = Sink(out)
    sink.write(line, *form.note(form.HEADER, header or small_header()).to_bytes())
    blocks = [
        form.frame(form.BLOCK, pack(b"%d" % n * 40), first=2 * n + 1, last=2 * n + 2, raw_bytes=40) for n in range(3)
    ]
    for n in order:
        sink.write(*blocks[n].to_bytes())
    trailer = Trailer(len(order), 2 * len(order), 40 * len(order), sink.sha256, form.seal(KEY, sink.sha256))
    sink.write(*form.note(form.TRAILER, trailer).to_bytes())
    return out.getvalue()


SMALL = small_file()


@pytest.fixture
def connection(database: str):
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def other(new_database: Callable[[str], str], template: str):
    """Another installation's empty log."""
    with psycopg.connect(new_database(template), autocommit=True) as connection:
        yield connection


@given(rows=rows_of_a_log)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_restored_log_is_the_same_bit_for_bit(connection, other, rows) -> None:
    empty(connection)
    empty(other)
    fill(connection, rows)

    assert bring(other, taken(connection)) == len(rows) + 1

    assert other.execute(ALL).fetchall()[:-1] == connection.execute(ALL).fetchall()
    assert other.execute("select position from log_head").fetchone() == (len(rows) + 1,)


@given(rows=rows_of_a_log, at=st.data())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_backup_and_what_was_added_since_make_the_same_log(connection, other, rows, at) -> None:
    empty(connection)
    empty(other)
    fill(connection, rows)
    cut = at.draw(st.integers(1, len(rows)))
    whole = header_of(connection, {})
    (head,) = connection.execute(
        "select originator_id || ':' || originator_version from stored_events where notification_id = %s", (cut,)
    ).fetchone()
    first = Header(**{n: getattr(whole, n) for n in whole.__struct_fields__} | {"position": cut, "head_event": head})
    rest = header_of(connection, {}, after=cut, after_event=head)

    bring(other, taken(connection, header=first), taken(connection, header=rest))

    assert other.execute(ALL).fetchall()[:-1] == connection.execute(ALL).fetchall()


def test_several_blocks_are_one_log(connection, other, monkeypatch) -> None:
    monkeypatch.setattr(form, "BLOCK_BYTES", 1000)
    monkeypatch.setattr("infra.backup.take.STRETCH_EVENTS", 7)
    fill(connection, [(TOPICS[0], b"%d" % n * (3000 if n == 50 else 30), b"{}", 1) for n in range(100)])
    data = taken(connection)
    assert len(read(data)[1]) > 5

    bring(other, data)

    assert other.execute(ALL).fetchall()[:-1] == connection.execute(ALL).fetchall()


def test_what_is_committed_meanwhile_isnt_in_it(connection) -> None:
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)
    header = header_of(connection, {})
    connection.execute("update stored_events set notification_id = 6 where notification_id = 5")
    connection.execute("update stored_events set notification_id = 5 where notification_id = 6")
    connection.execute("update log_head set position = 6")

    assert read(taken(connection, header=header))[0].header.position == 5


def test_a_log_with_a_gap_makes_no_backup(connection) -> None:
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)
    connection.execute("delete from stored_events where notification_id = 3")

    with pytest.raises(BackupError, match="1 of the events 1 to 5 are missing"):
        taken(connection)


def test_the_indexes_are_as_before(connection, other) -> None:
    sql = "select indexdef from pg_indexes where tablename = 'stored_events' order by 1"
    before = other.execute(sql).fetchall()
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)

    bring(other, taken(connection))

    assert other.execute(sql).fetchall() == before


def test_the_restored_log_goes_on_behind_its_head(connection, other) -> None:
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)
    bring(other, taken(connection))

    last = other.execute("select topic, notification_id, recorded_at from stored_events order by 2 desc").fetchone()
    assert last[:2] == ("log.Restored", 6)
    assert other.execute("select position, recorded_at from log_head").fetchone() == (6, last[2])


def test_reactions_go_on_where_they_were_and_the_bus_begins_anew(connection, other) -> None:
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)
    connection.execute("insert into reaction_progress values ('welcome', 0, '*', 0, 4)")
    header = replace_header(header_of(connection, {}), bus=BusAt(3, 2))
    epoch = other.execute("select epoch from cache_versions").fetchone()
    assert header.reactions == (ReactionAt("welcome", 4),)

    bring(other, taken(connection, header=header))

    assert other.execute("select reaction, position from reaction_progress").fetchall() == [("welcome", 4)]
    layout = current_layout(other)
    assert layout
    assert (layout.number, layout.incarnation, layout.from_position) == (4, 3, 5)
    assert other.execute("select epoch from cache_versions").fetchone() > epoch


def replace_header(header: Header, **changes: Any) -> Header:
    return Header(**({name: getattr(header, name) for name in header.__struct_fields__} | changes))


def test_a_log_with_an_event_in_it_is_left_alone(connection, other) -> None:
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)
    fill(other, [(TOPICS[1], b"{}", b"{}", 1)])
    data = taken(connection)

    with pytest.raises(BackupError, match="events in this log already, up to 1"):
        bring(other, data)

    assert other.execute("select count(*) from stored_events").fetchone() == (1,)


def test_nothing_is_restored_while_somebody_is_connected(connection, other) -> None:
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)
    data = taken(connection)
    conninfo = f"{other.info.dsn} application_name=granian"

    with psycopg.connect(conninfo), pytest.raises(BackupError, match=r"'granian' .* stop the platform first"):
        bring(other, data)

    assert other.execute("select count(*) from stored_events").fetchone() == (0,)


def test_events_of_newer_software_arent_restored(connection, other) -> None:
    fill(connection, [("harbour.Moored", b"{}", b"{}", 1)])

    with pytest.raises(BackupError, match=r"newer software is needed: .* harbour\.Moored"):
        bring(other, taken(connection))

    assert other.execute("select count(*) from stored_events").fetchone() == (0,)


def test_damage_that_is_found_late_leaves_nothing_behind(connection, other) -> None:
    fill(connection, [(TOPICS[0], b"{}", b"{}", 1)] * 5)
    data = bytearray(taken(connection))
    data[-5] ^= 1

    with pytest.raises(Damaged):
        bring(other, bytes(data))

    assert other.execute("select count(*) from stored_events").fetchone() == (0,)
    assert other.execute("select position from log_head").fetchone() == (0,)


def test_a_small_file_is_read_as_it_was_written() -> None:
    backup, rows = read(SMALL)

    assert rows == [b"0" * 40, b"1" * 40, b"2" * 40]
    assert backup.header == small_header()
    assert backup.bytes == len(SMALL)


@pytest.mark.parametrize("change", [0x01, 0x20, 0xFF])
def test_no_byte_can_be_changed_unnoticed(change) -> None:
    for place in range(len(SMALL)):
        data = bytearray(SMALL)
        data[place] ^= change
        with pytest.raises(BackupError) as caught:
            read(bytes(data))
        assert "\n" not in str(caught.value)


def test_a_damaged_block_is_named_with_its_positions() -> None:
    data = bytearray(SMALL)
    second = SMALL.index(form.BLOCK, SMALL.index(form.BLOCK) + 1)
    data[second + form.HEAD.size + form.DIGEST_BYTES + 3] ^= 1

    with pytest.raises(Damaged, match=r"a\.backup: block 2 \(events 3 to 4\) is damaged"):
        read(bytes(data))


def test_a_file_cant_be_cut_off_anywhere() -> None:
    for size in range(len(SMALL)):
        with pytest.raises(BackupError):
            read(SMALL[:size])


def test_a_cut_is_named_with_its_positions() -> None:
    with pytest.raises(Damaged, match=r"cut off in block 2 \(events from 3 on\)"):
        read(SMALL[: SMALL.index(form.BLOCK, SMALL.index(form.BLOCK) + 1) + 10])


def test_nothing_may_stand_behind_the_end() -> None:
    with pytest.raises(Damaged, match="behind its end"):
        read(SMALL + b"\n")


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 1), (1, 2), (0, 2), (0, 0, 1, 2)])
def test_blocks_cant_be_left_out_or_moved(order) -> None:
    with pytest.raises(Damaged):
        read(small_file(order=order))


def test_a_backup_that_somebody_else_has_sealed_isnt_believed() -> None:
    backup = Backup(BytesIO(SMALL), "a.backup")
    assert len(list(backup.blocks())) == 3

    with pytest.raises(Damaged, match="its seal"):
        backup.check_seal(b"x" * 32)


def test_another_format_is_refused() -> None:
    with pytest.raises(BackupError, match="a backup of format '2'; this release reads format 1"):
        read(small_file(line=form.MAGIC % 2))


@pytest.mark.parametrize("data", [b"", b"PGDMP\x01", bytes(range(100)), b"MUNIMENT"])
def test_something_else_is_no_backup(data) -> None:
    with pytest.raises(BackupError, match="no backup of Muniment"):
        read(data)


def test_a_length_that_is_a_lie_takes_no_memory() -> None:
    data = bytearray(SMALL)
    head = data.index(form.BLOCK)
    data[head + form.HEAD.size - 4 : head + form.HEAD.size] = (2**32 - 1).to_bytes(4)

    with pytest.raises(Damaged, match="block 1"):
        read(bytes(data))


def test_rows_that_unpack_to_more_than_they_say_are_refused() -> None:
    lie = form.frame(form.BLOCK, pack(b"0" * 10**7), first=1, last=2, raw_bytes=40)
    out = BytesIO()
    sink = Sink(out)
    sink.write(form.FIRST_LINE, *form.note(form.HEADER, small_header(2)).to_bytes(), *lie.to_bytes())
    sink.write(*form.note(form.TRAILER, Trailer(1, 2, 40, sink.sha256, form.seal(KEY, sink.sha256))).to_bytes())

    with pytest.raises(Damaged, match="another length"):
        read(out.getvalue())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    with new_file(file) as sink:
        sink.write(b"half")
        assert not file.exists()

    assert file.read_bytes() == b"half"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_what_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with new_file(tmp_path / "a.backup") as sink:
            sink.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    file.write_bytes(b"old")
    with pytest.raises(BackupError, match="exists already; --force"), new_file(file):
        pass
    assert file.read_bytes() == b"old"

    with new_file(file, replace=True) as sink:
        sink.write(b"new")
    assert file.read_bytes() == b"new"


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    """As root, `--force /dev/null` would put a file in the place of the device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BackupError, match="is no file"), new_file(pipe, replace=True):
        pass
    assert pipe.is_fifo()


def test_a_full_disk_is_one_line_and_no_file(tmp_path: Path) -> None:
    def write_much() -> None:
        with new_file(tmp_path / "a.backup") as sink:
            for _ in range(10):
                sink.write(bytes(50_000))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(BackupError, match=r"a\.backup\.partial: File too large; no backup was made"):
            write_much()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_isnt_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="No such file or directory"), new_file(tmp_path / "no" / "a.backup"):
        pass


def test_two_backups_dont_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    with new_file(file) as first:
        first.write(b"first")
        with pytest.raises(BackupError, match="another backup is just being written"), new_file(file):
            pass

    assert file.read_bytes() == b"first"


def test_what_a_kill_has_left_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    (tmp_path / "a.backup.partial").write_bytes(b"x" * 1000)
    with new_file(file) as sink:
        sink.write(b"whole")

    assert file.read_bytes() == b"whole"
