"""Views are rebuilt, cut over to, rolled back and dropped while everybody works: nobody notices."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from tests.e2e.platform import PASSWORD, Caller, Platform, at_least, eventually, position

REGISTERED = {"user.registered", "role.assigned"}
VIEWS = ("identity", "access", "audit")


class Worker:
    """Registers people and gives them a role through one process, and reads all of that through another at once.

    Whatever isn't as it should be is kept: an answer that failed, one that lacks what was asked to be in it, a position
    below one that the same process gave before.
    """

    def __init__(self, number: int, writer: Caller, reader: Caller) -> None:
        self.complaints: list[str] = []
        self.rounds = 0
        self._number, self._writer, self._reader = number, writer, reader
        self._newest: dict[str, int] = {}

    def work(self) -> None:
        self.rounds += 1
        name = f"Joan {self._number} {self.rounds}"
        body = {"email": f"joan.{self._number}.{self.rounds}@colossus.example", "name": name, "password": PASSWORD}
        made = self._ask(self._writer, "POST", "/api/v1/users", body)
        if made is None:
            return
        user = made.json()["id"]
        seen = self._ask(self._reader, "GET", f"/api/v1/users/{user}", **at_least(position(made)))
        self._expect(seen, lambda answer: answer["name"] == name, "a user is not there")
        given = self._ask(self._writer, "POST", f"/api/v1/users/{user}/roles", {"role": "auditor", "scope": "/"})
        asked = {"user_id": user, "permission": "audit:read"}
        if given is None:
            return
        check = self._ask(self._reader, "POST", "/api/v1/access/check", asked, **at_least(position(given)))
        self._expect(check, lambda answer: answer["allowed"], "a grant is not there")
        entries = self._ask(self._reader, "GET", f"/api/v1/audit?target=user:{user}", **at_least(position(given)))
        self._expect(
            entries,
            lambda answer: {entry["action"] for entry in answer["items"]} >= REGISTERED,
            "an entry is not there",
        )

    def _ask(self, caller: Caller, method: str, path: str, body: Any = None, **options: Any) -> Any:
        answer = caller.ask(method, path, body, **options)
        if not answer.is_success:
            self.complaints.append(f"{method} {path}: {answer.status_code} {answer.text}")
            return None
        if method == "GET" or path.endswith("check"):
            view = path.split("/")[3]
            if position(answer) < self._newest.get(view, 0):
                self.complaints.append(f"{path}: {position(answer)} after {self._newest[view]}")
            self._newest[view] = max(position(answer), self._newest.get(view, 0))
        return answer

    def _expect(self, answer: Any, true: Any, complaint: str) -> None:
        if answer is not None and not true(answer.json()):
            self.complaints.append(f"{complaint}: {answer.text}")


@contextmanager
def at_work(*workers: Worker) -> Iterator[None]:
    ended = Event()

    def run(worker: Worker) -> None:
        while not ended.is_set():
            worker.work()

    threads = [Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def state(platform: Platform, view: str) -> str:
    return str(platform.admin.done("GET", f"/api/v1/projections/{view}/rebuild").json()["state"])


def test_under_load_no_request_fails_and_no_position_goes_back(platform: Platform) -> None:
    there = platform.babbage.same(platform.admin)
    workers = [Worker(1, platform.admin, there), Worker(2, there, platform.admin)]
    with at_work(*workers):
        for view in VIEWS:
            asked = platform.admin.done("POST", f"/api/v1/projections/{view}/rebuild", {})
            assert (asked.status_code, asked.json()["state"]) == (202, "waiting")
        for view in VIEWS:
            eventually(lambda view=view: state(platform, view) == "following", 60)  # type: ignore[misc]
            found = there.done("GET", f"/api/v1/projections/{view}/diff").json()
            assert (found["differences"], found["rows"]) == (0, [])
        for number in range(3):
            for view in VIEWS:
                caller = (platform.admin, there)[number % 2]
                assert caller.done("POST", f"/api/v1/projections/{view}/cutover").json() == {"build": 2, "former": 1}
                assert caller.done("POST", f"/api/v1/projections/{view}/rollback").json() == {"build": 1, "former": 2}
        for view in VIEWS:
            platform.admin.done("POST", f"/api/v1/projections/{view}/drop")
    assert [worker.complaints for worker in workers] == [[], []]
    assert all(worker.rounds > 10 for worker in workers)
    assert platform.sql("select distinct build, active from projection_builds where version = 1") == [(1, True)]
    rows = platform.sql("select distinct action from audit_entries_v1_b1 where action like 'projection.%%'")
    assert {
        "projection.rebuild-requested",
        "projection.cut-over",
        "projection.rolled-back",
        "projection.build-dropped",
    } <= {action for (action,) in rows}
