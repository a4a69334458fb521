"""Handing a message to a mail server (SMTP, RFC 5321; STARTTLS, RFC 3207; implicit TLS, RFC 8314)."""

import smtplib
import ssl
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from infra.setting import is_reference
from infra.settings import Settings, SettingsError
from muniment_client.secrets import Hidden

TIMEOUT_SECONDS = 30.0
PORTS = {"smtp": 587, "smtps": 465}


class MailRefused(Exception):
    """The server won't have this message, now or ever (a reply of 500 and above)."""


class MailUnavailable(Exception):
    """The server couldn't be reached, or says to come back later."""


class MailServerUnknown(MailUnavailable):
    """Its address is a secret that can't be had at the moment."""


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
        """As the settings say; None where none is set. Raises SettingsError, MailServerUnknown."""
        url: str | Hidden = settings.smtp_url
        if is_reference(url) or (isinstance(url, Hidden) and not url):
            raise MailServerUnknown("the mail server's address is a secret that can't be had at the moment")
        if not url:
            return None
        found = _parsed(url.reveal() if isinstance(url, Hidden) else url)
        if found is None:
            raise SettingsError("MUNIMENT_SMTP_URL: smtp://user:password@host:port or smtps://..., with nothing behind")
        if "@" not in settings.mail_from:
            raise SettingsError("MUNIMENT_MAIL_FROM: the address that mail comes from, needed with MUNIMENT_SMTP_URL")
        return found

    def send(self, message: EmailMessage) -> None:
        """Returns when the server has taken it. Raises MailRefused, MailUnavailable; neither shows the password."""
        try:
            with self._connected() as server:
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            code, said = next(iter(error.recipients.values()))
            raise self._by_code(code, said) from None
        except smtplib.SMTPAuthenticationError as error:
            # that isn't about this message: the password was rotated, or is about to be
            raise MailUnavailable(str(self._by_code(error.smtp_code, error.smtp_error))) from None
        except smtplib.SMTPResponseException as error:
            raise self._by_code(error.smtp_code, error.smtp_error) from None
        except (smtplib.SMTPException, OSError) as error:
            raise MailUnavailable(f"{self.host}:{self.port}: {error}") from None

    def _by_code(self, code: int, said: bytes | str) -> Exception:
        """What the server said goes into the log of events, so a server that repeats the password isn't quoted."""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        kind = MailRefused if code >= 500 else MailUnavailable
        return kind(f"{code} (the server repeats the password)" if self._is_repeated(text) else f"{code} {text}")

    def _is_repeated(self, text: str) -> bool:
        if not self.password:
            return False
        sent = (self.password, f"\0{self.user}\0{self.password}")
        return any(each in text or b64encode(each.encode()).decode().rstrip("=") in text for each in sent)

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
            try:
                server.login(self.user, self.password)
            except UnicodeError:  # it holds what couldn't be encoded
                raise MailUnavailable(f"{self.host}:{self.port}: user and password must be ASCII") from None


def _parsed(url: str) -> MailServer | None:
    """None for what isn't a mail server's address. The parser's own messages quote it, with the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
        return None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return MailServer(parts.scheme, parts.hostname, port or PORTS[parts.scheme], user, password)


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
