"""Says what this instance runs with: at once when that changes, and again and again so that it counts as alive."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from muniment_client.http import Closed, Http, NoAnswer, Problem
from muniment_client.watching import Pace

logger = logging.getLogger("muniment_client")

LEAVE_SECONDS = 2.0
"""So long the end of a service may be kept up by its last word."""

Word = Callable[[], Mapping[str, Any] | None]


class Teller:
    """`word` is what there is to say now (None: nothing yet). A thread of its own: a platform that doesn't answer keeps
    no new document waiting. `newest` is called with the newest version that the platform knows of.
    """

    def __init__(
        self, http: Http, path: str, token: Callable[[], str], word: Word, newest: Callable[[int], None], pace: Pace
    ) -> None:
        self._http, self._path, self._token, self._word, self._newest = http, path, token, word, newest
        self._silence_seconds = pace.answer_seconds
        self._beat_seconds = pace.beat_seconds
        self._backoff = pace.backoff()
        self._ring = threading.Event()
        self._stopping = self._withdraws = False
        self._said = self._unsaid = False
        self.trouble = ""
        """Why the platform doesn't know what this instance runs with; empty: it does, or there is nothing to say."""
        self._thread = threading.Thread(target=self._run, name="muniment-tell", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def tell(self) -> None:
        """There is something new to say."""
        self._unsaid = True
        self._ring.set()

    def stop(self, *, withdraw: bool = True) -> None:
        """Says that the instance ends, if that can be said quickly; else the platform finds out by itself.

        Without `withdraw` the last word stands, until it runs out.
        """
        self._withdraws = withdraw
        self._stopping = True
        self._ring.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(LEAVE_SECONDS)

    def _run(self) -> None:
        while not self._stopping:
            self._ring.clear()
            self._ring.wait(self._once())
        if self._withdraws and self._said:
            self._leave()
        elif not self._withdraws and self._unsaid:
            self._once()

    def _once(self) -> float:
        self._unsaid = False
        word = self._word()
        if word is None:
            return self._beat_seconds
        try:
            answer = self._ask("PUT", json.dumps(word).encode())
            self._beat_seconds = _seconds(answer.get("beat_seconds"), self._beat_seconds)
            version = answer.get("version")
            if isinstance(version, int):
                self._newest(version)
        except Closed:
            self._stopping = True
            return 0.0
        except Problem as problem:
            return self._failed(str(problem), problem.retry_after_seconds)
        except (NoAnswer, ValueError) as error:
            return self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - the token's provider isn't ours
            return self._failed(type(error).__name__)
        self._said, self.trouble = True, ""
        self._backoff.worked()
        return self._beat_seconds

    def _ask(self, method: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token()}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        with self._http.ask(method, self._path, headers, body, silence_seconds=self._silence_seconds) as answer:
            if answer.status >= 300:
                raise answer.problem()
            given = json.loads(answer.whole() or b"{}")
        return given if isinstance(given, dict) else {}

    def _leave(self) -> None:
        try:
            self._ask("DELETE")
        except Exception as error:  # noqa: BLE001 - the last word is a courtesy
            logger.debug("this instance leaves without a word: %s", error)

    def _failed(self, trouble: str, at_least_seconds: float = 0.0) -> float:
        self._unsaid = True
        if trouble != self.trouble:
            logger.warning("what this instance runs with couldn't be told: %s", trouble)
            self.trouble = trouble
        return self._backoff.failed(at_least_seconds)


def _seconds(given: object, otherwise: float) -> float:
    return min(3600.0, max(1.0, float(given))) if isinstance(given, int | float) else otherwise
