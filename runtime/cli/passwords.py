"""How an operator gives a password: typed twice, unseen; from stdin; or made here and shown once."""

import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

GENERATED_BYTES = 15


@dataclass(frozen=True, slots=True)
class Given:
    """A password, and whether it was made here, so that it must be shown."""

    password: str
    generated: bool = False

    def long_enough(self, chars: int) -> "Given":
        """As it is, or another one that was made here, of so many characters."""
        too_short = self.generated and len(self.password) < chars
        return Given(secrets.token_urlsafe(chars), generated=True) if too_short else self

    @property
    def to_show(self) -> dict[str, str]:
        """What to add to the result."""
        return {"password": self.password} if self.generated else {}


def password_options(function: F) -> F:
    """Adds `--password-stdin` and `--generate`."""
    stdin = click.option("--password-stdin", is_flag=True, help="Read the password from stdin (its first line).")
    generate = click.option("--generate", is_flag=True, help="Make a password and show it this once.")
    return stdin(generate(function))


def given_password(password_stdin: bool, generate: bool) -> Given:
    """The password as the options say; asks for it, twice, without them. Raises UsageError."""
    if password_stdin and generate:
        raise click.UsageError("--password-stdin and --generate exclude each other")
    if generate:
        return Given(secrets.token_urlsafe(GENERATED_BYTES), generated=True)
    if password_stdin:
        return Given(_first_line())
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the password: use --password-stdin or --generate")
    return Given(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


def _first_line() -> str:
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise click.UsageError("stdin has no password")
    return line
