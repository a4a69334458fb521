"""Each service of compose.yaml runs its own command with its own environment, on real services."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from infra.embedded import DataFolder, Postgres, Valkey, running
from infra.embedded.kafka import Kafka
from infra.embedded.ports import free_port
from tests.compose.composition import Place, kafka_properties, ours
from tests.compose.test_compose import GIVEN
from tests.e2e.platform import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

ADMIN = {"email": "margaret@apollo.example", "password": "the-eagle-has-landed-1969"}
VARIABLES = {**GIVEN, "MUNIMENT_ADMIN_EMAIL": ADMIN["email"], "MUNIMENT_ADMIN_PASSWORD": ADMIN["password"]}


@pytest.fixture(scope="module")
def place(kafka_program: Path) -> Iterator[Place]:
    """The composition's own services for everybody: PostgreSQL, Valkey and Kafka as the file sets them up."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    data = DataFolder(folder / "services")
    ports = {name: free_port() for name in ("valkey", "kafka", "api", "controller")}
    sockets = data.socket_folder("postgres", ".s.PGSQL.5432")
    names = {
        "@postgres:5432": f"@{quote(str(sockets), safe='')}:5432",
        "valkey:6379": f"127.0.0.1:{ports['valkey']}",
        "kafka:9092": f"127.0.0.1:{ports['kafka']}",
        "//:9092": f"//127.0.0.1:{ports['kafka']}",
        "127.0.0.1/9092": f"127.0.0.1/{ports['kafka']}",
        "127.0.0.1:9093": f"127.0.0.1:{ports['controller']}",
        "/var/lib/kafka/data": str(folder / "services" / "kafka" / "log"),
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - replaced, not bound to
        "8080": str(ports["api"]),
    }
    place = Place(names, VARIABLES, folder / "log")
    with ExitStack() as stack:
        stack.enter_context(running(Postgres(data)))
        stack.enter_context(running(valkey_of(place, data, ports["valkey"])))
        stack.enter_context(running(kafka_of(place, data, ports["kafka"])))
        yield place
    shutil.rmtree(folder, ignore_errors=True)


def valkey_of(place: Place, data: DataFolder, port: int) -> Valkey:
    """With the arguments of the file's own command line."""
    _, *words = place.service("valkey")["command"]
    given = {words[n].removeprefix("--"): words[n + 1] for n in range(0, len(words), 2)}
    return Valkey(data, {**given, "bind": "127.0.0.1", "port": str(port)})


class ComposedKafka(Kafka):
    """Knows nothing but what the file says."""

    def _write_settings(self) -> None:
        self._settings_file.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))


def kafka_of(place: Place, data: DataFolder, port: int) -> Kafka:
    kafka = ComposedKafka(data, port=port)
    kafka.settings = kafka_properties(place.environment("kafka"))
    return kafka


def test_the_whole_composition_serves(place: Place) -> None:
    migrated = place.run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    with ExitStack() as stack:
        parts = {name: stack.enter_context(place.running(name)) for name in ours(VARIABLES) if name != "migrate"}
        eventually(lambda: place.is_healthy("api"), 90, 0.5)
        assert place.is_healthy("kafka")
        api = httpx.Client(base_url=f"http://127.0.0.1:{place.environment('api')['MUNIMENT_PORT']}")
        stack.enter_context(api)
        ready = eventually(lambda: (said := api.get("/readyz").json())["reasons"] == [] and said, 60, 0.2)
        assert ready["status"] == "ready"
        token = api.post("/api/v1/auth/login", json=ADMIN).json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        made = api.post("/api/v1/users", json={**ADMIN, "email": "a@b.example", "name": "Ada"}, headers=headers)
        assert made.status_code == 201, made.text
        headers["muniment-at-least"] = made.headers["muniment-position"]
        found = api.get(f"/api/v1/users/{made.json()['id']}", headers=headers)
        assert found.status_code == 200, found.text
        views = api.get("/api/v1/projections", headers=headers).json()["items"]
        assert {"access", "audit", "identity"} <= {view["name"] for view in views}
        assert {view["feed"] for view in views} == {"faust"}
        assert {name: part.poll() for name, part in parts.items()} == dict.fromkeys(parts)
    assert not (place.log.parent / "data").exists()  # a container of ours may write nowhere


def test_a_second_migration_finds_nothing_to_do(place: Place) -> None:
    place.run("migrate")
    again = place.run("migrate")
    assert again.returncode == 0
    assert "nothing to apply" in again.stderr
