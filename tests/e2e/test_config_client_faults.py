"""Services are killed, frozen and cut off while their configuration changes; in the end each runs with the newest that
it accepts, and the platform knows."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from tests.api.serving import eventually
from tests.e2e.cutting_proxy import CuttingProxy
from tests.e2e.platform import ROOT, Api, Caller, Platform

SERVICES = 4
UPDATES = 120
MISHAPS = int(os.environ.get("DRILL_KILLS") or 40)
NAMESPACE = "mill"
SCHEMA = {
    "type": "object",
    "properties": {"rate": {"type": "integer", "default": 0}, "twin": {"type": "integer", "default": 0}},
}
PROGRAM = """
import sys
from pathlib import Path
from muniment_client import Configuration, FieldError, Instance, Pace, Refused
from muniment_client.backoff import Backoff

url, kept, token, picky, name = sys.argv[1:]

def build(values):
    assert values["rate"] == values["twin"], "half of two versions"
    if picky == "yes" and values["rate"] % 7 == 3:
        raise Refused([FieldError("rate", "not this one")])
    return values["rate"]

pace = Pace(answer_seconds=2, silence_seconds=3, poll_seconds=2, polls_seconds=5, short_seconds=2,
            backoff=lambda: Backoff(0.05, 0.5))
configuration = Configuration(url, "mill", build, token=Path(token).read_text, keep=Path(kept), pace=pace,
                              instance=Instance.here(name))
configuration.on_swap(lambda snapshot: print(snapshot.version, snapshot.value, flush=True))
configuration.start(60)
sys.stdin.read()
configuration.close()
"""


class Service:
    """A process of a service, behind a proxy of its own. Every other one is picky about what it accepts."""

    def __init__(self, number: int, folder: Path, url: str) -> None:
        self.name = f"mill-{number}"
        self.picky = number % 2 == 1
        self.proxy = CuttingProxy(url)
        self.output = folder / f"{self.name}.out"
        self._arguments = [str(folder / f"{self.name}.json"), str(folder / "token"), "yes" if self.picky else "no"]

    def start(self) -> Self:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, self.proxy.url, *self._arguments, self.name], cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=output,
                stderr=output,
            )  # fmt: skip
        return self

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    def mend(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.proxy.refuse = self.proxy.withhold_streams = False
        self.proxy.cut_streams_at = None

    def suffer(self, what: str) -> None:
        match what:
            case "killed":
                self.end()
                self.start()
            case "frozen":
                self.process.send_signal(signal.SIGSTOP)
            case "cut":
                self.proxy.cut()
            case "refused":
                self.proxy.refuse = True
                self.proxy.cut()
            case "withheld":
                self.proxy.withhold_streams = True
            case "torn":
                self.proxy.cut_streams_at = b'"values":{'
                self.proxy.cut()

    @property
    def seen(self) -> list[tuple[int, int]]:
        """Version and rate of all that was ever in force here."""
        lines = self.output.read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines if line[:1].isdigit()]


def accepted(service: Service, rates: dict[int, int]) -> int:
    """The newest version that this service takes."""
    return max(version for version, rate in rates.items() if not (service.picky and rate % 7 == 3))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_after_every_mishap_each_service_runs_with_the_newest_that_it_accepts(platform: Platform, tmp_path: Path):
    seed = int(os.environ.get("DRILL_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"DRILL_SEED={seed}", flush=True)
    chance = random.Random(seed)  # noqa: S311 - for tests
    admin = platform.admin
    admin.done("PUT", f"/api/v1/config-namespaces/{NAMESPACE}", {"schema": SCHEMA})
    admin.done(
        "PATCH", "/api/v1/config/configuration", {"values": {"config_lease_seconds": 3, "config_answer_seconds": 0.1}}
    )
    (tmp_path / "token").write_text(admin.tokens["access_token"])
    api: Api = platform.api("miller")
    api.start()
    api.wait_until_ready()
    with ExitStack() as stack:
        stack.callback(api.stop)
        services = [Service(number, tmp_path, api.url).start() for number in range(SERVICES)]
        for service in services:
            stack.callback(service.end)
        rates: dict[int, int] = {}
        for _ in range(UPDATES):
            if chance.random() < MISHAPS / UPDATES:
                mishap(chance, services, api)
            rate = chance.randrange(1000)
            rates[update(admin, rate)] = rate
            time.sleep(chance.random() * 0.1)
        for service in services:
            service.mend()
        api.thaw()
        for service in services:
            newest = accepted(service, rates)
            eventually(lambda s=service, v=newest: s.seen and s.seen[-1][0] == v, 60)
        eventually(lambda: settled(admin, services, rates), 60)
        for service in services:
            assert all(rates.get(version, 0) == rate for version, rate in service.seen), f"DRILL_SEED={seed}"
            assert "half of two versions" not in service.output.read_text()
    admin.done(
        "PATCH",
        "/api/v1/config/configuration",
        {"values": {"config_lease_seconds": None, "config_answer_seconds": None}},
    )


def mishap(chance: random.Random, services: list[Service], api: Api) -> None:
    what = chance.choice(
        ["killed", "killed", "frozen", "cut", "refused", "withheld", "torn", "api killed", "api frozen"]
    )
    if what == "api killed":
        api.thaw()
        api.restart()
    elif what == "api frozen":
        api.freeze()
        time.sleep(chance.random())
        api.thaw()
    else:
        service = chance.choice(services)
        service.mend()
        service.suffer(what)


def update(admin: Caller, rate: int) -> int:
    answer: dict[str, Any] = admin.done(
        "PUT", f"/api/v1/config/{NAMESPACE}", {"values": {"rate": rate, "twin": rate}}
    ).json()
    return int(answer["version"])


def settled(admin: Caller, services: list[Service], rates: dict[int, int]) -> bool:
    """Whether the platform knows of each what it runs with, and of who refuses the newest why."""
    head = max(rates)
    items = admin.done("GET", f"/api/v1/config/{NAMESPACE}/instances").json()["items"]
    said = {item["part"]: item for item in items}
    if set(said) != {service.name for service in services} or len(items) != len(services):
        return False
    for service in services:
        item, newest = said[service.name], accepted(service, rates)
        state = "applied" if newest == head else "refused"
        if (item["version"], item["state"]) != (newest, state):
            return False
        if state == "refused" and item["errors"] != [{"field": "rate", "message": "not this one"}]:
            return False
    return True
