"""What keeps the configuration of a process true, in whichever part: the same for all of them.

It reads what is stored before the process begins. Then a thread with a connection of its own listens for what is
stored anew, reads it, builds a snapshot, swaps it in and says so; or refuses it, says why, and keeps the last good one.
After a lost connection, and now and then, it reads again, so nothing that was announced meanwhile is missed.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from selectors import EVENT_READ, DefaultSelector
from threading import Event, Lock, Thread
from typing import Any, Protocol, Self

import orjson
import psycopg
from psycopg import Connection

from domain.configuration import Namespace
from infra.configuration.heads import CHANNEL, read_heads
from infra.configuration.instances import Acknowledgement, Presence, Refused
from infra.configuration.live import Live, Snapshot
from infra.configuration.schemas import schemas_of
from infra.configuration.snapshot import Builder, Built, Document
from infra.configuration.telling import presence_of
from infra.conninfo import bounded
from infra.reasons import first_line
from infra.settings import Settings
from infra.wake import Wake
from muniment_client.secrets import Hidden, SecretStores, Watch

logger = logging.getLogger("muniment.configuration")

READ_SECONDS = 30.0
"""It is read again after so long although nobody has said anything: a connection may be dead without a word."""
LACKING_SECONDS = 5.0
"""The same, while a secret can't be had."""
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.05, 2.0
STATEMENT_SECONDS = 10.0
JOIN_SECONDS = 1.0
EARLIER_LIMIT = 100
"""So many former documents are tried, at the start, in place of one that can't be used."""

CLASS_VERSION = getattr(Namespace.Changed, "class_version", 1)

_EARLIER = """
    select originator_version, notification_id, state from stored_events
     where originator_id = %s and topic = %s and originator_version < %s order by originator_version desc limit 1
"""


class Tells(Protocol):
    """Says what a process runs with, and that it lives: `infra.configuration.telling.Acknowledgements`."""

    def start(self) -> None: ...
    def tell(self, acknowledgement: Acknowledgement) -> None: ...
    def close(self) -> None: ...


class Instance:
    """One process, as far as its configuration goes. `live` is what everything in it reads.

    Making one reads what is stored; where PostgreSQL can't be reached, the environment's settings count until it can.
    """

    def __init__(self, base: Settings, part: str, secrets: SecretStores) -> None:
        """`base` are the environment's settings, with the addresses of the services; `secrets` the stores to ask."""
        self.base = base
        self.presence: Presence = presence_of(part, base.host_name)
        self.listening = Event()
        """It has read what is stored, and hears of what is stored from then on."""
        self._conninfo = base.postgres_url
        self.secrets = secrets
        self._builder = Builder(base, secrets, self._earlier)
        self.namespaces = list(schemas_of(base))
        """Those that this process runs with."""
        self._watch = Watch(secrets, lambda _: self._rotated())
        self._wake = Wake()
        self._thread = Thread(target=self._run, name="configuration", daemon=True)
        self._tells: Tells | None = None
        self._is_rotated = False
        self._building = Lock()
        self._built = self._builder.build(stored_at_start(self._conninfo, self.namespaces))
        self._say({}, self._built)
        self.live = Live(self._built.snapshot)

    @property
    def refused(self) -> Mapping[str, Refused]:
        """The namespaces whose newest document this process can't use, and why."""
        return self._built.refused

    @property
    def reasons(self) -> list[str]:
        """What is wrong although the newest documents are in use: with the secrets that these refer to."""
        built = self._built
        spoilt = [name for name, no in built.refused.items() if built.taken[name].document.version >= no.version]
        return [f"secrets: {name} is in use without the newest of its secrets" for name in spoilt]

    def start(self, tells: Tells | None = None) -> None:
        """Begins to listen, and to tell by `tells`. From now on the log's level, too, is what is stored."""
        follow_log_level(self.live)
        self._tells = tells
        if tells is not None:
            tells.tell(self._built.acknowledgement)
            tells.start()
        self._thread.start()
        self._watch.start()

    def stop(self) -> None:
        """Ends the threads, and says that this process has gone. Twice is once."""
        self._wake.stop()
        self._watch.stop()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)
        if not self._thread.is_alive():
            self._wake.close()
        tells, self._tells = self._tells, None
        if tells is not None:
            tells.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def take_up(self, newest: Mapping[str, Document]) -> None:
        """Builds from these documents, swaps, and says so. Whoever reads has the former snapshot or the new one."""
        with self._building:
            before = self._built
            built = self._builder.build(newest, before)
            if _differs(built, before):
                self.live.offer(built.snapshot)
            self._built = built
        self._say(before.refused, built)
        if self._tells is not None:
            self._tells.tell(built.acknowledgement)

    # The thread

    def _run(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while not self._wake.stopping:
            try:
                with connect(self._conninfo) as connection:
                    connection.execute(f"listen {CHANNEL}".encode())
                    # first listen, then read: what is stored in between is heard
                    self._read(connection)
                    backoff = FIRST_BACKOFF_SECONDS
                    self.listening.set()
                    self._listen(connection)
            except Exception as error:
                self.listening.clear()
                known = isinstance(error, psycopg.Error | OSError)
                logger.warning("configuration is read again: %s", first_line(error), exc_info=not known)
                self._wake.wait(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _listen(self, connection: Connection[Any]) -> None:
        with DefaultSelector() as selector:
            selector.register(connection.fileno(), EVENT_READ)
            selector.register(self._wake.ear, EVENT_READ)
            while not self._wake.stopping:
                # what arrived together with the answer to a query doesn't ring: look before waiting
                if not self._heard(connection):
                    lacking = self._built.lacks_secrets
                    rung = selector.select(LACKING_SECONDS if lacking else READ_SECONDS)
                    self._wake.hush()
                    if rung and not self._heard(connection) and not self._is_rotated:
                        continue
                if not self._wake.stopping:
                    self._read(connection)

    def _heard(self, connection: Connection[Any]) -> bool:
        """Whether a namespace of ours was named."""
        named = {notification.payload for notification in connection.notifies(timeout=0)}
        return not named.isdisjoint(self.namespaces)

    def _read(self, connection: Connection[Any]) -> None:
        rotated, self._is_rotated = self._is_rotated, False
        newest = stored(connection, self.namespaces)
        is_other = any(
            (document.version, document.position) != (taken.document.version, taken.document.position)
            for name, taken in self._built.taken.items()
            for document in (newest.get(name, Document(name)),)
        )
        if is_other or rotated or self._built.lacks_secrets:
            self.take_up(newest)

    def _rotated(self) -> None:
        self._is_rotated = True
        self._wake.ring()

    # The start

    def _earlier(self, document: Document) -> Iterator[Document]:
        """Read one by one: a document may be large."""
        stream, version = Namespace.id_of(document.namespace), document.version
        with suppress(psycopg.Error), closing(connect(self._conninfo)) as connection:
            for _ in range(EARLIER_LIMIT):
                row = connection.execute(_EARLIER, (stream, Namespace.Changed.TOPIC, version)).fetchone()
                if row is None:
                    return
                version = row[0]
                said = orjson.loads(row[2])
                if said.get("class_version", 1) == CLASS_VERSION:  # else another release wrote it, in its own way
                    yield Document(document.namespace, version, row[1], said["schema_version"], said["values"])

    def _say(self, before: Mapping[str, Refused], built: Built) -> None:
        """The log's lines: once for each refusal, and for each end of one."""
        for name, refused in built.refused.items():
            if before.get(name) != refused:
                why = "; ".join(
                    f"{each.field}: {each.message}" if each.field else each.message for each in refused.errors
                )
                counts = built.taken[name].document.version
                if counts == refused.version:
                    logger.error("configuration: %s is in use without the newest of its secrets (%s)", name, why)
                else:
                    logger.error(
                        "configuration: version %d of %s can't be used here (%s); version %d counts",
                        refused.version, name, why, counts,
                    )  # fmt: skip
        for name in before.keys() - built.refused.keys():
            logger.info("configuration: version %d of %s is in force", built.taken[name].document.version, name)


def connect(conninfo: str) -> Connection[Any]:
    """In autocommit, and no statement waits for ever. Raises psycopg.Error."""
    connection = psycopg.connect(bounded(conninfo), autocommit=True, application_name="muniment configuration")
    connection.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS * 1000:.0f}ms",))
    return connection


def stored_at_start(conninfo: str, namespaces: Sequence[str]) -> dict[str, Document]:
    """As `stored`. Nothing where nothing can be read, which whoever begins survives."""
    try:
        with connect(conninfo) as connection:
            return stored(connection, namespaces)
    except psycopg.errors.UndefinedTable:
        return {}  # not migrated yet: who may run then stores and reads nothing
    except psycopg.Error as error:
        logger.warning("configuration can't be read yet; the environment's counts: %s", first_line(error))
        return {}


def for_one_command(base: Settings) -> Live:
    """The configuration as it is stored now, for who runs a command and ends. No store of secrets is asked."""
    newest = stored_at_start(base.postgres_url, list(schemas_of(base)))
    return Live(Builder(base, Unasked()).build(newest).snapshot)


class Unasked:
    """In place of stores of secrets, where nothing is done that needs one."""

    def resolve(self, reference: str) -> Hidden:
        """Nothing."""
        return Hidden("")

    def keep(self, references: Iterable[str]) -> None:
        """Nothing is kept."""


def stored(connection: Connection[Any], namespaces: Sequence[str]) -> dict[str, Document]:
    """The newest document of each of these namespaces that has one. Raises psycopg.Error.

    What somebody has declared under the name of a module meanwhile is not that module's.
    """
    return {head.namespace: Document.of(head) for head in read_heads(connection, namespaces) if head.schema is None}


def follow_log_level(live: Live) -> Callable[[], None]:
    """The level of the log is what the configuration says, now and after each swap. Returns what ends that."""
    _set_level(live.current)
    return live.on_swap(_set_level)


def _set_level(snapshot: Snapshot) -> None:
    logging.getLogger().setLevel(snapshot.settings.log_level.upper())


def _differs(built: Built, before: Built) -> bool:
    new, old = built.snapshot, before.snapshot
    return (new.version, new.running, new.settings) != (old.version, old.running, old.settings)
