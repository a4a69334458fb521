"""Real services for the tests: a private PostgreSQL and a private Valkey, started once, in a folder that goes away."""

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from infra import migrate
from infra.embedded import DataFolder, Postgres, Valkey, running

TEMPLATE = "migrated"

# Whoever runs the tests in the background may have made every process below deaf to Ctrl-C (POSIX, 2.11).
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis_settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any-machine")

# The tests lose nothing by a power cut. Whoever tests durability takes `durable_postgres`.
FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}


@pytest.fixture(scope="session")
def services_folder() -> Iterator[DataFolder]:
    """A short path: sockets have little room."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    yield DataFolder(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(services_folder: DataFolder) -> Iterator[str]:
    """A private PostgreSQL 18: the connection string of its administrator. It doesn't wait for the disk."""
    postgres = Postgres(services_folder, FAST)
    with running(postgres):
        yield postgres.conninfo


@pytest.fixture(scope="session")
def durable_postgres() -> Iterator[str]:
    """Another one, with fsync on, as in production."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    postgres = Postgres(DataFolder(folder))
    with running(postgres):
        yield postgres.conninfo
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey_server(services_folder: DataFolder) -> Iterator[str]:
    """A private Valkey: its URL. It keeps what other tests left; `valkey` is the empty one."""
    valkey = Valkey(services_folder)
    with running(valkey):
        yield valkey.url


@pytest.fixture
def valkey(valkey_server: str) -> str:
    """The private Valkey, emptied: its URL."""
    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server


def statement(server: str, text: str, **names: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL(text).format(**{key: sql.Identifier(name) for key, name in names.items()}))


@pytest.fixture(scope="session")
def template(postgres_server: str) -> str:
    """A migrated database from which the tests' databases are copied."""
    from runtime import modules  # the whole platform, which not every test needs

    statement(postgres_server, "create database {name}", name=TEMPLATE)
    migrate.apply(make_conninfo(postgres_server, dbname=TEMPLATE), modules.sources())
    return TEMPLATE


@pytest.fixture
def new_database(postgres_server: str) -> Iterator[Callable[[str], str]]:
    """Makes databases out of a template, and drops them after the test: template -> connection string."""
    names: list[str] = []

    def create(source: str) -> str:
        names.append(f"test_{uuid4().hex}")
        statement(postgres_server, "create database {name} template {source}", name=names[-1], source=source)
        return make_conninfo(postgres_server, dbname=names[-1])

    yield create
    for name in names:
        statement(postgres_server, "drop database {name} with (force)", name=name)


@pytest.fixture
def empty_database(new_database: Callable[[str], str]) -> str:
    """A fresh database with nothing in it: its connection string."""
    return new_database("template1")


@pytest.fixture
def database(new_database: Callable[[str], str], template: str) -> str:
    """A fresh migrated database: its connection string."""
    return new_database(template)
