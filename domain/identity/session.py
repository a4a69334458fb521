"""Sessions: what a login opens and each refresh carries on."""

from datetime import datetime, timedelta
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Secret
from domain.errors import NotFound, Throttled, Unauthenticated


class SessionNotFound(NotFound):
    """There is no such session."""

    code = "session-not-found"


class InvalidRefreshToken(Unauthenticated):
    """This refresh token is not valid."""

    code = "invalid-refresh-token"


class RefreshTokenReused(Unauthenticated):
    """This refresh token was used before; its session is revoked."""

    code = "refresh-token-reused"


class TooManyRefreshes(Throttled):
    """This session has been refreshed too often within an hour."""

    code = "too-many-refreshes"


ROTATIONS_AN_HOUR = 240
"""Twice what the shortest-lived access tokens need: or one login could fill the log."""
HOUR = timedelta(hours=1)


class Session(Aggregate):
    """One login. Its refresh token is rotated at each use (RFC 9700, 4.14.2), and only hashes are kept.

    Generation g's token has the hash `hashes[g]`. Its successor is derived from it under the key `key_id`, so whoever
    presents the same token twice within the grace gets the same successor: one lineage.
    """

    TOPIC = "identity.Session"
    NOT_FOUND = SessionNotFound

    class Opened(First):
        TOPIC = "identity.SessionOpened"
        user_id: UUID
        token_hash: Secret[str]

    class Refreshed(Aggregate.Event):
        TOPIC = "identity.SessionRefreshed"
        user_id: UUID
        token_hash: Secret[str]
        key_id: str

        def apply(self, aggregate: "Session") -> None:
            aggregate.hashes.append(self.token_hash)
            aggregate.key_id = self.key_id
            aggregate.rotated_on = self.timestamp
            if self.timestamp - aggregate.rotations_since >= HOUR:
                aggregate.rotations_since, aggregate.rotations = self.timestamp, 0
            aggregate.rotations += 1

    class Reused(Aggregate.Event):
        """A refresh token older than the grace was presented: somebody has a copy."""

        TOPIC = "identity.RefreshTokenReused"
        user_id: UUID
        generation: int

    class Ended(Aggregate.Event):
        TOPIC = "identity.SessionEnded"
        user_id: UUID
        reason: str

    @event(Opened)
    def __init__(self, user_id: UUID, token_hash: str, id: UUID) -> None:  # noqa: A002
        self._id = id
        self.user_id = user_id
        self.hashes = [token_hash]
        self.key_id = ""
        self.rotated_on: datetime = self.created_on
        self.rotations_since: datetime = self.created_on
        self.rotations = 0
        self.ended = False

    @property
    def generation(self) -> int:
        """How often the refresh token was rotated."""
        return len(self.hashes) - 1

    def is_authentic(self, generation: int, token_hash: str) -> bool:
        """Whether this was ever a refresh token of this session."""
        return 0 <= generation < len(self.hashes) and self.hashes[generation] == token_hash

    def expires_on(self, lifetime: timedelta, limit: timedelta) -> datetime:
        """When the newest refresh token stops working: unused for `lifetime`, or `limit` after the login."""
        return min(self.rotated_on + lifetime, self.created_on + limit)

    def rotate(self, successor_hash: str, key_id: str) -> None:
        """Carries the session on with the next refresh token."""
        self.trigger_event(self.Refreshed, user_id=self.user_id, token_hash=successor_hash, key_id=key_id)

    def check_may_rotate(self, now: datetime) -> None:
        """Raises TooManyRefreshes."""
        left = self.rotations_since + HOUR - now
        if self.rotations >= ROTATIONS_AN_HOUR and left > timedelta(0):
            raise TooManyRefreshes(retry_after_seconds=int(left.total_seconds()) + 1)

    def within_grace(self, generation: int, now: datetime, grace: timedelta) -> bool:
        """Whether this generation is the newest's immediate predecessor, replaced no longer than `grace` ago."""
        return generation == self.generation - 1 and now - self.rotated_on <= grace

    def report_reuse(self, generation: int) -> None:
        """Records the reuse and ends the session."""
        self._reuse(self.user_id, generation)
        self.end("refresh-token-reused")

    @event(Reused)
    def _reuse(self, user_id: UUID, generation: int) -> None: ...

    def end(self, reason: str) -> None:
        """Ends its tokens at once. Ending twice records nothing."""
        if not self.ended:
            self._end(self.user_id, reason)

    @event(Ended)
    def _end(self, user_id: UUID, reason: str) -> None:
        self.ended = True
