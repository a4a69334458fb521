"""A broker that lets in by TLS, with a certificate of ours, a name and a password only."""

import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from infra.embedded import DataFolder, running
from infra.embedded.kafka import Kafka
from infra.event_store import Log
from infra.kafka import KafkaRefused, check_kafka, client_config
from infra.settings import Settings
from projections.builds import ensure_builds
from runtime import modules
from runtime.start import first_facts
from tests.e2e.platform import eventually
from tests.kafka.certificates import authority
from tests.kafka.parts import ROOT, environment, part
from tests.runtime.cli_site import key
from tests.stream_apps.carrying import Writer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

PASSWORD = "the-tea-is-in-the-blue-tin"
KEY_PASSWORD = "and-the-sugar-in-the-red-one"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
USERS = f'username="muniment" password="{PASSWORD}" user_muniment="{PASSWORD}"'


class SecuredKafka(Kafka):
    """Knows how it is asked itself."""

    client: dict[str, str]

    def is_ready(self) -> bool:
        with suppress(KafkaException):
            config = {**self.client, "bootstrap.servers": self.address, "log_level": 0}
            return bool(AdminClient(config).list_topics(timeout=2).brokers)
        return False


@pytest.fixture(scope="module")
def folder():
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def secured(kafka_program, folder):
    """The settings that are let in."""
    ours = authority(folder, "ours")
    certificate, private = ours.sign("broker")
    store = folder / "broker.pem"
    store.write_bytes(private.read_bytes() + certificate.read_bytes())
    own, own_key = ours.sign("muniment", KEY_PASSWORD.encode())
    kafka = SecuredKafka(
        DataFolder(folder / "data"),
        {
            "listener.security.protocol.map": "BROKER:SASL_SSL,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.broker.plain.sasl.jaas.config": f"{PLAIN} {USERS};",
            "listener.name.broker.scram-sha-512.sasl.jaas.config":
                "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(ours.file),
            # Under SASL Kafka heeds this only where it names the listener (KIP-684).
            "listener.name.broker.ssl.client.auth": "required",
        },
    )  # fmt: skip
    settings = Settings(
        kafka="given below",
        kafka_security_protocol="sasl_ssl",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="muniment",
        kafka_sasl_password=PASSWORD,
        kafka_ssl_ca=str(ours.file),
        kafka_ssl_certificate=str(own),
        kafka_ssl_key=str(own_key),
        kafka_ssl_key_password=KEY_PASSWORD,
    )
    kafka.client = client_config(settings)
    with running(kafka):
        settings = replace(settings, kafka=kafka.address)
        _add_scram_user(settings)
        yield settings


def _add_scram_user(settings):
    secret = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    wanted = UserScramCredentialUpsertion("scrambler", secret, PASSWORD.encode())
    client = AdminClient(client_config(settings))
    for done in client.alter_user_scram_credentials([wanted]).values():
        done.result(20)


@pytest.fixture
def settings(secured, database, tmp_path, valkey_server):
    """Of a platform with its first facts, and with topics of its own."""
    settings = replace(
        secured, data=tmp_path, postgres_url=database, redis_url=valkey_server, master_key=key(b"m"),
        pepper=key(b"p"), claim_key=key(b"c"), admin_password="she-who-must-be-obeyed", bcrypt_cost=4, pool_size=4,
        kafka_prefix=f"t{uuid4().hex}", kafka_partitions=2,
    )  # fmt: skip
    with psycopg.connect(database, autocommit=True) as connection:
        ensure_builds(connection, modules.projections())
    first_facts(settings, lambda _: None)
    return settings


@pytest.mark.parametrize(("mechanism", "user"), [("PLAIN", "muniment"), ("SCRAM-SHA-512", "scrambler")])
def test_relay_and_worker_feed_the_views_through_it(settings, tmp_path, mechanism, user):
    settings = replace(settings, kafka_sasl_mechanism=mechanism, kafka_sasl_username=user)
    logs = tmp_path / "relay.log", tmp_path / "stream.log"
    log = Log(settings.postgres_url)
    sql = "select b.feed, min(p.position) from projection_builds b join projection_progress p"
    sql += " using (projection, version, build) group by 1"
    carried = "select min(position) from bus_progress"
    with (
        part(settings, "relay", logs[0]),
        part(settings, "stream", logs[1]),
        psycopg.connect(settings.postgres_url, autocommit=True) as connection,
    ):
        eventually(lambda: connection.execute(carried).fetchone()[0] == log.head(), 60, 0.1)
        eventually(lambda: "partitions are ours" in logs[1].read_text(), 60)
        before = log.head()
        Writer(log).write(5)
        assert log.head() > before
        eventually(lambda: connection.execute(sql).fetchall() == [("faust", log.head())], 60, 0.1)
    log.close()
    said = "".join(each.read_text() for each in logs)
    assert "Traceback" not in said
    assert PASSWORD not in said
    assert KEY_PASSWORD not in said


@pytest.fixture(scope="module")
def theirs(folder):
    """Another authority, and a certificate of it."""
    other = authority(folder, "theirs")
    return other, *other.sign("stranger")


def wrong_password(settings, theirs):
    return replace(settings, kafka_sasl_password="is-it-this-one")


def wrong_authority(settings, theirs):
    return replace(settings, kafka_ssl_ca=str(theirs[0].file))


def no_authority(settings, theirs):
    return replace(settings, kafka_ssl_ca="/nowhere/ca.pem")


def wrong_key_password(settings, theirs):
    return replace(settings, kafka_ssl_key_password="is-it-this-one")


def no_such_protocol(settings, theirs):
    return replace(settings, kafka_security_protocol="carrier-pigeon")


def no_such_mechanism(settings, theirs):
    return replace(settings, kafka_sasl_mechanism="SCRAM-SHA-256")


MISTAKES = [
    wrong_password, wrong_authority, no_authority, wrong_key_password, no_such_protocol, no_such_mechanism,
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_whoever_isnt_let_in_is_told_in_one_line(secured, theirs, mistake):
    with pytest.raises(KafkaRefused) as refused:
        check_kafka(client_config(mistake(secured, theirs)))
    said = str(refused.value)
    assert "\n" not in said
    assert PASSWORD not in said
    assert "is-it-this-one" not in said


@pytest.mark.parametrize("mistake", [wrong_password, wrong_authority])
@pytest.mark.parametrize("name", ["relay", "stream"])
def test_a_part_that_isnt_let_in_ends_with_one_line_and_status_1(settings, theirs, mistake, name):
    done = subprocess.run(
        [sys.executable, "-m", "runtime", name], cwd=ROOT, env=environment(mistake(settings, theirs)),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).strip().splitlines()
    assert line.startswith("Error: Kafka at 127.0.0.1:")
    assert PASSWORD not in line


def without_a_certificate(settings, theirs):
    return replace(settings, kafka_ssl_certificate="", kafka_ssl_key="", kafka_ssl_key_password="")


def with_a_strangers_certificate(settings, theirs):
    _, own, own_key = theirs
    return replace(
        settings, kafka_ssl_certificate=str(own), kafka_ssl_key=str(own_key), kafka_ssl_key_password=""
    )  # fmt: skip


@pytest.mark.parametrize("mistake", [without_a_certificate, with_a_strangers_certificate])
def test_a_broker_that_wants_our_certificate_lets_in_nobody_without_it(secured, theirs, mistake):
    config = {**client_config(mistake(secured, theirs)), "log_level": 0}
    with suppress(KafkaRefused):  # most brokers just hang up
        assert not check_kafka(config)
    with pytest.raises(KafkaException):
        AdminClient(config).list_topics(timeout=2)


def test_one_that_lets_in_answers(secured):
    assert check_kafka(client_config(secured))


def test_a_broker_that_is_away_refuses_nobody():
    assert not check_kafka({"bootstrap.servers": "127.0.0.1:1"}, patience_seconds=0.5)
