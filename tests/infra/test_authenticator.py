"""Verified tokens are remembered, but never longer than the keys that they were signed with are believed."""

import asyncio
from types import SimpleNamespace
from uuid import uuid4

import pytest

from domain.errors import Unauthenticated
from infra.authenticator import Authenticator
from infra.tokens import AccessClaims

CLAIMS = AccessClaims(uuid4(), uuid4(), 2_000_000_000, "k1")


class Signed:
    """Stands for the tokens of a keyring whose key can be revoked."""

    def __init__(self):
        self.revoked = False
        self.known_revoked = False

    def verify(self, _):
        if self.known_revoked:
            raise Unauthenticated
        return CLAIMS

    async def reread(self):
        self.known_revoked = self.revoked


@pytest.mark.parametrize("fresh", [True, False])
def test_while_nobody_tells_of_changes_the_keyring_is_read_again(fresh, monkeypatch):
    signed, sessions = Signed(), SimpleNamespace(knows=lambda *_: True)
    monkeypatch.setattr("infra.authenticator.REREAD_SECONDS", 0.0)
    authenticator = Authenticator(
        signed, sessions, size=10, fresh=lambda: fresh, reread=signed.reread, clock=lambda: 1_900_000_000
    )

    async def twice():
        await authenticator.authenticate("token")
        signed.revoked = True
        await authenticator.authenticate("token")

    if fresh:  # it would have been told
        asyncio.run(twice())
    else:
        with pytest.raises(Unauthenticated):
            asyncio.run(twice())
