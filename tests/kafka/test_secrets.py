"""No value of a secret is on the bus, whoever has changed, rotated and used it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.e2e.platform import eventually
from tests.e2e.secretive import Mailbox, Secretive, forms, mark
from tests.muniment_client.kv_server import KvServer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def messages(address: str, prefix: str) -> Iterator[bytes]:
    """Everything on the platform's topics as it is now: keys, headers and bodies."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": prefix, "enable.auto.commit": False})
    try:
        topics = [known for name, known in consumer.list_topics(timeout=10).topics.items() if name.startswith(prefix)]
        places = [TopicPartition(each.topic, number, OFFSET_BEGINNING) for each in topics for number in each.partitions]
        bounds = [consumer.get_watermark_offsets(place, timeout=10) for place in places]
        left = sum(high - low for low, high in bounds)
        consumer.assign(places)
        while left and (found := consumer.consume(min(left, 1000), timeout=10)):
            left -= len(found)
            for message in found:
                yield b"%r %r %r" % (message.key(), message.headers(), message.value())
    finally:
        consumer.close()


def test_no_message_has_a_value(kafka_server):
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    marks = {name: mark(name) for name in ("first", "rotated", "pasted")}
    canary = mark("canary")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        mailbox = stack.enter_context(Mailbox())
        platform = Secretive(folder, KvServer(url="http://127.0.0.1:1"), "hvs.none", {}, kafka=kafka_server)
        stack.callback(platform.close)
        platform.put("mail", mailbox.url(marks["first"]))
        platform.start()
        mailbox.password = marks["first"]
        answer = platform.changes(smtp_url="secret://mail", mail_from="office@engine.example")
        assert answer.status_code == 200, answer.text
        platform.sends("first")
        platform.put("mail", mailbox.url(marks["rotated"]))
        mailbox.password = marks["rotated"]
        assert platform.changes(smtp_url=mailbox.url(marks["pasted"])).status_code == 422
        platform.sends(canary)
        eventually(lambda: len(set(mailbox.letters)) == 2, 60)

        def published() -> bytes:
            return b"\n".join(messages(kafka_server, platform.settings.kafka_prefix))

        eventually(lambda: canary.encode() in published(), 60, 0.5)
        found = published()
    assert b"configuration.ConfigurationChanged" in found
    assert [name for name, value in marks.items() if any(form in found for form in forms(value))] == []
