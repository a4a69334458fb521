"""What a migration file may look like, and in which order files come. No database."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.migrate import MigrationError, Source, in_order, load
from infra.migrate.model import release_key
from infra.migrate.statements import Unterminated, split


def source(folder: Path, module: str, files: dict[str, str | bytes], *depends_on: str) -> Source:
    home = folder / module
    home.mkdir(exist_ok=True)
    for name, content in files.items():
        (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(module, depends_on, home)


def refusal(folder: Path, files: dict[str, str | bytes]) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        load([source(folder, "moat", files)])
    assert "\n" not in caught.value.message
    return caught.value


DIG = "create table moat (crocodile text primary key);"


# order


def test_a_module_comes_after_those_it_depends_on():
    castle = [
        Source("banquet", ("kitchen", "dragon"), Path()),
        Source("dragon", ("keep",), Path()),
        Source("kitchen", ("keep",), Path()),
        Source("keep", (), Path()),
    ]
    assert [each.module for each in in_order(castle)] == ["keep", "kitchen", "dragon", "banquet"]


def test_modules_that_depend_on_each_other_in_a_circle_are_refused_with_the_circle():
    with pytest.raises(MigrationError, match="in a circle: knight -> princess -> dragon -> knight") as caught:
        in_order(
            [
                Source("knight", ("princess",), Path()),
                Source("princess", ("dragon",), Path()),
                Source("dragon", ("knight",), Path()),
            ]
        )
    assert caught.value.code == "module-cycle"


def test_a_dependency_that_there_is_not_is_refused():
    with pytest.raises(MigrationError, match="module knight depends on horse, which there isn't"):
        in_order([Source("knight", ("horse",), Path())])


def test_a_module_given_twice_is_refused():
    with pytest.raises(MigrationError, match="module dragon is given twice"):
        in_order([Source("dragon", (), Path("lair")), Source("dragon", (), Path("cave"))])


def test_numbers_rise_within_a_module_and_may_leave_gaps(tmp_path):
    moat = source(tmp_path, "moat", {"0010_fill.sql": "select 1", "0002_dig.sql": DIG, "README.md": "Mind the edge."})
    assert [each.file for each in load([moat])] == ["moat/0002_dig.sql", "moat/0010_fill.sql"]


# files


@pytest.mark.parametrize(
    "name", ["1_dig.sql", "0001-dig.sql", "0001_Dig.sql", "dig.sql", "0001_dig.SQL", "0001_dig.sql.bak", "0000_dig.sql"]
)
def test_a_badly_named_file_is_refused(tmp_path, name):
    error = refusal(tmp_path, {name: DIG})
    assert (error.code, error.message.split(":")[0]) == ("bad-name", f"moat/{name}")


def test_a_number_given_twice_is_refused_with_both_files_named(tmp_path):
    error = refusal(tmp_path, {"0001_dig.sql": DIG, "0001_drain.sql": "drop table moat"})
    assert error.message == "moat/0001_drain.sql: number 0001 is also that of moat/0001_dig.sql"


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"select '\xff'", "not-text", "0001_dig.sql: not UTF-8 at byte 8"),
        ("-- only good intentions\n", "empty", "there is no statement in it"),
        ("select 1;\n\nselect 'crocodile", "bad-sql", "0001_dig.sql:3: a quote never ends"),
        (r"select 'a'; select E'croco\'", "bad-sql", "0001_dig.sql:1: a quote never ends"),
        ("do $moat$ begin", "bad-sql", "0001_dig.sql:1: the dollar quote $moat$ never ends"),
        ("select 1 /* and /* so */ on", "bad-sql", "0001_dig.sql:1: a comment never ends"),
        ("select 1;\ncommit;", "transaction-control", "0001_dig.sql:2: the runner begins and commits"),
        ("begin;\nselect 1", "transaction-control", "a migration doesn't: begin"),
        ("START /* sly */ TRANSACTION", "transaction-control", "0001_dig.sql:1"),
        ("rollback", "transaction-control", "0001_dig.sql:1"),
        ("-- compatible 0.2\nselect 1", "bad-directive", "0001_dig.sql:1: write `-- no-transaction` or"),
        ("-- no_transaction\nselect 1", "bad-directive", "not `-- no_transaction`"),
        ("select 1;\n-- no-transaction\n", "bad-directive", "0001_dig.sql:2: directives stand above the first"),
    ],
)
def test_a_file_that_can_not_be_a_migration_is_refused_before_anything_runs(tmp_path, content, code, says):
    error = refusal(tmp_path, {"0001_dig.sql": content})
    assert error.code == code
    assert error.message.startswith("moat/0001_dig.sql:")
    assert says in error.message


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MigrationError, match=r"moat: can't read .*/nowhere: No such file"):
        load([Source("moat", (), tmp_path / "nowhere")])


def test_savepoints_are_a_migration_s_own_affair(tmp_path):
    moat = source(tmp_path, "moat", {"0001_dig.sql": "savepoint edge; rollback to edge; rollback work to edge"})
    assert len(load([moat])[0].statements) == 3


def test_directives_say_what_they_say(tmp_path):
    text = "-- no-transaction\n\n-- crocodiles are counted at night\n-- compatible: 0.2.0\nselect 1"
    (migration,) = load([source(tmp_path, "moat", {"0001_dig.sql": text})])
    assert (migration.transactional, migration.compatible_from) == (False, "0.2.0")


def test_other_line_ends_are_not_an_edit(tmp_path):
    (unix,) = load([source(tmp_path, "moat", {"0001_dig.sql": "select 1;\nselect 2"})])
    (windows,) = load([source(tmp_path, "moat", {"0001_dig.sql": b"\xef\xbb\xbfselect 1;\r\nselect 2"})])
    assert unix.checksum == windows.checksum


def test_releases_are_compared_as_numbers():
    releases = ["0.2.0rc1", "0.2.0.dev3", "0.2", "0.2.0", "0.2.0+local", "0.2.1", "0.10.0", "1.0.0-beta", "1.0"]
    keys = [release_key(release) for release in releases]
    assert keys == sorted(keys)
    assert keys[2] == keys[3] == keys[4]
    assert keys[1] < keys[2]
    assert keys[7] < keys[8]


# statements


@pytest.mark.parametrize(
    "statement",
    [
        "select 'a;b', 'it''s; fine', E'it\\'s; fine', U&'d\\0061t;a'",
        "select E'one\\';'\n  'two\\';'",
        'select 1 as "moat;""deep"',
        "do $$ begin perform ';'; end; $$",
        "do $body$ begin execute $q$ select 1; $q$; end $body$",
        "select 1 /* a; /* nested; */ comment; */ + 1",
        "select 1 -- a comment; 'with a quote\n + 1",
        "create rule feed as on insert to moat do also (insert into log values (1); notify crocodiles)",
        "create function f() returns int begin atomic; select case when true then 1 end; select 2; end",
        "create or replace procedure p() language sql begin atomic insert into moat values ('Ada'); end",
        "select price$each, a$b$c from menu$today$",
        "select $1, 1e3, 0x1f",
        "select '' , $$$$, \"begin\", $été$;$été$",
        "select case when x then 'end;' else 'case;' end",
    ],
)
def test_a_semicolon_that_ends_nothing_splits_nothing(statement):
    found = split(f"-- before;\n{statement} ;\n\nselect 'after';;")
    assert [each.text for each in found] == [statement, "select 'after'"]
    assert [each.line for each in found] == [2, 4 + statement.count("\n")]


INNER = st.text(st.sampled_from("ab;'\"$-/*\\\n ()"), max_size=12)
PIECES = st.one_of(
    INNER.map(lambda text: "'" + text.replace("'", "''") + "'"),
    INNER.map(lambda text: '"' + text.replace('"', '""') + '"'),
    INNER.map(lambda text: " E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "' "),
    INNER.map(lambda text: " $q$" + text.replace("$", "") + "$q$ "),
    INNER.map(lambda text: "/*" + text.replace("*", "").replace("/", "") + "*/"),
    INNER.map(lambda text: "--" + text.replace("\n", "") + "\n"),
    INNER.map(lambda text: "(" + text.translate({ord(c): None for c in "'\"$-/*()\\"}) + ")"),
    st.sampled_from([" ", "\n", "select", "1", ",", "+ "]),
)


@given(st.lists(st.lists(PIECES, max_size=8).map(lambda pieces: "select " + "".join(pieces) + " x"), max_size=5))
@example([])
def test_statements_that_were_joined_come_apart_again(statements):
    found = split(" ;\n".join(statements))
    assert [each.text for each in found] == statements
    assert [each.line_at(1) for each in found] == [
        1 + sum(text.count("\n") + 1 for text in statements[:index]) for index in range(len(statements))
    ]


@given(st.text(st.sampled_from("ae;'\"$-/*\\\n ()1"), max_size=40))
def test_any_text_is_split_or_refused_at_a_line_of_it(text):
    try:
        lines = [each.line for each in split(text)]
    except Unterminated as error:
        lines = [error.line]
    assert lines == sorted(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)
