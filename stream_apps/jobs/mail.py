"""The outbox: mail is a job, enqueued because of what was saved. What sends it is in `runtime/mail.py`."""

from typing import Annotated
from uuid import UUID

import msgspec

from commands.jobs import Enqueue, enqueue_job
from domain.aggregate import Personal, Secret
from domain.identity import EmailVerification
from domain.jobs import JobType
from infra.event_store import Recorded
from infra.mail import MailServer, MailServerUnknown
from infra.settings import Settings
from stream_apps.reactions import Intention, Reaction

QUEUE = "mail"
ONE_LINE = r"^[^\r\n]*$"


class SendArgs(msgspec.Struct, frozen=True):
    """A message of plain text."""

    to: Personal[Annotated[str, msgspec.Meta(max_length=320, pattern=r"^[^\s@]+@[^\s@]+$")]]
    subject: Personal[Annotated[str, msgspec.Meta(max_length=200, pattern=ONE_LINE)]]
    text: Secret[Annotated[str, msgspec.Meta(max_length=50_000)]]


class VerifyAddressArgs(msgspec.Struct, frozen=True):
    """Whose address is to be verified."""

    user_id: UUID


SEND_MAIL = JobType("mail.send", args=SendArgs, queue=QUEUE, max_attempts=12, timeout_seconds=120.0, is_reserved=True)
"""Hands a message to the mail server. Its Message-ID is the job's: who gets it twice can tell."""

MAIL_VERIFICATION = JobType(
    "mail.verification", args=VerifyAddressArgs, queue=QUEUE, unique=lambda a: str(a.user_id), is_reserved=True
)
"""Issues the token that verifies a user's address, and mails it there."""

MAILS = (SEND_MAIL, MAIL_VERIFICATION)


def verification_mail(settings: Settings) -> Reaction:
    """Whose address is to be verified gets a mail, where a mail server is set. Raises SettingsError.

    Without one it reacts to nobody, but keeps up: a service of the operators' own fetches the token and sends it.
    """
    try:
        has_server = MailServer.of(settings) is not None
    except MailServerUnknown:
        has_server = True  # mail waits in the queue for the secret that its server's address is

    def plan(cause: Recorded) -> Intention | None:
        event = cause.event
        assert isinstance(event, EmailVerification.Requested)  # noqa: S101 - for the types
        command = Enqueue(MAIL_VERIFICATION, VerifyAddressArgs(event.user_id))
        return Intention(enqueue_job, command) if has_server else None

    return Reaction("verification-mail", {EmailVerification.Requested: plan})
