"""All parts of the platform as processes, each at the end of a cable of its own, and those who change configuration."""

import random
import sys
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from commands.configuration import ChangeConfiguration, change_configuration
from domain.configuration import InvalidDocument, Namespace, NamespaceName
from domain.context import Actor, Context
from domain.errors import OutcomeUnknown, Stale, Unavailable
from infra.configuration.heads import read_heads
from infra.configuration.instances import Instance, instances
from infra.configuration.schemas import SCHEMAS
from infra.dispatch import Dispatcher
from infra.embedded import DataFolder, Postgres, Valkey
from infra.embedded.ports import free_port
from infra.embedded.postgres import SOCKET
from infra.event_store import Log
from infra.settings import Settings
from runtime import modules
from runtime.start import first_facts, migrate
from tests.e2e.database_proxy import DatabaseProxy
from tests.e2e.platform import ADMIN, ROOT, Api, Caller, OurPart, Part, ServicePart, eventually

LEASE_SECONDS = 3.0
ANSWER_SECONDS = 0.3
PATIENCE_SECONDS = 2.0
"""After so long an administrator takes it that no answer will come."""
SECRET = "smtp://mail:a-secret-nobody-is-told@mail.example:25"
SECRET_REFERENCE = "secret://mail-server"
POSTGRES_EACH = 3
"""In each of so many rounds of mishaps PostgreSQL is killed, too."""

CHOICES: Mapping[tuple[str, str], tuple[int, int]] = {
    ("api", "page_size"): (1, 200),
    ("identity", "access_token_seconds"): (20_000, 80_000),
    ("identity", "bcrypt_cost"): (4, 5),
    ("jobs", "worker_threads"): (1, 64),
    ("schedules", "schedule_grace_seconds"): (1, 500),
}
"""What is changed, and to what."""
WRONG = (
    ("api", {"page_size": 0}, "values.page_size"),
    ("identity", {"bcrypt_cost": "many"}, "values.bcrypt_cost"),
    ("jobs", {"worker_threads": 3, "no_such_setting": 1}, "values.no_such_setting"),
    ("platform", {"port": 80}, "values.port"),
)  # fmt: skip


@dataclass(frozen=True)
class Own:
    """The platform's own namespaces, as whoever changes them at the machine knows them."""

    schemas: Mapping[str, Any]
    file: Mapping[str, Any]

    def consent(self, *_: Any) -> None:
        """An operator's."""


OWN = Own(SCHEMAS, {})


class SkewedPart(OurPart):
    """A part on a machine whose clock is wrong by so many seconds."""

    def __init__(self, name: str, settings: Settings, log: Path, skew_seconds: float = 0.0, root: Path = ROOT) -> None:
        super().__init__(name, settings, log, root)
        self.skew_seconds = skew_seconds

    def argv(self) -> list[str]:
        if not self.skew_seconds or self.root != ROOT:
            return super().argv()
        return [sys.executable, "-m", "tests.e2e.skewed", str(self.skew_seconds), self.name]


@dataclass
class Member:
    """A part, the cable that connects it to PostgreSQL, and how many processes it consists of."""

    part: OurPart
    cable: DatabaseProxy
    processes: int = 1


class Fleet:
    """`babbage` is an API with two processes. One worker's clock is a day ahead, one scheduler's a day behind.

    `deaf` is a worker that lacks a secret which all others have.
    """

    def __init__(self, folder: Path, *, many: bool, seed: int = 0) -> None:
        self.folder, self.chance = folder, random.Random(seed)  # noqa: S311
        data = DataFolder(folder)
        self._service = Postgres(data, {"fsync": "off", "full_page_writes": "off", "max_connections": "200"})
        self.postgres, self.valkey = ServicePart(self._service), ServicePart(Valkey(data))
        self.settings = Settings(
            data=folder, postgres_url=self._service.conninfo, redis_url=Valkey(data).url,
            admin_email=ADMIN[0], admin_password=ADMIN[1], bcrypt_cost=4, pool_size=4, threads=4,
            login_address_limit="100000/minute", login_account_limit="10000/minute", access_token_seconds=86_400,
            config_lease_seconds=LEASE_SECONDS, config_answer_seconds=ANSWER_SECONDS, scheduler_lease_seconds=1.0,
            secrets_store=f"files:{self._secrets('all', SECRET)}", secrets_refresh_seconds=1.0,
            worker_drain_seconds=1.0,
        )  # fmt: skip
        self.members: list[Member] = []
        self.apis: list[Api] = [self._api("babbage", workers=2)]
        self._add("worker", 0, skew_seconds=86_400)
        self._add("scheduler", 0, skew_seconds=-86_400)
        self._add("follow", 0)
        self.deaf = self._add("worker", 1, secrets_store=f"files:{self._secrets('none')}") if many else None
        if many:
            self.apis.append(self._api("ada", workers=1))
            self._add("scheduler", 1)
        self._started = ExitStack()

    @property
    def processes(self) -> int:
        """So many instances live when all is well."""
        return sum(member.processes for member in self.members)

    def _secrets(self, name: str, mail: str = "") -> Path:
        folder = self.folder / "secrets-of" / name
        folder.mkdir(parents=True, mode=0o700)
        if mail:
            (folder / "mail-server").write_text(mail)
        return folder

    def _cable(self, name: str) -> DatabaseProxy:
        return DatabaseProxy(self.folder / f"c-{name}", self._service.sockets / SOCKET, everything=True)

    def _connected(self, cable: DatabaseProxy, **settings: Any) -> Settings:
        return replace(
            self.settings, postgres_url=make_conninfo(self._service.conninfo, host=str(cable.folder)), **settings
        )

    def _api(self, name: str, workers: int) -> Api:
        cable = self._cable(name)
        settings = self._connected(cable, port=free_port(), api_workers=workers)
        api = Api(settings, self.folder / f"{name}.log")
        self.members.append(Member(api, cable, workers))
        return api

    def _add(self, name: str, number: int, skew_seconds: float = 0.0, root: Path = ROOT, **settings: Any) -> OurPart:
        cable = self._cable(f"{name}-{number}")
        log = self.folder / f"{name}-{number}.log"
        part = SkewedPart(name, self._connected(cable, **settings), log, skew_seconds, root)
        self.members.append(Member(part, cable))
        return part

    def __enter__(self) -> Self:
        try:
            for service in (self.postgres, self.valkey):
                self.run(service)
            migrate(self.settings, lambda _: None)
            first_facts(self.settings, lambda _: None)
            self.log = Log(self.settings.postgres_url, inline=modules.inline_tables())
            self._started.callback(self.log.close)
            self.dispatcher = Dispatcher(self.log)
            for member in self.members:
                self._started.callback(member.cable.close)
                self.run(member.part)
            for api in self.apis:
                eventually(lambda api=api: api.anybody.get("/readyz").status_code == 200, 60)
            self.admins = [api.login(*ADMIN) for api in self.apis]
        except BaseException as error:
            error.add_note(self.logs())
            self._started.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def joined(self, name: str, root: Path) -> OurPart:
        """A part of another release, started beside the others."""
        part = self._add(name, len(self.members), root=root)
        self.run(part)
        return part

    def run(self, part: Part) -> None:
        part.start()
        self._started.callback(part.stop)

    # What is so

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def versions(self) -> dict[str, int]:
        """The newest version of each namespace that was ever changed."""
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            return {head.namespace: head.version for head in read_heads(connection)}

    def newest_position(self) -> int:
        """That of the newest event of configuration."""
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            return max((head.position for head in read_heads(connection)), default=0)

    def document(self, namespace: str) -> dict[str, Any]:
        """What is stored."""
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            heads = read_heads(connection, [namespace])
        return heads[0].document if heads else {}

    def instances(self, namespace: str) -> list[Instance]:
        """Those that live."""
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            return instances(connection, namespace, LEASE_SECONDS)

    def is_level(self) -> bool:
        """Whether all processes live, nobody is taken for alive who isn't, and all have answered about all versions."""
        alive = {each.pid for member in self.members for each in children(member.part.process.pid)}
        for namespace, version in self.versions().items():
            found = self.instances(namespace) if namespace in SCHEMAS else []
            if found and not {each.pid for each in found} <= alive:
                return False
            if namespace in SCHEMAS and len(found) != self.processes:
                return False
            if any(each.state(version) == "pending" for each in found):
                return False
        return True

    def level(self, seconds: float = 30.0) -> None:
        """Returns when it is. Raises AssertionError telling who isn't."""
        try:
            eventually(self.is_level, seconds, pause_seconds=0.02)
        except AssertionError:
            said = {
                name: [
                    (each.id, each.part, each.version, each.refused, each.age_seconds) for each in self.instances(name)
                ]
                for name in self.versions()
            }
            raise AssertionError(f"{self.versions()}: {said}\n{self.logs()}") from None

    def logs(self) -> str:
        """The ends of everybody's logs."""
        logs = [member.part.log for member in self.members]
        return "\n".join(f"--- {log.stem}\n{log.read_text()[-1500:]}" for log in logs if log.exists())

    def keep(self) -> int:
        """Starts again what ended by itself, as the supervisor does."""
        ended = [member.part for member in self.members if member.part.process.poll() is not None]
        for part in ended:
            part.start()
        return len(ended)


@dataclass(frozen=True)
class Stored:
    """An update that was answered: which version it made, marked so that it can be found again."""

    namespace: str
    version: int
    mark: str
    seconds: float
    complete: bool = True


class Administrator:
    """Changes configuration: over HTTP, or at the machine. What can't be reached right now is no answer."""

    def __init__(self, fleet: Fleet, caller: Caller | None = None) -> None:
        self.fleet, self.caller = fleet, caller
        self.stored: list[Stored] = []
        self.lost: set[str] = set()
        """Marks of updates whose outcome isn't known."""
        self.heard: Tally[str] = Tally()

    def patch(self, namespace: str, values: Mapping[str, Any], if_match: int | None = None) -> int | None:
        """The version that it made, or None: somebody else was faster, or no answer came."""
        mark, began = str(uuid4()), time.monotonic()
        do = self._over_http if self.caller else self._at_the_machine
        version, complete = do(namespace, values, if_match, mark)
        if version is not None:
            self.heard["stored"] += 1
            self.stored.append(Stored(namespace, version, mark, time.monotonic() - began, complete))
        return version

    def _at_the_machine(
        self, namespace: str, values: Mapping[str, Any], if_match: int | None, mark: str
    ) -> tuple[int | None, bool]:
        command = ChangeConfiguration(NamespaceName(namespace), values, OWN, mode="merge", reason=mark)  # type: ignore[arg-type]
        match = None if if_match is None else (Namespace.id_of(namespace), if_match)
        context = Context(Actor("operator", "grace"), mark)
        try:
            outcome = self.fleet.dispatcher.dispatch(change_configuration, command, context, if_match=match)
        except Stale:
            self.heard["stale"] += 1
        except OutcomeUnknown:
            self.lost.add(mark)
        except Unavailable:
            self.heard["no answer"] += 1
        else:
            return (outcome.result.version, False) if outcome.result.changed else (None, False)
        return None, False

    def _over_http(
        self, namespace: str, values: Mapping[str, Any], if_match: int | None, mark: str
    ) -> tuple[int | None, bool]:
        assert self.caller
        headers = {} if if_match is None else {"if-match": f'"{if_match}"'}
        before = self.fleet.versions().get(namespace, 0)
        try:
            answer = self.caller.ask(
                "PATCH",
                f"/api/v1/config/{namespace}",
                {"values": values, "reason": mark},
                headers=headers,
                timeout=PATIENCE_SECONDS,
            )
        except httpx.TransportError:
            self.lost.add(mark)
            return None, False
        self.heard[str(answer.status_code)] += 1
        if answer.status_code in {502, 503, 504}:
            self.lost.add(mark)
        elif answer.status_code == 200:
            said = answer.json()
            return (said["version"], said["complete"]) if said["version"] > before else (None, False)
        else:
            assert answer.status_code == 412, answer.text
        return None, False

    def is_refused(self, namespace: str, values: Mapping[str, Any], field: str) -> bool:
        """Whether that is refused, naming the field; whoever can't be reached doesn't count."""
        if self.caller is None:
            command = ChangeConfiguration(NamespaceName(namespace), values, OWN, mode="merge")  # type: ignore[arg-type]
            try:
                self.fleet.dispatcher.dispatch(change_configuration, command, Context.system("test", ""))
            except InvalidDocument as error:
                return field in {each.field for each in error.errors}
            except Unavailable:
                return True
            return False
        try:
            answer = self.caller.ask(
                "PATCH", f"/api/v1/config/{namespace}", {"values": values}, timeout=PATIENCE_SECONDS
            )
        except httpx.TransportError:
            return True
        if answer.status_code in {502, 503, 504}:
            return True
        return answer.status_code == 422 and field in {each["field"] for each in answer.json()["errors"]}


class Mishaps:
    """What befalls processes: killed, frozen, cut off, cut off without a word."""

    LONGEST_SECONDS = 5.0

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.chance = fleet, fleet.chance
        self.happened: Tally[str] = Tally()
        self._until: list[tuple[float, str, Member]] = []
        self._deck: list[Callable[[Member], None]] = []
        self._rounds = 0

    def one(self) -> None:
        """Of each kind as often as of the others, to anybody who isn't in trouble already."""
        troubled = [member for _, _, member in self._until]
        member = self.chance.choice([each for each in self.fleet.members if each not in troubled] or [None])
        if not self._deck:
            self._deck = [self._kill, self._kill_one, self._freeze, self._cut, self._hang]
            self._rounds += 1
            if self._rounds % POSTGRES_EACH == 0:
                self._deck.append(self._postgres)
            self.chance.shuffle(self._deck)
        what = self._deck.pop()
        if member is not None:
            self.happened[what.__name__.strip("_")] += 1
            what(member)

    def _kill(self, member: Member) -> None:
        member.part.restart()

    def _kill_one(self, member: Member) -> None:
        """One process of an API, which has its own master to start it again; of others, the one that there is."""
        alive = [each.pid for each in self.fleet.instances("api")]
        family = {each.pid for each in children(member.part.process.pid)}
        for pid in self.chance.sample(sorted(family.intersection(alive)), k=min(1, len(family.intersection(alive)))):
            psutil.Process(pid).kill()

    def _freeze(self, member: Member) -> None:
        member.part.freeze()
        self._remember("freeze", member)

    def _cut(self, member: Member) -> None:
        member.cable.cut()
        self._remember("cut", member)

    def _hang(self, member: Member) -> None:
        member.cable.freeze()
        self._remember("hang", member)

    def _postgres(self, _: Member) -> None:
        self.fleet.postgres.restart()

    def _remember(self, what: str, member: Member) -> None:
        self._until.append((time.monotonic() + self.chance.uniform(0.3, self.LONGEST_SECONDS), what, member))

    def mend(self, *, everything: bool = False) -> None:
        """Ends what has lasted for long enough, and starts what ended."""
        for entry in list(self._until):
            until, what, member = entry
            if everything or time.monotonic() >= until:
                self._until.remove(entry)
                member.part.thaw() if what == "freeze" else member.cable.mend()
        self.happened["ended by itself"] += self.fleet.keep()


def children(pid: int) -> Iterator[psutil.Process]:
    """The process and all below it."""
    try:
        parent = psutil.Process(pid)
        yield from (parent, *parent.children(recursive=True))
    except psutil.NoSuchProcess:
        return
