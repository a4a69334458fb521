"""The log: aggregates are saved to it and everything else is read from it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Self
from uuid import UUID

import msgspec
from eventsourcing.application import Application, ProcessingEvent
from eventsourcing.persistence import (
    EventStore,
    InfrastructureFactory,
    Mapper,
    MapperDeserialisationError,
    Notification,
    Recording,
    StoredEvent,
    Transcoder,
)
from eventsourcing.utils import Environment, EnvType

from domain.aggregate import Aggregate
from domain.context import Context
from infra.inline import Inline, InlineTables, Statement, inline_step, own_fields
from infra.moments import AsOf
from infra.recorder import Committed, Limits, LogDatastore, LogFactory, LogRecorder, Save
from infra.snapshots import Loader
from infra.transcoding import EventMapper, OrjsonTranscoder, RecordedEvent
from infra.wanted import Wanted


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who, why and from where: on every event, as JSON. Fields as in `domain.context.Context`."""

    actor: str = ""
    correlation_id: str = ""
    causation_id: str | None = None
    traceparent: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    session_id: str | None = None
    config_version: int = 0
    hops: int = 0

    @classmethod
    def from_context(cls, context: Context) -> Self:
        """The metadata of whatever is decided in this context."""
        return cls(
            actor=str(context.actor),
            correlation_id=context.correlation_id,
            causation_id=context.causation_id,
            traceparent=context.traceparent,
            ip=context.ip,
            user_agent=context.user_agent,
            session_id=str(context.session_id) if context.session_id else None,
            config_version=context.config_version,
            hops=context.hops,
        )

    def to_bytes(self) -> bytes:
        """JSON, without what is None, 0 or empty."""
        return _metadata_to(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote; fields that this release doesn't know are left out. Raises ValueError."""
        try:
            return _metadata_of(data)  # type: ignore[return-value]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error


_metadata_to = msgspec.json.Encoder().encode
_metadata_of = msgspec.json.Decoder(Metadata).decode


class Recorded(msgspec.Struct, frozen=True):
    """One recorded event, as projections, the API and audit read it."""

    position: int
    stream: UUID
    version: int
    topic: str
    recorded_at: datetime
    metadata: Metadata
    event: Aggregate.Event

    @property
    def id(self) -> str:
        """The event's id: `stream:version`."""
        return f"{self.stream}:{self.version}"

    def fields(self) -> dict[str, Any]:
        """What the event itself says, by name."""
        return own_fields(self.event)


NO_METADATA = b"{}"


class Log(Application[UUID]):
    """The one log of the platform, on PostgreSQL. Creates no tables: that is a migration.

    `conninfo` is a libpq connection string or URL. `inline` are the tables written in each commit. Opens connections
    when first used; `close()` ends them and refuses what still waits.
    """

    name = "log"

    def __init__(self, conninfo: str, *, inline: Sequence[Inline] = (), limits: Limits | None = None) -> None:
        self._conninfo = conninfo
        self._limits = limits or Limits()
        self._inline = InlineTables(inline)
        self._listeners: list[Callable[[Sequence[str]], None]] = []
        super().__init__()

    @property
    def conninfo(self) -> str:
        """Where it is."""
        return self._conninfo

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """Nothing comes from the process's environment."""
        return Environment(name, env or {})

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """The library's parts, with our datastore and recorder."""
        return LogFactory(env, LogDatastore(self._conninfo, self._limits), self._limits)

    def construct_transcoder(self) -> Transcoder:
        """orjson."""
        return OrjsonTranscoder()

    def construct_mapper(self) -> Mapper[UUID]:
        """Ours: no stored timestamp, types coerced by annotation."""
        return EventMapper(self.construct_transcoder())

    def construct_event_store(self) -> EventStore[UUID]:
        """The library's."""
        return EventStore(mapper=self.mapper, recorder=self.recorder)

    @property
    def _recorder(self) -> LogRecorder:
        assert isinstance(self.recorder, LogRecorder)  # noqa: S101 - tells the type checker
        return self.recorder

    def save_work(
        self,
        aggregates: Sequence[Aggregate],
        *,
        guards: Sequence[tuple[UUID, int]] = (),
        metadata: bytes,
        riders: Sequence[Statement] = (),
    ) -> Committed:
        """Saves the new events of all aggregates, or none; returns when they are durable.

        `guards` are (stream, version) pairs that must still be the newest. `riders` are further statements for the
        same transaction, such as a receipt, with `%(position)s` and `%(recorded_at)s` of the last event (of the head,
        if there is none). Without events nothing but the riders is written, and the answer is the head.

        Raises IntegrityError (the library's: somebody else was faster), InlineRefused, Overloaded, OutcomeUnknown,
        Unavailable.
        """
        events = [event for aggregate in aggregates for event in aggregate.collect_events()]
        return self.save_events(events, guards=guards, metadata=metadata, riders=riders)  # type: ignore[arg-type]

    def save_events(
        self,
        events: Sequence[Aggregate.Event],
        *,
        guards: Sequence[tuple[UUID, int]] = (),
        metadata: bytes,
        riders: Sequence[Statement] = (),
    ) -> Committed:
        """As `save_work`, for events already collected."""
        if not events:
            return self._recorder.write_riders(riders, guards)
        to_stored = self.mapper.to_stored_event
        rows = [to_stored(event) for event in events]
        announcements = self._inline.announcements(events)
        committed = self._recorder.save(
            Save(
                rows,
                metadata,
                guards=guards,
                inline=[*self._inline.steps(events, rows, metadata), *map(inline_step, riders)],
                announcements=announcements,
            )
        )
        if announcements:
            for listener in self._listeners:
                listener(announcements)
        return committed

    def on_announce(self, listener: Callable[[Sequence[str]], None]) -> None:
        """Calls it with what a commit of this process announces, before the save returns; in the saving thread.

        Other processes hear the same by notification.
        """
        self._listeners.append(listener)

    def _record(self, processing_event: ProcessingEvent[UUID]) -> list[Recording[UUID]]:
        """The library's `save`, too, goes with inline tables: `log.save(aggregate, metadata=...)`."""
        events: Any = processing_event.events
        if not events:
            return []
        last = self.save_events(events, metadata=processing_event.saved_kwargs.get("metadata", NO_METADATA)).position
        stored = [(event, self.mapper.to_stored_event(event)) for event in events]
        first = last - len(events) + 1
        return [
            Recording(event, Notification(row.originator_id, row.originator_version, row.topic, row.state, position))
            for position, (event, row) in enumerate(stored, start=first)
        ]

    @cached_property
    def loader(self) -> Loader:
        """Knows the snapshots of long streams."""
        return Loader(self._recorder, self._mapper, self._limits.snapshot_events)

    def load(self, kind: type[Aggregate], stream: UUID) -> Aggregate | None:
        """The aggregate of a stream, by its newest snapshot and what came after it; None where the stream is empty.

        It may be of another kind than the one that is looked for. Raises Unavailable, NewerSoftware.
        """
        return self.loader.load(kind, stream)

    def read(self, after: int, limit: int, topics: Sequence[str] = ()) -> list[Recorded]:
        """At most `limit` events with a position above `after`, in position order; all topics if none is given."""
        return [self._recorded(row) for row in self._recorder.read(after, limit, topics)]

    def read_stream(
        self,
        stream: UUID,
        after_version: int = 0,
        up_to_position: int | None = None,
        *,
        after: int = 0,
        topics: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[Recorded]:
        """The events of one stream, in order.

        Those above a version and above a position (`after`), at or below another, of these topics (all if none is
        given), at most `limit`.
        """
        rows = self._recorder.read_stream(
            stream, after_version, up_to_position, after=after, topics=topics, limit=limit
        )
        return [self._recorded(row) for row in rows]

    def search(self, wanted: Wanted, after: int, limit: int, upto: int | None = None) -> list[Recorded]:
        """At most `limit` of the events that are wanted, above a position and at or below another, in order."""
        return [self._recorded(row) for row in self._recorder.search(wanted, after, upto, limit)]

    def rows(self, wanted: Wanted, after: int, limit: int, upto: int | None = None) -> list[RecordedEvent]:
        """The same as bare rows, none of which can fail to be read; `recorded` reads one."""
        return self._recorder.search(wanted, after, upto, limit)

    def head(self) -> int:
        """The position of the newest event; 0 for an empty log."""
        return self._recorder.head().position

    def now(self) -> datetime:
        """The time by the database's clock, never before the newest event's `recorded_at`."""
        return self._recorder.now()

    def moment(self, as_of: AsOf) -> tuple[int, datetime]:
        """The position that is meant by a position or a time, and the time by which expiry is judged there.

        A time means the greatest position recorded at or before it. Raises PositionUnknown, Invalid for a time that
        hasn't come.
        """
        return self._recorder.moment(as_of)

    def recorded(self, row: StoredEvent) -> Recorded:
        """A row with its event decoded. Raises NewerSoftware for an unknown topic, MapperDeserialisationError."""
        assert isinstance(row, RecordedEvent)  # noqa: S101 - tells the type checker
        return self._recorded(row)

    def recorded_columns(self, columns: Sequence[Any]) -> Recorded:
        """The same for a row's bare columns, in the order of `infra.recorder.COLUMNS`."""
        stream, version, topic, state, position, recorded_at, metadata = columns
        event = self._mapper.event_of(stream, version, topic, state, recorded_at)
        return Recorded(position, stream, version, topic, recorded_at, _metadata_at(position, metadata), event)

    def _recorded(self, row: RecordedEvent) -> Recorded:
        stream, version, topic = row.originator_id, row.originator_version, row.topic
        return self.recorded_columns((stream, version, topic, row.state, row.position, row.recorded_at, row.metadata))

    @property
    def _mapper(self) -> EventMapper:
        assert isinstance(self.mapper, EventMapper)  # noqa: S101 - tells the type checker
        return self.mapper

    def change_limits(self, *, queue_saves: int, group_saves: int) -> None:
        """From now on so many saves may wait, and be in one transaction."""
        self._recorder.change_limits(queue_saves=queue_saves, group_saves=group_saves)

    def close(self) -> None:
        """Ends all connections. Saves that still wait get an Unavailable."""
        if "recorder" in vars(self):
            self._recorder.close()
        super().close()


def _metadata_at(position: int, data: bytes) -> Metadata:
    try:
        return Metadata.from_bytes(data)
    except ValueError as error:
        raise MapperDeserialisationError(f"the metadata at {position} can't be read: {error}") from error
