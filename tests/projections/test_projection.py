"""A projection that contradicts itself is refused where it is declared."""

from dataclasses import replace
from uuid import UUID

import pytest

from domain.identity import User
from projections.projection import Owner, Projection, WrongProjection, split_statements
from tests.projections.harbour import HARBOUR, Ship


def declared(**changes):
    return Projection(**({"name": "pier", "version": 1, "tables": "boats (id uuid primary key)", "on": {}} | changes))


def test_tables_and_indexes_belong_to_a_build():
    boats = declared(
        tables="""boats (id uuid, name text default 'a;b'); unique index on boats (name) where name <> '{}';
        index on boats (id)"""
    )
    assert boats.ddl(7) == [
        "create table pier_boats_v1_b7 (id uuid, name text default 'a;b')",
        "create unique index on pier_boats_v1_b7 (name) where name <> '{}'",
        "create index pier_boats_v1_b7_x2 on pier_boats_v1_b7 (id)",
    ]
    assert [(index.name, index.table) for index in boats.indexes(7)] == [("pier_boats_v1_b7_x2", "pier_boats_v1_b7")]


def test_all_statements_are_known_unless_functions_give_them():
    boats = declared(on={Ship.Moored: "delete from {boats}"})
    assert boats.statements == ["delete from {boats}"]
    assert declared(on={Ship.Moored: lambda _: []}).statements is None
    assert declared(on={Ship.Moored: lambda _: []}, generated=["delete from {boats}"]).statements == [
        "delete from {boats}"
    ]


def test_any_other_ddl_runs_with_the_table_filled_in():
    boats = declared(tables="boats (id uuid); create trigger calm before update on {boats} execute function calm()")
    assert boats.ddl(2)[1] == "create trigger calm before update on pier_boats_v1_b2 execute function calm()"


def test_semicolons_in_quotes_separate_nothing():
    assert split_statements("a ';' $x$ ; $x$ \";\"; b") == ["a ';' $x$ ; $x$ \";\"", "b"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"on": {Ship.Launched: "insert into {docks} values (%(name)s)"}}, "no table {docks}"),
        ({"on": {Ship.Launched: "insert into {boats} values (%(captain)s)"}}, "Launched has no field captain"),
        ({"on": {Ship.Sang: ["select 1", "insert into {boats} values (%(name)s)"]}}, "Sang has no field name"),
        ({"on": {Ship.Sang: "select 5 % 2"}}, "percent"),
        ({"on": {Ship.Sang: "select %s"}}, "percent"),
        ({"invalidates": {Ship.Moored: lambda _: ["*"]}}, "Moored invalidates, but does nothing here"),
        ({"tables": ""}, "at least one table"),
        ({"tables": "boats (id uuid); boats (id uuid)"}, "each only once"),
        ({"tables": "boats (id uuid); index on docks (id)"}, "no table {docks}"),
        ({"tables": "boats (id uuid); drop table stored_events"}, "neither a table"),
        ({"tables": "boats (id uuid unique deferrable initially deferred)"}, "not deferred"),
        ({"tables": f"{'b' * 60} (id uuid)"}, "too long"),
        ({"name": "Pier"}, "lower-case"),
        ({"version": 0}, "version"),
    ],
)
def test_refuses(wrong, said):
    with pytest.raises(WrongProjection, match=said.replace("{", r"\{")):
        declared(**wrong)


def test_the_harbour_is_sound():
    assert HARBOUR.table_names == ("ships", "sightings")


def test_secret_fields_are_refused_since_they_never_leave_the_store():
    with pytest.raises(WrongProjection, match="password is secret"):
        declared(on={User.Registered: "insert into {boats} (id, name) values (%(stream)s, %(password)s)"})


class TestOwners:
    """Which rows of its tables a stream owns; without knowing that, nobody can verify or mend a stream's rows."""

    def with_owners(self, **owners):
        return replace(HARBOUR, owners={"ships": "id", "sightings": "ship"} | owners)

    def test_are_said_of_every_table_or_of_none(self):
        with pytest.raises(WrongProjection, match="of each of its tables"):
            replace(HARBOUR, owners={"ships": "id"})
        assert replace(HARBOUR, owners={}).owners == {}

    def test_stand_in_a_column_that_the_table_has(self):
        with pytest.raises(WrongProjection, match="no column captain"):
            self.with_owners(ships="captain")

    def test_come_from_a_field_of_every_event_that_writes_the_table(self):
        with pytest.raises(WrongProjection, match=r"Ship\.Moored has no field name"):
            self.with_owners(ships=Owner("name", "name", lambda _: UUID(int=0)))

    def test_can_be_found_from_a_row(self):
        with pytest.raises(WrongProjection, match="stream_of"):
            self.with_owners(ships=Owner("name", "name"))
