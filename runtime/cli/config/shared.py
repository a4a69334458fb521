"""What the commands of configuration share: how a namespace looks, as this software and this environment have it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import click
import orjson

from commands.configuration import FIELD
from domain.configuration import DocumentSchema, InvalidDocument, Namespace, NamespaceName
from domain.configuration.document import Values
from domain.configuration.namespace import REASON_LIMIT_CHARS
from domain.errors import DomainError, FieldError, Invalid, Stale, Unavailable
from domain.ports import Work
from infra.configuration.heads import Head, read_heads
from infra.configuration.past import NamespacePast, check_known
from infra.configuration.references import References
from infra.dispatch import Outcome
from infra.event_store import Log
from infra.secret_stores import open_secret_stores
from runtime.cli.jobs.options import Short
from runtime.cli.operator import dispatch
from runtime.cli.options import complete_namespaces
from runtime.cli.output import printable, say
from runtime.cli.wired import Wired
from runtime.configuration_own import Own
from runtime.core import Core

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")
R = TypeVar("R")

LARGEST_VERSION = 2**31 - 1
ERRORS_TOLD = 50

_OF_REQUEST = re.compile(rf"^{FIELD}(?:\.|(?=\[)|$)")


class _Name(click.ParamType):
    name = "namespace"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NamespaceName:
        try:
            return NamespaceName(value, field="namespace")
        except Exception as error:  # noqa: BLE001 - Invalid
            self.fail(str(error), param, ctx)


VERSION = click.IntRange(0, LARGEST_VERSION)
namespace_argument = click.argument("namespace", metavar="NAMESPACE", type=_Name(), shell_complete=complete_namespaces)
reason_option = click.option(
    "--reason", type=Short(REASON_LIMIT_CHARS), default="", help="Why; it is in the history and in the audit log."
)
if_version_option = click.option(
    "--if-version", type=VERSION, metavar="VERSION", help="Only if this is still its version; 0: never changed so far."
)


@dataclass(frozen=True)
class Shown:
    """A namespace at one version."""

    head: Head
    schema: DocumentSchema
    file: Values

    @property
    def name(self) -> str:
        """The namespace's."""
        return self.head.namespace

    @cached_property
    def stored(self) -> dict[str, Any]:
        """What is stored, as the schema has it; as it is, where it can't be brought there. Raises NewerDocument."""
        try:
            return self.schema.upcast(self.head.document, self.head.schema_version)
        except InvalidDocument:
            return self.head.document

    @property
    def problem(self) -> Invalid | None:
        """Why what is stored can't be used by this release, if it can't. Raises NewerDocument."""
        try:
            self.schema.check(self.schema.upcast(self.head.document, self.head.schema_version), self.file)
        except InvalidDocument as error:
            return error if self.head.schema_version else None
        return None

    @cached_property
    def whole(self) -> dict[str, Any]:
        """With what the environment says, and the defaults; in the schema's order."""
        found = self.schema.merged(self.stored, self.file)
        return {key: found[key] for key in dict.fromkeys((*self.schema.properties, *found)) if key in found}

    def otherwise(self, key: str) -> Any:
        """What a key is where nothing is stored; None where it isn't there then."""
        return self.file[key] if key in self.file else self.schema.defaults().get(key)


def own(wired: Wired) -> Own:
    """The platform's own namespaces, with the environment that the command was given."""
    return Own(wired.given)


def past_of(wired: Wired, log: Log) -> NamespacePast:
    """What was stored. All that it asks of a pool is to lend a connection."""
    return NamespacePast(cast("Any", wired), log)


def look(wired: Wired, log: Log, name: str, version: int | None = None) -> Shown:
    """A namespace now, or at a version. Raises NamespaceNotFound, VersionNotFound."""
    platform = own(wired)
    with wired.connection() as connection:
        heads = read_heads(connection, [name])
    check_known(name, list(platform.schemas), heads)
    newest = heads[0] if heads else Head(name, Namespace.id_of(name), 0, 0, 0, {}, None, 0, {})
    head = newest if version in {None, newest.version} else past_of(wired, log).head(name, version or 0)
    schema = platform.schemas.get(name) or DocumentSchema(head.schema or {}, head.declarations)
    return Shown(head, schema, platform.file.get(name, {}))


def decided(
    wired: Wired,
    core: Core,
    name: str,
    handler: Callable[[Work, C], R],
    command: C,
    actor: str,
    if_version: int | None,
) -> Outcome[R]:
    """What the handler decides; with `if_version` only if the namespace is at this version.

    Raises what the handler raises, and Stale, which says who was faster.
    """
    where = None if if_version is None else (Namespace.id_of(name), if_version)
    try:
        return dispatch(core, handler, command, actor, if_match=where)
    except Stale as error:
        raise Stale(_who_was_faster(wired, core, name, if_version)) from error


def _who_was_faster(wired: Wired, core: Core, name: str, if_version: int | None) -> str:
    newest = next(iter(past_of(wired, core.log).entries(name, 1)), None)
    if newest is None:
        return f"{name} isn't at version {if_version}: nobody has ever changed it"
    return f"{name} isn't at version {if_version} any more: {newest.actor} has made version {newest.version}"


def try_references(core: Core, name: str, values: Values) -> None:
    """Says which secrets can't be had from here. That refuses nothing: the processes may reach stores that a shell
    doesn't, and say themselves whether they can.
    """
    try:
        References(open_secret_stores(core.settings), core.settings).check(name, values)
    except (Invalid, Unavailable) as error:
        say(f"from here: {in_words(error)}")


def of_document(error: Invalid) -> list[FieldError]:
    """What is wrong with which fields, as the document's own and not those of a request."""
    found = [FieldError(_OF_REQUEST.sub("", each.field), each.message) for each in error.errors]
    return found or [FieldError("", error.message)]


def in_words(error: DomainError) -> str:
    """Everything that is wrong, in one line."""
    if not isinstance(error, Invalid):
        return printable(error.message)
    found = of_document(error)
    said = [f"{each.field}: {each.message}" if each.field else each.message for each in found[:ERRORS_TOLD]]
    more = [f"and {len(found) - ERRORS_TOLD:,} more"] if len(found) > ERRORS_TOLD else []
    return printable("; ".join([*said, *more]))


@contextmanager
def told_whole() -> Iterator[None]:
    """Whatever is wrong with a document is told at once."""
    try:
        yield
    except Invalid as error:
        raise click.ClickException(in_words(error)) from error


def as_text(value: Any) -> str:
    """A value in one line, as JSON has it."""
    return printable(orjson.dumps(value).decode())
