"""A log that was cut back to an earlier position while everything that it fed stayed ahead of it."""

import asyncio
from contextlib import asynccontextmanager, contextmanager
from threading import Thread

import psycopg
import pytest
import redis

from commands.access import AssignRole, assign_role
from commands.identity import NewUser, RegisterUser, SuspendUser, checked, register_user, suspend_user
from domain.access import RoleName
from domain.context import Context
from infra.caches import Caches
from infra.listener import Listener
from infra.past import is_strange
from infra.settings import Settings
from projections.access import ACCESS
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from projections.follower import Follower
from projections.identity import USERS
from projections.lane import Hooks, Setup
from projections.read import Reader
from runtime import modules
from runtime.core import open_core
from runtime.past import FOUND, discard_other_past
from runtime.serve import Api
from runtime.start import first_facts
from tests.cutting import cut_back, keep
from tests.e2e.platform import eventually
from tests.fresh_metrics import fresh_metrics
from tests.runtime.cli_site import key

SYSTEM = Context.system("test", "past")


@pytest.fixture
def settings(database, valkey, tmp_path):
    return Settings(
        data=tmp_path, postgres_url=database, redis_url=valkey, master_key=key(b"m"), pepper=key(b"p"),
        claim_key=key(b"c"), admin_password="she-who-must-be-obeyed", bcrypt_cost=4, pool_size=4,
    )  # fmt: skip


@pytest.fixture
def connection(database):
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def core(settings, connection):
    ensure_builds(connection, modules.projections())
    first_facts(settings, lambda _: None)
    with open_core(settings) as core:
        yield core


@contextmanager
def following(settings, core):
    setup = Setup(
        core.log, settings.postgres_url, modules.projections(), Hooks(lambda: discard_other_past(settings)),
    )  # fmt: skip
    follower = Follower(setup)
    thread = Thread(target=follower.run)
    thread.start()
    try:
        assert follower.leading.wait(30)
        yield
    finally:
        follower.stop()
        thread.join(30)


def register(core, email):
    address, name = checked(NewUser(email, email.partition("@")[0], "the-engine-weaves-patterns"))
    command = RegisterUser(address, core.secrets.claim_id(address), name, core.passwords.hash_now("a"))
    return core.dispatcher.dispatch(register_user, command, SYSTEM).result


def make_admin(core, user):
    core.dispatcher.dispatch(assign_role, AssignRole(user, RoleName("admin")), SYSTEM)


def level(core, connection):
    head = core.log.head()
    sql = (
        "select min(p.position) from projection_progress p join projection_builds b using (projection, version, build)"
    )
    eventually(lambda: connection.execute(sql + " where b.active").fetchone()[0] >= head)


def active(connection):
    sql = "select projection, build from projection_builds where active order by 1"
    return dict(connection.execute(sql).fetchall())


def granted(connection):
    build = active(connection)["access"]
    sql = f"select user_id from {ACCESS.table('assignments', build)} where to_position is null"
    return {user for (user,) in connection.execute(sql.encode()).fetchall()}


@pytest.fixture
def cut(settings, core, connection):
    """Ada was there before the cut; Bob came after it and is an admin, and Ada was suspended. All views saw that."""
    ada = register(core, "ada@engine.example")
    with following(settings, core):
        level(core, connection)
        keep(connection)
        bob = register(core, "bob@builder.example")
        make_admin(core, bob)
        core.dispatcher.dispatch(suspend_user, SuspendUser(ada, ""), SYSTEM)
        level(core, connection)
        assert bob in granted(connection)
    cut_back(connection)
    return ada, bob


def test_a_log_that_is_as_it_was_costs_one_look(settings, core, connection):
    with following(settings, core):
        register(core, "ada@engine.example")
        level(core, connection)
    assert not is_strange(connection)
    assert not discard_other_past(settings)
    assert set(active(connection).values()) == {1}


def test_views_that_are_ahead_of_the_log_are_made_anew(settings, core, connection, cut):
    ada, bob = cut
    assert is_strange(connection)
    before = FOUND._value.get()
    with following(settings, core):
        level(core, connection)
        assert bob not in granted(connection)
    assert FOUND._value.get() == before + 1
    assert set(active(connection).values()) == {2}
    assert not is_strange(connection)
    users = Reader(core.pool.connection).run(lambda read: read.all("select id, suspended_at from {users}"), USERS)
    rows = {row["id"]: row["suspended_at"] for row in users.value}
    assert bob not in rows
    assert rows[ada] is None
    for projection in modules.projections():
        assert fold_views(settings.postgres_url, core.log, Build(projection, 2)) == (core.log.head(), [])


def test_what_was_discarded_is_dropped(settings, core, connection, cut):
    discard_other_past(settings)
    tables = {name for (name,) in connection.execute("select tablename from pg_tables").fetchall()}
    assert USERS.table("users", 2) in tables
    assert USERS.table("users", 1) not in tables


def test_one_that_reads_meanwhile_delays_the_drop_and_nothing_else(settings, core, connection, cut):
    with psycopg.connect(settings.postgres_url) as reader:
        reader.execute(f"select count(*) from {USERS.table('users', 1)}".encode())
        assert discard_other_past(settings)
        assert set(active(connection).values()) == {2}
    left = "select feed from projection_builds where build = 1 and projection = 'identity'"
    assert connection.execute(left).fetchone() == ("discarded",)
    assert not is_strange(connection)


def test_a_log_that_has_grown_past_the_views_again_is_recognised_by_its_events(settings, core, connection, cut):
    while core.log.head() <= connection.execute("select max(position) from projection_progress").fetchone()[0]:
        register(core, f"user{core.log.head()}@crowd.example")
    _, bob = cut
    assert is_strange(connection)
    with following(settings, core):
        level(core, connection)
    assert bob not in granted(connection)


def test_the_same_version_of_the_same_stream_at_the_same_position_is_told_apart_by_its_time(settings, core, connection):
    ada = register(core, "ada@engine.example")
    with following(settings, core):
        level(core, connection)
        keep(connection)
        core.dispatcher.dispatch(suspend_user, SuspendUser(ada, "then"), SYSTEM)
        level(core, connection)
    cut_back(connection)
    core.dispatcher.dispatch(suspend_user, SuspendUser(ada, "now"), SYSTEM)
    assert connection.execute("select min(position) from projection_progress").fetchone() == (core.log.head(),)
    with following(settings, core):
        level(core, connection)
    reasons = Reader(core.pool.connection).run(lambda read: read.all("select suspended_reason from {users}"), USERS)
    assert {row["suspended_reason"] for row in reasons.value} == {None, "now"}


def test_inline_tables_hold_what_the_log_holds(settings, core, connection, cut):
    ada, _ = cut
    connection.execute("insert into sessions values (gen_random_uuid(), %s, 99, null)", (ada,))
    assert connection.execute("select count(*) from session_floors").fetchone() == (1,)
    discard_other_past(settings)
    assert connection.execute("select count(*) from sessions").fetchone() == (0,)
    assert connection.execute("select count(*) from session_floors").fetchone() == (0,), "Ada's suspension is gone"


def test_receipts_of_lost_commands_are_forgotten_and_others_kept(settings, core, connection, cut):
    head = core.log.head()
    for number, position in enumerate((head - 1, head + 1)):
        connection.execute(
            "insert into receipts values (%s, '', 200, '', '{}', %s, clock_timestamp())", (bytes([number]), position)
        )
    discard_other_past(settings)
    assert connection.execute("select position from receipts").fetchall() == [(head - 1,)]


def test_a_receipt_whose_position_the_log_has_reached_again_is_forgotten_too(settings, core, connection, cut):
    position = core.log.head() + 1
    connection.execute(
        "insert into receipts values ('a', '', 200, '', '{}', %s, clock_timestamp() - interval '1 s')", (position,)
    )
    register(core, "carol@chart.example")
    discard_other_past(settings)
    assert connection.execute("select count(*) from receipts").fetchone() == (0,)


def test_the_epoch_moves_so_that_nothing_in_the_shared_cache_is_reached(settings, core, connection, cut):
    before = connection.execute("select epoch from cache_versions").fetchone()[0]
    discard_other_past(settings)
    epoch, reason = connection.execute("select epoch, reason from cache_versions").fetchone()
    assert epoch > before
    assert reason == "the log has another past"


def test_of_several_who_look_at_once_one_acts(settings, core, connection, cut):
    threads = [Thread(target=discard_other_past, args=[settings]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(active(connection).values()) == {2}


def test_a_kill_in_the_middle_leaves_it_to_the_next_one(settings, core, connection, cut, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("runtime.past.forget", die)
        with pytest.raises(KeyboardInterrupt):
            discard_other_past(settings)
    assert set(active(connection).values()) == {1}
    assert discard_other_past(settings)
    assert set(active(connection).values()) == {2}


def test_who_listens_begins_anew_and_knows_the_new_positions(settings, core, connection, cut, database):
    async def story():
        listener = Listener(database, {p.name: p.version for p in modules.projections()})
        await listener.start()
        stood = listener.position("access")
        await asyncio.to_thread(discard_other_past, settings)
        await asyncio.to_thread(eventually, lambda: listener.connections == 2)
        found = listener.position("access"), listener.head
        await listener.stop()
        return stood, found

    stood, (position, head) = asyncio.run(story())
    assert (position, head) == (0, core.log.head())
    assert stood > head


def test_another_run_of_postgresql_moves_the_epoch_once(settings, core, connection, database):
    async def start():
        listener = Listener(database, {})
        caches = Caches(database, listener, seal_key=b"k" * 32, redis_url=settings.redis_url)
        await listener.start()
        epoch = caches.versions().epoch
        await listener.stop()
        await caches.close()
        return epoch

    first = asyncio.run(start())
    assert asyncio.run(start()) == first
    connection.execute("update cache_versions set postgres = 'the one before'")
    assert asyncio.run(start()) > first


@asynccontextmanager
async def serving(settings):
    """An API process, without its socket."""
    with fresh_metrics():
        api = Api(settings)
    async with api._lifespan(api.app):
        yield api


async def may(api, user):
    return (await api.ports.decisions.decide(user, "user:create")).allowed


def test_no_check_ever_grants_what_was_lost_whatever_remembers_it(settings, core, connection):
    async def before(bob):
        async with serving(settings) as api:
            assert await may(api, bob)
            # another one finds it in Valkey
            async with serving(settings) as other:
                assert await may(other, bob)

    async def after(bob):
        async with serving(settings) as api:
            answers = [await may(api, bob) for _ in range(20)]
            follower = following(settings, core)
            await asyncio.to_thread(follower.__enter__)
            try:
                while api.listener.position("access") < core.log.head():
                    answers.append(await may(api, bob))
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.1)
                answers += [await may(api, bob) for _ in range(20)]
                health = await api.readiness.health()
            finally:
                await asyncio.to_thread(follower.__exit__, None, None, None)
            return answers, health.state

    with following(settings, core):
        level(core, connection)
        keep(connection)
        bob = register(core, "bob@builder.example")
        make_admin(core, bob)
        level(core, connection)
        asyncio.run(before(bob))
    with redis.Redis.from_url(settings.redis_url) as client:
        assert list(client.scan_iter("muniment:*:access:*")), "the shared cache does remember"
    cut_back(connection)
    answers, state = asyncio.run(after(bob))
    assert set(answers) == {False}
    assert state in {"ready", "degraded"}


def test_a_process_that_serves_while_the_store_is_exchanged_begins_anew(settings, core, connection, database):
    """Its connections break, as with every exchange of the server, and nothing that it remembers counts any more."""

    async def story(bob):
        async with serving(settings) as api:
            assert await may(api, bob)
            cut_back(connection)
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
            connections = api.listener.connections
            await asyncio.to_thread(eventually, lambda: api.listener.connections > connections)
            await asyncio.to_thread(eventually, lambda: api.listener.fresh)
            return [await may(api, bob) for _ in range(20)], api.listener.head, api.listener.position("access")

    with following(settings, core):
        level(core, connection)
        keep(connection)
        bob = register(core, "bob@builder.example")
        make_admin(core, bob)
        level(core, connection)
    answers, head, position = asyncio.run(story(bob))
    assert set(answers) == {False}
    assert head == core.log.head()
    assert position == 0
