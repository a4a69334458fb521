"""The token that a store is asked with: given, or in a file that an agent renews."""

import re
from pathlib import Path

from muniment_client.secrets.hidden import Hidden
from muniment_client.secrets.store import StoreUnavailable

HEADER = "X-Vault-Token"
SENDABLE = re.compile(r"[\x21-\x7e]{1,4096}")
"""What a header can carry. What it can't would be quoted, whole, in the HTTP client's error."""


class Token:
    """A token. Where it comes from a file, `reread()` takes what is there by now."""

    def __init__(self, text: str = "", file: Path | None = None) -> None:
        """Raises StoreUnavailable, without the text, for one that no header can carry."""
        self._file = file
        self._hidden = Hidden("")
        if text:
            self._take(text, "the token")

    def __bool__(self) -> bool:
        return bool(self._hidden)

    def header(self) -> dict[str, str]:
        """The header that carries it; none where there is no token. Raises StoreUnavailable for an unreadable file."""
        if self._file and not self._hidden:
            self.reread()
        return {HEADER: self._hidden.reveal()} if self._hidden else {}

    def reread(self) -> bool:
        """Whether the file holds another one than before. Raises StoreUnavailable."""
        if self._file is None:
            return False
        former = self._hidden
        try:
            with self._file.open("rb") as file:
                raw = file.read(8_192)
        except OSError as error:
            raise StoreUnavailable(f"vault: the token's file can't be read: {error.strerror}") from None
        self._take(raw.decode("latin-1"), "the token's file")
        return self._hidden != former

    def _take(self, text: str, source: str) -> None:
        if not SENDABLE.fullmatch(text.strip()):
            raise StoreUnavailable(f"vault: {source} doesn't hold a token")
        self._hidden = Hidden(text.strip())


NO_TOKEN = Token()
