"""The log as its users see it: aggregates in, recorded events out."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import msgspec
import orjson
import psycopg
import pytest
from eventsourcing.domain import event
from eventsourcing.persistence import IntegrityError, MapperDeserialisationError, StoredEvent

from domain.aggregate import Aggregate, First, Personal
from domain.context import Actor, Context
from domain.errors import Unavailable
from infra.event_store import Log, Metadata
from infra.inline import Inline
from infra.recorder import InlineRefused, Limits
from infra.transcoding import EventMapper, NewerSoftware, OrjsonTranscoder, event_type

ADA = Metadata(actor="user:ada", correlation_id="first-program").to_bytes()


class Rig(Enum):
    SLOOP = "sloop"
    KETCH = "ketch"


class Hold(msgspec.Struct, frozen=True):
    cargo: str
    tons: Decimal


class Vessel(Aggregate):
    TOPIC = "shipyard.Vessel"

    class Launched(First):
        TOPIC = "shipyard.VesselLaunched"
        name: Personal[str]
        owner: UUID
        built_at: datetime
        flags: frozenset[str]
        masts: tuple[int, ...]
        rig: Rig
        hold: Hold | None
        seal: bytes

    class Renamed(Aggregate.Event):
        TOPIC = "shipyard.VesselRenamed"
        name: str

    class Sunk(Aggregate.Event):
        """Version 1 said where in words; since version 2 it is a depth, and a cause."""

        TOPIC = "shipyard.VesselSunk"
        class_version = 2
        depth_metres: int
        cause: str

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["depth_metres"] = int(state.pop("depth").removesuffix(" fathoms")) * 2
            state["cause"] = "unknown"

    @event(Launched)
    def __init__(
        self,
        name: str,
        owner: UUID,
        built_at: datetime,
        flags: frozenset[str],
        masts: tuple[int, ...],
        rig: Rig,
        hold: Hold | None,
        seal: bytes,
    ) -> None:
        self.name, self.owner, self.flags, self.rig = name, owner, flags, rig

    @event(Renamed)
    def rename(self, name: str) -> None:
        self.name = name

    @event(Sunk)
    def sink(self, depth_metres: int, cause: str) -> None:
        self.depth_metres, self.cause = depth_metres, cause


LAUNCHED = {
    "name": "Analytical Engine",
    "owner": UUID(int=1815),
    "built_at": datetime(1837, 12, 1, tzinfo=UTC),
    "flags": frozenset({"GB", "IT"}),
    "masts": (1, 2, 3),
    "rig": Rig.KETCH,
    "hold": Hold("punched cards", Decimal("1.50")),
    "seal": b"\x00\xff",
}
REGISTRY = Inline(
    "registry",
    on={
        Vessel.Launched: "insert into registry values (%(stream)s, %(name)s, %(position)s, %(recorded_at)s, %(actor)s)",
        Vessel.Renamed: (
            "update registry set name = %(name)s where id = %(stream)s",
            "update registry set position = %(position)s where id = %(stream)s",
        ),
    },
    announces={Vessel.Sunk: lambda sunk: f"vessel:{sunk.originator_id}"},
)


def vessel(name: str = "Analytical Engine") -> Vessel:
    return Vessel(**{**LAUNCHED, "name": name})


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    with psycopg.connect(database) as connection:
        connection.execute(
            "create table registry (id uuid primary key, name text unique, position bigint, recorded_at timestamptz,"
            " actor text)"
        )
        connection.execute("create table stamps (key text primary key, position bigint)")
    log = Log(database, inline=[REGISTRY])
    yield log
    log.close()


@pytest.fixture
def table(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def stamp(key: str) -> tuple[str, dict[str, str]]:
    return "insert into stamps values (%(key)s, %(position)s)", {"key": key}


class TestSaving:
    def test_all_aggregates_are_saved_together(self, log) -> None:
        first, second = vessel("Argo"), vessel("Fram")
        second.rename("Gjøa")

        committed = log.save_work([first, second], metadata=ADA)

        assert committed.position == 3
        assert [row.topic for row in log.read(0, 10)] == [
            "shipyard.VesselLaunched",
            "shipyard.VesselLaunched",
            "shipyard.VesselRenamed",
        ]

    def test_or_none_is(self, log) -> None:
        argo = vessel("Argo")
        log.save_work([argo], metadata=ADA)
        one, other = log.repository.get(argo.id), log.repository.get(argo.id)
        one.rename("Fram")
        log.save_work([one], metadata=ADA)

        other.rename("Gjøa")
        with pytest.raises(IntegrityError):
            log.save_work([vessel("Vega"), other], metadata=ADA)

        assert log.head() == 2
        assert log.repository.get(argo.id).name == "Fram"

    def test_a_guard_refuses_what_was_decided_on_something_old(self, log) -> None:
        argo, fram = vessel("Argo"), vessel("Fram")
        log.save_work([argo, fram], metadata=ADA)
        argo.rename("Gjøa")
        log.save_work([argo], guards=[(fram.id, 1)], metadata=ADA)

        fram.rename("Vega")
        with pytest.raises(IntegrityError):
            log.save_work([fram], guards=[(argo.id, 1)], metadata=ADA)

    def test_times_are_those_of_the_log(self, log) -> None:
        argo = vessel()
        committed = log.save_work([argo], metadata=ADA)

        read = log.repository.get(argo.id)

        assert read.created_on == read.modified_on == committed.recorded_at
        assert log.now() >= committed.recorded_at
        assert committed.recorded_at.tzinfo is UTC

    def test_the_librarys_own_save_writes_inline_tables_too(self, log, table) -> None:
        (recording,) = log.save(vessel("Argo"), metadata=ADA)
        assert recording.notification.id == 1
        assert table.execute("select name, actor from registry").fetchall() == [("Argo", "user:ada")]

    def test_without_events_nothing_is_written_and_the_head_is_the_answer(self, log) -> None:
        log.save_work([vessel()], metadata=ADA)
        assert log.save_work([], metadata=ADA).position == 1
        assert log.head() == 1

    def test_an_empty_log_has_head_0(self, log) -> None:
        assert log.head() == 0
        assert log.save_work([], metadata=ADA).position == 0
        assert log.read(0, 10) == []


class TestRiders:
    def test_travel_with_the_commit(self, log, table) -> None:
        log.save_work([vessel("Argo"), vessel("Fram")], riders=[stamp("one")], metadata=ADA)
        assert table.execute("select * from stamps").fetchall() == [("one", 2)]

    def test_a_second_one_refuses_the_save(self, log) -> None:
        log.save_work([vessel("Argo")], riders=[stamp("one")], metadata=ADA)

        with pytest.raises(InlineRefused) as refused:
            log.save_work([vessel("Fram")], riders=[stamp("one")], metadata=ADA)

        assert refused.value.unique_violation
        assert refused.value.table == "stamps"
        assert log.head() == 1

    def test_are_written_alone_where_nothing_was_decided(self, log, table) -> None:
        log.save_work([vessel("Argo")], metadata=ADA)

        assert log.save_work([], riders=[stamp("one")], metadata=ADA).position == 1

        assert table.execute("select * from stamps").fetchall() == [("one", 1)]
        with pytest.raises(InlineRefused):
            log.save_work([], riders=[stamp("one")], metadata=ADA)

    def test_alone_heed_guards(self, log, table) -> None:
        argo = vessel("Argo")
        log.save_work([argo], metadata=ADA)

        with pytest.raises(IntegrityError):
            log.save_work([], guards=[(argo.id, 2)], riders=[stamp("one")], metadata=ADA)
        assert table.execute("select count(*) from stamps").fetchone() == (0,)

    def test_may_hold_per_cent_signs_lists_and_documents(self, log, table) -> None:
        table.execute("create table notes (words text[], facts jsonb, share text)")
        sql = "insert into notes values (%(words)s, %(facts)s, '100 %%')"

        log.save_work([vessel()], riders=[(sql, {"words": ("a", "b"), "facts": {"tons": 3}})], metadata=ADA)

        assert table.execute("select * from notes").fetchall() == [(["a", "b"], {"tons": 3}, "100 %")]


class TestInline:
    def test_rows_have_position_time_actor_and_the_events_fields(self, log, table) -> None:
        committed = log.save_work([vessel("Argo"), vessel("Fram")], metadata=ADA)

        rows = table.execute("select name, position, recorded_at, actor from registry order by position").fetchall()
        assert rows == [
            ("Argo", 1, committed.recorded_at, "user:ada"),
            ("Fram", 2, committed.recorded_at, "user:ada"),
        ]

    def test_several_statements_run_in_order(self, log, table) -> None:
        argo = vessel("Argo")
        argo.rename("Fram")
        log.save_work([argo], metadata=ADA)
        assert table.execute("select name, position from registry").fetchall() == [("Fram", 2)]

    def test_a_refused_row_refuses_the_save(self, log) -> None:
        log.save_work([vessel("Argo")], metadata=ADA)
        with pytest.raises(InlineRefused) as refused:
            log.save_work([vessel("Argo")], metadata=ADA)
        assert refused.value.constraint == "registry_name_key"
        assert log.head() == 1

    def test_announcements_go_with_the_notification(self, log, table) -> None:
        argo = vessel("Argo")
        table.execute("listen muniment_log")
        argo.sink(3800, "iceberg")

        log.save_work([argo], metadata=ADA)

        (notification,) = table.notifies(timeout=5, stop_after=1)
        assert orjson.loads(notification.payload) == {"head": 2, "announce": [f"vessel:{argo.id}"]}


class TestReading:
    def test_an_event_comes_back_with_its_types(self, log) -> None:
        log.save_work([vessel()], metadata=ADA)

        (recorded,) = log.read(0, 10)

        assert recorded.fields() == LAUNCHED
        assert isinstance(recorded.event, Vessel.Launched)
        assert recorded.event.timestamp == recorded.recorded_at
        assert recorded.id == f"{recorded.stream}:1"

    def test_metadata_comes_back(self, log) -> None:
        context = Context(
            Actor("user", str(UUID(int=7))),
            correlation_id="c",
            causation_id="s:1",
            traceparent="00-1-2-00",
            ip="192.0.2.7",
            user_agent="quill",
            session_id=UUID(int=9),
            config_version=4,
        )
        metadata = Metadata.from_context(context)
        log.save_work([vessel()], metadata=metadata.to_bytes())

        assert log.read(0, 1)[0].metadata == metadata

    def test_pages_and_topics(self, log) -> None:
        for name in ("Argo", "Fram", "Vega"):
            ship = vessel(name)
            ship.rename(name.upper())
            log.save_work([ship], metadata=ADA)

        assert [r.position for r in log.read(2, 2)] == [3, 4]
        assert [r.position for r in log.read(1, 10, ["shipyard.VesselRenamed"])] == [2, 4, 6]

    def test_one_stream_above_a_version_and_up_to_a_position(self, log) -> None:
        argo = vessel("Argo")
        for name in ("A", "B", "C"):
            argo.rename(name)
            log.save_work([argo, vessel(f"other {name}")], metadata=ADA)

        assert [r.version for r in log.read_stream(argo.id)] == [1, 2, 3, 4]
        assert [r.version for r in log.read_stream(argo.id, after_version=2)] == [3, 4]
        third = log.read_stream(argo.id)[2].position
        assert [r.version for r in log.read_stream(argo.id, up_to_position=third)] == [1, 2, 3]

    def test_reads_go_on_after_the_server_has_ended_the_connection(self, log, table) -> None:
        log.head()
        table.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'muniment log'")
        assert log.head() == 0

    def test_without_a_database_reading_is_unavailable(self) -> None:
        log = Log("host=/nonexistent dbname=nothing user=nobody", limits=Limits(pool_seconds=0.2))
        with pytest.raises(Unavailable):
            log.head()
        log.close()


class TestUpcasting:
    def test_an_event_of_version_1_is_read_as_version_2(self, log) -> None:
        argo = vessel()
        log.save_work([argo], metadata=ADA)
        old = orjson.dumps({"depth": "1900 fathoms"})
        log.recorder.insert_events([StoredEvent(argo.id, 2, "shipyard.VesselSunk", old)])

        sunk = log.read_stream(argo.id)[-1]

        assert sunk.fields() == {"depth_metres": 3800, "cause": "unknown"}
        assert log.repository.get(argo.id).depth_metres == 3800

    def test_a_new_event_carries_its_version(self, log, table) -> None:
        argo = vessel()
        argo.sink(3800, "iceberg")
        log.save_work([argo], metadata=ADA)

        (state,) = table.execute("select state from stored_events where originator_version = 2").fetchone()
        assert orjson.loads(state) == {"depth_metres": 3800, "cause": "iceberg", "class_version": 2}

    def test_a_version_from_the_future_is_newer_software(self) -> None:
        state = orjson.dumps({"class_version": 3})
        with pytest.raises(NewerSoftware):
            EventMapper(OrjsonTranscoder()).to_domain_event(StoredEvent(uuid4(), 1, "shipyard.VesselSunk", state))


class TestMapper:
    def test_an_unknown_topic_is_newer_software(self, log) -> None:
        log.recorder.insert_events([StoredEvent(uuid4(), 1, "shipyard.VesselTeleported", b"{}")])
        with pytest.raises(NewerSoftware) as refused:
            log.read(0, 1)
        assert refused.value.code == "newer-software"
        assert isinstance(refused.value, Unavailable)

    def test_a_topic_is_never_a_path_to_import(self) -> None:
        with pytest.raises(NewerSoftware):
            event_type("os:system")

    def test_the_time_isnt_stored(self) -> None:
        stored = EventMapper(OrjsonTranscoder()).to_stored_event(vessel().pending_events[0])
        assert "timestamp" not in orjson.loads(stored.state)

    def test_a_state_that_doesnt_fit_names_its_event(self) -> None:
        stream = uuid4()
        with pytest.raises(MapperDeserialisationError, match=f"{stream}:7"):
            EventMapper(OrjsonTranscoder()).to_domain_event(
                StoredEvent(stream, 7, "shipyard.VesselLaunched", b'{"owner": "nobody"}')
            )

    def test_what_has_no_json_form_is_refused(self) -> None:
        with pytest.raises(TypeError):
            OrjsonTranscoder().encode({"engine": object()})
