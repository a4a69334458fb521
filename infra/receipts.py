"""Receipts: what came of a command, kept under its Idempotency-Key (draft-ietf-httpapi-idempotency-key-header).

A key is reserved in a short transaction of its own, then fulfilled by the very commit of the command. The receipt's
primary key makes it exactly once, whatever happens to the reservation.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from domain.context import Context
from domain.errors import Conflict, Invalid
from infra.configuration.live import given
from infra.dispatch import Dispatcher, Outcome
from infra.inline import Statement

RESERVED_SECONDS = 60

# One statement, one round trip. Should the first command fulfil its receipt just after our snapshot, the reservation
# tells us; should even that have run out, the receipt's primary key refuses the second commit.
RESERVE = """
    with found as (
        select body, result, position, versions from receipts
         where key = %(key)s and fulfilled_at >= clock_timestamp() - %(hours)s * interval '1 h'
    ),
    forgotten as (
        delete from receipts
         where key = %(key)s and fulfilled_at < clock_timestamp() - %(hours)s * interval '1 h'
    ),
    reserved as (
        insert into receipt_reservations as r (key, until)
        select %(key)s, clock_timestamp() + %(seconds)s * interval '1 s' where not exists (select from found)
        on conflict (key) do update set until = excluded.until where r.until < clock_timestamp()
        returning 1
    )
    select f.body, f.result, f.position, f.versions, exists (select from reserved) as reserved
      from (select) one left join found f on true
"""
INSERT = """
    insert into receipts (key, body, status, result, versions, position, fulfilled_at)
    values (%(key)s, %(body)s, %(status)s, %(result)s, %(versions)s, %(position)s, clock_timestamp())
"""


class KeyInFlight(Conflict):
    """The first request with this Idempotency-Key is still being worked on."""

    code = "idempotency-key-in-flight"
    retry_after_seconds = 1


class KeyReused(Invalid):
    """This Idempotency-Key was used with another body."""

    code = "idempotency-key-reused"


class Receipt(Protocol):
    """One use of an Idempotency-Key; see `api.ports.Receipt`."""

    @property
    def actor(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def status(self) -> int: ...
    @property
    def encode(self) -> Callable[[Any], bytes]: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """What the first command with this key came to."""

    result: bytes
    position: int
    versions: Mapping[UUID, int]


@dataclass(frozen=True, slots=True)
class _Fulfilment:
    receipts: "Receipts"
    receipt: Receipt

    def statement(self, result: Any, versions: Mapping[UUID, int]) -> Statement:
        return (
            INSERT,
            {
                "key": self.receipts.digest(self.receipt),
                "body": self.receipts.body_digest(self.receipt),
                "status": self.receipt.status,
                "result": self.receipt.encode(result),
                "versions": orjson.dumps({str(stream): version for stream, version in versions.items()}).decode(),
            },
        )


class Receipts:
    """Keeps receipts for `hours`. `key` is secret, so that the kept hash of a body tells nothing about it."""

    def __init__(
        self, pool: ConnectionPool[Connection[TupleRow]], key: bytes, *, hours: int | Callable[[], int] = 24
    ) -> None:
        self._pool = pool
        self._key = key
        self._hours = given(hours)

    def reserve(self, receipt: Receipt) -> Stored | None:
        """None: the key is ours for 60 s. Otherwise what it came to. Raises KeyInFlight, KeyReused."""
        values = {"key": self.digest(receipt), "hours": self._hours(), "seconds": RESERVED_SECONDS}
        with self._pool.connection() as connection:
            row = connection.execute(RESERVE, values).fetchone()
        assert row  # noqa: S101 - tells the type checker
        body, result, position, versions, reserved = row
        if body is None and not reserved:
            raise KeyInFlight
        if body is None:
            return None
        if not hmac.compare_digest(bytes(body), self.body_digest(receipt)):
            raise KeyReused
        return Stored(bytes(result), position, {UUID(stream): version for stream, version in versions.items()})

    def release(self, receipt: Receipt) -> None:
        """Gives a reserved key up: only successes are kept."""
        with self._pool.connection() as connection:
            connection.execute("delete from receipt_reservations where key = %s", (self.digest(receipt),))

    def fulfilment(self, receipt: Receipt) -> _Fulfilment:
        """The receipt as a rider of the command's commit."""
        return _Fulfilment(self, receipt)

    def prune(self) -> int:
        """Forgets what is too old; returns how many."""
        with self._pool.connection() as connection:
            connection.execute("delete from receipt_reservations where until < clock_timestamp()")
            return connection.execute(
                "delete from receipts where fulfilled_at < clock_timestamp() - %s * interval '1 h'", (self._hours(),)
            ).rowcount

    def digest(self, receipt: Receipt) -> bytes:
        """What identifies it: actor, route and key, hashed to a fixed length."""
        return hashlib.sha256(orjson.dumps([receipt.actor, receipt.route, receipt.key])).digest()

    def body_digest(self, receipt: Receipt) -> bytes:
        """A keyed hash of the body: bodies may hold passwords."""
        return hmac.digest(self._key, receipt.body, "sha256")


class ReceiptedDispatcher:
    """A dispatcher as the API wants it: with the receipt of an Idempotency-Key in the command's commit."""

    def __init__(self, dispatcher: Dispatcher, receipts: Receipts) -> None:
        self._dispatcher = dispatcher
        self._receipts = receipts

    def dispatch(
        self,
        handler: Callable[..., Any],
        command: Any,
        context: Context,
        *,
        if_match: tuple[UUID, int] | None = None,
        receipt: Receipt | None = None,
    ) -> Outcome[Any]:
        """See `Dispatcher.dispatch`."""
        rider = self._receipts.fulfilment(receipt) if receipt else None
        return self._dispatcher.dispatch(handler, command, context, if_match=if_match, rider=rider)
