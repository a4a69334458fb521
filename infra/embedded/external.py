"""PostgreSQL and Valkey (or Redis) that somebody else runs: is that really what is at the end of the URL?

The URLs go to the clients as they are, with all they say about TLS (`sslmode`, `sslrootcert`; `rediss://`).
"""

from typing import cast

import psycopg
import redis
from psycopg.conninfo import make_conninfo
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.embedded.errors import StartError
from infra.reasons import first_line

POSTGRES_VARIABLE = "MUNIMENT_POSTGRES_URL"
REDIS_VARIABLE = "MUNIMENT_REDIS_URL"
OLDEST_POSTGRES = 15
OLDEST_REDIS = (6, 2)
CONNECT_TIMEOUT_SECONDS = 5


def check_postgres(url: str) -> None:
    """Raises StartError, in one line that names no password, unless this is a PostgreSQL that we can write to."""
    try:
        conninfo = make_conninfo(url, connect_timeout=CONNECT_TIMEOUT_SECONDS)
    except psycopg.ProgrammingError:  # its message quotes the URL, which may hold a password
        raise StartError(f"{POSTGRES_VARIABLE} isn't of the form postgresql://user:password@host:5432/name") from None
    try:
        with psycopg.connect(conninfo) as connection:
            _check_server(connection)
    except psycopg.Error as error:
        reason = first_line(error)
        raise StartError(f"{POSTGRES_VARIABLE}: can't reach PostgreSQL: {reason}") from None


def _check_server(connection: psycopg.Connection) -> None:
    version = connection.info.server_version
    if version < OLDEST_POSTGRES * 10_000:
        raise StartError(
            f"{POSTGRES_VARIABLE}: that is PostgreSQL {version // 10_000}, at least {OLDEST_POSTGRES} is needed"
        )
    if connection.info.parameter_status("in_hot_standby") == "on":
        raise StartError(f"{POSTGRES_VARIABLE}: that PostgreSQL is a standby, which can't be written to")
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise StartError(f"{POSTGRES_VARIABLE}: the database's encoding must be UTF8")


def check_redis(url: str) -> None:
    """Raises StartError, in one line that names no password, unless a Valkey or Redis answers there."""
    try:
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=CONNECT_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise StartError(f"{REDIS_VARIABLE} isn't of the form redis://:password@host:6379/0") from None
    try:
        # Valkey, too, says here which Redis it is compatible with.
        version = str(cast("dict[str, object]", client.info("server"))["redis_version"])
    except (redis.RedisError, OSError) as error:
        reason = first_line(error)
        raise StartError(f"{REDIS_VARIABLE}: can't reach Valkey: {reason}") from None
    finally:
        client.close()
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST_REDIS:
        oldest = ".".join(str(number) for number in OLDEST_REDIS)
        raise StartError(f"{REDIS_VARIABLE}: that is compatible with Redis {version}, at least {oldest} is needed")
