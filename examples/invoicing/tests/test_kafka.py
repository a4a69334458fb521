"""The same module over a real Apache Kafka: its own topic, its view fed by stream workers, its reaction, too."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from examples.invoicing.tests.shop import Shop, issued
from tests.e2e.platform import at_least, eventually
from tests.kafka.conftest import kafka_folder, kafka_program, kafka_server  # noqa: F401 - fixtures

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def shop(kafka_server: str) -> Iterator[Shop]:  # noqa: F811
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    running = Shop(folder, kafka=kafka_server, kafka_prefix="acme")
    try:
        yield running.start()
    finally:
        running.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_its_view_and_its_reaction_are_fed_over_a_topic_of_its_own(shop, kafka_server):  # noqa: F811
    clerk = shop.hires("penny", "clerk", "/acme")
    eventually(lambda: feed(shop) == "faust")
    invoice, at = issued(clerk, due_days=0)
    shown = clerk.done("GET", f"/api/v1/invoices/{invoice}", **at_least(at)).json()
    assert shown["invoice"]["status"] == "open"
    assert "acme.invoicing" in AdminClient({"bootstrap.servers": kafka_server}).list_topics(timeout=10).topics
    eventually(lambda: list(shop.outbox.glob("*.eml")))


def feed(shop: Shop) -> str:
    listed = shop.admin.done("GET", "/api/v1/projections").json()["items"]
    return str(next(each["feed"] for each in listed if each["name"] == "invoices"))


def test_its_messages_are_described(shop):
    described = json.loads(shop.described())
    assert described["channels"]["invoicing"]["address"] == "muniment.invoicing"
