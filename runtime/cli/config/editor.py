"""The operator's editor, and the file that it is given. Nothing that somebody wrote is ever deleted unasked."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from runtime.cli.config.text import Unreadable

USUAL = ("sensible-editor", "editor", "nano", "vim", "vi")
"""Looked for where neither VISUAL nor EDITOR is set, and somebody sits at a terminal."""

TEXT_LIMIT_BYTES = 8_000_000
"""Of what an editor has saved: documents are smaller by far."""


class NoEditor(click.ClickException):
    """There is no editor to open."""


class EditorFailed(Exception):
    """The editor couldn't be started, was killed, or says that it failed."""


def chosen() -> list[str]:
    """The command of the operator's editor: VISUAL, EDITOR, else a usual one. Raises NoEditor."""
    for variable in ("VISUAL", "EDITOR"):
        if given := os.environ.get(variable, "").strip():
            try:
                return shlex.split(given)
            except ValueError as error:
                raise NoEditor(f"{variable} is no command: {error}") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NoEditor("this is no terminal, and neither VISUAL nor EDITOR is set; `muniment config set --file` may do")
    for name in USUAL:
        if found := shutil.which(name):
            return [found]
    raise NoEditor(f"set VISUAL or EDITOR: none of {', '.join(USUAL)} is here")


def run(editor: list[str], path: Path) -> None:
    """Returns when the editor has ended well. Raises EditorFailed."""
    try:
        with _hearing_for_the_editor():
            # not `subprocess.run`, which would end the editor with whatever is in it if this command is ended
            status = subprocess.Popen([*editor, str(path)]).wait()  # noqa: S603 - the operator's own
    except OSError as error:
        raise EditorFailed(f"the editor {editor[0]} can't be started: {error.strerror or error}") from error
    if status < 0:
        raise EditorFailed(f"the editor was ended by signal {signal.Signals(-status).name}")
    if status:
        raise EditorFailed(f"the editor ended with status {status}")


@contextmanager
def _hearing_for_the_editor() -> Iterator[None]:
    """Ctrl-C and Ctrl-\\ belong to the editor meanwhile; who ends this command itself ends it in good order.

    Handlers aren't inherited, so that the editor hears everything itself.
    """
    former = {number: signal.getsignal(number) for number in (*_KEYBOARD, *_END)}
    for number, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _end if number in _END else _nothing)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


_KEYBOARD, _END = (signal.SIGINT, signal.SIGQUIT), (signal.SIGTERM, signal.SIGHUP)


def _nothing(_: int, __: FrameType | None) -> None:
    pass


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)  # as shells tell it


class Draft:
    """The file to edit: in a folder of its own, that nobody else may look into."""

    def __init__(self, name: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="muniment-config-"))
        self.path = self._folder / f"{name}.jsonc"
        self._first: bytes | None = None

    def write(self, text: str) -> None:
        """Raises OSError."""
        # U+FEFF and lone surrogates can't come here: what is written is JSON, or was read as UTF-8
        data = text.encode()
        if self._first is None:
            self._first = data
        self.path.write_bytes(data)
        self.path.chmod(0o600)

    def read(self) -> str:
        """What was saved; "" for a file that is gone. Raises Unreadable, OSError."""
        try:
            data = self._bytes()
        except FileNotFoundError:
            return ""
        if len(data) > TEXT_LIMIT_BYTES:
            raise Unreadable(f"this is larger than {TEXT_LIMIT_BYTES:,} bytes")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Unreadable(f"this isn't UTF-8, at byte {error.start}") from None

    @property
    def has_work(self) -> bool:
        """Whether it holds anything that somebody has written."""
        try:
            return self._bytes() not in {b"", self._first}
        except OSError:
            return self.path.exists()

    def discard(self) -> None:
        """Removes it, with what editors have put beside it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _bytes(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(TEXT_LIMIT_BYTES + 1)
