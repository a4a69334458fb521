"""A made-up past of any length, as the platform would have recorded it: users, roles, sessions."""

import base64
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.utils import get_topic
from psycopg import Connection

from domain.access import UserAssignments
from domain.aggregate import Aggregate
from domain.identity import EmailClaim, Session, User
from infra.transcoding import EventMapper, OrjsonTranscoder

START = datetime(2026, 1, 1, tzinfo=UTC)
LOGINS_PER_USER = 8
AGENTS = ("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "muniment-client/1.4 (python)")

_COPY = """
    copy stored_events (originator_id, originator_version, topic, state, notification_id, recorded_at, metadata)
    from stdin (format binary)
"""
_TYPES = ["uuid", "int8", "text", "bytea", "int8", "timestamptz", "bytea"]


def fill(connection: Connection[Any], events: int, seed: int = 1) -> None:
    """Puts so many events into an empty log, each of a type that the platform records."""
    mapper = EventMapper(OrjsonTranscoder())
    recorded_at = START
    with connection.transaction():
        with connection.cursor().copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for position, (event, metadata) in enumerate(_past(random.Random(seed), events), start=1):
                row = mapper.to_stored_event(event)
                recorded_at += timedelta(milliseconds=3)
                copy.write_row((row.originator_id, row.originator_version, row.topic, row.state, position, recorded_at,
                                orjson.dumps(metadata)))  # fmt: skip
        connection.execute("update log_head set position = %s, recorded_at = %s", (events, recorded_at))
    connection.execute("analyze stored_events")


def _past(chance: random.Random, events: int) -> Iterator[tuple[Any, dict[str, str]]]:
    left = events
    while left:
        for pair in _life(chance):
            yield pair
            left -= 1
            if not left:
                return


def _life(chance: random.Random) -> Iterator[tuple[Any, dict[str, str]]]:
    """One user: registered, given a role, logging in again and again."""
    user, number = _id(chance), chance.getrandbits(32)
    by_admin = {"actor": "user:0192a7b0-0000-7000-8000-000000000000", "correlation_id": str(_id(chance)),
                "ip": "10.0.0.7", "user_agent": AGENTS[1]}  # fmt: skip
    hashed = "hmac1$" + base64.b64encode(chance.randbytes(39)).decode()
    named = {"email": f"user{number}@company{number % 97}.example", "name": f"Person {number}", "password": hashed}
    yield _first(User.Registered, User, user, **named), by_admin
    yield _first(EmailClaim.Claimed, EmailClaim, _id(chance), user_id=user), by_admin
    assignments = _id(chance)
    yield _first(UserAssignments.Opened, UserAssignments, assignments, user_id=user), by_admin
    assigned = {"user_id": user, "role": "analyst", "scope": f"/company{number % 97}", "expires_at": None}
    yield _next(UserAssignments.RoleAssigned, assignments, 2, **assigned), by_admin
    for _ in range(LOGINS_PER_USER):
        yield from _login(chance, user)


def _login(chance: random.Random, user: UUID) -> Iterator[tuple[Any, dict[str, str]]]:
    session, version = _id(chance), 1
    metadata = {"actor": f"user:{user}", "correlation_id": str(_id(chance)), "session_id": str(session),
                "ip": f"10.{chance.randrange(256)}.{chance.randrange(256)}.1",
                "user_agent": chance.choice(AGENTS)}  # fmt: skip
    yield _first(Session.Opened, Session, session, user_id=user, token_hash=_digest(chance)), metadata
    for version in (2, 3):
        yield (
            _next(Session.Refreshed, session, version, user_id=user, token_hash=_digest(chance), key_id="k1"),
            metadata,
        )
    if chance.random() < 0.5:
        yield _next(Session.Ended, session, version + 1, user_id=user, reason="logout"), metadata


def _first(kind: type[Any], aggregate: type[Aggregate], stream: UUID, **fields: Any) -> Any:
    return _next(kind, stream, 1, originator_topic=get_topic(aggregate), **fields)


def _next(kind: type[Any], stream: UUID, version: int, **fields: Any) -> Any:
    return kind(originator_id=stream, originator_version=version, timestamp=START, **fields)


def _id(chance: random.Random) -> UUID:
    return UUID(int=chance.getrandbits(128), version=4)


def _digest(chance: random.Random) -> str:
    return chance.randbytes(32).hex()
