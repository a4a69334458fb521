"""Which code folds an aggregate: a digest of all that may decide what comes out of its events.

A snapshot counts only for the very code that made it. So nobody has to remember to change a number when a rule
changes: any change of the packages that an aggregate is written in puts its snapshots out of reach.
"""

import hashlib
import logging
import os
import platform
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

logger = logging.getLogger("muniment.snapshots")

FORMAT = 1
"""Of what `state` writes."""
FILES_LIMIT = 5_000
"""Of one package; a larger one gets no snapshots."""
GRACE_SECONDS = 2.0
"""What has changed since so long before this process began may not be what it has loaded."""
_OF_OTHERS = frozenset({"builtins", "abc", "typing", "eventsourcing"})
_BEGUN = time.time()


def packages_of(kind: type[Any]) -> tuple[str, ...]:
    """The top packages that an aggregate's class and its bases are written in: `domain`, and that of one's own."""
    found = {base.__module__.partition(".")[0] for base in kind.__mro__}
    return tuple(sorted(found - _OF_OTHERS))


def code_of(kind: type[Any]) -> str | None:
    """The digest of the code that folds this kind of aggregate; None where it can't be told: trust none."""
    parts = [digest_of(package) for package in packages_of(kind)]
    return None if None in parts else hashlib.sha256("".join(map(str, parts)).encode()).hexdigest()[:32]


@cache
def digest_of(package: str) -> str | None:
    """A digest of a package's source, of Python and of the library that folds."""
    files = _files_of(package)
    if not files or len(files) > FILES_LIMIT:
        logger.info("no snapshots of what %s folds: its source isn't there, or too large", package)
        return None
    digest = hashlib.sha256(f"{FORMAT} {platform.python_version()} {version('eventsourcing')} {package}".encode())
    for name, path in files:
        try:
            source, changed = path.read_bytes(), path.stat().st_ctime
        except OSError as error:
            logger.info("no snapshots of what %s folds: %s", package, error)
            return None
        if changed > _BEGUN - GRACE_SECONDS:
            logger.info("no snapshots of what %s folds: %s has changed since this process began", package, name)
            return None
        digest.update(b"%d %s %d " % (len(name), os.fsencode(name), len(source)) + source)
    return digest.hexdigest()


def _files_of(package: str) -> list[tuple[str, Path]]:
    module = sys.modules.get(package)
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if not folders:
        file = getattr(module, "__file__", None)
        return [(Path(file).name, Path(file))] if file and file.endswith(".py") else []
    return sorted((path.relative_to(folder).as_posix(), path) for folder in folders for path in folder.rglob("*.py"))
