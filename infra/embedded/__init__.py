"""PostgreSQL and Valkey that the platform brings along, so that one command runs it with nothing installed before."""

from infra.embedded.errors import StartError
from infra.embedded.folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.process import Service, running
from infra.embedded.valkey import Valkey

__all__ = ["DataFolder", "Postgres", "Service", "StartError", "Valkey", "running"]
