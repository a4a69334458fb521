"""`muniment config edit`: the whole document in the operator's editor, until it can be stored or is given up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from commands.configuration import ChangeConfiguration, Changed, change_configuration
from domain.configuration import NamespaceName, canonical
from domain.errors import DomainError, Invalid, Stale
from infra.dispatch import Outcome
from runtime.cli.config import editor, text
from runtime.cli.config.answer import tell
from runtime.cli.config.editor import Draft, EditorFailed
from runtime.cli.config.shared import (
    Shown,
    decided,
    if_version_option,
    in_words,
    look,
    namespace_argument,
    of_document,
    own,
    past_of,
    reason_option,
    try_references,
)
from runtime.cli.config.text import Unreadable
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_json, printable, say
from runtime.cli.wired import Wired
from runtime.core import Core

ROUNDS_LIMIT = 100
"""So often one text is opened again: a script that plays the editor may be wrong for ever."""

UNUSABLE = "What is stored can't be used by this release. Mend it, or delete everything to leave it."
REFUSED = "This wasn't stored. Mend it and save again, or delete everything to give up."


@click.command("edit")
@namespace_argument
@if_version_option
@reason_option
@acting
@as_json
@click.pass_obj
def edit(
    wired: Wired, namespace: NamespaceName, if_version: int | None, reason: str, actor: str, as_json: bool
) -> None:
    """Open a namespace in your editor (VISUAL, EDITOR), and store what you save.

    Each key stands there with what it means, its bounds and its default. What can't be stored is opened again with the
    errors above their lines; so is what somebody else has changed meanwhile. What isn't stored stays in a file.

    \b
    Example:
      muniment config edit identity --reason "after the audit"
    """
    with wired.core() as core:
        shown = look(wired, core.log, namespace)
        if if_version not in {None, shown.head.version}:
            raise Stale(f"{namespace} is at version {shown.head.version}, not {if_version}.")
        outcome = _Session(wired, core, editor.chosen(), shown, reason, actor).run()
        if outcome is not None:
            tell(wired, core.log, namespace, outcome, as_json)
        elif as_json:
            print_json({"changed": False, "version": shown.head.version})


@dataclass
class _Session:
    """One document, until it is stored or given up. `shown` is what the text was made from."""

    wired: Wired
    core: Core
    editor: list[str]
    shown: Shown
    reason: str
    actor: str

    def run(self) -> Outcome[Changed] | None:
        """None where nothing is to be stored. Raises ClickException, saying where the text is kept."""
        draft = Draft(self.shown.name)
        try:
            outcome = self._until_stored(draft)
        except Exception as error:
            if not draft.has_work:
                draft.discard()
                raise
            raise click.ClickException(f"{_told(error)}; what you wrote is kept in {draft.path}") from error
        except BaseException:  # the editor may still be open
            say(f"nothing is stored; the text is in {draft.path}")
            raise
        draft.discard()
        return outcome

    def _until_stored(self, draft: Draft) -> Outcome[Changed] | None:
        presented = self._first()
        error: Unreadable | Invalid | None = None
        for _ in range(ROUNDS_LIMIT):
            draft.write(presented)
            self._open(draft)
            saved = text.without_notes(draft.read())
            if not saved.strip():
                say("given up: nothing is stored")
                return None
            if error is not None and saved == text.without_notes(presented):
                raise error  # whoever saves the same again won't mend it
            try:
                values = text.parsed(saved)
                if canonical(values) == canonical(self.shown.stored):
                    say("nothing was changed")
                    return None
                return self._store(values)
            except Unreadable as refused:
                error, presented = refused, text.pointed_out(saved, refused, REFUSED)
            except Stale:
                error, presented = None, self._on_top_of_the_newest(values)
            except Invalid as refused:
                error, presented = refused, text.annotated(saved, of_document(refused), REFUSED)
        raise error or click.ClickException("somebody else was faster each time")

    def _first(self) -> str:
        """What is stored; with what is wrong with it, where this release can't use it."""
        presented, problem = text.rendered(self.shown, self.shown.stored), self.shown.problem
        return presented if problem is None else text.annotated(presented, of_document(problem), UNUSABLE)

    def _open(self, draft: Draft) -> None:
        try:
            editor.run(self.editor, draft.path)
        except EditorFailed as error:
            raise click.ClickException(f"nothing is stored: {error}") from error

    def _store(self, values: Mapping[str, Any]) -> Outcome[Changed]:
        name = NamespaceName(self.shown.name)
        try_references(self.core, name, values)
        command = ChangeConfiguration(name, values, own(self.wired), reason=self.reason)
        version = self.shown.head.version
        return decided(self.wired, self.core, name, change_configuration, command, self.actor, version)

    def _on_top_of_the_newest(self, mine: Mapping[str, Any]) -> str:
        """The text anew: what was changed here, over what somebody else has stored meanwhile."""
        before, log = self.shown, self.core.log
        self.shown = newest = look(self.wired, log, before.name)
        ours = _changed(before.stored, mine)
        theirs = _changed(before.stored, newest.stored)
        merged = {key: value for key, value in newest.stored.items() if key not in ours}
        merged |= {key: mine[key] for key in ours if key in mine}
        (entry,) = past_of(self.wired, log).entries(before.name, 1)
        why = f", because: {entry.reason}" if entry.reason else ""
        said = [
            f"Somebody was faster: {entry.actor} has made version {newest.head.version}{why}.",
            f"Changed there: {_listed(theirs)}. Your changes stand on top of that: {_listed(ours)}.",
        ]
        if both := ours & theirs:
            said.append(f"Changed by both, and yours stands here: {_listed(both)}.")
        return text.rendered(newest, merged, [*said, "Save this to store it, or delete everything to give up."])


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The keys whose value is another one, or in one of the two only."""
    return {
        key
        for key in {*before, *after}
        if (key in before) != (key in after) or canonical(before[key]) != canonical(after[key])
    }


def _listed(keys: set[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"


def _told(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.message
    if isinstance(error, DomainError):
        return in_words(error)
    if isinstance(error, Unreadable | OSError):
        return printable(str(error))
    return f"{type(error).__name__}: {printable(str(error))}"
