"""Former versions of a namespace, for a service that can't run with the newest and has nothing else."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from muniment_client.document import understood
from muniment_client.http import Http, NoAnswer
from muniment_client.keeping import Document
from muniment_client.watching import Pace

logger = logging.getLogger("muniment_client")

LOOKED_BACK: Final = 20
"""So many versions at most."""


class Past:
    """Asks the platform, one version after the other."""

    def __init__(self, http: Http, path: str, namespace: str, token: Callable[[], str], pace: Pace) -> None:
        self._http, self._path, self._namespace, self._token = http, path, namespace, token
        self._silence_seconds = pace.answer_seconds

    def before(self, version: int) -> Iterator[Document]:
        """Those before it, the newest first, as far as they can be had."""
        for former in range(version - 1, max(0, version - 1 - LOOKED_BACK), -1):
            try:
                document = self._document(former)
            except (NoAnswer, ValueError) as error:
                logger.warning("version %d of %s can't be had: %s", former, self._namespace, error)
                return
            if document is not None:
                yield document

    def _document(self, version: int) -> Document | None:
        """None for one that the platform itself can't show any more."""
        headers = {"Authorization": f"Bearer {self._token()}"}
        path = f"{self._path}?version={version}"
        with self._http.ask("GET", path, headers, silence_seconds=self._silence_seconds) as answer:
            if answer.status == 200:
                return understood(self._namespace, answer.whole(), "")
            problem = answer.problem()
        logger.info("version %d of %s: %s", version, self._namespace, problem)
        return None
