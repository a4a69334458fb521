"""Handing a message to a mail server (SMTP, RFC 5321; STARTTLS, RFC 3207; implicit TLS, RFC 8314)."""

import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from infra.settings import Settings, SettingsError

TIMEOUT_SECONDS = 30.0
PORTS = {"smtp": 587, "smtps": 465}


class MailRefused(Exception):
    """The server won't have this message, now or ever (a reply of 500 and above)."""


class MailUnavailable(Exception):
    """The server couldn't be reached, or says to come back later."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail goes. `smtps` is TLS from the start; `smtp` turns to TLS where the server offers it.

    A password goes over TLS only, unless the server is this machine.
    """

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, settings: Settings) -> "MailServer | None":
        """As the settings say; None where none is set. Raises SettingsError."""
        if not settings.smtp_url:
            return None
        parts = urlsplit(settings.smtp_url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in PORTS or not parts.hostname or port == -1 or parts.path.strip("/") or parts.query:
            raise SettingsError("MUNIMENT_SMTP_URL: smtp://user:password@host:port or smtps://..., with nothing behind")
        if "@" not in settings.mail_from:
            raise SettingsError("MUNIMENT_MAIL_FROM: the address that mail comes from, needed with MUNIMENT_SMTP_URL")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.scheme, parts.hostname, port or PORTS[parts.scheme], user, password)

    def send(self, message: EmailMessage) -> None:
        """Returns when the server has taken it. Raises MailRefused, MailUnavailable; neither shows the password."""
        try:
            with self._connected() as server:
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            code, said = next(iter(error.recipients.values()))
            raise _by_code(code, said) from None
        except smtplib.SMTPResponseException as error:
            raise _by_code(error.smtp_code, error.smtp_error) from None
        except (smtplib.SMTPException, OSError) as error:
            raise MailUnavailable(f"{self.host}:{self.port}: {error}") from None

    def _connected(self) -> smtplib.SMTP:
        tls = ssl.create_default_context()
        if self.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_SECONDS, context=tls)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_SECONDS)
        try:
            self._greet(server, tls)
        except BaseException:
            server.close()
            raise
        return server

    def _greet(self, server: smtplib.SMTP, tls: ssl.SSLContext) -> None:
        server.ehlo_or_helo_if_needed()
        is_private = self.scheme == "smtps"
        if not is_private and server.has_extn("starttls"):
            server.starttls(context=tls)
            server.ehlo()
            is_private = True
        if self.user:
            if not is_private and not _is_this_machine(self.host):
                raise MailUnavailable(f"{self.host}:{self.port} offers no TLS, and gets no password without")
            server.login(self.user, self.password)


def _by_code(code: int, said: bytes | str) -> Exception:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    kind = MailRefused if code >= 500 else MailUnavailable
    return kind(f"{code} {text}")


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
