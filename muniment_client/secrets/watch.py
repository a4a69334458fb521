"""Notices that secrets were rotated, and tells whoever uses them."""

import logging
import threading
from collections.abc import Callable, Sequence

from muniment_client.secrets.store import Reference
from muniment_client.secrets.stores import SecretStores

logger = logging.getLogger(__name__)

STOP_SECONDS = 1.0


class Watch:
    """A thread that asks the stores anew every `refresh_seconds`, and calls `on_change` with what has changed.

    `on_change` is to resolve these references again; as long as it hasn't, it is told of them again.
    """

    def __init__(self, stores: SecretStores, on_change: Callable[[Sequence[Reference]], None]) -> None:
        self._stores = stores
        self._on_change = on_change
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="secrets-watch", daemon=True)

    def start(self) -> None:
        """Begins to look, once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a store that hangs is waited for only briefly."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def look(self) -> None:
        """One look, in the caller's thread."""
        try:
            changed = self._stores.changed()
            if changed:
                logger.info("rotated: %s", ", ".join(map(str, changed)))
                self._on_change(changed)
        finally:
            # last: what a store won't say of its token is no reason not to ask it for secrets
            self._stores.maintain()

    def _run(self) -> None:
        while not self._stopped.wait(self._stores.patience.refresh_seconds):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - the next look may succeed
                # only its type: what failed has worked with values of secrets, and its message may hold one
                logger.error("secrets that were rotated couldn't be taken over: %s", type(error).__name__)  # noqa: TRY400
