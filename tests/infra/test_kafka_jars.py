"""Fetching Kafka where Java or Maven is missing, old or unlucky: stand-ins for both programs, nothing is fetched."""

from pathlib import Path

import pytest

from infra.embedded import StartError
from infra.embedded.kafka_jars import ProgramMissing, cache_folder, jars, java


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_machine_without_java_is_told_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ProgramMissing, match="needs Java 17 or later, and there is no java here"):
        java({"PATH": str(tmp_path)})


@pytest.mark.parametrize(("said", "version"), [("11.0.2", "11"), ("1.8.0_412", "1")])
def test_an_old_java_is_refused_by_its_version(tmp_path: Path, said: str, version: str) -> None:
    program(tmp_path, "java", f"""echo 'openjdk version "{said}"' >&2""")
    with pytest.raises(ProgramMissing, match=f"is Java {version}$"):
        java({"PATH": str(tmp_path)})


def test_java_home_goes_before_the_path(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin", "java", """echo 'openjdk version "21.0.1" 2023-10-17' >&2""")
    assert java({"JAVA_HOME": str(tmp_path), "PATH": "/nowhere"}) == (tmp_path / "bin" / "java").resolve()


def test_a_machine_without_maven_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match=r"Maven \(mvn\) is needed to fetch Apache Kafka"):
        jars(tmp_path / "cache")


def test_a_failed_fetch_says_mavens_reason_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "mvn", "echo '[ERROR] Unknown host repo.example'; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(StartError, match=r"couldn't fetch .*: Unknown host repo\.example") as failed:
        jars(tmp_path / "cache")
    assert not isinstance(failed.value, ProgramMissing)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_a_fetch_that_brought_no_kafka_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "mvn", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(StartError, match="couldn't fetch"):
        jars(tmp_path / "cache")


def test_what_was_fetched_once_needs_no_maven_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.setenv("PATH", "/nowhere")
    assert jars(tmp_path) == tmp_path / "lib"


def test_the_cache_is_where_the_machine_keeps_such_things() -> None:
    assert cache_folder({"HOME": "/home/ada"}) == Path("/home/ada/.cache/muniment/kafka-4.1.0")
    assert cache_folder({"HOME": "/home/ada", "XDG_CACHE_HOME": "/c"}) == Path("/c/muniment/kafka-4.1.0")
