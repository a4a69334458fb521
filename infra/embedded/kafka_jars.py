"""Apache Kafka's program: fetched by Maven from Maven Central, once, into a cache folder.

Kafka isn't in the wheels' registry, and a JVM can't be brought along either: both Java 17 and Maven must be there
already. Maven checks each file against the checksum that is published beside it.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.embedded.errors import StartError

KAFKA = "4.1.0"
SCALA = "2.13"
SLF4J = "1.7.36"
"""The binding's version is the one of slf4j-api that this Kafka brings; another would be silently ignored."""
COPIER = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
OLDEST_JAVA = 17
"""What Kafka 4's servers need (Kafka's upgrade notes, 4.0)."""
JAVA_TIMEOUT_SECONDS = 20.0
FETCH_TIMEOUT_SECONDS = 900.0
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "JAVA_HOME", "MAVEN_OPTS", "MAVEN_ARGS", "HTTPS_PROXY", "https_proxy")
"""What Maven is told of our environment: where it is, and how it reaches its mirror."""

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>muniment</groupId>
  <artifactId>kafka-node</artifactId>
  <version>{KAFKA}</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_{SCALA}</artifactId>\
<version>{KAFKA}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>\
<version>{SLF4J}</version></dependency>
  </dependencies>
</project>
"""


class ProgramMissing(StartError):
    """A program that Kafka needs isn't on this machine."""


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the program is kept between runs: `~/.cache/muniment/kafka-4.1.0`, or below XDG_CACHE_HOME."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    return Path(base) / "muniment" / f"kafka-{KAFKA}"


def java(environ: Mapping[str, str] = os.environ) -> Path:
    """The Java that runs Kafka: JAVA_HOME's, or the first on PATH. Raises ProgramMissing unless it is 17 or later."""
    home = environ.get("JAVA_HOME")
    found = Path(home) / "bin" / "java" if home else shutil.which("java", path=environ.get("PATH"))
    if not found or not Path(found).exists():
        raise ProgramMissing(f"Apache Kafka needs Java {OLDEST_JAVA} or later, and there is no java here")
    program = Path(found).resolve()
    version = _java_version(program)
    if version < OLDEST_JAVA:
        raise ProgramMissing(f"Apache Kafka needs Java {OLDEST_JAVA} or later, and {program} is Java {version}")
    return program


def _java_version(program: Path) -> int:
    """JEP 223: `"17.0.15"`; before that `"1.8.0_412"`, which is 8 but old enough as 1."""
    try:
        said = subprocess.run(  # noqa: S603 - the machine's own Java
            [str(program), "-version"], capture_output=True, text=True, timeout=JAVA_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"{program} doesn't run: {error}") from None
    match = re.search(r'version "(\d+)', said.stderr + said.stdout)
    if match is None:
        raise StartError(f"{program} doesn't say its version")
    return int(match[1])


def jars(folder: Path | None = None) -> Path:
    """The folder of Kafka's jars, fetched if need be. Raises ProgramMissing without Maven, StartError if it fails."""
    folder = folder or cache_folder()
    lib = folder / "lib"
    if lib.is_dir():
        return lib
    with _held(folder):
        if not lib.is_dir():  # another process was faster
            _fetch(folder, lib)
    return lib


def _fetch(folder: Path, lib: Path) -> None:
    """Copies into a folder beside it, which is then renamed: a `lib` that exists is whole."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ProgramMissing(f"Maven (mvn) is needed to fetch Apache Kafka {KAFKA} the first time, and there is none")
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as work:
        pom, copied = Path(work) / "pom.xml", Path(work) / "lib"
        pom.write_text(POM)
        # -C: a file that doesn't fit its published checksum fails the fetch, where Maven would only warn.
        argv = [
            maven,
            "-q",
            "-B",
            "-C",
            "-f",
            str(pom),
            COPIER,
            f"-DoutputDirectory={copied}",
            "-DincludeScope=runtime",
        ]
        try:
            done = subprocess.run(  # noqa: S603 - the machine's own Maven
                argv,
                env={name: os.environ[name] for name in KEPT if name in os.environ},
                capture_output=True,
                text=True,
                timeout=FETCH_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StartError(f"Maven couldn't fetch Apache Kafka {KAFKA}: {error}") from None
        if done.returncode != 0 or not any(copied.glob("kafka-server-*.jar")):
            raise StartError(f"Maven couldn't fetch Apache Kafka {KAFKA}: {_reason(done.stdout + done.stderr)}")
        copied.rename(lib)


def _reason(output: str) -> str:
    """The first line in which Maven names an error, without its colours."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    named = [line for line in lines if line.startswith("[ERROR]") and len(line) > len("[ERROR] ")]
    return next(iter(named or [line for line in lines if line]), "it says nothing").removeprefix("[ERROR] ")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Only one process fetches (flock(2)). Raises StartError if the folder can't be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StartError(f"can't use the folder {folder}: {error.strerror or error}") from error
