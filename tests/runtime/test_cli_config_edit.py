"""`muniment config edit`, as a process of its own with an editor that is a script."""

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from domain.configuration import DocumentSchema, Namespace
from domain.errors import FieldError
from infra.configuration.heads import Head
from infra.configuration.schemas import SCHEMAS
from runtime.cli import cli
from runtime.cli.config.shared import Shown
from runtime.cli.config.text import Unreadable, annotated, parsed, pointed_out, rendered, without_notes
from runtime.cli.wired import Wired
from tests.runtime.cli_site import Site
from tests.runtime.test_cli_config import SHOP

PATIENCE_SECONDS = 60

EDITOR = """#!{python} -SE
import json, os, signal, sys, time
from pathlib import Path
path, state = Path(sys.argv[-1]), Path({state!r})
rounds = json.loads(state.read_text()) if state.exists() else []
rounds.append(path.read_text(errors="replace"))
state.write_text(json.dumps(rounds))
text, turn = rounds[-1], len(rounds)
{body}
"""


@pytest.fixture
def shop(cli_site: Site, tmp_path: Path) -> str:
    name = f"shop.t{uuid4().hex[:12]}"
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SHOP))
    cli_site.done("config", "declare", name, schema)
    cli_site.done("config", "set", name, "stock=7")
    return name


class Desk:
    """Where somebody edits: what their editor does is Python, with `path`, `text` and `turn` (1 and up)."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.state = folder / "rounds"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()

    def environment(self, body: str, **more: str) -> dict[str, str]:
        script = self.folder / "editor"
        script.write_text(EDITOR.format(python=sys.executable, state=str(self.state), body=body))
        script.chmod(0o755)
        self.state.unlink(missing_ok=True)
        return {**self.site.environment(), "EDITOR": str(script), "TMPDIR": str(self.temporary), **more}

    def edit(self, name: str, body: str, *options: str, **more: str) -> Result:
        """The command in this process; the editor is one of its own all the same."""
        runner, environment = CliRunner(), self.environment(body, **more)
        kept, tempfile.tempdir = tempfile.tempdir, environment["TMPDIR"]
        try:
            return runner.invoke(
                cli, ["config", "edit", name, *options], obj=Wired(self.site.settings), env=environment
            )
        finally:
            tempfile.tempdir = kept

    def edit_apart(self, name: str, body: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
        """The command as a process of its own."""
        command = [sys.executable, "-m", "runtime", "config", "edit", name, *options]
        return subprocess.run(
            command, env=self.environment(body, **more), capture_output=True, text=True, timeout=PATIENCE_SECONDS,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def shown(self) -> list[str]:
        """What the editor was given, each time."""
        return json.loads(self.state.read_text()) if self.state.exists() else []

    @property
    def kept(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def stored(self, name: str) -> Any:
        return self.site.json("config", "get", name, "--stored")["values"]


@pytest.fixture
def desk(cli_site: Site, tmp_path: Path) -> Desk:
    return Desk(cli_site, tmp_path)


def replacing(*pairs: tuple[str, str]) -> str:
    calls = "".join(f".replace({old!r}, {new!r})" for old, new in pairs)
    return f"path.write_text(text{calls})"


def test_what_is_saved_is_stored_and_the_file_is_gone(desk: Desk, shop: str):
    done = desk.edit_apart(
        shop, replacing(('"stock": 7', '"stock": 8')), "--reason", "counted", "--as", "ada", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["changed"], told["version"]) == (True, 4)
    assert desk.stored(shop) == {"stock": 8}
    entry = desk.site.json("config", "history", shop)["items"][0]
    assert (entry["actor"], entry["reason"]) == ("operator:ada", "counted")
    assert desk.kept == []


def test_the_editor_is_given_every_key_with_what_it_means(desk: Desk, shop: str):
    desk.edit(shop, "")
    (text,) = desk.shown
    assert text.startswith(f"// Configuration of {shop}, version 3.\n")
    assert '  // what it is painted in\n  // string; default "red"\n  // "colour": "red",\n' in text
    assert '  // integer; in boxes; at least 0; default 5\n  "stock": 7,\n' in text
    assert '  // "limits": {\n  //   "logins": 3\n  // },\n' in text
    assert "a secret: only a reference is stored" in text
    desk.edit("identity", "")
    (text,) = desk.shown
    assert "the environment says 4" in text
    assert "MUNIMENT_HASHING_THREADS" in text
    assert desk.site.settings.master_key not in text


def test_what_was_a_comment_is_taken_in_by_deleting_the_slashes(desk: Desk, shop: str):
    done = desk.edit(shop, replacing(('// "colour": "red"', '"colour": "blue"'), ('"stock": 7', '// "stock": 7')))
    assert done.exit_code == 0, done.stderr
    assert desk.stored(shop) == {"colour": "blue"}


@pytest.mark.parametrize(
    ("body", "said"),
    [("", "nothing was changed"), ("path.write_text('')", "given up"), ("path.unlink()", "given up"),
     (replacing(("// ", "//  ")), "nothing was changed")],
    ids=["as it was", "emptied", "deleted", "only comments"],
)  # fmt: skip
def test_nothing_changed_stores_nothing(desk: Desk, shop: str, body: str, said: str):
    done = desk.edit(shop, body, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"changed": False, "version": 3})
    assert said in done.stderr
    assert desk.kept == []


def test_what_is_wrong_is_opened_again_with_the_error_above_its_line(desk: Desk, shop: str):
    body = f"""
if turn == 1:
    {replacing(('"stock": 7,', '"stock": -7, "weight": 2,'), ('// "colour"', '"colour"'))}
else:
    {replacing(('"stock": -7, "weight": 2,', '"stock": 70,'))}
"""
    done = desk.edit(shop, body)
    assert done.exit_code == 0, done.stderr
    _, second = desk.shown
    lines = second.splitlines()
    wrong = lines.index('  "stock": -7, "weight": 2,')
    assert sorted(line.strip().split(":")[0] for line in lines[wrong - 2 : wrong]) == ["//! stock", "//! weight"]
    assert lines[0].startswith("//! This wasn't stored.")
    assert desk.stored(shop) == {"stock": 70, "colour": "red"}
    assert desk.kept == []


def test_what_is_stored_and_cant_be_used_any_more_is_opened_with_what_is_wrong(desk: Desk, monkeypatch):
    name, bounded = "caches", json.loads(json.dumps(SCHEMAS["caches"].json_schema))
    desk.site.done("config", "set", name, "cache_seconds=9")
    bounded["properties"]["cache_seconds"]["minimum"] = 20
    monkeypatch.setitem(SCHEMAS, name, replace(SCHEMAS[name], json_schema=bounded))
    done = desk.edit(name, replacing(('"cache_seconds": 9', '"cache_seconds": 29')))
    assert done.exit_code == 0, done.stderr
    lines = desk.shown[0].splitlines()
    assert lines[0].startswith("//! What is stored can't be used by this release.")
    (at,) = (n for n, line in enumerate(lines) if '"cache_seconds": 9' in line)
    assert lines[at - 1].startswith("  //! cache_seconds: ")
    assert desk.stored(name) == {"cache_seconds": 29}


def test_text_that_is_no_json_is_opened_again_at_its_line(desk: Desk, shop: str):
    body = f"""
if turn == 1:
    {replacing(('"stock": 7,', '"stock": seven,'))}
else:
    {replacing(("seven", "77"))}
"""
    done = desk.edit(shop, body)
    assert done.exit_code == 0, done.stderr
    lines = desk.shown[1].splitlines()
    assert lines[lines.index('  "stock": seven,') - 1].startswith("  //! this isn't JSON")
    assert desk.stored(shop) == {"stock": 77}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (replacing(('"stock": 7', '"stock": -7')), "stock: "),
        (replacing(('"stock": 7', '"stock": ')), "this isn't JSON"),
        (replacing(('"stock": 7', '"stock": 7, "stock": 8')), "stock is given twice"),
        ("path.write_bytes(text.encode().replace(b': 7', b': 8') + bytes([255]))", "this isn't UTF-8"),
        ("path.write_bytes(text.encode().replace(b'7', b'\\0'))", "this isn't JSON"),
        ("path.write_text('[]')", "a JSON object"),
        ("path.write_text(text.replace('7', '9' * 9_000_000))", "larger than"),
        (replacing(('"stock": 7', '"token": "hunter2-marked"')), "token"),
        ("path.write_text(text.replace('7', '8')); sys.exit(3)", "ended with status 3"),
        ("path.write_text(text.replace('7', '8')); os.kill(os.getpid(), signal.SIGKILL)", "by signal SIGKILL"),
        ("path.write_text(text.replace('7', str(-turn)))", "stock: "),
    ],
    ids=["invalid", "syntax", "twice", "bytes", "nul", "list", "large", "secret", "fails", "killed", "never right"],
)
def test_what_cant_be_stored_is_kept_and_it_is_told_where(desk: Desk, shop: str, body: str, said: str):
    done = desk.edit(shop, body)
    assert done.exit_code == 1
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert (done.stderr.count("\n"), "Traceback" in done.stderr) == (1, False)
    (kept,) = desk.kept
    assert f"what you wrote is kept in {kept}" in done.stderr
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert kept.stat().st_size > 1
    assert desk.stored(shop) == {"stock": 7}


def test_what_was_kept_can_be_stored_once_it_is_mended(desk: Desk, shop: str):
    desk.edit(shop, replacing(('"stock": 7', '"stock": -7')))
    (kept,) = desk.kept
    kept.write_text(kept.read_text().replace("-7", "17"))
    desk.site.done("config", "set", shop, "--file", kept, "--replace")
    assert desk.stored(shop) == {"stock": 17}


@pytest.mark.parametrize("body", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGTERM)"], ids=["fails", "killed"])
def test_an_editor_that_fails_with_nothing_written_leaves_nothing(desk: Desk, shop: str, body: str):
    done = desk.edit(shop, body)
    assert (done.exit_code, "kept" in done.stderr, desk.kept) == (1, False, [])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"EDITOR": ""}, "neither VISUAL nor EDITOR is set"),
        ({"VISUAL": "/nonexistent/emacs"}, "the editor /nonexistent/emacs can't be started: No such file"),
        ({"VISUAL": "vi 'unclosed"}, "VISUAL is no command"),
        ({"TMPDIR": "/nonexistent"}, "/nonexistent/muniment-config"),
    ],
    ids=["none", "missing", "quote", "no folder"],
)
def test_without_an_editor_nothing_happens(desk: Desk, shop: str, more: dict[str, str], said: str):
    done = desk.edit(shop, "", **more)
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert desk.kept == []


def test_visual_comes_first_and_may_have_arguments(desk: Desk, shop: str):
    environment = desk.environment(replacing(('"stock": 7', '"stock": 9')))
    done = desk.edit(
        shop, replacing(('"stock": 7', '"stock": 9')), EDITOR="false", VISUAL=f"{environment['EDITOR']} -w"
    )
    assert done.exit_code == 0, done.stderr
    assert desk.stored(shop) == {"stock": 9}


def meanwhile(name: str, *pairs: str) -> str:
    command = [sys.executable, "-m", "runtime", "config", "set", name, *pairs, "--as", "grace", "--reason", "moths"]
    return f"import subprocess; subprocess.run({command!r}, check=True, env=os.environ, capture_output=True)"


def test_changes_that_meet_are_put_on_top_of_the_newest_and_shown_before_they_are_stored(desk: Desk, shop: str):
    body = f"""
if turn == 1:
    {replacing(('"stock": 7', '"stock": 8'))}
    {meanwhile(shop, "colour=green")}
"""
    done = desk.edit(shop, body)
    assert done.exit_code == 0, done.stderr
    first, second = desk.shown
    assert "version 3" in first
    assert "//! Somebody was faster: operator:grace has made version 4, because: moths." in second
    assert "Changed there: colour." in second
    assert "Changed by both" not in second
    assert desk.stored(shop) == {"stock": 8, "colour": "green"}


def test_where_both_changed_the_same_that_is_said_and_giving_up_leaves_theirs(desk: Desk, shop: str):
    body = f"""
if turn == 1:
    {replacing(('"stock": 7', '"stock": 8'))}
    {meanwhile(shop, "stock=100")}
else:
    path.write_text("")
"""
    done = desk.edit(shop, body)
    assert done.exit_code == 0, done.stderr
    assert "Changed by both, and yours stands here: stock." in desk.shown[1]
    assert '"stock": 8' in desk.shown[1]
    assert desk.stored(shop) == {"stock": 100}


def test_ctrl_c_belongs_to_the_editor(desk: Desk, shop: str):
    """It goes to the whole group of the terminal."""
    body = """
path.write_text(text.replace("7", "8"))
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
path.with_suffix(".ready").write_text("")
until = time.monotonic() + 30
while not heard and time.monotonic() < until:
    time.sleep(0.01)
path.with_suffix(".heard").write_text(str(len(heard)))
while not path.with_suffix(".go").exists() and time.monotonic() < until:
    time.sleep(0.01)
"""
    process = desk.site.process("config", "edit", shop, environment=desk.environment(body), start_new_session=True)
    ready = eventually(lambda: next(desk.temporary.rglob("*.ready"), None))
    os.killpg(process.pid, signal.SIGINT)
    eventually(lambda: next(desk.temporary.rglob("*.heard"), None))
    assert process.poll() is None
    ready.with_suffix(".go").write_text("")
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert desk.stored(shop) == {"stock": 8}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["terminated", "hung up"])
def test_who_ends_the_command_is_told_where_the_text_is_which_the_editor_still_has(desk: Desk, shop: str, number: int):
    body = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
path.with_suffix(".ready").write_text("")
until = time.monotonic() + 30
while not path.with_suffix(".go").exists() and time.monotonic() < until:
    time.sleep(0.01)
path.write_text("saved later")
path.with_suffix(".saved").write_text("")
"""
    process = desk.site.process("config", "edit", shop, environment=desk.environment(body))
    ready = eventually(lambda: next(desk.temporary.rglob("*.ready"), None))
    os.kill(process.pid, number)
    assert process.wait(PATIENCE_SECONDS) == 128 + number
    ready.with_suffix(".go").write_text("")
    eventually(lambda: next(desk.temporary.rglob("*.saved"), None))
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    text = ready.with_suffix(".jsonc")
    assert f"nothing is stored; the text is in {text}" in said
    assert text.read_text() == "saved later"
    assert desk.stored(shop) == {"stock": 7}


def test_a_terminal_gets_a_usual_editor(desk: Desk, shop: str):
    """Named as one of those that are looked for, on the path."""
    environment = desk.environment(replacing(('"stock": 7', '"stock": 12')))
    (desk.folder / "sensible-editor").symlink_to(desk.folder / "editor")
    environment |= {"PATH": f"{desk.folder}:{environment['PATH']}", "EDITOR": ""}
    master, slave = pty.openpty()
    process = desk.site.process("config", "edit", shop, environment=environment, stdin=slave, stdout=slave)
    os.close(slave)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    os.close(master)
    assert process.returncode == 0, said
    assert desk.stored(shop) == {"stock": 12}


def eventually(true: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError("it didn't come to pass")


TEXT = st.text(st.characters(codec="utf-8"))
SCALARS = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | TEXT
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | NUMBERS, lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXT, each, max_size=4), max_leaves=12
)
DOCUMENTS = st.dictionaries(TEXT, JSON, max_size=6)
"""Any there are, whatever a schema says: with comment signs, quotes and line breaks of all alphabets in them."""


def shown_with(properties: dict[str, Any], stored: dict[str, Any]) -> Shown:
    schema = DocumentSchema({"type": "object", "properties": properties})
    return Shown(Head("shop", Namespace.id_of("shop"), 3, 3, 1, stored, None, 1, {}), schema, {})


@given(DOCUMENTS, st.dictionaries(st.text(), st.fixed_dictionaries({"description": st.text(), "default": JSON})))
def test_whatever_a_document_and_its_schema_say_the_text_holds_the_document(document, properties):
    assert parsed(rendered(shown_with(properties, document), document, ["said\n}"])) == document


@given(DOCUMENTS, st.text(), st.integers(0, 50))
def test_what_is_said_about_a_text_never_becomes_a_part_of_it(document, message, line):
    text = without_notes(rendered(shown_with({}, document), document))
    errors = [FieldError(key, message) for key in document] + [FieldError("", message), FieldError("no such", message)]
    for noted in (annotated(text, errors, message), pointed_out(text, Unreadable(message, line), message)):
        assert without_notes(noted) == text
        assert parsed(noted) == document


@given(st.text(st.sampled_from('{}[]",:/*\\\n a1\0'), max_size=40))
def test_any_text_is_a_document_or_is_refused(text):
    try:
        assert isinstance(parsed(text), dict)
    except Unreadable as refused:
        annotated(without_notes(text), [FieldError("a", "wrong")], "this")
        pointed_out(without_notes(text), refused, "this")


HOSTILE = {
    "open comments": "/* " * 200_000,
    "closed comments": ",/**/" * 50_000 + "x",
    "a comment": "," + "// // // " * 50_000,
    "escapes": '"\\' * 200_000,
    "quotes": '"a\n' * 200_000,
    "slashes": "//" * 400_000,
    "braces": "{" * 400_000,
    "commas": ", " * 200_000,
    "keys": "{" + '"a": 1,\n' * 200_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_takes_no_longer_than_it_is_long(text):
    began = time.process_time()
    with pytest.raises(Unreadable):
        parsed(text)
    annotated(text, [FieldError("a", "wrong")], "this")
    assert time.process_time() - began < 5
