"""Which instances run which configuration: asking, saying so (customers' services), and updates that wait for it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta
from psycopg import Connection
from psycopg_pool import ConnectionPool

from api.ports import Outcome
from api.routing import Answer, Asked, Body, Endpoint, Keyset, Page, Paging, PathScope, Query, Route, View
from domain.configuration.errors import NamespaceNotFound, NamespaceReserved
from domain.errors import Conflict, FieldError, NotFound, invalid_field
from infra.configuration.instances import (
    ERRORS_LIMIT,
    FIELD_CHARS,
    INSTANCES_LIMIT,
    LOOK,
    MESSAGE_CHARS,
    Acknowledgement,
    Instance,
    Presence,
    Refused,
    State,
    as_instance,
    has_room,
    leave,
    running,
    tell,
)
from infra.configuration.telling import BEATS_PER_LEASE
from infra.configuration.waiting import Answered, Waits
from projections.read import Read

ANSWER_LIMIT = 1_000
"""So many instances an update's answer names, those first that haven't applied it; it counts all."""
ANSWER_ERRORS_LIMIT = 1_000
"""So many fields, of all that refuse it; the rest is told where the instances are listed."""

ID_LIMIT_CHARS = 200
WordText = Annotated[str, Meta(max_length=100)]
Version = Annotated[int, Meta(ge=0, le=2**31 - 1)]
StateName = Literal["applied", "refused", "pending"]


class InstanceTaken(Conflict):
    """Somebody else's instance of this id lives."""

    code = "instance-taken"


class InstanceNotFound(NotFound):
    """No instance of this id is yours."""

    code = "instance-not-found"


class TooManyInstances(Conflict):
    """This namespace has as many instances as it may have."""

    code = "too-many-instances"


class ErrorBody(Body):
    """A field that is why: its path (empty: the whole document), and what is wrong with it. No value of a secret."""

    field: Annotated[str, Meta(max_length=FIELD_CHARS)]
    message: Annotated[str, Meta(max_length=MESSAGE_CHARS)]


class AcknowledgementBody(Body, kw_only=True):
    """What a service's instance says about a version: it runs with it, or won't, and why not.

    `runs` is, of one that refuses, the version that it runs with instead; 0 is none.
    """

    version: Version
    state: Literal["applied", "refused"]
    errors: Annotated[list[ErrorBody], Meta(max_length=ERRORS_LIMIT)] = []
    runs: Version | None = None
    part: WordText = "service"
    host: WordText = ""
    pid: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class AcknowledgedView(View):
    """The newest version there is, and after how many seconds to say so again, changed or not."""

    version: int
    beat_seconds: float


class FieldErrorView(View):
    """A field that is why."""

    field: str
    message: str


class InstanceView(View):
    """An instance: the version that it runs with, and what it says to the newest, or to the update's.

    `refused` is the newest version that it wouldn't run with, `errors` why. Times are PostgreSQL's; `age_seconds` is
    how long ago it was last heard of.
    """

    id: str
    part: str
    host: str
    pid: int
    version: int
    state: StateName
    refused: int | None
    errors: list[FieldErrorView]
    started_at: datetime
    answered_at: datetime
    seen_at: datetime
    age_seconds: float


class CountsView(View):
    """How many instances say what."""

    applied: int
    refused: int
    pending: int


class UpdatedView(View):
    """What became of an update: its version, and what every instance that lives says to it.

    `complete`: all have answered in time, the one way or the other. Whatever they say, the version is stored.
    """

    version: int
    complete: bool
    counts: CountsView
    instances: list[InstanceView]


class InstancesParams(Paging):
    """Which instances."""

    state: StateName | None = None


class ConfigurationPorts(Protocol):
    """What is known about the platform's own namespaces, and the time that this part of the platform takes."""

    @property
    def schemas(self) -> Mapping[str, Any]:
        """The platform's own namespaces by name."""
        ...

    @property
    def waits(self) -> Waits: ...

    @property
    def answer_seconds(self) -> float:
        """How long an update's answer waits for the instances."""
        ...

    @property
    def lease_seconds(self) -> float:
        """An instance that is silent for so long is gone."""
        ...


class InstancePorts(Protocol):
    """What these routes are given."""

    @property
    def pool(self) -> ConnectionPool[Connection[Any]]: ...

    @property
    def configuration(self) -> ConfigurationPorts: ...


_HEAD = "select version, schema is not null as declared from configuration_heads where namespace = %(namespace)s"
_LISTING = f"""
    select * from (
           select l.*, case when l.version >= %(head)s then 'applied'
                            when (l.refused ->> 'version')::int >= %(head)s then 'refused' else 'pending' end as state
             from ({LOOK}) l
    ) named
     where (%(state)s::text is null or state = %(state)s)
       and (%(part)s::text is null or (part, id) > (%(part)s, %(after)s))
     order by part, id limit %(limit)s
"""


def list_instances(
    read: Read,
    asked: Asked,
    namespace: str,
    limit: int,
    after: tuple[str, str] | None = None,
    state: StateName | None = None,
) -> list[InstanceView]:
    """Every instance that lives, by part and id, with what it says to the newest version. Raises NamespaceNotFound."""
    ports: ConfigurationPorts = asked.ports.configuration
    head = read.one(_HEAD, {"namespace": namespace})
    if namespace not in ports.schemas and not (head and head["declared"]):
        raise NamespaceNotFound
    version = head["version"] if head else 0
    part, last = after or (None, None)
    found = read.all(
        _LISTING,
        {
            "namespace": namespace, "head": version, "lease": ports.lease_seconds, "state": state, "part": part,
            "after": last, "limit": limit,
        },
    )  # fmt: skip
    return [_view(as_instance({name: row[name] for name in row if name != "state"}), version) for row in found]


async def acknowledge(asked: Asked) -> AcknowledgedView:
    """An instance of a customer's service says what it makes of a version. To be repeated, or it counts as gone."""
    return await asked.in_thread(_acknowledge, asked)


async def withdraw(asked: Asked) -> Answer:
    """An instance of a customer's service ends: nobody waits for it any more."""
    await asked.in_thread(_withdraw, asked)
    return Answer(status=204)


async def answered(asked: Asked, outcome: Outcome) -> UpdatedView:
    """The one answer to an update: what every instance says to it, as soon as all have spoken or the time is over."""
    return await instances_of(asked, asked.path["namespace"], outcome.result.version)


async def instances_of(asked: Asked, namespace: str, version: int) -> UpdatedView:
    """The same for a version. Never raises for want of the database: the version is stored all the same."""
    ports: ConfigurationPorts = asked.ports.configuration
    return updated(await ports.waits.answered(namespace, version, ports.answer_seconds))


def updated(found: Answered) -> UpdatedView:
    """The answer as it is shown, here and on the command line."""
    by_state = {state: found.in_state(state) for state in State}
    named = [*by_state[State.REFUSED], *by_state[State.PENDING], *by_state[State.APPLIED]]
    views = [_view(each, found.version) for each in named[:ANSWER_LIMIT]]
    left = ANSWER_ERRORS_LIMIT
    for view in views:
        view.errors = view.errors[:left]
        left -= len(view.errors)
    return UpdatedView(
        version=found.version,
        complete=found.complete,
        counts=CountsView(**{state.value: len(those) for state, those in by_state.items()}),
        instances=views,
    )


def _view(instance: Instance, version: int) -> InstanceView:
    refused = instance.refused
    return InstanceView(
        id=instance.id,
        part=instance.part,
        host=instance.host,
        pid=instance.pid,
        version=instance.version,
        state=instance.state(version).value,
        refused=refused.version if refused else None,
        errors=[FieldErrorView(field=each.field, message=each.message) for each in refused.errors] if refused else [],
        started_at=instance.started_at,
        answered_at=instance.answered_at,
        seen_at=instance.seen_at,
        age_seconds=round(instance.age_seconds, 3),
    )


def _acknowledge(asked: Asked) -> AcknowledgedView:
    ports: InstancePorts = asked.ports
    body: AcknowledgementBody = asked.body
    namespace, lease = asked.path["namespace"], ports.configuration.lease_seconds
    presence = _presence(asked, body.part, body.host, body.pid)
    with ports.pool.connection() as connection:
        head = _head_of_service(connection, ports, namespace)
        word = _word(connection, presence, namespace, body, head)
        if not has_room(connection, namespace, presence.id, lease):
            raise TooManyInstances(f"At most {INSTANCES_LIMIT:,} instances watch a namespace.")
        if not tell(connection, presence, word, namespace=namespace, lease_seconds=lease):
            raise InstanceTaken
    return AcknowledgedView(version=head, beat_seconds=lease / BEATS_PER_LEASE)


def _withdraw(asked: Asked) -> None:
    ports: InstancePorts = asked.ports
    with ports.pool.connection() as connection:
        _head_of_service(connection, ports, asked.path["namespace"])
        if not leave(connection, _presence(asked), asked.path["namespace"]):
            raise InstanceNotFound


def _presence(asked: Asked, part: str = "", host: str = "", pid: int = 0) -> Presence:
    """Raises Invalid naming the field."""
    instance = asked.path["instance"]
    if len(instance) > ID_LIMIT_CHARS or not instance.isprintable():
        raise invalid_field("instance", f"must be at most {ID_LIMIT_CHARS} characters that can be printed")
    for field, text in (("part", part), ("host", host)):
        if not text.isprintable():
            raise invalid_field(field, "must be characters that can be printed")
    return Presence(instance, part, host, pid, str(asked.context.actor))


def _head_of_service(connection: Connection[Any], ports: InstancePorts, namespace: str) -> int:
    """The newest version of a namespace of the customers'. Raises NamespaceNotFound, NamespaceReserved."""
    if namespace in ports.configuration.schemas:
        raise NamespaceReserved("The platform's own processes say themselves what they run with.")
    row = connection.execute(_HEAD, {"namespace": namespace}).fetchone()
    if row is None or not row[1]:  # it may be that of a module which this process hasn't
        raise NamespaceNotFound
    return int(row[0])


def _word(
    connection: Connection[Any], presence: Presence, namespace: str, body: AcknowledgementBody, head: int
) -> Acknowledgement:
    """What the body says, as it is kept. Raises Invalid naming the field."""
    for field, version in (("version", body.version), ("runs", body.runs or 0)):
        if version > head:
            raise invalid_field(field, f"the newest version of {namespace} is {head}")
    if body.state == "applied":
        if body.errors or body.runs not in {None, body.version}:
            raise invalid_field("errors" if body.errors else "runs", "only who refuses a version has that to say")
        return Acknowledgement({namespace: body.version})
    if not body.errors:
        raise invalid_field("errors", "a refusal says why: at least one field, or an empty path for the whole")
    runs = body.runs if body.runs is not None else running(connection, presence, namespace)
    errors = tuple(FieldError(each.field, each.message) for each in body.errors)
    return Acknowledgement({namespace: runs}, {namespace: Refused(body.version, errors)})


PATH = "/api/v1/config/{namespace}/instances"
SCOPE = PathScope("/config", "namespace")

ROUTES: list[Route] = [
    Query(
        "GET", PATH, Page[InstanceView], list_instances, permission="config:read", scope=SCOPE, params=InstancesParams,
        page=Keyset(lambda row: (row.part, row.id), (str, str)), name="list_instances", raises=(NamespaceNotFound,),
    ),
    Endpoint(
        "PUT", f"{PATH}/{{instance}}", acknowledge, permission="config:acknowledge", scope=SCOPE,
        body=AcknowledgementBody, result=AcknowledgedView, name="acknowledge_config",
        raises=(NamespaceNotFound, NamespaceReserved, InstanceTaken, TooManyInstances),
    ),
    Endpoint(
        "DELETE", f"{PATH}/{{instance}}", withdraw, permission="config:acknowledge", scope=SCOPE, answers=204,
        name="withdraw_instance", raises=(NamespaceNotFound, NamespaceReserved, InstanceNotFound),
    ),
]  # fmt: skip
