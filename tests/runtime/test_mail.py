"""Mail by a real worker to a real SMTP server."""

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from commands.identity import VerifyEmail, verify_email
from commands.jobs import Enqueue, enqueue_job
from domain.context import Context
from domain.errors import Invalid
from domain.identity import EmailVerification
from domain.jobs import Job
from infra.embedded.ports import free_port
from infra.mail import MailServer, MailServerUnknown, MailUnavailable
from infra.settings import Settings, SettingsError
from infra.verification import PURPOSE, VerificationTokens
from muniment_client.secrets import Hidden
from runtime.core import Core, build_core
from runtime.worker import build_worker, worker_limits
from stream_apps.jobs.mail import MAIL_VERIFICATION, SEND_MAIL, SendArgs, VerifyAddressArgs, verification_mail
from tests.runtime.cli_site import Site
from tests.stream_apps.working import until

SYSTEM = Context.system("test", "mail")
LETTER = SendArgs("grace@navy.example", "A bug", "It was a moth.\n")


@dataclass
class Postbox:
    """An SMTP server that keeps what it takes, and gives the first ones these answers instead."""

    replies: list[str] = field(default_factory=list)
    letters: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        if self.replies:
            return self.replies.pop(0)
        letter = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        return "250 OK"


@contextmanager
def listening(postbox: Postbox, port: int) -> Iterator[None]:
    controller = Controller(postbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield
    finally:
        controller.stop()


@contextmanager
def sending(site: Site, port: int, **changes: Any) -> Iterator[Core]:
    usual = {"smtp_url": f"smtp://127.0.0.1:{port}", "mail_from": "Muniment <office@engine.example>"}
    settings = replace(site.settings, **(usual | changes))
    core = build_core(settings)
    worker = build_worker(core, worker_limits(replace(settings, worker_threads=2)), chance=lambda: 0.01)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield core
    finally:
        worker.stop()
        thread.join(20)
        core.close()
        assert not thread.is_alive()


def enqueued(core: Core, *command: Any) -> UUID:
    found: UUID = core.dispatcher.dispatch(enqueue_job, Enqueue(*command), SYSTEM).result.id
    return found


def ended(core: Core, job_id: UUID) -> Any:
    def end() -> Any:
        event = core.log.read_stream(job_id)[-1].event
        over = isinstance(event, Job.AttemptSucceeded) or getattr(event, "exhausted", False)
        return event if over else None

    return until(end)


def test_a_letter_arrives_once_with_the_jobs_own_id(cli_site):
    postbox, port = Postbox(), free_port()
    with listening(postbox, port), sending(cli_site, port) as core:
        job_id = enqueued(core, SEND_MAIL, LETTER)
        ended(core, job_id)

    (letter,) = postbox.letters
    assert (letter["to"], letter["subject"]) == ("grace@navy.example", "A bug")
    assert letter["from"] == "Muniment <office@engine.example>"
    assert letter["message-id"] == f"<{job_id}@engine.example>"
    assert letter.get_content().strip() == "It was a moth."


def test_a_server_that_is_busy_or_away_is_tried_again(cli_site):
    postbox, port = Postbox(["451 later"]), free_port()
    with sending(cli_site, port) as core:
        job_id = enqueued(core, SEND_MAIL, LETTER)
        until(lambda: any(isinstance(each.event, Job.AttemptFailed) for each in core.log.read_stream(job_id)))
        with listening(postbox, port):
            ended(core, job_id)
            said = [
                each.event.error for each in core.log.read_stream(job_id) if isinstance(each.event, Job.AttemptFailed)
            ]
    assert any("refused" in error for error in said)
    assert any("451 later" in error for error in said)
    assert len(postbox.letters) == 1


def test_what_the_server_will_never_take_is_a_dead_letter_at_once(cli_site):
    postbox, port = Postbox(["550 no such moth"]), free_port()
    with listening(postbox, port), sending(cli_site, port) as core:
        end = ended(core, enqueued(core, SEND_MAIL, LETTER))
    assert (end.reason, end.attempt) == ("not-retryable", 1)
    assert "550 no such moth" in end.error
    assert "moth.\n" not in (end.traceback or "")


@pytest.mark.parametrize(
    "args",
    [
        {"to": "grace@navy.example\r\nBcc: all@navy.example", "subject": "x", "text": "y"},
        {"to": "grace@navy.example", "subject": "x\r\nBcc: all@navy.example", "text": "y"},
    ],
    ids=["to", "subject"],
)
def test_headers_cant_be_smuggled_in(args):
    with pytest.raises(Invalid):
        SEND_MAIL.read(args)


def test_whom_nobody_knows_is_a_dead_letter_at_once(cli_site):
    with sending(cli_site, free_port()) as core:
        end = ended(core, enqueued(core, MAIL_VERIFICATION, VerifyAddressArgs(uuid4())))
    assert (end.reason, end.attempt) == ("not-retryable", 1)


def test_whoever_registers_gets_a_mail_whose_token_verifies_their_address(cli_site):
    postbox, port = Postbox(), free_port()
    user = UUID(cli_site.user("mail@verification.example"))
    with (
        listening(postbox, port),
        sending(cli_site, port, verification_link="https://app.example/verify?token={token}") as core,
    ):
        end = ended(core, enqueued(core, MAIL_VERIFICATION, VerifyAddressArgs(user)))
        assert end.result is True
        (letter,) = postbox.letters
        (line,) = [each for each in letter.get_content().splitlines() if each.startswith("https://")]
        token = line.removeprefix("https://app.example/verify?token=")
        user_id, number = VerificationTokens(core.secrets.derive(PURPOSE)).read(token)
        assert user_id == user
        lifetime = timedelta(seconds=core.settings.verification_seconds)
        core.dispatcher.dispatch(verify_email, VerifyEmail(user_id, number, lifetime), SYSTEM)
        assert token not in str([vars(each.event) for each in core.log.read(0, 1000)])

        again = ended(core, enqueued(core, MAIL_VERIFICATION, VerifyAddressArgs(user)))
    assert again.result is False
    assert len(postbox.letters) == 1


@pytest.mark.parametrize(
    ("url", "sender", "named"),
    [
        ("http://mail.example", "a@b.example", "MUNIMENT_SMTP_URL"),
        ("smtp://", "a@b.example", "MUNIMENT_SMTP_URL"),
        ("smtp://mail.example:port", "a@b.example", "MUNIMENT_SMTP_URL"),
        ("smtp://mail.example", "", "MUNIMENT_MAIL_FROM"),
    ],
)
def test_a_wrong_mail_server_is_told_at_the_start(url, sender, named):
    with pytest.raises(SettingsError, match=named):
        verification_mail(Settings(smtp_url=url, mail_from=sender))


def test_no_password_goes_out_without_tls_nor_into_a_message():
    server = MailServer.of(Settings(smtp_url="smtp://ada:s3cret%21@mail.example", mail_from="a@b.example"))
    assert server is not None
    assert (server.port, server.user, server.password) == (587, "ada", "s3cret!")
    assert "s3cret" not in repr(server)


SECRET_URL = Hidden("smtp://ada:s3cret%21@mail.example")


def test_the_servers_address_may_be_a_secret():
    server = MailServer.of(Settings(smtp_url=SECRET_URL, mail_from="a@b.example"))
    assert server is not None
    assert (server.host, server.password) == ("mail.example", "s3cret!")


def test_mail_waits_for_a_secret_that_cant_be_had_and_uses_up_no_attempt(cli_site):
    with sending(cli_site, free_port(), smtp_url=Hidden("")) as core:
        job_id = enqueued(core, SEND_MAIL, LETTER)
        until(lambda: any(isinstance(each.event, Job.AttemptSnoozed) for each in core.log.read_stream(job_id)))
        (said,) = [each.event for each in core.log.read_stream(job_id) if isinstance(each.event, Job.AttemptSnoozed)]
    assert "can't be had at the moment" in said.reason


def test_a_reference_that_nobody_has_resolved_is_no_address_yet():
    with pytest.raises(MailServerUnknown):
        MailServer.of(Settings(smtp_url="secret://mail", mail_from="a@b.example"))


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("MUNIMENT_SMTP_URL", "secret://../mail", "secret://NAME or secret://NAME#VERSION, not this"),
        ("MUNIMENT_KAFKA_SASL_PASSWORD", "secret://kafka", "the value itself: a reference isn't resolved here"),
        ("MUNIMENT_ISSUER", "secret://issuer", "the value itself"),
    ],
)
def test_a_reference_in_the_environment_that_nobody_will_resolve_is_told_at_the_start(variable, text, why):
    with pytest.raises(SettingsError, match=f"^{variable}: {why}"):
        Settings.from_env({variable: text})
    assert Settings.from_env({"MUNIMENT_SMTP_URL": "secret://mail#2", "MUNIMENT_MAIL_FROM": "a@b.example"}).smtp_url


def test_a_mail_is_planned_though_its_server_is_a_secret_that_cant_be_had():
    settings = Settings(smtp_url=Hidden(""), mail_from="a@b.example")
    reaction = verification_mail(settings)
    cause = SimpleNamespace(event=EmailVerification.Requested.__new__(EmailVerification.Requested))
    cause.event.__dict__["user_id"] = uuid4()
    (plan,) = reaction.on.values()
    assert plan(cause) is not None


@pytest.mark.parametrize(
    "url",
    [
        "smtp://ada:s3cret@[mail.example", "smtp://ada:s3cret@[s3cret]", "smtp://ada:s3cret\u2100@mail.example",
        "smtp://ada:s3cret@mail.example:s3cret", "s3cret", "smtp://mail.example/s3cret", "smtp://mail.example?s3cret",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [str, Hidden])
def test_an_address_that_is_none_is_refused_without_being_repeated(kind, url):
    with pytest.raises(SettingsError, match="MUNIMENT_SMTP_URL: smtp://user:password@host:port") as refused:
        MailServer.of(Settings(smtp_url=kind(url), mail_from="a@b.example"))
    shown = "".join(traceback.format_exception(refused.value))
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "said", ["535 no: s3cret!", b"535 5.7.8 AGFkYQBzM2NyZXQh", b"451 s3cret!", "550 user ada, password czNjcmV0IQ=="]
)
def test_a_server_that_repeats_the_password_isnt_quoted(said):
    server = MailServer.of(Settings(smtp_url=SECRET_URL, mail_from="a@b.example"))
    error = server._by_code(int(said[:3]), said[4:])
    assert str(error) == f"{int(said[:3])} (the server repeats the password)"


def test_a_password_that_no_smtp_can_send_is_told_without_it():
    port = free_port()
    asking = Controller(
        Postbox(), "127.0.0.1", port, auth_require_tls=False, authenticator=lambda *_: AuthResult(success=True)
    )
    asking.start()
    try:
        url = f"smtp://ada:s3cr%C3%A9t@127.0.0.1:{port}"
        server = MailServer.of(Settings(smtp_url=url, mail_from="a@b.example"))
        with pytest.raises(MailUnavailable, match="must be ASCII") as refused:
            server.send(EmailMessage())
    finally:
        asking.stop()
    assert "s3cr" not in "".join(traceback.format_exception(refused.value))
