"""A real Apache Kafka for the tests: one KRaft node, fetched by Maven once, in a folder that goes away."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.embedded import DataFolder, running
from infra.embedded.kafka import Kafka
from infra.embedded.kafka_jars import ProgramMissing, jars, java
from tests.kafka.group import Group, group


@pytest.fixture(scope="session")
def kafka_program() -> Path:
    """The folder of Kafka's jars. Who has no Java or no Maven skips; a fetch that fails is a failure."""
    try:
        java()
        return jars()
    except ProgramMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def kafka_folder() -> Iterator[Path]:
    """What the node keeps."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_server(kafka_program: Path, kafka_folder: Path) -> Iterator[str]:
    """A real Apache Kafka: its address (`bootstrap.servers`). Its topics are shared: give yours names of their own."""
    kafka = Kafka(DataFolder(kafka_folder))
    with running(kafka):
        yield kafka.address


@pytest.fixture
def kafka_node(kafka_program: Path) -> Iterator[Kafka]:
    """One that isn't started yet, in a folder of its own: for who wants to kill it."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    yield Kafka(DataFolder(folder))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def members(kafka_server: str) -> Iterator[Group]:
    """A consumer group, whose members a test starts, stops and kills."""
    with group(kafka_server, f"group-{uuid4().hex[:8]}") as made:
        yield made
