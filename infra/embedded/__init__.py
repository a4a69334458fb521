"""PostgreSQL and Valkey that the platform brings along, so that one command runs it with nothing installed before."""

from infra.embedded.errors import StartError
from infra.embedded.external import check_postgres, check_redis
from infra.embedded.folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.process import Service, launched, running
from infra.embedded.valkey import Valkey

__all__ = [
    "DataFolder",
    "Postgres",
    "Service",
    "StartError",
    "Valkey",
    "check_postgres",
    "check_redis",
    "launched",
    "running",
]
