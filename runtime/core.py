"""What every part of the platform is built from: the log, the dispatcher, secrets, keys, a pool of connections."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from commands.identity import AddKey, add_key
from domain.context import Context
from domain.identity import Keyring
from domain.ports import Work
from infra import lending
from infra import secrets as secret_store
from infra.configuration.instance import for_one_command
from infra.configuration.live import Live
from infra.conninfo import bounded
from infra.datastore import RECONNECT_SECONDS
from infra.dispatch import Dispatcher
from infra.embedded import DataFolder, Postgres, Valkey
from infra.event_store import Log
from infra.keys import Keys, NewKey, new_derivation_key, new_signing_key
from infra.passwords import Passwords
from infra.receipts import Receipts
from infra.recorder import Limits
from infra.secrets import Secrets
from infra.settings import SETTINGS, Settings
from infra.tokens import Tokens
from infra.work import UnitOfWork
from runtime import modules


def located(settings: Settings) -> Settings:
    """The settings with the addresses of the embedded services where no others are given."""
    data = DataFolder(settings.data)
    return replace(
        settings,
        postgres_url=settings.postgres_url or Postgres(data).conninfo,
        redis_url=settings.redis_url or Valkey(data).url,
    )


@dataclass(frozen=True)
class Core:
    """The parts of a part. `live` is the configuration that it runs with."""

    live: Live
    secrets: Secrets
    pool: ConnectionPool[Connection[TupleRow]]
    log: Log
    dispatcher: Dispatcher
    receipts: Receipts
    keys: Keys
    tokens: Tokens
    passwords: Passwords

    @property
    def settings(self) -> Settings:
        """Those that count here and now, with the services' addresses."""
        return self.live.settings

    def close(self) -> None:
        """Ends connections and threads."""
        self.passwords.close()
        self.log.close()
        self.pool.close()


@contextmanager
def open_core(given: Settings | Live) -> Iterator[Core]:
    """Raises SettingsError for missing secrets."""
    core = build_core(given)
    try:
        yield core
    finally:
        core.close()


def build_core(given: Settings | Live) -> Core:
    """Constructs everything; connections are made when they are first needed. Raises SettingsError.

    Of bare settings it takes the configuration that is stored at this moment.
    """
    live = given if isinstance(given, Live) else for_one_command(given)
    settings = live.settings
    secrets = secret_store.load(settings, may_create=may_create_secrets(settings))
    limits = Limits(
        queue_saves=settings.commit_queue_limit,
        group_saves=settings.commit_group_limit,
        pool_max=settings.pool_size,
        snapshot_events=settings.snapshot_events,
    )
    log = Log(settings.postgres_url, inline=modules.inline_tables(), limits=limits)
    pool: ConnectionPool[Connection[TupleRow]] = ConnectionPool(
        bounded(settings.postgres_url),
        min_size=1,
        max_size=settings.pool_size,
        timeout=POOL_TIMEOUT_SECONDS,
        reconnect_timeout=RECONNECT_SECONDS,
        kwargs={"autocommit": True, "application_name": "muniment"},
        check=lending.check,
        configure=partial(_limit_statements, settings.statement_timeout_seconds),
        open=True,
    )
    live.on_swap(lambda snapshot: _limit_commits(log, snapshot.settings))
    # A key that was replaced verifies on for as long as any token lives, whatever their lifetime was when it signed.
    lifetime = timedelta(seconds=SETTINGS["access_token_seconds"].most or 0)
    keys = Keys(lambda: _keyring(log), secrets, lifetime)
    return Core(
        live=live,
        secrets=secrets,
        pool=pool,
        log=log,
        dispatcher=Dispatcher(log, attempts=live.value(lambda s: s.dispatch_attempts), live=live),
        receipts=Receipts(pool, secrets.derive("receipts"), hours=live.value(lambda s: s.receipt_hours)),
        keys=keys,
        tokens=Tokens(keys, live),
        passwords=Passwords(
            secrets.pepper,
            cost=live.value(lambda s: s.bcrypt_cost),
            threads=settings.hashing_threads,
            queue_limit=live.value(lambda s: s.hashing_queue_limit),
        ),
    )


POOL_TIMEOUT_SECONDS = 2.0


def _limit_commits(log: Log, settings: Settings) -> None:
    log.change_limits(queue_saves=settings.commit_queue_limit, group_saves=settings.commit_group_limit)


def _limit_statements(seconds: float, connection: Connection[Any]) -> None:
    """No query keeps a thread for ever."""
    connection.execute("select set_config('statement_timeout', %s, false)", (f"{seconds * 1000:.0f}ms",))


def may_create_secrets(settings: Settings) -> bool:
    """Only for an empty store, and only where no other host could need them."""
    host = str(conninfo_to_dict(settings.postgres_url).get("host", ""))
    if not (host == "" or host.startswith("/") or host in {"localhost", "127.0.0.1", "::1"}):
        return False
    try:
        with psycopg.connect(settings.postgres_url, connect_timeout=5) as connection:
            row = connection.execute("select position from log_head").fetchone()
    except psycopg.errors.UndefinedTable:
        return True
    except psycopg.Error:
        return False
    return row is None or row[0] == 0


def _keyring(log: Log) -> tuple[Keyring, datetime]:
    context = Context.system("keyring", "")
    return UnitOfWork(log, context).get(Keyring, Keyring.ID), log.now()


def ensure_keys(core: Core) -> None:
    """Starts the keyring, at the first start. Raises WrongSecret for those of another installation."""
    keys = [_addition(core, key) for key in (new_signing_key(core.secrets), new_derivation_key(core.secrets))]
    core.dispatcher.dispatch(_start_keyring, keys, Context.system("bootstrap", str(uuid4())))
    core.keys.reload()
    core.keys.signing()


def _start_keyring(work: Work, keys: Sequence[AddKey]) -> None:
    """One unit: of two first starts with different secrets, one makes all keys and the other is refused."""
    for key in keys:
        add_key(work, key)


def _addition(core: Core, key: NewKey) -> AddKey:
    return AddKey(core.secrets.ids, key.key_id, key.purpose, key.algorithm, key.public, key.private, only_if_none=True)
