"""A namespace as it changes: server-sent events (WHATWG HTML, section 9.2), or a long poll with an entity tag."""

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, Final, Protocol

import orjson
import psycopg
from msgspec import Meta
from psycopg import Connection
from psycopg_pool import PoolTimeout

from api import requests
from api.configuration.common import NAMESPACE, SCOPE
from api.configuration.watching import Watches, Whole
from api.live import Holder, TooManyReaders, TooManyReadersOfUser
from api.routing import Answer, Asked, Body, Endpoint, Route, View
from domain.configuration import DocumentSchema, NamespaceNotFound
from domain.configuration.document import Values
from domain.errors import DomainError, Unavailable, invalid_field
from infra.configuration.heads import Head, read_heads

PERMISSION: Final = "config:read"
WAIT_LIMIT_SECONDS: Final = 60
TAGS_LIMIT: Final = 8

_ID: Final = re.compile(r"[0-9]{1,10}(-[0-9a-f]{12})?")
_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')


class WatchParams(Body):
    """`wait` makes it a long poll: seconds until there is another document than `If-None-Match` names, at most."""

    wait: Annotated[float, Meta(ge=0, le=WAIT_LIMIT_SECONDS)] | None = None


class WatchedView(View):
    """The whole document: what is stored over what the environment says over the schema's defaults."""

    namespace: str
    version: int
    values: dict[str, Any]
    sources: dict[str, str]


class WatchPorts(Protocol):
    """What this route is given."""

    @property
    def watches(self) -> Watches: ...


class Documents:
    """Implements `api.configuration.watching.Source`: the documents as PostgreSQL has them, each encoded once.

    `schemas` are the platform's own namespaces, `file` is what this process's environment says of them.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection[Any]]],
        schemas: Mapping[str, DocumentSchema],
        file: Callable[[str], Values],
    ) -> None:
        self._connect, self._schemas, self._file = connect, schemas, file

    def read(self, names: Collection[str]) -> Mapping[str, Whole | DomainError]:
        """In one statement. Raises Unavailable."""
        try:
            with self._connect() as connection:
                heads = {head.namespace: head for head in read_heads(connection, list(names))}
        except (psycopg.Error, PoolTimeout):
            raise Unavailable from None
        return {name: self._whole(name, heads.get(name)) for name in names}

    def _whole(self, name: str, head: Head | None) -> Whole | DomainError:
        schema = self._schemas.get(name)
        if schema is None and head is not None and head.schema is not None:
            schema = DocumentSchema(head.schema, head.schema_version)
        if schema is None:
            return NamespaceNotFound()
        try:
            return _encoded(name, head, schema, self._file(name))
        except DomainError as error:
            return error


def _encoded(name: str, head: Head | None, schema: DocumentSchema, file: Values) -> Whole:
    stored = {} if head is None else schema.upcast(head.document, head.schema_version)
    version = 0 if head is None else head.version
    document = {
        "namespace": name,
        "version": version,
        "values": schema.merged(stored, file),
        "sources": schema.sources(stored, file),
    }
    return Whole.of(name, version, orjson.dumps(document, option=orjson.OPT_SORT_KEYS))


async def watch_config(asked: Asked) -> Answer:
    """The namespace's document, and each newer one as it is stored: as server-sent events, or by long polls.

    Each message is the whole document; its `id` names exactly this content. A client that comes back with
    `Last-Event-ID` is told nothing until there is another one. Who is slow is given the newest, not each between. The
    last message says why a stream ends: `cut-off` (`stalled`, `unavailable`), `expired` (the token), `refused` (the
    session has ended, the permission or the namespace is gone), `stopping`.

    With `wait` it is a long poll: the document as soon as there is another one than `If-None-Match` names, with its
    `ETag`, or 304 after so many seconds.
    """
    params: WatchParams = asked.params
    if params.wait is None:
        return await _stream(asked)
    if asked.method == "HEAD":
        params.wait = 0
    return await _poll(asked, params.wait)


async def _stream(asked: Asked) -> Answer:
    has = _last_id(asked)
    headers = [(b"x-accel-buffering", b"no")]
    watch = await _watches(asked).open(asked.path["namespace"], _holder(asked), has)
    return Answer(None, 200, headers, media_type=b"text/event-stream", stream=watch)


async def _poll(asked: Asked, seconds: float) -> Answer:
    has = _tags(asked)
    watch = await _watches(asked).open(asked.path["namespace"], _holder(asked), has)
    try:
        whole = await asked.while_connected(watch.newest(seconds))
        if whole is None:
            if not watch.has:
                raise Unavailable("The server stops; try again.")
            return Answer(None, 304, [(b"etag", b'"%s"' % watch.has[0].encode())])
    finally:
        await watch.aclose()
    return Answer(whole.body, 200, [(b"etag", b'"%s"' % whole.id.encode())])


def _watches(asked: Asked) -> Watches:
    ports: WatchPorts = asked.ports
    return ports.watches


def _holder(asked: Asked) -> Holder:
    return Holder(
        asked.caller.user_id, asked.caller.session_id, requests.bearer_token(asked.headers) or "", SCOPE(asked)
    )


def _last_id(asked: Asked) -> tuple[str, ...]:
    """Raises Invalid."""
    given = asked.headers.get(b"last-event-id", b"").decode("latin-1")
    if given and not _ID.fullmatch(given):
        raise invalid_field("Last-Event-ID", "the id of a document is needed, such as 12-5f2b8e0c9d1a, or a version")
    return (given,) if given else ()


def _tags(asked: Asked) -> tuple[str, ...]:
    """What `If-None-Match` names (RFC 9110, section 13.1.2). Raises Invalid."""
    given = asked.headers.get(b"if-none-match", b"").decode("latin-1").strip()
    if given == "*":
        return ("*",)
    parts = [part.strip() for part in given.split(",")] if given else []
    found = [tag[1] for part in parts if (tag := _TAG.fullmatch(part)) is not None]
    if len(found) != len(parts) or len(parts) > TAGS_LIMIT:
        raise invalid_field("If-None-Match", f'at most {TAGS_LIMIT} entity tags are needed, such as "12-5f2b8e0c9d1a"')
    return tuple(found)


ROUTES: list[Route] = [
    Endpoint(
        "GET", f"{NAMESPACE}/watch", watch_config, permission=PERMISSION, scope=SCOPE, params=WatchParams,
        result=WatchedView, also=(304,), streams="text/event-stream",
        headers={"ETag": "With `wait`: names exactly this content, for If-None-Match."},
        raises=(NamespaceNotFound, TooManyReaders, TooManyReadersOfUser),
    ),
]  # fmt: skip
