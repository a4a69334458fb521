"""Which stores are meant: from the text of a setting to the stores."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from muniment_client.secrets.environment import Environment
from muniment_client.secrets.files import Files
from muniment_client.secrets.store import SecretStore, StoreUnavailable
from muniment_client.secrets.stores import Patience, SecretStores
from muniment_client.secrets.token import Token
from muniment_client.secrets.vault import Engine, Vault

STORES_LIMIT = 4


class StoreMalformed(ValueError):
    """No store can be made of this. The message names what is wrong, and no token."""


@dataclass(frozen=True, slots=True)
class Access:
    """What Vault wants beside its address. `ca` is a file of certificates (PEM); None: those of the system."""

    token: str = field(default="", repr=False)
    token_file: Path | None = None
    ca: Path | None = None
    engine: Engine = field(default_factory=Engine)


def open_stores(text: str, access: Access = Access(), patience: Patience = Patience()) -> SecretStores:
    """The stores of a list like `files:/run/secrets,environment` or `vault:https://vault.example.com:8200`.

    Opens no connection. Raises StoreMalformed.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > STORES_LIMIT:
        raise StoreMalformed(f"more than {STORES_LIMIT} stores")
    return SecretStores([_store(part, access, patience) for part in parts], patience)


def _store(text: str, access: Access, patience: Patience) -> SecretStore:
    kind, _, rest = text.partition(":")
    makers: dict[str, Callable[[], SecretStore]] = {
        "environment": lambda: _environment(rest),
        "files": lambda: _files(rest),
        "vault": lambda: _vault(rest, access, patience),
    }
    if kind not in makers:
        raise StoreMalformed(f"environment, files:FOLDER or vault:https://HOST:PORT, not {kind!r}")
    return makers[kind]()


def _environment(rest: str) -> SecretStore:
    if rest:
        raise StoreMalformed("environment has nothing behind it")
    return Environment()


def _files(rest: str) -> SecretStore:
    folder = Path(rest)
    if not folder.is_absolute():
        raise StoreMalformed(f"files:{rest}: the whole path of a folder is needed")
    return Files(folder)


def _vault(url: str, access: Access, patience: Patience) -> SecretStore:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise StoreMalformed("vault: no address") from None
    if parts.username or parts.password:
        raise StoreMalformed("vault: its address holds no user; the token is a setting of its own")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or parts.path.strip("/") or parts.query:
        raise StoreMalformed("vault:https://HOST:PORT, with nothing behind")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise StoreMalformed("vault: the token would go over the network in clear; https is needed")
    try:
        token = Token(access.token, access.token_file)
    except StoreUnavailable as error:
        raise StoreMalformed(str(error)) from None
    tls = _tls(access.ca) if parts.scheme == "https" else None
    return Vault(url, token, access.engine, tls=tls, timeout_seconds=patience.timeout_seconds)


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise StoreMalformed(f"vault: {ca}: {getattr(error, 'reason', None) or error.strerror}") from None


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
