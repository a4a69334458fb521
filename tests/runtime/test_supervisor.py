"""Parts that die, hang and won't stop: real processes, killed for real. Only pauses and chance are handed in."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from infra.embedded import DataFolder, Postgres, StartError, Valkey
from infra.embedded.process import leftovers
from infra.parts import PartStatus, State, parts_file, publish_parts, read_parts
from infra.settings import Settings
from runtime.output import logged, prefixed
from runtime.supervisor import BELOW_SECONDS, DRAIN_SECONDS, Backoff, Part, Supervisor, Surroundings, service_part
from runtime.up import HAND_BACK_SECONDS, worker_part

SHELL = "/bin/sh"
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own way, in Linux only")


@pytest.fixture
def data() -> Iterator[DataFolder]:
    path = Path(tempfile.mkdtemp(prefix="mnm-"))
    yield DataFolder(path)
    shutil.rmtree(path)


def shell(name: str, script: str, **options: Any) -> Part:
    return Part(name, [SHELL, "-c", script], **{"lines": lambda _: None, **options})


def quiet(data: DataFolder, **options: Any) -> Supervisor:
    return Supervisor(parts_file(data), **{"messages": lambda _: None, "backoff": Backoff(0.01, 0.05), **options})


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Looks until it is so: for what other processes do in their own time."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - nothing tells us when
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Our children since the test began, and theirs; the services of other tests have children of their own."""
    before = {one.pid for one in psutil.Process().children()}

    def since() -> set[int]:
        started = [one for one in psutil.Process().children() if one.pid not in before]
        return {one.pid for first in started for one in (first, *first.children(recursive=True))}

    return since


def told(data: DataFolder, name: str) -> PartStatus:
    """What the file says about a part."""
    parts = read_parts(parts_file(data))
    assert parts
    return next(part for part in parts.parts if part.name == name)


def pid_of(data: DataFolder, name: str) -> int:
    pid = told(data, name).pid
    assert pid
    return pid


class TestAPart:
    def test_is_told_to_be_ready_with_its_process(self, data):
        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(shell("api", "exec sleep 60"))
                assert told(data, "api").state is State.READY
                await eventually(lambda: psutil.Process(pid_of(data, "api")).name() == "sleep")

        play(scene())

    def test_is_ready_when_its_probe_says_so_and_not_before(self, data):
        seen: list[State] = []

        def probe() -> bool:
            seen.append(told(data, "api").state)
            return len(seen) == 3

        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(shell("api", "exec sleep 60", is_ready=probe))
                assert told(data, "api").state is State.READY

        play(scene())
        assert seen == [State.STARTING] * 3

    def test_that_is_killed_is_started_again_and_both_are_told(self, data):
        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(shell("follower", "exec sleep 60"))
                first = pid_of(data, "follower")
                os.kill(first, signal.SIGKILL)
                await eventually(lambda: told(data, "follower").restarts == 1)
                await eventually(lambda: told(data, "follower").state is State.READY)
                assert pid_of(data, "follower") != first
                assert told(data, "follower").last_exit == "SIGKILL"

        play(scene())

    def test_that_keeps_dying_is_tried_again_for_ever_after_longer_and_longer_pauses(self, data):
        pauses: list[float] = []

        async def note(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) > 6:
                await asyncio.Future()

        async def scene():
            around = Surroundings(sleep=note, chance=lambda: 0.0)
            async with quiet(data, backoff=Backoff(1, 10), surroundings=around) as supervisor:
                await supervisor.start(shell("worker", "echo 'no such queue'; exit 3"))
                await eventually(lambda: len(pauses) > 6)
                status = told(data, "worker")
                assert status.state is State.BACKING_OFF
                assert (status.pid, status.restarts, status.last_exit) == (None, 6, "status 3: no such queue")

        play(scene())
        assert pauses == [1, 2, 4, 8, 10, 10, 10]

    def test_that_was_ready_for_long_starts_from_the_shortest_pause_again(self, data):
        pauses: list[float] = []
        clock = [0.0]

        async def note(seconds: float) -> None:
            pauses.append(seconds)
            clock[0] += 31.0 if len(pauses) == 3 else 0.0
            await asyncio.sleep(0)

        async def scene():
            around = Surroundings(sleep=note, chance=lambda: 0.0, monotonic_seconds=lambda: clock[0])
            async with quiet(data, backoff=Backoff(0.1, 10, 30), surroundings=around) as supervisor:
                await supervisor.start(shell("worker", "exec sleep 60"))
                for restart in range(1, 6):
                    clock[0] += 31.0 if restart == 4 else 0.0
                    os.kill(pid_of(data, "worker"), signal.SIGKILL)
                    await eventually(lambda n=restart: told(data, "worker").restarts == n)
                    await eventually(lambda: told(data, "worker").state is State.READY)

        play(scene())
        assert pauses == [0.1, 0.2, 0.4, 0.1, 0.2]

    def test_that_cannot_be_prepared_for_a_while_comes_back(self, data):
        attempts: list[int] = []

        def prepare() -> None:
            attempts.append(1)
            if len(attempts) in {2, 3}:
                raise StartError("the disk is full")

        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(shell("api", "exec sleep 60", prepare=prepare))
                os.kill(pid_of(data, "api"), signal.SIGKILL)
                await eventually(lambda: told(data, "api").restarts == 3)
                await eventually(lambda: told(data, "api").state is State.READY)
                assert told(data, "api").last_exit == "the disk is full"

        play(scene())

    def test_takes_what_it_started_along_when_it_dies(self, data):
        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(shell("api", f"sleep 60 & echo $! > {data / 'grandchild'}; wait"))
                await eventually(lambda: (data / "grandchild").exists() and (data / "grandchild").read_text() != "")
                grandchild = int((data / "grandchild").read_text())
                os.kill(pid_of(data, "api"), signal.SIGKILL)
                await eventually(lambda: not lives(grandchild))

        play(scene())

    def test_gets_its_environment(self, data):
        lines: list[bytes] = []

        async def scene():
            async with quiet(data) as supervisor:
                part = shell("api", 'echo "$CITY"; exec sleep 60', env={"CITY": "Alexandria"}, lines=lines.append)
                await supervisor.start(part)
                await eventually(lambda: lines == [b"Alexandria"])

        play(scene())


class TestTheFirstStart:
    def test_of_a_part_that_ends_is_refused_with_its_last_line(self, data):
        async def scene():
            async with quiet(data) as supervisor:
                part = shell("api", "echo starting; echo 'port 8080 is in use' >&2; exit 1", is_ready=lambda: False)
                with pytest.raises(StartError) as refused:
                    await supervisor.start(part)
                assert str(refused.value) == "api ended while starting (status 1): port 8080 is in use"

        play(scene())

    def test_of_a_part_that_is_never_ready_is_refused_and_leaves_none(self, data, children):
        async def scene():
            async with quiet(data) as supervisor:
                part = shell("api", "exec sleep 60", is_ready=lambda: False, ready_timeout_seconds=0.2)
                with pytest.raises(StartError, match=r"api wasn't ready within 0.2 s"):
                    await supervisor.start(part)
                assert read_parts(parts_file(data)).parts == ()
                assert children() == set()

        play(scene())

    def test_of_a_program_that_is_not_there_is_refused(self, data):
        async def scene():
            async with quiet(data) as supervisor:
                with pytest.raises(StartError, match=r"status 125.*can't launch /no/such/program"):
                    await supervisor.start(Part("api", ["/no/such/program"], is_ready=lambda: False, lines=bool))

        play(scene())


class TestStopping:
    def test_leaves_none_even_of_those_who_will_not(self, data, children):
        stubborn = "trap '' TERM INT; sleep 60 & while :; do wait; done"

        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(shell("api", "exec sleep 60"))
                await supervisor.start(shell("worker", stubborn))
                await eventually(lambda: len(psutil.Process(pid_of(data, "worker")).children()) == 1)
                ours = children()
                began = time.monotonic()
            assert time.monotonic() - began < 5
            await eventually(lambda: not any(lives(pid) for pid in ours), 0.5)

        play(scene())
        assert not parts_file(data).exists()

    def test_asks_the_services_after_the_parts_that_stand_on_them(self, data):
        ended: list[str] = []

        def part(name: str, **options: Any) -> Part:
            script = f"trap 'echo {name}; exit' TERM; echo ready; while :; do sleep 0.01; done"
            return shell(name, script, lines=lambda line: ended.append(line.decode()), **options)

        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(part("database", is_service=True))
                await supervisor.start(part("api"))
                await eventually(lambda: ended == ["ready", "ready"])

        play(scene())
        assert ended[2:] == ["api", "database"]

    def test_while_a_part_is_starting_ends_that_too(self, data, children):
        async def scene():
            async with quiet(data) as supervisor:
                asyncio.get_running_loop().call_later(0.3, supervisor.request_stop)
                await supervisor.start(shell("api", "exec sleep 60", is_ready=lambda: False))
                raise AssertionError

        play(scene())
        assert children() == set()

    def test_while_a_part_waits_for_its_next_start_starts_it_no_more(self, data, children):
        async def scene():
            async with quiet(data, backoff=Backoff(60, 60)) as supervisor:
                await supervisor.start(shell("api", "exit 1"))
                await eventually(lambda: told(data, "api").state is State.BACKING_OFF)

        play(scene())
        assert children() == set()


DRIVER = """
import asyncio, sys
from infra.embedded import DataFolder
from infra.parts import parts_file
from runtime.supervisor import Part, Supervisor

async def up():
    async with Supervisor(parts_file(DataFolder(sys.argv[1]))) as supervisor:
        ready = DataFolder(sys.argv[1]) / "ready"
        script = f"{sys.argv[2]}; touch {ready}; while :; do sleep 0.01; done"
        await supervisor.start(Part("api", ["/bin/sh", "-c", script], is_ready=ready.exists))
        print("up", flush=True)
        await supervisor.run()
    print("down", flush=True)

asyncio.run(up())
"""


@pytest.fixture
def driver(data: DataFolder) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Starts a supervisor of its own process over one part that runs a script."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", DRIVER, str(data.path), script]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert started[-1].stdout
        assert started[-1].stdout.readline() == "up\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_stop_everything_in_good_order(self, data, driver, number):
        process = driver("trap 'echo goodbye; exit' TERM")
        child = pid_of(data, "api")
        process.send_signal(number)
        said, errors = process.communicate(timeout=10)
        assert (process.returncode, said) == (0, "down\n")
        assert "api        | goodbye" in errors
        assert not lives(child)

    def test_a_second_one_kills_at_once(self, data, driver):
        process = driver("trap '' TERM")
        child = pid_of(data, "api")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        play(eventually(lambda: told(data, "api").state is State.STOPPING))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert time.monotonic() - began < 2
        assert not lives(child)

    @only_linux
    def test_a_killed_supervisor_leaves_no_part_and_is_told_to_be_gone(self, data, driver):
        process = driver("true")
        child = pid_of(data, "api")
        process.kill()
        process.communicate()
        play(eventually(lambda: not lives(child)))
        assert parts_file(data).exists()
        assert read_parts(parts_file(data)) is None

    @pytest.mark.parametrize("manners", ["true", "trap '' TERM", "sleep 60 & trap '' TERM"])
    def test_a_part_that_outlived_its_killed_supervisor_is_ended_by_the_next(self, data, driver, manners):
        process = driver(manners)
        child = pid_of(data, "api")
        os.kill(child, signal.SIGSTOP)  # so that it can't die with its supervisor
        family = [child, *(one.pid for one in psutil.Process(child).children())]
        process.kill()
        process.communicate()
        os.kill(child, signal.SIGCONT)

        async def scene():
            async with quiet(data):
                assert not any(lives(pid) for pid in family)

        play(scene())

    def test_a_stranger_with_the_number_of_a_former_part_is_left_alone(self, data):
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
            former = PartStatus("api", State.READY, stranger.pid, datetime.now(UTC), 0, None, 1_000_000_000.0)
            publish_parts(parts_file(data), (former,))

            async def scene():
                async with quiet(data):
                    assert stranger.poll() is None

            play(scene())
            stranger.kill()


class TestDraining:
    def test_gives_each_part_the_time_that_it_asks_for(self, data):
        finished = data / "finished"

        async def scene():
            async with quiet(data) as supervisor:
                ready = data / "ready"
                stubborn = shell("api", f"trap '' TERM; touch {ready}; while :; do sleep 0.01; done", drain_seconds=0.1)
                await supervisor.start(replace(stubborn, is_ready=ready.exists))
                ready.unlink()
                other = f"kill -0 {pid_of(data, 'api')} 2>/dev/null"
                script = f"trap 'while {other}; do sleep 0.01; done; echo alone > {finished}; exit' TERM; touch {ready}"
                patient = shell("worker", f"{script}; while :; do sleep 0.01; done", drain_seconds=20)
                await supervisor.start(replace(patient, is_ready=ready.exists))

        play(scene())
        assert finished.read_text() == "alone\n"

    @pytest.mark.parametrize(
        ("asked", "all_stops", "drains"), [(1.0, 5.0, 1.0), (20.0, 5.0, 1.8), (20.0, 60.0, 20.0), (90.0, 60.0, 56.8)]
    )
    def test_takes_what_a_worker_is_set_to_as_far_as_all_stops_in_time(self, asked, all_stops, drains):
        part = worker_part(Settings(worker_drain_seconds=asked, stop_seconds=all_stops))
        told = Settings.from_env(part.env).worker_drain_seconds
        assert told == pytest.approx(drains)
        assert part.drain_seconds >= told + HAND_BACK_SECONDS - 1e-6
        assert part.drain_seconds <= max(DRAIN_SECONDS, all_stops - BELOW_SECONDS)


class TestTheServices:
    def test_are_started_again_when_killed_and_lose_nothing(self, data):
        postgres, valkey = Postgres(data), Valkey(data)

        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(service_part(postgres, data / "postgres.log"))
                await supervisor.start(service_part(valkey, data / "valkey.log"))
                with psycopg.connect(postgres.conninfo) as connection:
                    connection.execute("create table deeds as select 'Rosetta Stone' as title")
                for name in ("postgres", "valkey"):
                    os.kill(pid_of(data, name), signal.SIGKILL)
                for name in ("postgres", "valkey"):
                    await eventually(lambda n=name: told(data, n).restarts == 1)
                    await eventually(lambda n=name: told(data, n).state is State.READY)
                with psycopg.connect(postgres.conninfo) as connection:
                    assert connection.execute("select title from deeds").fetchone() == ("Rosetta Stone",)
                with redis.Redis.from_url(valkey.url) as client:
                    assert client.ping()

        play(scene())
        assert b"database system is ready" in (data / "postgres.log").read_bytes()

    def test_stop_within_5_s_though_busy_and_leave_none(self, data):
        postgres, valkey = Postgres(data), Valkey(data)

        async def scene():
            async with quiet(data) as supervisor:
                await supervisor.start(service_part(postgres, data / "postgres.log"))
                await supervisor.start(service_part(valkey, data / "valkey.log"))
                connection = psycopg.connect(postgres.conninfo, autocommit=True)
                connection.pgconn.send_query(b"do $$ begin loop end loop; end $$")
                connection.pgconn.flush()
                began = time.monotonic()
            connection.close()
            assert time.monotonic() - began < 5

        play(scene())
        assert leftovers("postgres", postgres.folder) == []
        assert leftovers("valkey-server", valkey.folder) == []

    def test_that_cannot_start_are_told_with_their_last_line(self, data):
        postgres = Postgres(data, {"shared_buffers": "plenty"})

        async def scene():
            async with quiet(data) as supervisor:
                with pytest.raises(StartError, match=r"postgres ended while starting.*postgresql.conf"):
                    await supervisor.start(service_part(postgres, data / "postgres.log"))

        play(scene())


class TestOutput:
    def test_has_the_parts_name_before_each_line(self):
        stream = BytesIO()
        prefixed("api", stream)(b"listening")
        assert stream.getvalue() == b"api        | listening\n"

    def test_of_a_log_is_kept_short_with_one_older_one_beside(self, tmp_path):
        log = tmp_path / "log"
        write = logged(log / "postgres.log", limit_bytes=100)
        for number in range(50):
            write(b"line %03d" % number)
        assert sorted(path.name for path in log.iterdir()) == ["postgres.log", "postgres.log.1"]
        assert all(path.stat().st_size <= 110 for path in log.iterdir())
        assert (log / "postgres.log").read_bytes().endswith(b"line 049\n")

    def test_without_line_ends_and_in_bad_utf8_is_no_obstacle(self, data):
        lines: list[bytes] = []

        async def scene():
            async with quiet(data) as supervisor:
                script = "head -c 200000 /dev/zero | tr '\\\\0' '\\\\377'; exec sleep 60"
                await supervisor.start(shell("api", script, lines=lines.append))
                await eventually(lambda: sum(map(len, lines)) >= 131_072)
                assert len(lines) > 1

        play(scene())
        assert sum(map(len, lines)) == 200_000

    def test_that_cannot_be_written_ends_nothing(self, data):
        def full(line: bytes) -> None:
            raise OSError(28, "No space left on device")

        async def scene():
            async with quiet(data) as supervisor:
                script = f"for n in 1 2 3; do echo $n || exit; sleep 0.05; done; touch {data / 'done'}; exec sleep 60"
                await supervisor.start(shell("api", script, lines=full))
                await eventually((data / "done").exists)
                assert told(data, "api").restarts == 0

        play(scene())


class TestBackoff:
    @given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.01, 10), st.floats(10, 100))
    def test_stays_between_half_and_the_whole_of_the_doubled_pause(self, failures, chance, first, limit):
        whole = min(limit, first * 2 ** min(failures - 1, 30))
        assert whole / 2 <= Backoff(first, limit).delay_seconds(failures, chance) <= whole

    @given(st.integers(1, 100))
    def test_never_shrinks_as_failures_go_on(self, failures):
        backoff = Backoff()
        assert backoff.delay_seconds(failures, 0.5) <= backoff.delay_seconds(failures + 1, 0.5)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"supervisor": 1}', b"\xff"])
def test_a_broken_status_file_says_that_nobody_lives(tmp_path, content):
    file = tmp_path / "parts.json"
    file.write_bytes(content)
    assert read_parts(file) is None


def test_no_status_file_says_that_nobody_lives(tmp_path):
    assert read_parts(tmp_path / "parts.json") is None
