"""Former versions of a namespace, for a service that can't run with the newest and hasn't seen those before it."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from muniment_client.document import understood
from muniment_client.http import Http
from muniment_client.keeping import Document
from muniment_client.watching import Pace

logger = logging.getLogger("muniment_client")

LOOKED_BACK: Final = 20
"""So many versions at most."""
GONE: Final = {404, 422}
"""The platform can't show this version any more; anything else may be otherwise the next time."""


class Past:
    """Asks the platform, one version after the other."""

    def __init__(self, http: Http, path: str, namespace: str, token: Callable[[], str], pace: Pace) -> None:
        self._http, self._path, self._namespace, self._token = http, path, namespace, token
        self._silence_seconds = pace.answer_seconds

    def between(self, after: int, before: int) -> Iterator[Document]:
        """Those between two versions, the newest first. Raises NoAnswer, Problem, ValueError."""
        for version in range(before - 1, max(after, before - 1 - LOOKED_BACK), -1):
            document = self._document(version)
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
        if answer.status not in GONE:
            raise problem
        logger.info("version %d of %s: %s", version, self._namespace, problem)
        return None
