"""The services that we bring along, killed, orphaned and misplaced for real."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from infra.embedded import DataFolder, Postgres, StartError, Valkey, check_postgres, check_redis, launched, running
from infra.embedded.identity import Identity, fitting_identity, renumbered, system_user
from infra.embedded.postgres import binaries
from infra.embedded.process import leftovers

NOBODY = 65534
NAMELESS = 54321
LONG = "a-very-long-name-for-a-folder-in-which-a-company-keeps-its-deeds/" * 2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own way, in Linux only")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder with a short path that strangers may pass through."""
    path = Path(tempfile.mkdtemp(prefix="mnm-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def data(place: Path) -> DataFolder:
    """One data folder for those who start it again and again."""
    return DataFolder(place / "data")


def ask(postgres: Postgres, query: str) -> object:
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def start(service: Postgres | Valkey) -> subprocess.Popen[bytes]:
    """Starts it as a former run did, of which nobody knows any more."""
    service.prepare()
    command = launched(service.argv(), death_signal=signal.SIGKILL, identity=service.identity().text)
    process = subprocess.Popen(command, env=service.environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    eventually(service.is_ready)
    return process


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Looks until it is so: for what the kernel does in its own time."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "0.02"], check=True)
    raise AssertionError(f"not within {seconds} s")


def is_one_line(text: object) -> bool:
    return len(str(text).splitlines()) == 1


def run_as(uid: int, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as another user; who may look through closed folders if Python itself is in one, as root's is."""
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    look = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) isn't here")
    code = "from infra.embedded import *\n"
    # a child, too: where setpriv got through to a closed Python, that may have found another one's library since
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    tried = subprocess.run([*become, sys.executable, "-c", code + again], capture_output=True, check=False, cwd="/")
    python = [sys.executable, "-c", code + script, *arguments]
    command = [*become, *([] if tried.returncode == 0 else look), *python]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


class TestTheTestsOwnServices:
    def test_a_database_is_empty_and_of_version_18(self, empty_database):
        with psycopg.connect(empty_database) as connection:
            assert connection.execute("select count(*) from pg_stat_user_tables").fetchone() == (0,)
            assert connection.info.server_version // 10_000 == 18

    def test_a_database_is_migrated(self, database):
        with psycopg.connect(database) as connection:
            assert connection.execute("select count(*) from stored_events").fetchone() == (0,)

    def test_a_durable_one_waits_for_the_disk(self, durable_postgres):
        with psycopg.connect(durable_postgres) as connection:
            assert connection.execute("show fsync").fetchone() == ("on",)

    def test_valkey_is_empty(self, valkey):
        with redis.Redis.from_url(valkey) as client:
            assert client.dbsize() == 0


class TestPostgres:
    def test_is_durable_checks_its_pages_and_sorts_the_same_everywhere(self, data):
        postgres = Postgres(data)
        with running(postgres):
            durable = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
            assert [ask(postgres, f"show {name}") for name in durable] == ["on"] * 4
            assert ask(postgres, "select lower('ÅDA') || datlocale from pg_database where datname = 'muniment'") == (
                "ådaC.UTF-8"
            )
            assert ask(postgres, "show server_encoding") == "UTF8"

    def test_opens_no_network_port_and_its_folders_are_the_owners_alone(self, data):
        postgres = Postgres(data)
        with running(postgres) as process:
            assert psutil.Process(process.pid).net_connections("inet") == []
            socket = postgres.sockets / ".s.PGSQL.5432"
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (data.path, postgres.folder, socket)]
            assert modes == [0o700, 0o700, 0o700]

    def test_loses_nothing_when_all_of_it_is_killed(self, data):
        postgres = Postgres(data)
        process = start(postgres)
        ask(postgres, "create table deeds (title text)")
        ask(postgres, "insert into deeds values ('Domesday Book')")
        for one in [*psutil.Process(process.pid).children(), psutil.Process(process.pid)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        with running(Postgres(data)):
            assert ask(postgres, "select title from deeds") == "Domesday Book"

    def test_a_stale_pid_file_that_names_a_stranger_is_no_obstacle_and_the_stranger_lives(self, data):
        with subprocess.Popen(["sleep", "60"]) as stranger:
            pid_file = data / "postgres" / "postmaster.pid"
            pid_file.write_text(f"{stranger.pid}\n{data / 'postgres'}\n1\n5432\n\n\n1 1\nready\n")
            postgres = Postgres(data)
            shutil.copy(pid_file, postgres.sockets / ".s.PGSQL.5432.lock")
            with running(postgres):
                assert ask(postgres, "select 1") == 1
            assert stranger.poll() is None
            stranger.kill()

    def test_one_of_a_former_run_that_still_lives_is_stopped_first(self, data):
        with start(Postgres(data)) as orphan, running(Postgres(data)) as process:
            assert orphan.poll() == 0  # in good order
            assert process.pid != orphan.pid

    def test_a_busy_session_whose_server_was_killed_is_no_obstacle(self, data):
        postgres = Postgres(data)
        with start(postgres) as server, closing(psycopg.connect(postgres.conninfo, autocommit=True)) as connection:
            busy = connection.info.backend_pid
            connection.pgconn.send_query(b"do $$ begin loop end loop; end $$")
            connection.pgconn.flush()
            eventually(lambda: psutil.Process(busy).cpu_times().user > 0.05)
            server.kill()
            server.wait()
            assert psutil.pid_exists(busy)
            with running(Postgres(data)):
                assert ask(postgres, "select 1") == 1
                assert not _lives(busy)

    def test_one_in_another_folder_is_left_alone(self, data, place):
        other = Postgres(DataFolder(place / "other"))
        with running(other) as process:
            Postgres(data).sweep()
            assert process.poll() is None
            assert ask(other, "select 1") == 1

    def test_a_crash_while_the_database_is_made_is_no_obstacle(self, place):
        unfinished = place / "crashed" / "postgres.unfinished"
        unfinished.mkdir(parents=True)
        (unfinished / "PG_VERSION").write_text("18\n")
        postgres = Postgres(DataFolder(place / "crashed"))
        with running(postgres):
            assert ask(postgres, "select 1") == 1

    def test_a_database_of_another_version_is_refused(self, place):
        folder = place / "old" / "postgres"
        folder.mkdir(parents=True)
        (folder / "PG_VERSION").write_text("17\n")
        with pytest.raises(StartError, match=r"was made by PostgreSQL 17, this is 18"):
            Postgres(DataFolder(place / "old")).prepare()

    def test_a_folder_with_something_else_in_it_is_refused(self, place):
        folder = place / "strange" / "postgres"
        folder.mkdir(parents=True)
        (folder / "holiday.jpg").touch()
        with pytest.raises(StartError, match="in the way"):
            Postgres(DataFolder(place / "strange")).prepare()
        assert (folder / "holiday.jpg").exists()

    def test_an_operators_settings_win(self, data):
        operator = data / "postgres" / "operator.conf"
        operator.write_text("work_mem = '5MB'\n")
        postgres = Postgres(data)
        with running(postgres):
            assert ask(postgres, "show work_mem") == "5MB"
        operator.unlink()

    def test_a_path_too_long_for_sockets_gets_a_short_private_one(self, place):
        data = DataFolder(place / LONG)
        postgres, valkey = Postgres(data), Valkey(data)
        with running(postgres), running(valkey):
            assert ask(postgres, "select 1") == 1
            folders = [postgres.sockets, valkey.socket.parent, postgres.sockets.parent]
            assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 3
        shutil.rmtree(postgres.sockets.parent)

    @needs_root
    def test_a_short_folder_that_somebody_else_put_there_is_refused(self, place, monkeypatch):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        data = DataFolder(place / LONG / "guarded")
        short = data.socket_folder("postgres", ".s.PGSQL.5432").parent
        short.mkdir()
        os.chown(short, NOBODY, NOBODY)
        with pytest.raises(StartError, match="made by somebody else"):
            data.prepare_socket_folder(short / "postgres")

    @only_linux
    def test_dies_with_whoever_started_it(self, data):
        script = (
            "import sys, time\n"
            "from infra.embedded import *\n"
            "data = DataFolder(sys.argv[1])\n"
            "with running(Postgres(data)) as one, running(Valkey(data)) as other:\n"
            "    print(one.pid, other.pid, flush=True)\n"
            "    time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script, str(data.path)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout
            children = [int(pid) for pid in parent.stdout.readline().split()]
            parent.kill()
        eventually(lambda: not any(_lives(pid) for pid in children))
        assert not leftovers("postgres", data / "postgres")


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@needs_root
class TestWhoRunsPostgres:
    def test_root_keeps_its_files_though_postgres_is_not_root(self, data):
        postgres = Postgres(data)
        with running(postgres) as process:
            mapping = Path(f"/proc/{process.pid}/uid_map").read_text().split()
            assert mapping[0] != "0"
            assert mapping[1:] == ["0", "1"]
            assert {path.stat().st_uid for path in postgres.folder.rglob("*") if path.exists()} == {0}

    def test_another_user_runs_it_where_namespaces_are_not_permitted_and_back(self, place):
        nobody = Identity(f"user:{NOBODY}:{NOBODY}", NOBODY, NOBODY)
        folder = DataFolder(place / "fallback")
        postgres = Postgres(folder, identity=nobody)
        with running(postgres) as process:
            assert psutil.Process(process.pid).uids().real == NOBODY
            ask(postgres, "create table deeds as select 'Magna Carta' as title")
        with running(Postgres(folder, identity=renumbered())):
            assert ask(postgres, "select title from deeds") == "Magna Carta"
            assert postgres.folder.stat().st_uid == 0

    def test_a_folder_that_the_other_user_cannot_reach_is_named(self, place):
        (place / "closed").mkdir(mode=0o700)
        nobody = Identity(f"user:{NOBODY}:{NOBODY}", NOBODY, NOBODY)
        with pytest.raises(StartError, match=rf"can't pass through {place}/closed: ") as refused:
            Postgres(DataFolder(place / "closed" / "data"), identity=nobody).prepare()
        assert is_one_line(refused.value)

    def test_the_system_user_is_tried_where_the_namespace_fails(self, monkeypatch):
        monkeypatch.setattr("infra.embedded.identity.SYSTEM_USER", "nobody")

        def attempt(identity: Identity) -> "subprocess.CompletedProcess[str]":
            return subprocess.CompletedProcess([], 1 if identity.text.startswith("namespace") else 0, "", "EPERM")

        assert fitting_identity(attempt) == system_user()

    def test_the_reason_is_told_where_nobody_can_run_it(self, monkeypatch):
        monkeypatch.setattr("infra.embedded.identity.SYSTEM_USER", "nobody")
        with pytest.raises(StartError, match="PostgreSQL doesn't run here: no such machine"):
            fitting_identity(lambda _: subprocess.CompletedProcess([], 1, "", "no such machine\n"))

    def test_a_normal_user_runs_both(self, place):
        home = place / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        done = run_as(
            NOBODY,
            "import os, sys\n"
            "data = DataFolder(sys.argv[1])\n"
            "with data.hold(), running(Postgres(data)) as one, running(Valkey(data)):\n"
            "    print(os.stat(f'/proc/{one.pid}').st_uid, open(f'/proc/{one.pid}/uid_map').read().split()[2])\n",
            str(home / "data"),
        )
        assert done.stdout.split() == [str(NOBODY), "4294967295"], done.stderr

    def test_a_user_without_a_name_runs_it(self, place):
        home = place / "nameless"
        home.mkdir()
        os.chown(home, NAMELESS, NAMELESS)
        script = "import sys\nwith running(Postgres(DataFolder(sys.argv[1]))): print('runs')"
        done = run_as(NAMELESS, script, str(home / "data"))
        assert done.stdout == "runs\n", done.stderr


class TestValkey:
    def test_forgets_when_killed_and_its_stale_socket_is_no_obstacle(self, data):
        valkey = Valkey(data)
        with start(valkey) as process, redis.Redis.from_url(valkey.url) as client:
            client.set("grant", "stale")
            process.kill()
            process.wait()
            assert valkey.socket.exists()
            with running(Valkey(data)):
                assert client.get("grant") is None

    def test_never_evicts_and_never_saves(self, data):
        valkey = Valkey(data)
        with running(valkey), redis.Redis.from_url(valkey.url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("save") == {"save": ""}
        assert list(valkey.folder.glob("*.rdb")) == []

    def test_opens_no_network_port_and_its_socket_is_the_owners_alone(self, data):
        valkey = Valkey(data)
        with running(valkey) as process:
            assert psutil.Process(process.pid).net_connections("inet") == []
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (valkey.folder, valkey.socket)]
            assert modes == [0o700, 0o700]

    def test_one_of_a_former_run_that_still_lives_is_stopped_first(self, data):
        with start(Valkey(data)) as orphan, running(Valkey(data)):
            assert orphan.poll() is not None


class TestTheDataFolder:
    def test_is_held_by_one_at_a_time(self, place):
        data = DataFolder(place / "held")
        with (
            data.hold(),
            pytest.raises(StartError, match=rf"runs on .*held already \(process {os.getpid()}\)") as error,
        ):
            data.hold().__enter__()
        assert is_one_line(error.value)
        with data.hold():
            pass

    def test_is_free_when_its_holder_was_killed(self, place):
        script = (
            "import sys, time; from infra.embedded import *\n"
            "with DataFolder(sys.argv[1]).hold(): print('held', flush=True); time.sleep(60)"
        )
        folder = place / "abandoned"
        with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE) as holder:
            assert holder.stdout
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(StartError), DataFolder(folder).hold():
                pass
            holder.kill()
            holder.wait()
            with DataFolder(folder).hold():
                pass

    def test_that_is_a_file_is_refused_in_one_line(self, place):
        (place / "file").touch()
        with pytest.raises(StartError, match="can't write to the data folder") as error:
            DataFolder(place / "file").prepare()
        assert is_one_line(error.value)

    @needs_root
    def test_that_is_not_writable_is_refused_in_one_line(self, place):
        (place / "readonly").mkdir(mode=0o755)
        script = "import sys\ntry: DataFolder(sys.argv[1]).prepare()\nexcept StartError as error: print(error)"
        done = run_as(NOBODY, script, str(place / "readonly"))
        assert done.stdout == f"can't write to the data folder {place}/readonly: Permission denied\n"

    def test_that_exists_keeps_its_mode(self, place):
        (place / "shared").mkdir(mode=0o755)
        DataFolder(place / "shared").prepare()
        assert stat.S_IMODE((place / "shared").stat().st_mode) == 0o755


class TestSomebodyElsesServices:
    def test_a_good_postgres_is_taken(self, empty_database):
        check_postgres(empty_database)

    def test_a_good_valkey_is_taken(self, valkey):
        check_redis(valkey)

    @pytest.mark.parametrize(
        "url",
        [
            "postgrs://ada:s3cret@db.example/muniment",
            "postgresql://ada:s3cret@127.0.0.1:1/muniment",
            "postgresql://ada:s3cret@db.invalid/muniment",
            "postgresql://ada:s3cret@127.0.0.1:1/muniment?colour=blue",
        ],
    )
    def test_a_wrong_postgres_url_is_told_in_one_line_without_the_password(self, url):
        with pytest.raises(StartError, match="MUNIMENT_POSTGRES_URL") as error:
            check_postgres(url)
        assert is_one_line(error.value)
        assert "s3cret" not in str(error.value)

    @pytest.mark.parametrize(
        "url",
        [
            "http://:s3cret@cache.example",
            "redis://:s3cret@127.0.0.1:1/0",
            "redis://:s3cret@cache.invalid/0",
            "redis://:s3cret@127.0.0.1:none/0",
            "unix:///nowhere/valkey.sock",
        ],
    )
    def test_a_wrong_redis_url_is_told_in_one_line_without_the_password(self, url):
        with pytest.raises(StartError, match="MUNIMENT_REDIS_URL") as error:
            check_redis(url)
        assert is_one_line(error.value)
        assert "s3cret" not in str(error.value)

    def test_a_standby_is_refused(self, place, data):
        primary = Postgres(data)
        standby = DataFolder(place / "standby")
        standby.prepare()
        with running(primary):
            copy = [
                binaries() / "pg_basebackup",
                "-D",
                standby / "postgres",
                "-d",
                primary.conninfo,
                "-c",
                "fast",
                "-R",
            ]
            subprocess.run(copy, check=True, capture_output=True)
            second = Postgres(standby)
            with running(second), pytest.raises(StartError, match="standby"):
                check_postgres(second.conninfo)


def test_an_error_is_one_line_whatever_was_said():
    assert re.fullmatch(r"[^\n]+", str(StartError("no\nway  out\n")))
