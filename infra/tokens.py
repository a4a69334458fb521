"""Access tokens (RFC 9068) and refresh tokens (opaque, rotated, derived)."""

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import jwt

from domain.errors import Unauthenticated
from domain.identity import InvalidRefreshToken
from infra.configuration.live import Live
from infra.keys import Keys
from infra.settings import Settings

ALGORITHMS = ["EdDSA"]
TYPE = "at+jwt"


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a valid access token says. `expires_at` is a Unix time in seconds."""

    user_id: UUID
    session_id: UUID
    expires_at: int
    key_id: str


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token taken apart: which session, which generation, and the hash that the session keeps."""

    session_id: UUID
    generation: int
    text: str

    @property
    def hash(self) -> str:
        """SHA-256; the secret has 256 random bits, so nothing slower is needed."""
        return base64.b64encode(hashlib.sha256(self.text.encode()).digest()).decode()


class Tokens:
    """Makes and verifies the tokens of this installation."""

    def __init__(self, keys: Keys, settings: Settings | Live) -> None:
        self._keys = keys
        self._live = settings if isinstance(settings, Live) else Live.of(settings)

    def access_token(self, user_id: UUID, session_id: UUID) -> str:
        """A signed access token, good for `access_token_seconds`."""
        record, key = self._keys.signing()
        settings = self._live.settings
        now = self._keys.now()
        claims = {
            "iss": settings.issuer,
            "aud": settings.audience,
            "sub": str(user_id),
            "sid": str(session_id),
            "client_id": "muniment",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(seconds=settings.access_token_seconds)).timestamp()),
            "jti": secrets.token_urlsafe(12),
        }
        return jwt.encode(claims, key, "EdDSA", headers={"typ": TYPE, "kid": record.key_id})

    def verify(self, token: str) -> AccessClaims:
        """The claims of a token that this installation signed and that hasn't expired. Raises Unauthenticated.

        Whether its session still lives is another question.
        """
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.verifying(str(header.get("kid")))
            if key is None or header.get("typ") != TYPE:
                raise Unauthenticated("The access token is not one of ours.")
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._live.settings.audience,
                issuer=self._live.settings.issuer,
                options={"require": ["exp", "iat", "sub", "sid", "jti"], "verify_exp": False, "verify_iat": False},
            )
            # by the store's clock: this machine's own may be off
            if int(claims["exp"]) <= self._keys.now().timestamp():
                raise Unauthenticated("The access token has expired.")
            return AccessClaims(UUID(claims["sub"]), UUID(claims["sid"]), int(claims["exp"]), str(header["kid"]))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise Unauthenticated("The access token is not valid.") from None

    def first_refresh_token(self, session_id: UUID) -> RefreshToken:
        """The refresh token of a session that is being opened."""
        return _token(session_id, 0, secrets.token_bytes(32))

    def successor(self, token: RefreshToken, key_id: str | None = None) -> tuple[RefreshToken, str]:
        """The token that follows this one, and the id of the key it is derived under (the current one unless given).

        HMAC-SHA-256 over token, session and generation: the same token has one successor under one key.
        """
        key_id, key = self._keys.derivation(key_id)
        material = f"{token.text}|{token.session_id}|{token.generation + 1}".encode()
        return _token(token.session_id, token.generation + 1, hmac.digest(key, material, "sha256")), key_id


def _token(session_id: UUID, generation: int, secret: bytes) -> RefreshToken:
    text = f"mrt_{_encode(session_id.bytes)}.{generation}.{_encode(secret)}"
    return RefreshToken(session_id, generation, text)


def parse_refresh_token(text: str) -> RefreshToken:
    """Raises InvalidRefreshToken for what can't be one."""
    prefix, _, rest = text.partition("_")
    parts = rest.split(".")
    if prefix != "mrt" or len(parts) != 3 or len(text) > 128 or not parts[1].isascii() or not parts[1].isdigit():
        raise InvalidRefreshToken
    try:
        return RefreshToken(UUID(bytes=_decode(parts[0])), int(parts[1]), text)
    except (ValueError, binascii.Error):
        raise InvalidRefreshToken from None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
