"""A worker's line to the queue: a connection that claims and hears what commits tell, and one for looks in between."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import orjson
import psycopg
from psycopg import Notify

from domain.errors import Unavailable
from infra.conninfo import bounded
from infra.job_queue_claims import Claimed, Held, Pg, configure, look
from infra.listener import LOG_CHANNEL

logger = logging.getLogger("muniment.jobs")


class Line:
    """Opened when it is needed, and anew after it was dropped. `listening` is set while it hears."""

    def __init__(self, conninfo: str, *, opened: Callable[[], None], heard: Callable[[str, str], None]) -> None:
        """`opened()` is called with each new connection: something may have been missed before. `heard(kind, what)` is
        called with each word of a commit, such as `job`, `<id>` or `jobs`, `<queue>`.
        """
        self.listening = threading.Event()
        self._conninfo = conninfo
        self._opened = opened
        self._heard = heard
        self._connection: Pg | None = None
        self._look_lock = threading.Lock()
        self._look_connection: Pg | None = None

    def connected(self) -> Pg:
        """The connection that listens, for the thread that claims. Raises psycopg.Error."""
        if self._connection is None:
            connection = self._connect("muniment worker")
            connection.add_notify_handler(self._notified)
            connection.execute(f"listen {LOG_CHANNEL}".encode())
            self._connection = connection
            self._opened()
            self.listening.set()
        return self._connection

    def hear(self) -> None:
        """Takes what has been notified since. Raises psycopg.Error."""
        pgconn = self.connected().pgconn
        pgconn.consume_input()
        while notify := pgconn.notifies():
            self._notified(Notify(notify.relname.decode(), notify.extra.decode("utf-8", "replace"), notify.be_pid))

    def look(self, claimed: Claimed) -> Held | None:
        """How a claimed row stands now. From any thread; raises Unavailable."""
        with self._look_lock:
            for final in (False, True):
                try:
                    if self._look_connection is None:
                        self._look_connection = self._connect("muniment worker looks")
                    return look(self._look_connection, claimed)
                except psycopg.Error as error:
                    self._look_connection = None
                    if final:
                        raise Unavailable(f"The queue can't be read: {error}") from error
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def drop(self) -> None:
        """The connection that listens is of no use any more."""
        self.listening.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Both end."""
        self.drop()
        with self._look_lock:
            if self._look_connection is not None:
                self._look_connection.close()
                self._look_connection = None

    def _notified(self, notify: Notify) -> None:
        for word in _words(notify.payload):
            kind, _, what = word.partition(":")
            self._heard(kind, what)

    def _connect(self, name: str) -> Pg:
        connection = psycopg.connect(bounded(self._conninfo), autocommit=True, application_name=name)
        configure(connection)
        return connection


def _words(payload: str) -> list[str]:
    """What a commit announces; of what is no commit's word at all, `*`: whoever may connect can send on a channel."""
    try:
        told: Any = orjson.loads(payload)
        announced = told.get("announce") or []
    except (ValueError, AttributeError):
        logger.warning("a notification that no commit has sent: %.100r", payload)
        return ["*"]
    return [word for word in announced if isinstance(word, str)] if isinstance(announced, list) else ["*"]
