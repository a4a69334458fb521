"""The tokens that prove an e-mail address: derived, so that nobody has to store them.

A token is base64url of version, user id, number of the request, and an HMAC-SHA-256 over these under a key of its own
(`Secrets.derive("email-verification")`): nobody makes one without the key, and nothing that is stored is one. Until
when it works, and whether it is the newest request's, the event store says.
"""

import base64
import binascii
import hmac
from dataclasses import dataclass
from struct import Struct
from uuid import UUID

from domain.identity import VerificationInvalid

VERSION = 1
PURPOSE = "email-verification"

_MESSAGE = Struct(">B16sI")


@dataclass(frozen=True, slots=True)
class VerificationTokens:
    """Makes and reads tokens under `key`."""

    key: bytes

    def __repr__(self) -> str:
        return "VerificationTokens(...)"

    def token(self, user_id: UUID, number: int) -> str:
        """The token of a user's request `number`."""
        message = _MESSAGE.pack(VERSION, user_id.bytes, number)
        return base64.urlsafe_b64encode(message + self._mac(message)).rstrip(b"=").decode()

    def read(self, token: str) -> tuple[UUID, int]:
        """Whose token it is, and of which request. Raises VerificationInvalid."""
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise VerificationInvalid from None
        message, mac = data[: _MESSAGE.size], data[_MESSAGE.size :]
        if len(message) != _MESSAGE.size or not hmac.compare_digest(mac, self._mac(message)):
            raise VerificationInvalid
        version, user_id, number = _MESSAGE.unpack(message)
        if version != VERSION:
            raise VerificationInvalid
        return UUID(bytes=user_id), number

    def _mac(self, message: bytes) -> bytes:
        return hmac.digest(self.key, message, "sha256")
