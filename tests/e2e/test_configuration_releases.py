"""Two releases side by side, of which the newer takes less, or brings documents up; and documents of all sizes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.configuration.instances import Instance, State
from tests.e2e.configured import Administrator, Fleet
from tests.e2e.platform import OurPart, eventually
from tests.e2e.release import Changes, Released, changed_release

LEAST = 10
STRICTER: Changes = {
    "infra/settings.py": [
        (
            '"items of a page unless asked", hot=True, least=1',
            f'"items of a page unless asked", hot=True, least={LEAST}',
        )
    ],
}
"""A release in which a page can't be that small any more."""
UPCASTING: Changes = {
    "infra/settings.py": [
        *STRICTER["infra/settings.py"],
        ("VERSIONS: Mapping[str, int] = {}", 'VERSIONS: Mapping[str, int] = {"api": 2}'),
        (
            "UPCASTS: Mapping[str, Mapping[int, Upcast]] = {}",
            'UPCASTS = {"api": {1: lambda v: {**v, "page_size": max(v["page_size"], 10)} if "page_size" in v else v}}',
        ),
    ],
}
"""The one after it, which brings smaller pages up to what it takes."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """A short path: sockets have little room."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    with Fleet(folder, many=False) as fleet:
        yield fleet
    shutil.rmtree(folder, ignore_errors=True)


def of(fleet: Fleet, part: OurPart, namespace: str = "api") -> Instance:
    (found,) = [each for each in fleet.instances(namespace) if each.pid == part.process.pid]
    return found


def says(answer: Any) -> dict[int, tuple[str, ...]]:
    """By process, what it makes of the update, and which fields are why."""
    assert answer.status_code == 200, answer.text
    return {
        each["pid"]: (each["state"], *(error["field"] for error in each["errors"]))
        for each in answer.json()["instances"]
    }


def readiness(fleet: Fleet) -> dict[str, Any]:
    said: dict[str, Any] = fleet.apis[0].anybody.get("/readyz").json()
    return said


def patched(fleet: Fleet, page_size: int) -> Any:
    return fleet.admins[0].ask("PATCH", "/api/v1/config/api", {"values": {"page_size": page_size}, "reason": "a drill"})


def test_old_and_new_instances_side_by_side(fleet: Fleet, tmp_path: Path) -> None:
    admin = Administrator(fleet)
    acceptable = admin.patch("api", {"page_size": 25})
    admin.patch("api", {"page_size": 12})
    newest_acceptable = admin.patch("api", {"page_size": 11})
    too_small = admin.patch("api", {"page_size": 5})
    assert acceptable
    assert newest_acceptable
    assert too_small
    fleet.level()

    # A stored version that a process can't use when it starts: the newest one that it can counts, and it says so.
    stricter = fleet.joined("worker", changed_release(tmp_path / "stricter", STRICTER))
    fleet.level()
    found = of(fleet, stricter)
    assert (found.version, found.state(too_small)) == (newest_acceptable, State.REFUSED)
    assert found.refused
    assert (found.refused.version, [each.field for each in found.refused.errors]) == (too_small, ["page_size"])
    assert f"ERROR muniment.configuration: configuration: version {too_small} of api can't be used here" in (
        stricter.log.read_text()
    )
    reason = f"configuration: 1 process refuses version {too_small} of api"
    said = eventually(lambda: found if reason in (found := readiness(fleet))["reasons"] else None)
    assert said["status"] == "degraded"

    # One answer says who runs it, who refuses it and why.
    told = says(patched(fleet, 20))
    assert set(told.values()) == {("applied",)}
    told = says(patched(fleet, 6))
    assert told.pop(stricter.process.pid) == ("refused", "page_size")
    assert len(told) == fleet.processes - 1
    assert set(told.values()) == {("applied",)}
    twenty = of(fleet, stricter).version
    stricter.restart()
    fleet.level()
    assert of(fleet, stricter).version == twenty

    # The release after it brings what is stored up: nothing is refused.
    upcasting = fleet.joined("worker", changed_release(tmp_path / "upcasting", UPCASTING))
    fleet.level()
    newest = fleet.versions()["api"]
    assert of(fleet, upcasting).state(newest) is State.APPLIED
    # What it stores itself, the others can't read: they stay as they are, and say why.
    new = Released(upcasting.root, upcasting.settings)
    stored = new.call("config", "set", "api", "page_size=30", "--json")
    assert (stored.returncode, stored.stderr) == (3, "")
    assert f'"refused":{fleet.processes - 1}' in stored.stdout.replace(" ", "")
    fleet.level()
    newest = fleet.versions()["api"]
    assert of(fleet, upcasting).state(newest) is State.APPLIED
    others = [each for each in fleet.instances("api") if each.pid != upcasting.process.pid]
    assert {each.state(newest) for each in others} == {State.REFUSED}
    assert all("schema 2" in each.refused.errors[0].message for each in others if each.refused)
    answer = patched(fleet, 40)
    assert (answer.status_code, answer.json()["code"]) == (503, "newer-config")

    # Once all are of the new release, all run the newest.
    for member in fleet.members:
        member.part.root = upcasting.root
        member.part.restart()
    fleet.level()
    assert {each.state(newest) for each in fleet.instances("api")} == {State.APPLIED}
    told = eventually(lambda: answer if (answer := patched(fleet, 40)).status_code == 200 else None)
    assert set(says(told).values()) == {("applied",)}


def test_documents_of_a_megabyte_and_of_a_thousand_keys(fleet: Fleet) -> None:
    admin = fleet.admins[0]
    path, schema = "/api/v1/config/catalogue", {"schema": {"type": "object"}}
    assert admin.ask("PUT", "/api/v1/config-namespaces/catalogue", schema).status_code in {200, 201}

    def put(values: dict[str, Any]) -> Any:
        return admin.ask("PUT", path, {"values": values})

    largest = {"text": "x" * (1_000_000 - len('{"text":""}'))}
    answer = put(largest)
    assert (answer.status_code, answer.json()["version"]) == (200, 3)
    assert admin.get(path).json()["values"] == largest
    refused = put({"text": largest["text"] + "x"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "values"
    assert "1,000,001 bytes" in refused.json()["errors"][0]["message"]
    assert put({"text": "x" * 1_100_000}).status_code == 413

    many = {f"key{number}": number for number in range(1_000)}
    assert put(many).json()["version"] == 4
    refused = put(many | {"one": "more"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "values")
    assert "1,001 keys" in refused.json()["errors"][0]["message"]
    patch = admin.ask("PATCH", path, {"values": {"one": "more"}})
    assert (patch.status_code, "1,001 keys" in patch.text) == (422, True)
    assert admin.get(path).json()["values"] == many

    back = admin.post(f"{path}/rollback", {"version": 3})
    assert back.json()["version"] == 5
    assert admin.get(path).json()["values"] == largest
    seen = admin.ask("PUT", f"{path}/instances/web-1", {"version": 5, "state": "applied", "part": "shop"})
    assert seen.status_code == 200
    answer = put({})
    assert [(each["id"], each["state"]) for each in answer.json()["instances"]] == [("web-1", "pending")]
