"""Documents: asking for what holds, changing it whole or in part, trying a change out, going back."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from api.configuration.common import (
    NAMESPACE,
    SCOPE,
    ConfigurationPorts,
    ReasonText,
    Version,
    name_of,
    past_of,
    shown,
    stream_of,
)
from api.configuration.instances import UpdatedView, answered
from api.moments import PAST, AsOfText, moment_of
from api.ports import Outcome
from api.routing import Answer, Asked, Body, Command, Endpoint, Keyset, Page, Paging, Query, Route, View
from commands.configuration import (
    ChangeConfiguration,
    Mode,
    RollbackConfiguration,
    change_configuration,
    rollback_configuration,
    validate_configuration,
)
from domain.configuration import (
    ABSENT,
    Change,
    InvalidDocument,
    NamespaceNotFound,
    NewerDocument,
    SecretStoreUnavailable,
    Source,
    VersionNotFound,
)
from domain.errors import FieldError, Forbidden, invalid_field
from infra.configuration.past import NamespacePast
from projections.read import Read

ETAG = {"ETag": "The namespace's version, for `If-Match`."}


class DocumentParams(Body):
    """Which version: the newest unless one is named, or when it was the newest."""

    version: Version | None = None
    as_of: AsOfText | None = None


class ValuesBody(Body):
    """The stored values, and why."""

    values: dict[str, Any]
    reason: ReasonText = ""


class TrialBody(Body):
    """The values of a change that is only tried out, and how they are meant."""

    values: dict[str, Any]
    mode: Mode = "replace"


class RollbackBody(Body):
    """The version whose document is to be stored once more, and why."""

    version: Version
    reason: ReasonText = ""


class ConfigurationView(View):
    """A namespace's whole document: of every key its value, where that comes from, its default, and since when.

    `sources`: `stored`, `file` (this process's environment) or `default`. `versions` are the namespace's versions at
    which the stored value of a key became what it is; 0: never stored. A key that has no default isn't in `defaults`.
    """

    namespace: str
    version: int
    schema_version: int
    values: dict[str, Any]
    sources: dict[str, Source]
    defaults: dict[str, Any]
    versions: dict[str, int]


class ChangeView(View):
    """A place where two documents differ. What one of them doesn't have is left out: then its default holds there."""

    field: str
    before: Any | UnsetType = UNSET
    after: Any | UnsetType = UNSET


class TrialView(View):
    """What the change would do to the stored document of this version. No changes: it would record nothing."""

    version: int
    changes: list[ChangeView]


class NamespaceView(View):
    """A namespace: the platform's, that of a module's settings, or one of the customers' own."""

    namespace: str
    kind: Literal["platform", "module", "own"]
    version: int
    schema_version: int


async def get_configuration(asked: Asked) -> Answer:
    """The whole document of a namespace, now, at a version, or as it was at a position or a time."""
    name, params = name_of(asked), asked.params
    if params.version is not None and params.as_of is not None:
        raise invalid_field("as_of", "a version or a moment, not both")
    view, position = await asked.in_thread(_look, asked, name, params.version, params.as_of)
    return Answer(view, 200, [(b"etag", b'"%d"' % view.version)], position)


def _look(asked: Asked, name: str, version: int | None, as_of: str | None) -> tuple[ConfigurationView, int]:
    position = asked.services.reader.look(lambda read: read.position, ()).position
    moment = moment_of(as_of)
    if moment is not None:
        version, _ = past_of(asked).version_at(name, moment)
    found = shown(asked, name, version)
    stored = found.stored
    values = found.schema.merged(stored, found.file)
    view = ConfigurationView(
        namespace=str(name),
        version=found.head.version,
        schema_version=found.schema.version,
        values=values,
        sources=found.schema.sources(stored, found.file),
        defaults=found.schema.defaults(),
        versions={key: found.head.key_versions.get(key, 0) for key in values},
    )
    return view, position


def list_configuration(read: Read, asked: Asked, limit: int, after: tuple[str] | None = None) -> list[NamespaceView]:
    """Every namespace by name: the platform's, those of modules, and the customers' own."""
    own, of_modules = asked.ports.configuration.schemas, asked.ports.configuration.of_modules
    rows = {row["namespace"]: row for row in read.all(_HEADS, {"own": list(own)})}
    names = sorted({*own, *rows})
    wanted = [name for name in names if after is None or name > after[0]][:limit]
    return [
        NamespaceView(
            namespace=name,
            kind="own" if name not in own else "module" if name in of_modules else "platform",
            version=rows[name]["version"] if name in rows else 0,
            schema_version=own[name].version if name in own else rows[name]["declarations"],
        )
        for name in wanted
    ]


_HEADS = """
    select namespace, version, declarations from configuration_heads
     where declarations > 0 or namespace = any(%(own)s) order by namespace
"""


async def prepare_replacement(ports: ConfigurationPorts, asked: Asked) -> ChangeConfiguration:
    """Raises Invalid, SecretStoreUnavailable."""
    return await _prepared(ports, asked, "replace", asked.body.reason)


async def prepare_patch(ports: ConfigurationPorts, asked: Asked) -> ChangeConfiguration:
    """Raises Invalid, SecretStoreUnavailable."""
    return await _prepared(ports, asked, "merge", asked.body.reason)


async def _prepared(ports: ConfigurationPorts, asked: Asked, mode: Mode, reason: str = "") -> ChangeConfiguration:
    name, own, values = name_of(asked), ports.configuration, asked.body.values
    unusable = await asked.in_thread(own.references.wrong, name, values)
    return ChangeConfiguration(name, values, own, mode, reason, unusable)


async def prepare_trial(ports: ConfigurationPorts, asked: Asked) -> ChangeConfiguration:
    """Who may not change it isn't told which secrets there are. Raises Invalid, SecretStoreUnavailable."""
    body: TrialBody = asked.body
    try:
        await asked.services.authoriser.require(asked.caller, "config:write", SCOPE(asked))
    except Forbidden:
        return ChangeConfiguration(name_of(asked), body.values, ports.configuration, body.mode)
    return await _prepared(ports, asked, body.mode)


async def prepare_rollback(ports: Any, asked: Asked) -> RollbackConfiguration:
    """Raises Invalid, VersionNotFound, SecretStoreUnavailable."""
    name, own, body = name_of(asked), ports.configuration, asked.body
    past = NamespacePast(ports.pool, ports.log)

    def wrong() -> Sequence[FieldError]:
        found: Sequence[FieldError] = own.references.wrong(name, past.document(name, body.version)[0])
        return found

    unusable = await asked.in_thread(wrong) if name in own.schemas else ()
    return RollbackConfiguration(name, body.version, own, past, body.reason, unusable)


def change_view(change: Change) -> ChangeView:
    """A difference as it is shown."""
    return ChangeView(
        field=change.field,
        before=UNSET if change.before is ABSENT else change.before,
        after=UNSET if change.after is ABSENT else change.after,
    )


def trial_view(_: Asked, outcome: Outcome) -> TrialView:
    """What a change would do."""
    return TrialView(version=outcome.result.version, changes=[change_view(each) for each in outcome.result.changes])


RAISES = (NamespaceNotFound, InvalidDocument, NewerDocument, SecretStoreUnavailable)

ROUTES: list[Route] = [
    Query(
        "GET", "/api/v1/config", Page[NamespaceView], list_configuration, permission="config:read", params=Paging,
        page=Keyset(lambda row: (row.namespace,), (str,)),
    ),
    Endpoint(
        "GET", NAMESPACE, get_configuration, permission="config:read", scope=SCOPE, params=DocumentParams,
        result=ConfigurationView, projections=(), headers=ETAG,
        raises=(NamespaceNotFound, VersionNotFound, InvalidDocument, NewerDocument, *PAST),
    ),
    Command(
        "PUT", NAMESPACE, ValuesBody, change_configuration, permission="config:write", scope=SCOPE, stream=stream_of,
        prepare=prepare_replacement, result=UpdatedView, answered=answered, name="replace_configuration",
        summary="Replace all stored values, and say what every instance makes of it.", raises=RAISES,
    ),
    Command(
        "PATCH", NAMESPACE, ValuesBody, change_configuration, permission="config:write", scope=SCOPE, stream=stream_of,
        prepare=prepare_patch, result=UpdatedView, answered=answered, name="patch_configuration",
        summary="Change some values (JSON Merge Patch; null: back to the default), and say what every instance makes"
        " of it.", raises=RAISES,
    ),
    Command(
        "POST", f"{NAMESPACE}/validate", TrialBody, validate_configuration, permission="config:read", scope=SCOPE,
        stream=stream_of, prepare=prepare_trial, result=TrialView, answer=trial_view, idempotent=False, raises=RAISES,
    ),
    Command(
        "POST", f"{NAMESPACE}/rollback", RollbackBody, rollback_configuration, permission="config:write", scope=SCOPE,
        stream=stream_of, prepare=prepare_rollback, result=UpdatedView, answered=answered,
        raises=(*RAISES, VersionNotFound),
    ),
]  # fmt: skip
