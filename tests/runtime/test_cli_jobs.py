"""Operators see jobs and queues, and decide about them, at the machine; a worker does what there is to do."""

import json
import os
import pty
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from domain.jobs import JobState
from projections.jobs import JobRow, QueueRow, WorkerRow
from runtime.cli.jobs import driving
from runtime.cli.jobs.live import Frame, Rates, lines
from runtime.core import open_core
from runtime.worker import build_worker, worker_limits
from tests.runtime.cli_site import Site

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENCE_SECONDS = 20.0


def eventually(true: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError("it didn't come to pass")


@contextmanager
def working(site: Site) -> Iterator[None]:
    """A worker in this process."""
    with open_core(site.settings) as core:
        worker = build_worker(core, worker_limits(site.settings))
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield
        finally:
            worker.stop()
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()


def enqueued(site: Site, *options: object, type_: str = "muniment.noop") -> str:
    return str(site.json("jobs", "enqueue", type_, *options)["id"])


def shown(site: Site, job: str) -> Any:
    return site.json("jobs", "show", job)


def listed(site: Site, *options: object) -> list[str]:
    return [job["id"] for job in site.json("jobs", "list", *options)["items"]]


def test_a_thousand_lines_are_one_save_and_the_rest_another(cli_site: Site):
    cli_site.done("queues", "pause", "many")
    head = cli_site.events("jobs.JobEnqueued")
    lines = [f'{{"type": "muniment.noop", "queue": "many", "unique_key": "{n % 1001}"}}' for n in range(1002)]
    typed = "\n".join([*lines[:7], "", *lines[7:]])
    told = cli_site.done("jobs", "enqueue-batch", "--as", "ada", "--json", typed=typed)
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(answers) == 1002
    assert (answers[1001], len({each["id"] for each in answers})) == ({"id": answers[0]["id"], "duplicate": True}, 1001)
    by_save = "select count(*) from stored_events where topic = 'jobs.JobEnqueued' group by recorded_at"
    with psycopg.connect(cli_site.settings.postgres_url) as connection:
        times = connection.execute(f"{by_save} having count(*) > 9").fetchall()
    assert times == [(1000,)]
    assert "1,002 enqueued" not in told.stderr
    again = cli_site.done("jobs", "enqueue-batch", typed="\n".join(lines))
    assert again.stderr == "0 enqueued, 1,002 had their unique key already\n"
    assert head == cli_site.events("jobs.JobEnqueued")[: len(head)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"type": "muniment.fail", "args": {"times": "x"}}', "line 1002: args.times"),
        ('{"type": "muniment.noop", "colour": 1}', "line 1002: colour: is unknown"),
        ('{"type": "muniment.noop", "type": "muniment.fail"}', "line 1002: type: is given twice"),
        ('{"type": "no.such"}', "line 1002: There is no job type 'no.such'"),
        ("{", "line 1002: it is not JSON"),
        ("[]", "line 1002: expected `object`"),
        ('{"type": "muniment.noop", "unique_key": "a\\u0000b"}', "line 1002: unique_key"),
        (b"\xff\xfe", "line 1002: it is not JSON"),
        (b'"' + b"x" * 1_100_000 + b'"', "line 1002: it is longer than"),
    ],
    ids=["argument", "unknown", "twice", "type", "json", "list", "nul", "utf-16", "long"],
)
def test_a_line_that_is_wrong_is_named_and_what_went_before_stays(cli_site: Site, line: str | bytes, said: str):
    made = f"wrong-{uuid4().hex[:8]}"
    good = b'{"type": "muniment.noop", "queue": "%s", "run_at": "2030-01-01T00:00:00Z"}\n' % made.encode()
    last = line if isinstance(line, bytes) else line.encode()
    refused = cli_site.call("jobs", "enqueue-batch", typed=b"\xef\xbb\xbf" + good * 1001 + last)
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert "lines 1 to 1000 are enqueued, the rest isn't" in refused.stderr
    assert "Traceback" not in refused.stderr
    queues = {each["name"]: each["counts"] for each in cli_site.json("queues", "list")["items"]}
    assert queues[made]["waiting"] == 1000


@pytest.fixture(scope="module")
def dead(cli_site: Site) -> list[str]:
    """Three dead letters, whose queue is then paused."""
    args = '{"times": 9, "message": "the thread broke"}'
    made = [
        enqueued(cli_site, "--args", args, "--max-attempts", 1, "--queue", "torn", type_="muniment.fail")
        for _ in range(3)
    ]
    with working(cli_site):
        eventually(lambda: set(listed(cli_site, "--state", "dead-letter", "--queue", "torn")) == set(made))
    return made


def test_an_enqueued_job_is_done_and_its_story_told(cli_site: Site):
    args = '{"times": 1, "message": "a knot"}'
    job = enqueued(cli_site, "--args", args, "--as", "ada", type_="muniment.fail")
    assert shown(cli_site, job) | {"state": "pending", "enqueued_by": "operator:ada"} == shown(cli_site, job)
    with working(cli_site):
        eventually(lambda: shown(cli_site, job)["state"] == "success")
        assert [worker["alive"] for worker in cli_site.json("jobs", "workers")["items"]] == [True]
    first, second = shown(cli_site, job)["history"]
    assert (first["outcome"], first["reason"], second["outcome"]) == ("failed", "error", "succeeded")
    told = cli_site.done("jobs", "show", job, "--traceback").stdout
    assert "AskedToFail: a knot" in told
    assert "Traceback (most recent call last)" in told
    assert "attempt 2: succeeded" in told
    assert cli_site.json("jobs", "workers")["items"] == []


def test_lists_by_state_type_and_queue_in_pages(cli_site: Site, dead):
    first = cli_site.json("jobs", "list", "--queue", "torn", "--limit", 2)
    rest = cli_site.json("jobs", "list", "--queue", "torn", "--limit", 2, "--cursor", first["next"])
    assert [job["id"] for job in first["items"] + rest["items"]] == dead[::-1]
    assert listed(cli_site, "--state", "failed", "--type", "muniment.fail", "--queue", "torn") == dead[::-1]
    assert listed(cli_site, "--state", "running") == []
    table = cli_site.done("jobs", "list", "--queue", "torn").stdout
    assert "dead-letter" in table
    assert "the thread broke" in table


def test_dead_letters_are_driven_again_by_what_they_died_of(cli_site: Site, dead):
    cli_site.done("queues", "pause", "torn")
    refused = cli_site.call("jobs", "redrive")
    assert refused.exit_code == 2
    assert "--all" in refused.stderr
    none = cli_site.json("jobs", "redrive", "--error", "no such thing")
    assert none == {"redriven": 0, "remaining": 0, "next_at": None}
    some = cli_site.json("jobs", "redrive", "--error", "THREAD", "--queue", "torn", "--limit", 2, "--as", "ada")
    assert (some["redriven"], some["remaining"]) == (2, 1)
    told = cli_site.done("jobs", "redrive", "--all", "--queue", "torn", "--per-second", 0.01)
    assert "1 driven again" in told.stderr
    assert "0 left" in told.stderr
    states = {job["state"] for job in cli_site.json("jobs", "list", "--queue", "torn")["items"]}
    assert states == {"pending"}
    retried = cli_site.events("jobs.JobRetried")
    assert [event.metadata.actor for event in retried[:2]] == ["operator:ada"] * 2


def test_those_behind_one_whose_unique_key_another_has_are_driven_again(cli_site: Site, monkeypatch):
    monkeypatch.setattr(driving, "BATCH_LIMIT", 1)
    doomed = ("--args", '{"times": 9}', "--queue", "keyed", "--max-attempts", 1)
    for key in ("a", "b", "a"):
        with working(cli_site):
            job = enqueued(cli_site, *doomed, "--unique-key", key, type_="muniment.fail")
            eventually(lambda job=job: shown(cli_site, job)["state"] == "dead-letter")
    cli_site.done("queues", "pause", "keyed")
    enqueued(cli_site, *doomed, "--unique-key", "a", type_="muniment.fail")
    told = cli_site.json("jobs", "redrive", "--queue", "keyed")
    assert (told["redriven"], told["remaining"]) == (1, 2)
    assert len(listed(cli_site, "--state", "dead-letter", "--queue", "keyed")) == 2


def test_one_is_driven_again_and_cancelled(cli_site: Site):
    cli_site.done("queues", "pause", "kept", "--reason", "moths")
    job = enqueued(cli_site, "--queue", "kept", "--run-at", "2030-01-01T00:00:00Z")
    assert shown(cli_site, job)["state"] == "waiting"
    cli_site.done("jobs", "retry", job, "--reason", "now, please")
    assert shown(cli_site, job)["state"] == "pending"
    assert cli_site.json("jobs", "cancel", job, "--reason", "too late")["asked"] is False
    assert (shown(cli_site, job)["state"], shown(cli_site, job)["reason"]) == ("cancelled", "too late")
    refused = cli_site.call("jobs", "cancel", job)
    assert (refused.exit_code, refused.stderr) == (1, "Error: This job has ended already.\n")
    missing = cli_site.call("jobs", "show", uuid4())
    assert (missing.exit_code, missing.stderr) == (1, "Error: There is no such job.\n")


def test_queues_are_paused_limited_and_told_of(cli_site: Site):
    cli_site.done("queues", "pause", "quiet", "--reason", "the loom rests")
    cli_site.done("queues", "limit", "quiet", 3)
    enqueued(cli_site, "--queue", "quiet")

    def quiet() -> Any:
        return next(row for row in cli_site.json("queues", "list")["items"] if row["name"] == "quiet")

    assert (quiet()["paused"], quiet()["pause_reason"], quiet()["limit"]) == (True, "the loom rests", 3)
    assert (quiet()["counts"]["pending"], quiet()["oldest_seconds"] >= 0) == (1, True)
    assert "paused: the loom rests" in cli_site.done("queues", "list").stdout
    cli_site.done("queues", "resume", "quiet")
    cli_site.done("queues", "limit", "quiet", "none")
    assert (quiet()["paused"], quiet()["limit"]) == (False, None)
    counted = cli_site.json("jobs", "counts")["items"]
    assert {"queue": "quiet", "type": "muniment.noop", "state": "pending", "count": 1} in counted


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["jobs", "enqueue", "muniment.burn"], 1, "no job type 'muniment.burn'"),
        (["jobs", "enqueue", "muniment.fail", "--args", '{"times": -1}'], 1, "args.times"),
        (["jobs", "enqueue", "muniment.fail", "--args", "{"], 2, "isn't JSON"),
        (["jobs", "enqueue", "muniment.fail", "--args", "[]"], 2, "a JSON object"),
        (["jobs", "enqueue", "muniment.noop", "--priority", "900"], 1, "priority"),
        (["jobs", "enqueue", "muniment.noop", "--queue", "No such"], 1, "queue"),
        (["jobs", "enqueue", "muniment.noop", "--run-at", "0001-01-01"], 1, "run_at"),
        (["jobs", "enqueue", "muniment.noop", "--unique-key", "a", "--unique-seconds", "0"], 1, "unique_seconds"),
        (["jobs", "enqueue", "muniment.noop", "--concurrency-key", ""], 1, "concurrency_key"),
        (["jobs", "list", "--state", "asleep"], 2, "asleep"),
        (["jobs", "show", "nobody"], 2, "nobody"),
        (["jobs", "redrive", "--all", "--per-second", "0"], 2, "per-second"),
        (["queues", "pause", "No such"], 1, "name"),
        (["queues", "resume", "No Body"], 1, "lower-case words"),
        (["queues", "limit", "mail", "many"], 2, "many"),
        (["queues", "limit", "mail", "0"], 1, "limit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_named_in_one_line(cli_site: Site, arguments, status, said):
    result = cli_site.call(*arguments)
    assert result.exit_code == status
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert status == 2 or len(result.stderr.splitlines()) == 1


def test_without_a_terminal_top_tells_everything_once(cli_site: Site, dead):
    told = cli_site.done("jobs", "top").stdout
    assert "torn" in told
    assert "\x1b" not in told
    found = cli_site.json("jobs", "top")
    assert {row["name"] for row in found["queues"]} >= {"torn", "default"}
    assert found["ended"]["error"] >= 3
    assert found["running"] == []


def test_on_a_terminal_top_draws_until_ctrl_c_and_gives_the_terminal_back(cli_site: Site):
    master, slave = pty.openpty()
    process = cli_site.process("jobs", "top", "--interval", "0.2", stdout=slave)
    os.close(slave)
    drawn = b""
    until = time.monotonic() + PATIENCE_SECONDS
    while drawn.count(b"QUEUE") < 2 and time.monotonic() < until:
        drawn += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    rest = b""
    try:
        while part := os.read(master, 65536):
            rest += part
    except OSError:  # the terminal is closed
        pass
    assert process.wait(PATIENCE_SECONDS) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    os.close(master)
    assert drawn.startswith(b"\x1b[?1049h")
    assert (drawn + rest).endswith(b"\x1b[?1049l")


def running_job(**more: Any) -> JobRow:
    values: dict[str, Any] = {
        "id": uuid4(), "type": "weave", "queue": "loom", "priority": 0, "state": JobState.RUNNING, "attempts": 0,
        "max_attempts": 8, "run_at": None, "enqueued_at": NOW, "enqueued_by": "user:ada", "started_at": NOW,
        "finished_at": None, "worker": "loom:1", "progress": None, "message": None, "error": None, "reason": None,
        "cancelling": False, "occurrence": None, "correlation_id": "a", "position": 1, "version": 1,
    }  # fmt: skip
    return JobRow(**values | more)


def test_the_picture_fits_the_terminal_and_shows_the_longest_running_first():
    young = running_job(started_at=NOW - timedelta(seconds=1), progress=0.5, message="left\x1b[2J sleeve")
    old = running_job(started_at=NOW - timedelta(hours=2))
    worker = WorkerRow("loom:1", "loom", 7, None, 4, 2, NOW, NOW, alive=True)
    found = Frame(NOW, [QueueRow("loom")], [young, old], [worker], {"succeeded": 7})
    picture = lines(found, {"succeeded": 2.5, "error": 0.5}, 24, 120)
    assert len(picture) <= 24
    assert max(map(len, picture)) < 120
    assert "1 workers, 4 threads   2 running" in picture[0]
    assert picture[1] == "2.5/s succeed   0.5/s fail"
    assert picture[-2].startswith(str(old.id))
    assert "[######------]  50%" in picture[-1]
    assert "\x1b" not in "".join(picture)
    assert len(lines(found, {}, 7, 40)) <= 7


def test_rates_are_those_of_the_last_seconds():
    rates = Rates()
    for second in range(30):
        rates.add(second, {"succeeded": 10 * second if second < 15 else 140 + 2 * (second - 14)})
    assert rates.per_second() == {"succeeded": 2.0}
    fresh = Rates()
    fresh.add(0, {})
    assert fresh.per_second() == {}


def test_json_is_one_document(cli_site: Site):
    out = cli_site.done("jobs", "top", "--json").stdout
    assert json.loads(out)["workers"] == []
