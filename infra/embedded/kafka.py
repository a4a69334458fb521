"""Apache Kafka as one KRaft node, private to one data folder: for development, the full shape on one machine, tests.

It is not how a cluster should be run: one node, one copy of everything, no TLS. It listens on the loopback only, so
everybody on this machine can reach it; that is what the seal on each message is for.
"""

import json
import os
import signal
import socket
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.embedded.errors import StartError
from infra.embedded.folder import DataFolder, private_folder
from infra.embedded.identity import Identity, oneself
from infra.embedded.kafka_jars import jars, java
from infra.embedded.ports import LOOPBACK, free_port
from infra.embedded.process import STOP_TIMEOUT_SECONDS, stop_leftovers

NODE = "1"
FORMAT_TIMEOUT_SECONDS = 60.0
READY_ATTEMPT_SECONDS = 2.0
CONNECT_ATTEMPT_SECONDS = 0.2

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": NODE,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "BROKER",
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # Topics are made by the relay, with the partitions that it recorded; a typing mistake makes none.
    "auto.create.topics.enable": "false",
    # One node: one copy of everything.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # A worker that joins begins at once, and one that died is noticed soon.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After a kill the node is let in again as soon as its former self has been silent for that long.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Small: few threads, little memory.
    "num.network.threads": "2",
    "num.io.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "background.threads": "2",
    "log.cleaner.threads": "1",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.segment.bytes": "67108864",
    "log.index.size.max.bytes": "1048576",
    "metadata.log.segment.bytes": "16777216",
}

QUICK = "-XX:TieredStopAtLevel=1"
"""The quick compiler only: a start costs 2.8 s of a core instead of 4.9, and one machine's load needs no more."""

SMALL = (QUICK, "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC")
"""Of Java, for a node beside everything else on one machine."""

AS_DELIVERED = ("-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")
"""Of Java, the memory that Kafka's own `bin/kafka-server-start.sh` gives it: it pauses for 20 ms instead of 100."""

JVM = (
    "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData",
    "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
)  # fmt: skip

INTO_FOLDER = ("/bin/sh", "-c", 'cd "$0" && exec "$@"')
"""Java can't change its folder, but by the folder that a process works in a later run knows it (see process.py)."""


class Kafka:
    """A private Apache Kafka under `<data>/kafka`, on the loopback. `settings` override SETTINGS.

    Without a `port` it takes free ones at its first start and keeps them from then on, since clients know the address.
    `cache` is where the program is kept (see kafka_jars.py), `java` are options of memory and speed.
    """

    name = "kafka"
    stop_signal = signal.SIGTERM
    abort_signal = signal.SIGKILL

    def __init__(
        self,
        data: DataFolder,
        settings: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        cache: Path | None = None,
        java: Sequence[str] = SMALL,
    ) -> None:
        self.data = data
        self.folder = data / "kafka"
        self.settings = {**SETTINGS, **(settings or {})}
        self._given_port = port
        self._cache = cache
        self._options = java

    @property
    def address(self) -> str:
        """How clients connect (`bootstrap.servers`)."""
        return f"{LOOPBACK}:{self._ports['broker']}"

    def prepare(self) -> None:
        """Fetches the program, formats the folder, clears away what a crash left. Raises StartError."""
        self.data.prepare()
        private_folder(self.folder)
        self.sweep()
        self._check_ports()
        self._write_settings()
        if not (self.folder / "log" / "meta.properties").exists():
            self._format()

    def argv(self) -> list[str]:
        """The command line of the node. Raises StartError without Java 17."""
        return [
            *INTO_FOLDER,
            str(self.folder),
            *self._java(*self._options, *JVM),
            "kafka.Kafka",
            str(self._settings_file),
        ]

    def identity(self) -> Identity:
        """Ourselves."""
        return oneself()

    def environment(self) -> dict[str, str]:
        """Nothing of ours."""
        return {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(self.folder)}

    def is_ready(self) -> bool:
        """Whether it answers with itself as the broker to talk to."""
        host, port = LOOPBACK, self._ports["broker"]
        try:
            socket.create_connection((host, port), CONNECT_ATTEMPT_SECONDS).close()  # quiet, where librdkafka isn't
            client = AdminClient({"bootstrap.servers": f"{host}:{port}", "log_level": 0})
            return bool(client.list_topics(timeout=READY_ATTEMPT_SECONDS).brokers)
        except (OSError, KafkaException):
            return False

    def sweep(self, patience_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Stops every Kafka that works in the folder. Raises StartError if one won't stop."""
        if self.folder.is_dir():
            stop_leftovers("java", self.folder, self.stop_signal, patience_seconds)

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    @cached_property
    def _ports(self) -> dict[str, int]:
        """Of broker and controller: those of the last start where that fits, else free ones, which are kept."""
        kept = self.folder / "ports.json"
        ports: dict[str, int] = {}
        with suppress(OSError, ValueError):
            ports = {str(name): int(port) for name, port in json.loads(kept.read_text()).items()}
        ports.setdefault("controller", free_port())
        ports["broker"] = self._given_port or ports.get("broker") or free_port()
        self.data.prepare()
        private_folder(self.folder)
        kept.write_text(json.dumps(ports))
        return ports

    def _check_ports(self) -> None:
        """Raises StartError where somebody listens there already: Kafka would say so in forty lines."""
        for port in self._ports.values():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except OSError as error:
                    raise StartError(f"Kafka can't listen on {LOOPBACK}:{port}: {error.strerror}") from None

    def _write_settings(self) -> None:
        broker, controller = (f"{LOOPBACK}:{self._ports[name]}" for name in ("broker", "controller"))
        places = {
            "log.dirs": str(self.folder / "log"),
            "listeners": f"BROKER://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"BROKER://{broker}",
            "controller.quorum.voters": f"{NODE}@{controller}",
        }
        # In Java's properties a backslash escapes.
        lines = [f"{name}={value}".replace("\\", "\\\\") for name, value in {**self.settings, **places}.items()]
        self._settings_file.write_text("\n".join(lines) + "\n")

    def _java(self, *options: str) -> list[str]:
        return [str(java()), *options, "-cp", f"{jars(self._cache)}/*"]

    def _format(self) -> None:
        """Gives the folder its cluster id. A format that was interrupted left no meta.properties, and is done again."""
        tool = [*self._java("-Xmx64m", "-XX:TieredStopAtLevel=1"), "kafka.tools.StorageTool", "format"]
        argv = [*tool, "--ignore-formatted", "-t", _cluster_id(), "-c", str(self._settings_file)]
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                argv,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=FORMAT_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StartError("Kafka's folder wasn't formatted in time") from None
        if done.returncode != 0:
            reason = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
            raise StartError(f"Kafka's folder can't be formatted: {reason}")


def _cluster_id() -> str:
    """16 random bytes in URL-safe base64 without padding, which doesn't begin with a dash (Kafka's Uuid)."""
    return urlsafe_b64encode(uuid4().bytes).decode().rstrip("=").replace("-", "A")
