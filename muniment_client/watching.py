"""Hears of new documents: by server-sent events, or by long polls where something on the way doesn't let those through.

One thread. It comes back whatever happens, later and later and never in step with others, and goes on from the
document that it had last.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from muniment_client.backoff import Backoff
from muniment_client.document import understood
from muniment_client.events import EventStream, Message, TooLong
from muniment_client.http import Answer, Closed, Http, NoAnswer, Problem, Unreachable
from muniment_client.keeping import Document

logger = logging.getLogger("muniment_client")

Way = Literal["stream", "poll"]
EVENT_STREAM: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: until the head and the first bytes of an answer; of silence on a stream, which the platform breaks
    every 15; a long poll; how long a stream lives at least to count as one that works; how long polls go on after
    `broken_streams` in a row that didn't.
    """

    answer_seconds: float = 10.0
    silence_seconds: float = 45.0
    poll_seconds: float = 20.0
    short_seconds: float = 10.0
    broken_streams: int = 3
    polls_seconds: float = 600.0
    beat_seconds: float = 10.0
    """How often an instance says what it runs with, until the platform names another time."""
    backoff: Callable[[], Backoff] = field(default=Backoff)


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether the platform is heard: `way` is how, None while it isn't; `trouble` is why not. `since` is a time
    (seconds of the epoch).
    """

    way: Way | None
    trouble: str
    since: float


class Watcher:
    """Calls `take` with each document that is another than the last, and `changed` when `reach` is another."""

    def __init__(
        self,
        http: Http,
        path: str,
        namespace: str,
        token: Callable[[], str],
        take: Callable[[Document], None],
        changed: Callable[[], None],
        pace: Pace,
    ) -> None:
        self.reach = Reach(None, "", time.time())
        self._http, self._path, self._namespace = http, path, namespace
        self._token, self._take, self._changed, self._pace = token, take, changed, pace
        self._backoff = pace.backoff()
        self._stopped = threading.Event()
        self._id = ""
        self._broken = 0
        self._polls_until = self._expired_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="muniment-watch", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Ends it; `Http.close` ends what it waits for."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def distrust(self) -> None:
        """There is something new that didn't come this way: something between swallows it. From now on by polls."""
        if self.reach.way == "stream":
            self._polls_until = time.monotonic() + self._pace.polls_seconds
            self._http.interrupt()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                pause = self._once()
            except Closed:
                return
            except Exception as error:  # the thread must outlive whatever a token's provider or a proxy does
                logger.exception("the configuration of %s can't be watched", self._namespace)
                pause = self._failed(type(error).__name__)
            self._stopped.wait(pause)

    def _once(self) -> float:
        """One stream or one poll. Returns how long to wait before the next (seconds)."""
        polls = time.monotonic() < self._polls_until
        try:
            return self._poll() if polls else self._stream()
        except Problem as problem:
            if problem.status == 422:
                self._id = ""  # an id that the platform can't read would be refused for ever
            return self._failed(str(problem), problem.retry_after_seconds)
        except Unreachable as error:
            return self._failed(str(error))
        except (NoAnswer, TooLong, ValueError) as error:
            if not polls:
                self._broke()
            return self._failed(str(error) or type(error).__name__)

    # By a stream

    def _stream(self) -> float:
        headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": self._id} if self._id else {})}
        with self._http.ask(
            "GET", self._path, self._with_token(headers), silence_seconds=self._pace.answer_seconds
        ) as answer:
            if answer.status != 200:
                raise answer.problem()
            if not answer.header("content-type").startswith(EVENT_STREAM):
                raise NoAnswer("no stream was answered")
            return self._listen(answer)

    def _listen(self, answer: Answer) -> float:
        began = time.monotonic()
        stream = EventStream(self._id)
        part = answer.part()
        answer.patience(self._pace.silence_seconds)
        while part:
            self._heard("stream")
            for message in stream.feed(part):
                if message.event:
                    return self._ended(message, stream.retry_seconds or 0.0)
                self._take_in(message.data, message.id)
            if time.monotonic() - began >= self._pace.short_seconds:
                self._worked()
            part = answer.part()
        if time.monotonic() - began >= self._pace.short_seconds:
            self._worked()
        raise NoAnswer("the stream broke off")

    def _ended(self, message: Message, retry_seconds: float) -> float:
        """The platform has said that it is over, and why."""
        said: object = None
        with suppress(ValueError):
            said = json.loads(message.data)
        reason = str(said.get("reason", "")) if isinstance(said, dict) else ""
        self._broken = 0
        now = time.monotonic()
        if message.event == "expired" and now - self._expired_at > self._pace.short_seconds:
            self._expired_at = now
            self._lost(reason)
            return random.uniform(0.0, 1.0)  # noqa: S311 - the next token is asked for at once, but not by all at once
        return self._failed(f"{message.event}: {reason}", retry_seconds)

    def _broke(self) -> None:
        self._broken += 1
        if self._broken >= self._pace.broken_streams:
            self._broken = 0
            self._polls_until = time.monotonic() + self._pace.polls_seconds
            logger.warning(
                "streams of %s break off or don't get through; long polls for %d s",
                self._namespace,
                self._pace.polls_seconds,
            )

    # By long polls

    def _poll(self) -> float:
        seconds = round(self._pace.poll_seconds)
        headers = {"Accept": "application/json", **({"If-None-Match": f'"{self._id}"'} if self._id else {})}
        began = time.monotonic()
        with self._http.ask(
            "GET",
            f"{self._path}?wait={seconds}",
            self._with_token(headers),
            silence_seconds=seconds + self._pace.answer_seconds,
        ) as answer:
            if answer.status == 200:
                self._take_in(answer.whole(), answer.header("etag").removeprefix("W/").strip('"'))
            elif answer.status != 304:
                raise answer.problem()
        self._heard("poll")
        self._worked()
        # whoever answers at once that nothing is new isn't asked as fast as that goes
        return 0.0 if answer.status == 200 or time.monotonic() - began > 1.0 else random.uniform(0.5, 1.5)  # noqa: S311

    # Both

    def _take_in(self, data: bytes, id_: str) -> None:
        if id_ and id_ == self._id:
            return
        self._take(understood(self._namespace, data, id_))
        self._id = id_
        self._backoff.worked()

    def _with_token(self, headers: dict[str, str]) -> dict[str, str]:
        try:
            token = self._token()
        except Exception as error:  # noqa: BLE001 - it isn't ours; its message may hold what nobody may read
            raise NoToken(f"the token's provider: {type(error).__name__}") from None
        return {"Authorization": f"Bearer {token}", **headers}

    def _worked(self) -> None:
        self._broken = 0
        self._backoff.worked()

    def _heard(self, way: Way) -> None:
        if self.reach.way != way:
            if self.reach.trouble:
                logger.info("the platform is heard again: %s by %s", self._namespace, way)
            self.reach = Reach(way, "", time.time())
        self._changed()

    def _lost(self, trouble: str) -> None:
        if self.reach.way is not None or self.reach.trouble != trouble:
            logger.warning("the configuration of %s isn't heard of: %s", self._namespace, trouble)
            self.reach = Reach(None, trouble, time.time())
        self._changed()

    def _failed(self, trouble: str, at_least_seconds: float = 0.0) -> float:
        self._lost(trouble)
        return self._backoff.failed(at_least_seconds)


class NoToken(Unreachable):
    """There is no token to ask with."""
