"""One platform for the tests of the command line."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg.conninfo import make_conninfo

from tests.conftest import statement
from tests.runtime.cli_site import Site, site


@pytest.fixture(scope="module")
def cli_site(postgres_server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A database of this module's own, with the first facts in it, and a follower."""
    name = f"test_{uuid4().hex}"
    statement(postgres_server, "create database {name} template {source}", name=name, source=template)
    folder: Path = tmp_path_factory.mktemp("site")
    with site(make_conninfo(postgres_server, dbname=name), folder) as made:
        yield made
    statement(postgres_server, "drop database {name} with (force)", name=name)
