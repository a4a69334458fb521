"""Secrets by reference, in real processes: used, rotated, kept while a store is down; and written nowhere."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import eventually
from tests.e2e.secretive import Mailbox, Secretive, mark
from tests.muniment_client.kv_server import KvServer, serving

pytestmark = pytest.mark.timeout(240)

NAMES = ("file", "rotated", "vault", "older", "environment", "malformed", "binary", "pasted", "token", "wrong")
PARTS = 4
"""Of `muniment up`: API, worker, scheduler, follower."""
PROBLEMS = {
    "missing": {"smtp_url": "secret://nowhere"},
    "version": {"smtp_url": "secret://vaulted#99"},
    "deleted": {"smtp_url": "secret://gone#1"},
    "malformed": {"smtp_url": "secret://malformed"},
    "binary": {"smtp_url": "secret://binary"},
    "traversal": {"smtp_url": "secret://../../etc/passwd"},
    "elsewhere": {"default_role": "secret://filed"},
}


@dataclass
class Story:
    """What was planted, and what came of it."""

    platform: Secretive
    mailbox: Mailbox
    marks: dict[str, str]
    answers: dict[str, Any] = field(default_factory=dict)
    letters: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)


def letter(story: Story, subject: str) -> None:
    story.platform.sends(subject)
    eventually(lambda: f"{subject}@verification.example" in story.mailbox.letters)


def every_part_says(platform: Secretive, line: str, times: int = 1) -> None:
    eventually(lambda: platform.log.read_text().count(line) >= PARTS * times)


def told(story: Story) -> None:
    """Everything that happens, in order."""
    platform, mailbox, marks, answers = story.platform, story.mailbox, story.marks, story.answers
    sender = {"mail_from": "office@engine.example"}
    plant(story)
    platform.start()
    retries = {"retry_first_seconds": 0.5, "retry_longest_seconds": 0.5}
    platform.admin.done("PATCH", "/api/v1/config/jobs", {"values": retries})
    mailbox.password = marks["file"]
    answers["file"] = platform.changes(smtp_url="secret://filed", **sender)
    letter(story, "filed")

    mailbox.password = marks["rotated"]
    platform.put("filed", mailbox.url(marks["rotated"]))
    letter(story, "rotated")

    for name, values in PROBLEMS.items():
        answers[name] = platform.changes(**values)
        answers[f"{name} tried"] = platform.admin.post(
            "/api/v1/config/onboarding/validate", {"values": values, "mode": "merge"}
        )
    for number, pasted in enumerate((marks["pasted"], mailbox.url(marks["pasted"]), f"secret://{marks['pasted']} x")):
        answers[f"pasted {number}"] = platform.changes(smtp_url=pasted)
    said = platform.command("config", "set", "onboarding", f"smtp_url={mailbox.url(marks['pasted'])}")
    assert "smtp_url" in said

    # what is used now is no longer what it was: no mail server's address, then one whose password is wrong
    platform.put("filed", marks["malformed"])
    eventually(lambda: "is in use without the newest of its secrets" in platform.log.read_text())
    story.reasons["malformed"] = eventually(platform.reasons)
    mailbox.password = marks["older"]
    platform.put("filed", mailbox.url(marks["wrong"]))
    platform.sends("wrong")
    jobs = "/api/v1/jobs?type=mail.verification&limit=200"
    eventually(
        lambda: [each for each in platform.admin.get(jobs).json()["items"] if each["state"] == "retry-scheduled"]
    )

    answers["older"] = platform.changes(smtp_url="secret://vaulted#1")
    letter(story, "older")
    mailbox.password = marks["vault"]
    answers["vault"] = platform.changes(smtp_url="secret://vaulted")
    letter(story, "vaulted")

    released = threading.Event()
    platform.vault.bad_day = lambda _: released.wait(60)
    every_part_says(platform, "the last good value of secret://vaulted stands")
    answers["hanging"] = platform.changes(smtp_url="secret://another")
    letter(story, "hanging")
    platform.vault.bad_day = None
    released.set()
    every_part_says(platform, "secret://vaulted: fetched again")

    platform.vault.sealed = True
    story.reasons["sealed"] = eventually(lambda: [each for each in platform.reasons() if "last good" in each])
    letter(story, "sealed")
    answers["sealed"] = platform.changes(smtp_url="secret://another")
    every_part_says(platform, "the last good value of secret://vaulted stands", 2)
    platform.vault.sealed = False
    every_part_says(platform, "secret://vaulted: fetched again", 2)
    eventually(lambda: not platform.reasons())

    mailbox.password = marks["environment"]
    answers["environment"] = platform.changes(smtp_url="secret://in-environment")
    letter(story, "environment")
    answers["back"] = platform.admin.post(
        "/api/v1/config/onboarding/rollback", {"version": 2, "reason": marks["canary"]}
    )
    mailbox.password = marks["wrong"]
    letter(story, "back")

    answers["again"] = platform.changes(smtp_url="secret://vaulted")
    platform.stop()
    platform.vault.sealed = True
    platform.start()
    story.reasons["started"] = eventually(platform.reasons)
    platform.sends("started")
    mailbox.password = marks["vault"]
    platform.vault.sealed = False
    eventually(lambda: "started@verification.example" in mailbox.letters)
    platform.vault.sealed = True
    eventually(platform.reasons)
    for command in (
        "config get onboarding", "config get onboarding --json", "config history onboarding",
        "config diff onboarding 1 2",
        "config instances onboarding", "config validate onboarding smtp_url=secret://vaulted",
        "config schema onboarding",
        "status", "status --json", "events tail --limit 1000", "audit list", "jobs list", "projections list",
    ):  # fmt: skip
        platform.call(command)
    platform.asks_for_everything()


def plant(story: Story) -> None:
    platform, mailbox, marks = story.platform, story.mailbox, story.marks
    platform.put("filed", mailbox.url(marks["file"]) + "\n")
    platform.put("malformed", marks["malformed"])
    platform.put("binary", b"\xff\xfe" + marks["binary"].encode())
    platform.vault.put("vaulted", {"value": mailbox.url(marks["older"])})
    platform.vault.put("vaulted", {"value": mailbox.url(marks["vault"])})
    platform.vault.put("gone", {"value": mailbox.url(marks["vault"])})
    platform.vault.delete("gone", 1)


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """A short path: sockets have little room."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    marks = {name: mark(name) for name in (*NAMES, "canary")}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        mailbox = stack.enter_context(Mailbox())
        vault = stack.enter_context(serving(KvServer()))
        token = f"hvs.{marks['token']}"
        vault.tokens[token] = vault.tokens.pop(vault.token())
        environment = {"MUNIMENT_SECRET_IN_ENVIRONMENT": mailbox.url(marks["environment"])}
        platform = Secretive(folder, vault, token, environment)
        story = Story(platform, mailbox, marks)
        stack.callback(platform.close)
        told(story)
        yield story


@pytest.mark.parametrize("name", ["file", "older", "vault", "environment", "back", "again"])
def test_a_secret_of_every_store_is_used_by_every_part(story, name):
    answer = story.answers[name]
    assert answer.status_code == 200, answer.text
    states = {each["part"]: each["state"] for each in answer.json()["instances"]}
    assert set(states) >= {"api", "worker", "scheduler", "follow"}
    assert set(states.values()) <= {"applied", "pending"}


def test_mail_goes_out_with_each_of_them_and_with_a_rotated_one(story):
    sent = {each.partition("@")[0] for each in story.mailbox.letters}
    assert sent >= {
        "filed",
        "rotated",
        "older",
        "vaulted",
        "hanging",
        "sealed",
        "environment",
        "back",
        "wrong",
        "started",
    }


@pytest.mark.parametrize(
    ("name", "field", "why"),
    [
        ("missing", "smtp_url", "there is no variable MUNIMENT_SECRET_NOWHERE"),
        ("version", "smtp_url", "vault has no such secret, or not in this version"),
        ("deleted", "smtp_url", "this version was deleted"), ("malformed", "smtp_url", "smtp://user:password@host:port"),
        ("binary", "smtp_url", "not UTF-8"), ("traversal", "smtp_url", "no reference to a secret"),
        ("elsewhere", "default_role", "secret"), ("pasted 0", "smtp_url", "secret"), ("pasted 1", "smtp_url", "secret"),
        ("pasted 2", "smtp_url", "secret"),
    ],
)  # fmt: skip
def test_what_cant_be_used_is_refused_and_named(story, name, field, why):
    answer = story.answers[name]
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == f"values.{field}"
    assert why in error["message"]
    if tried := story.answers.get(f"{name} tried"):
        assert (tried.status_code, tried.json()["errors"]) == (422, [error])


def test_a_reference_that_cant_be_looked_up_waits_for_its_store(story):
    answer = story.answers["sealed"]
    assert (answer.status_code, answer.json()["code"]) == (503, "secret-store-unavailable")
    assert "sealed" in answer.json()["detail"]


def test_a_store_that_hangs_keeps_nobody_waiting(story):
    answer = story.answers["hanging"]
    assert (answer.status_code, answer.json()["code"]) == (503, "secret-store-unavailable")
    assert answer.elapsed.total_seconds() < 10  # a busy machine; its own limit is a second


def test_readiness_says_that_only_last_good_values_stand(story):
    (reason,) = story.reasons["sealed"]
    assert reason.startswith("secrets: 1 can't be fetched; the last good values stand for 3")
    assert story.reasons["started"] == ["secrets: onboarding is in use without the newest of its secrets"]
    assert story.reasons["malformed"] == ["secrets: onboarding is in use without the newest of its secrets"]


def test_metrics_tell_how_it_stands_with_the_stores(story):
    metrics = dict(story.platform.answers)["worker /metrics"].decode()
    assert "muniment_secret_store_up{" in metrics
    assert 'store="vault"' in metrics
    assert 'state="stale"' in metrics


def test_nothing_that_was_written_has_a_value(story):
    """What a reader of the log, of the database, of the disk, of any answer, or of a terminal could have found."""
    values = dict(story.marks)
    canary = values.pop("canary")
    assert story.platform.found(values) == []
    places = " ".join(story.platform.found({"canary": canary}))
    for place in (
        "table public.stored_events",
        "table public.audit_entries",
        "GET /api/v1/events",
        "config history",
        "file",
    ):
        assert place in places, f"the search would miss a value in: {place}"
