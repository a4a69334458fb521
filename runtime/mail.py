"""What mail jobs do, with the parts of the process that runs them."""

from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from email.utils import format_datetime

from commands.identity import IssueVerification, issue_verification
from domain.identity import AlreadyVerified, UserNotFound
from domain.jobs import JobType, NotRetryable
from infra.mail import MailRefused, MailServer, MailServerUnknown
from infra.settings import Settings
from infra.verification import PURPOSE, VerificationTokens
from runtime.core import Core
from stream_apps.jobs import Run, Snooze, job
from stream_apps.jobs.mail import MAIL_VERIFICATION, SEND_MAIL, SendArgs, VerifyAddressArgs

SECRET_SECONDS = 5.0
"""After so long it is looked again whether the secret that the mail server's address is can be had."""
SUBJECT = "Please verify your address"
TEXT = "Please verify that this is your address:\n\n{link}\n\nThis works until {until:%Y-%m-%d %H:%M} UTC.\n"


@dataclass(frozen=True)
class Mail:
    """The handlers."""

    core: Core

    def job_types(self) -> tuple[JobType, ...]:
        """The mail jobs' types with their handlers."""
        return job(SEND_MAIL)(self.send), job(MAIL_VERIFICATION)(self.mail_verification)

    def send(self, run: Run, args: SendArgs) -> None:
        """Raises MailUnavailable, which is tried again, NotRetryable, and Snooze while nobody knows the server."""
        try:
            server = MailServer.of(self.core.settings)
        except MailServerUnknown as unknown:
            # no attempt of this job could succeed: none is used up
            raise Snooze(timedelta(seconds=SECRET_SECONDS), str(unknown)) from None
        if server is None:
            raise NotRetryable("there is no mail server: MUNIMENT_SMTP_URL is empty")
        try:
            server.send(message(self.core.settings, run, args))
        except (MailRefused, ValueError) as error:  # ValueError: an address that no header can hold
            raise NotRetryable(str(error)) from None

    def mail_verification(self, run: Run, args: VerifyAddressArgs) -> bool:
        """Whether a mail was sent: not to an address that is verified by now. The token is made here, never stored."""
        lifetime = timedelta(seconds=self.core.settings.verification_seconds)
        try:
            issued = issue_verification(run.work, IssueVerification(args.user_id, lifetime))
        except AlreadyVerified:
            return False
        except UserNotFound as error:
            raise NotRetryable(str(error)) from None
        token = VerificationTokens(self.core.secrets.derive(PURPOSE)).token(issued.user_id, issued.number)
        link = (self.core.settings.verification_link or "{token}").replace("{token}", token)
        self.send(run, SendArgs(issued.email, SUBJECT, TEXT.format(link=link, until=issued.expires_at)))
        return True


def message(settings: Settings, run: Run, args: SendArgs) -> EmailMessage:
    """The same for every attempt of the job (RFC 5322; Auto-Submitted: RFC 3834). Raises ValueError."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = settings.mail_from, args.to, args.subject
    made["Date"] = format_datetime(run.enqueued_at)
    made["Message-ID"] = f"<{run.idempotency_key}@{settings.mail_from.rpartition('@')[2].rstrip('>')}>"
    made["Auto-Submitted"] = "auto-generated"
    made.set_content(args.text)
    return made
