"""Modules of one's own: what joins, what can't, and what becomes of a platform without one that it needs."""

import asyncio
import json
import os
import re
import subprocess
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.domain import event

from api.routing import Command, Endpoint, Query, View, Within
from commands.access import require
from commands.jobs.schedules import OwnSchedule, PlanRequest
from domain.aggregate import Aggregate, First
from domain.context import Actor, Context
from domain.jobs import JobType
from infra import migrate
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.inline import Inline
from infra.migrate import MigrationError
from infra.refill import refill
from infra.settings import Settings, SettingsError
from infra.transcoding import NewerSoftware, event_type
from projections.audit import AUDIT, AUDITED
from projections.builds import ensure_builds
from projections.engine import Build, Engine
from projections.meaning import API_ACTIVITY, CREATE, Meaning, own
from projections.projection import Projection
from projections.read import Read, Reader
from runtime import modules
from runtime.asyncapi import text
from runtime.environment import environment
from runtime.joined import ModuleMissing, check_complete, join
from runtime.joining import overlap
from runtime.module import Lazy, Module
from runtime.modules import MODULES
from runtime.own_modules import registry
from runtime.ports import Ports
from runtime.registry import Registry
from stream_apps.reactions import Reaction
from tests.runtime.bakery import LOAVES, MODULE, ROUTES, SLICING, Loaf, bake_loaf, bare, loaves, migrated, with_

ROOT = Path(__file__).parent.parent.parent
ANYBODY = Context(Actor("system", "test"), "bread")


@pytest.fixture
def joining(monkeypatch):
    """What these modules are together with the platform's, each in a package of its own."""

    def join_them(*own_modules, setting: str = "") -> Registry:
        entries = []
        for module in own_modules:
            package = ModuleType(f"shop_{uuid4().hex}")
            package.MODULE = module
            monkeypatch.setitem(sys.modules, package.__name__, package)
            entries.append(f"{package.__name__}:MODULE")
        return registry(MODULES, Settings(modules=setting or ",".join(entries)))

    return join_them


# --- what joins


def test_without_the_setting_there_is_the_platform_alone(joining):
    assert joining() == Registry(MODULES)


def test_everything_of_a_module_stands_beside_the_platforms(joining):
    whole = joining(MODULE)
    assert whole.modules == (*MODULES, MODULE)
    assert LOAVES in whole.projections
    assert LOAVES in whole.declared
    assert MODULE.inline[0] in whole.inline_tables
    assert all(route in whole.routes for route in ROUTES)
    assert SLICING in whole.reactions(Settings())
    assert whole.event_types["bakery.LoafBaked"] is Loaf.Baked


def test_modules_stand_behind_those_that_they_depend_on(joining):
    whole = joining(bare("icing", "cake"), bare("cake", "bakery"), MODULE)
    assert [module.name for module in whole.own] == ["bakery", "cake", "icing"]


def test_migrations_come_after_all_of_the_platforms_however_little_is_depended_on(joining, tmp_path):
    whole = joining(with_(**vars(migrated(tmp_path)) | {"depends_on": ()}))
    ordered = [source.module for source in migrate.in_order(list(reversed(whole.sources())))]
    assert ordered[-1] == "bakery"
    assert set(ordered) == {module.name for module in whole.modules if module.migrations}


def test_the_audit_log_has_its_events(joining):
    whole = joining(MODULE)
    (audit,) = (projection for projection in whole.projections if projection.name == "audit")
    assert set(audit.on) == {*AUDIT.on, Loaf.Baked}
    assert (audit.version, audit.tables) == (AUDIT.version, AUDIT.tables)
    assert whole.audited_actions == {meaning.action for meaning in AUDITED.values()} | {"loaf.baked"}


def test_the_description_of_the_bus_has_a_channel_of_its_own(joining):
    document = json.loads(text(joining(MODULE)))
    assert document["channels"]["bakery"]["address"] == "muniment.bakery"
    assert "bakery.LoafBaked" in document["components"]["messages"]
    assert "bakery" not in json.loads(text())["channels"]


def test_a_job_type_of_a_module_is_known(joining):
    bake = JobType("bakery.bake")
    assert joining(with_(jobs=(bake,))).job_types.get("bakery.bake") is bake


def test_a_schedule_of_a_module_is_known(joining):
    own = OwnSchedule("bakery.daily", replace(BREAD, type="bakery.bake"))
    assert joining(with_(jobs=(JobType("bakery.bake"),), schedules=(own,))).schedules[-1] == own


def test_the_parts_are_told_the_list_and_the_variables_that_its_modules_read(joining, monkeypatch):
    whole = joining(with_(variables=("BAKERY_FLOUR",)))
    monkeypatch.setattr(modules, "registry", lambda: whole)
    monkeypatch.setenv("BAKERY_FLOUR", "rye")
    monkeypatch.setenv("BAKERY_SECRET", "sourdough")
    told = environment(Settings(modules="shop:MODULE"))
    assert told["MUNIMENT_MODULES"] == "shop:MODULE"
    assert told["BAKERY_FLOUR"] == "rye"
    assert "BAKERY_SECRET" not in told


# --- what doesn't


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("shop", "'shop' isn't of the form package.module:ATTRIBUTE"),
        ("shop:", "'shop:' isn't of the form"),
        (":MODULE", "isn't of the form"),
        ("shop.:MODULE", "isn't of the form"),
        ("no_such_shop:MODULE", "no_such_shop can't be imported: ModuleNotFoundError: No module named 'no_such_shop'"),
        ("tests.no_such_shop:MODULE", "ModuleNotFoundError: No module named 'tests.no_such_shop' (is it installed"),
        ("tests.runtime.bakery:CAKE", "tests.runtime.bakery has no attribute CAKE"),
        ("tests.runtime.bakery:ROUTES", "tests.runtime.bakery:ROUTES is no runtime.module.Module, but a builtins.list"),
        ("tests.runtime.bakery:with_", "is no runtime.module.Module, but a builtins.function"),
        ("tests.runtime.bakery:MODULE,tests.runtime.bakery:MODULE", "the name bakery is taken by another module"),
    ],
)  # fmt: skip
def test_an_entry_that_names_no_module_is_refused(joining, setting, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        joining(setting=setting)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import no_such_flour", "ModuleNotFoundError: No module named 'no_such_flour'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError: "),
        ("raise SystemExit('closed')", "SystemExit: closed"),
    ],
)
def test_a_package_that_fails_says_its_own_error_in_one_line(joining, tmp_path, monkeypatch, body, says):
    name = f"failing_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError) as refused:
        joining(setting=f"{name}:MODULE")
    assert f"{name} can't be imported: {says}" in str(refused.value)
    assert "installed" not in str(refused.value)
    assert "\n" not in str(refused.value)


class Stray(Aggregate):
    TOPIC = "pantry.Stray"

    class Found(First):
        TOPIC = "pantry.StrayFound"

    @event(Found)
    def __init__(self) -> None: ...


class Nameless(Aggregate):
    class Made(First): ...

    @event(Made)
    def __init__(self) -> None: ...


class Leap(Aggregate):
    TOPIC = "springs.Leap"

    class Made(First):
        TOPIC = "springs.LeapMade"
        class_version = 2

    @event(Made)
    def __init__(self) -> None: ...


BREAD_COMMAND = Lazy("tests.runtime.bakery:bread", "Bread.")
BREAD = PlanRequest(cron="0 5 * * *", type="muniment.noop")


def projection(name: str = "cakes", table: str = "cakes") -> Projection:
    return Projection(name=name, version=1, tables=f"{table} (id uuid primary key)", on={})


async def nothing(_):
    return None


def route(path: str, method: str = "GET", permission="loaf:read", name: str = "cake", **more) -> Endpoint:
    return Endpoint(method, path, nothing, permission=permission, name=name, **more)


def meaning(action: str, *detail: str):
    return {"audited": {Loaf.Baked: Meaning(action, API_ACTIVITY, CREATE, own("loaf"), detail)}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "identity"}, "the name identity is taken"),
        ({"name": "Bakery"}, "'Bakery' can't be a module's name"),
        ({"name": "muniment"}, "'muniment' can't be a module's name"),
        ({"name": 7}, "7 can't be a module's name"),
        ({"depends_on": "identity"}, "depends_on: 'identity' isn't a list"),
        ({"depends_on": ("butcher",)}, "bakery depends on butcher, which there isn't"),
        ({"depends_on": ("bakery",)}, "modules depend on each other in a circle: bakery -> bakery"),
        ({"migrations": Path("/nonexistent/sql")}, "migrations: there is no folder /nonexistent/sql"),
        ({"migrations": "sql"}, "migrations: 'sql' is no pathlib.Path"),
        ({"aggregates": (Loaf(flour="rye", baker="me"),)}, "aggregates: "),
        ({"aggregates": (Loaf, dict)}, "dict is no domain.aggregate.Aggregate"),
        ({"aggregates": (Loaf, Stray)}, "Stray: its topic pantry.Stray isn't of the form bakery.Name"),
        ({"aggregates": ()}, "is an event of an aggregate that isn't among its aggregates"),
        ({"name": "bakehouse", "aggregates": (Nameless,)}, "Nameless has no TOPIC"),
        ({"name": "springs", "aggregates": (Leap,)}, "Leap.Made has no upcast_v1_v2"),
        ({"routine": frozenset()}, "bakery.LoafSliced: put it either into `audited` or into `routine`"),
        ({"routine": frozenset({Loaf.Baked, Loaf.Sliced})}, "bakery.LoafBaked: put it either"),
        ({"routine": frozenset({Loaf.Sliced, Stray.Found})}, "Stray.Found is audited or routine, but no event"),
        ({"audited": {Loaf.Baked: "bread"}}, "audited: 'bread' is no Meaning"),
        (meaning("Bread!"), "'Bread!' can't be an action"),
        (meaning("loaf.baked", "weight"), "the event has no field weight"),
        (meaning("loaf.baked", "baker"), "bakery.LoafBaked.baker is personal"),
        (meaning("role.assigned"), "the audited action role.assigned is taken by audit"),
        ({"projections": (projection("identity"), LOAVES)}, "the projection identity is taken by identity"),
        ({"projections": (LOAVES, projection("bakery", "buns"))}, "the projection bakery is taken by bakery"),
        ({"inline": (Inline(name="sessions"),)}, "the inline projection sessions is taken by identity"),
        ({"inline": (Inline(name="mine", tables=("sessions",)),)}, "the inline table sessions is taken by identity"),
        ({"reactions": lambda _: (Reaction("onboarding", {Loaf.Baked: lambda _: None}),)},
         "the reaction onboarding is taken by identity"),
        ({"reactions": lambda _: ("onboarding",)}, "bakery: reactions: 'onboarding' is no Reaction"),
        ({"reactions": lambda _: 1 / 0}, "bakery: reactions: ZeroDivisionError: division by zero"),
        ({"reactions": ()}, "reactions: a function of the settings is needed"),
        ({"jobs": ("bake",)}, "jobs: 'bake' is no JobType"),
        ({"schedules": ("daily",)}, "schedules: 'daily' is no OwnSchedule"),
        ({"schedules": (OwnSchedule("Daily Bread", BREAD),)}, "schedule Daily Bread: name: must be lower-case words"),
        ({"schedules": (OwnSchedule("bread", replace(BREAD, cron="0 0 30 2 *")),)}, "bread: cron: is never due"),
        ({"schedules": (OwnSchedule("bread", replace(BREAD, type="cake.bake")),)}, "bread: There is no job type"),
        ({"schedules": (OwnSchedule("bread", replace(BREAD, args=7)),)}, "bakery: schedule bread: "),
        ({"schedules": (OwnSchedule("bread", BREAD), OwnSchedule("bread", BREAD))},
         "the schedule bread is taken by bakery"),
        ({"cli": ("bread",)}, "cli: a mapping of names to runtime.module.Lazy is needed"),
        ({"cli": {"Bread": BREAD_COMMAND}}, "cli: 'Bread' can't be a command's name"),
        ({"cli": {"bread": "tests.runtime.bakery:bread"}}, "cli: bread: a runtime.module.Lazy of the form"),
        ({"cli": {"bread": Lazy("bakery.bread", "Bread.")}}, "cli: bread: a runtime.module.Lazy of the form"),
        ({"cli": {"jobs": BREAD_COMMAND}}, "bakery: the command jobs is taken by the platform"),
        ({"permissions": ("loaf:bake", "loaf:*")}, "permission 'loaf:*' must be one resource:action"),
        ({"permissions": ("loaf:bake", "loaf:read", "user:create")}, "the permission user:create is taken by identity"),
        ({"permissions": ("loaf:bake",)}, "GET /api/v1/loaves: the permission loaf:read isn't among its permissions"),
        ({"routes": ("/bread",)}, "routes: '/bread' is no route"),
        ({"routes": (route("/bread"),)}, "GET /bread: routes of modules stand under /api/"),
        ({"routes": (route("/api/v1/{id}-cake"),)}, "{id}-cake: a parameter is a whole segment"),
        ({"routes": (route("/api/v1/users"),)}, "GET /api/v1/users is taken by identity"),
        ({"routes": (route("/api/v1/users/{who}"),)}, "the route GET /api/v1/users/{} is taken by identity"),
        ({"routes": (route("/api/v1/roles/baker"),)}, "collides with /api/v1/roles/{name} of access"),
        ({"routes": (route("/api/v1/cakes", name="login"),)}, "the operation login is taken by identity"),
        ({"routes": (route("/api/v1/cakes"), route("/api/v1/cakes", name="cakes"))},
         "the route GET /api/v1/cakes is taken by bakery"),
        ({"routes": (route("/api/v1/cakes", projections=("cellar",)),)}, "cakes: there is no projection cellar"),
        ({"routes": (Command("POST", "/api/v1/cakes", None, bake_loaf, permission="loaf:bake"),)},
         "POST /api/v1/cakes: "),
        ({"routes": (Query("GET", "/api/v1/cakes", dict, lambda read, size: {}, permission="loaf:read"),)},
         "GET /api/v1/cakes: nothing fills size"),
        ({"routes": (Query("GET", "/api/v1/cakes", dict, lambda read: {}, permission=Within("loaf:read")),)},
         "the permission `Within` and `scope_of` go together"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_module_that_cant_join_is_refused_in_one_line_that_says_why(joining, fields, says):
    with pytest.raises(SettingsError) as refused:
        joining(with_(**fields))
    assert str(refused.value).startswith("MUNIMENT_MODULES: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_type_that_is_called_as_one_of_the_platforms_is_refused(joining):
    class UserView(View):
        flour: str

    clash = Query("GET", "/api/v1/loaves", list[UserView], loaves, permission="loaf:read", projections=("bakery",))
    with pytest.raises(SettingsError, match=r"names of their own: api\.identity\..*UserView and .*UserView"):
        joining(with_(routes=(clash,)))


def test_modules_that_depend_on_each_other_in_a_circle_are_refused(joining):
    with pytest.raises(SettingsError, match="in a circle: hen -> egg -> hen"):
        joining(bare("hen", "egg"), bare("egg", "hen"))


def test_two_modules_dont_share_a_command(joining):
    module = with_(cli={"bread": BREAD_COMMAND})
    assert joining(module).commands == {"bread": BREAD_COMMAND}
    with pytest.raises(SettingsError, match="rival: the command bread is taken by bakery"):
        joining(module, Module("rival", cli={"bread": BREAD_COMMAND}))


def test_two_modules_dont_share_a_permission(joining):
    with pytest.raises(SettingsError, match="rival: the permission loaf:bake is taken by bakery"):
        joining(MODULE, Module("rival", permissions=("loaf:bake",)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/api/a", "/api/a", True),
        ("/api/a", "/api/b", False),
        ("/api/a", "/api/a/b", False),
        ("/api/{id}", "/api/{other_id}", True),
        ("/api/{id}", "/api/search", False),
        ("/api/{id}", "/api/6d756e69-6d65-5e74-8000-000000000000", True),
        ("/api/{name}", "/api/search", True),
        ("/api/{number:int}", "/api/7", True),
        ("/api/{number:int}", "/api/seven", False),
        ("/api/{number:int}", "/api/{id}", False),
        ("/api/{number:int}", "/api/{name}", True),
    ],
)
def test_routes_collide_where_one_path_could_mean_both(one, other, same):
    assert overlap(one, other) is overlap(other, one) is same


# --- what becomes of it


def test_its_migrations_views_inline_tables_and_audit_work(joining, database, tmp_path):
    whole = joining(migrated(tmp_path))
    migrate.apply(database, whole.sources())
    with (
        closing(Log(database, inline=whole.inline_tables)) as log,
        psycopg.connect(database, autocommit=True) as connection,
    ):
        ensure_builds(connection, whole.projections)
        work = Dispatcher(log)
        for flour in ("rye", "spelt"):
            work.dispatch(lambda work, flour: work.add(Loaf(flour=flour, baker="me")), flour, ANYBODY)
        inline = "select position from bakery_oven order by 1"
        assert connection.execute(inline).fetchall() == [(1,), (2,)]
        for projection_ in whole.projections:
            if projection_.name in {"audit", "bakery"}:
                Engine(connection, log, Build(projection_, 1)).apply(log.read(0, 10), after=0)
        assert connection.execute("select flour from bakery_loaves_v1_b1 order by 1").fetchall() == [
            ("rye",),
            ("spelt",),
        ]
        entries = connection.execute("select action, detail from audit_entries_v1_b1 order by position").fetchall()
        assert entries == [("loaf.baked", {"flour": "rye"}), ("loaf.baked", {"flour": "spelt"})]
        with connection.transaction():
            connection.execute("select from log_head for update")
            refill(connection, log.mapper, MODULE.inline)
        assert connection.execute(inline).fetchall() == [(1,), (2,)]


def test_a_prepare_can_look_at_views_and_inline_tables(joining, database, tmp_path):
    whole = joining(migrated(tmp_path))
    migrate.apply(database, whole.sources())

    async def in_thread(function, *arguments):
        return await asyncio.to_thread(function, *arguments)

    def counted(read: Read) -> tuple[int, int]:
        rows = "select (select count(*) from {loaves}) as loaves, (select count(*) from bakery_oven) as oven"
        return tuple(read.one(rows).values())

    with psycopg.connect(database, autocommit=True) as connection:
        ensure_builds(connection, [LOAVES])
        connection.execute("insert into bakery_oven values (gen_random_uuid(), 1)")
        ports = SimpleNamespace(
            projections={"bakery": LOAVES}, in_thread=in_thread, views=Reader(lambda: nullcontext(connection))
        )
        assert asyncio.run(Ports.look(ports, counted, "bakery")) == (0, 1)


def bread_in(database: str, whole: Registry) -> None:
    with closing(Log(database)) as log:
        Dispatcher(log).dispatch(lambda work, _: work.add(Loaf(flour="rye", baker="me")), None, ANYBODY)
    with psycopg.connect(database, autocommit=True) as connection:
        join(connection, whole, Settings(modules="shop:MODULE"))


def test_nobody_starts_without_a_module_whose_events_are_in_the_log(joining, database):
    bread_in(database, joining(MODULE))
    with psycopg.connect(database, autocommit=True) as connection:
        check_complete(connection, joining(MODULE))
        with pytest.raises(ModuleMissing, match=r"bakery.LoafBaked .at position 1. .* joined by shop:MODULE"):
            check_complete(connection, joining())


def test_a_module_that_has_recorded_nothing_may_go(joining, database):
    with psycopg.connect(database, autocommit=True) as connection:
        join(connection, joining(MODULE), Settings(modules="shop:MODULE"))
        check_complete(connection, joining())


def test_the_migrations_of_a_module_that_isnt_here_ask_for_it(joining, database, tmp_path):
    migrate.apply(database, joining(migrated(tmp_path)).sources())
    with pytest.raises(MigrationError, match="no module bakery here: is MUNIMENT_MODULES complete"):
        migrate.apply(database, joining().sources())


def test_an_event_of_a_module_that_isnt_here_asks_for_it():
    with pytest.raises(NewerSoftware, match=r"event type butcher.Cut isn't known: is MUNIMENT_MODULES complete"):
        event_type("butcher.Cut")
    with pytest.raises(NewerSoftware, match="a newer release wrote it"):
        event_type("identity.UserKnighted")


def test_handlers_of_modules_can_ask_for_a_permission(database):
    with closing(Log(database)) as log:
        dispatcher = Dispatcher(log)
        dispatcher.dispatch(lambda work, _: require(work, "loaf:bake", "/shop"), None, ANYBODY)
        stranger = Context(Actor("user", str(uuid4())), "bread")
        with pytest.raises(Exception, match="may not do this"):
            dispatcher.dispatch(lambda work, _: require(work, "loaf:bake", "/shop"), None, stranger)


# --- every process


def muniment(*arguments: str, **environment_: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments], cwd=ROOT, env={"PATH": os.environ["PATH"], **environment_},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "part", ["up", "api", "follow", "relay", "stream", "worker", "scheduler", "status", "migrate status"]
)
def test_every_part_refuses_a_list_that_cant_be_used_with_one_line(part, tmp_path):
    answer = muniment(*part.split(), MUNIMENT_MODULES="no_such_shop:MODULE", MUNIMENT_DATA=str(tmp_path))
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("Error: MUNIMENT_MODULES: no_such_shop can't be imported: ModuleNotFoundError")
    assert answer.stderr.count("\n") == 1


def test_help_needs_no_module(tmp_path):
    assert muniment("--help", MUNIMENT_MODULES="no_such_shop:MODULE", MUNIMENT_DATA=str(tmp_path)).returncode == 0
