"""Secrets in environment variables, read when they are asked for."""

import os
import re
from collections.abc import Mapping

from muniment_client.secrets.store import Reference, SecretNotFound, SecretValue, newest, usable

PREFIX = "MUNIMENT_SECRET_"
NOT_IN_NAMES = re.compile(r"[^A-Z0-9]")


class Environment:
    """`secret://smtp/main` is MUNIMENT_SECRET_SMTP_MAIN, and `secret://smtp/main#2` MUNIMENT_SECRET_SMTP_MAIN_V2.

    Without the plain variable, the latest one is that of the highest version. Names that differ only in case or in
    what isn't a letter or digit are one variable. A process's environment doesn't change: a rotation is a restart.
    """

    kind = "environment"

    def __init__(self, environ: Mapping[str, str] = os.environ, prefix: str = PREFIX) -> None:
        self._environ = environ
        self._prefix = prefix

    def fetch(self, reference: Reference) -> SecretValue:
        """Raises SecretNotFound, SecretUnusable."""
        variable = self.variable(reference)
        version = reference.version
        if variable not in self._environ and version is None:
            version = self._latest(variable)
            variable = variable if version is None else f"{variable}_V{version}"
        if variable not in self._environ:
            raise SecretNotFound(f"{reference}: there is no variable {variable}")
        return SecretValue(usable(reference, self._environ[variable]), version)

    def maintain(self) -> None:
        """There is nothing to do."""

    def variable(self, reference: Reference) -> str:
        """The name of its variable."""
        name = self._prefix + NOT_IN_NAMES.sub("_", reference.name.upper())
        return name if reference.version is None else f"{name}_V{NOT_IN_NAMES.sub('_', reference.version.upper())}"

    def _latest(self, variable: str) -> str | None:
        start = f"{variable}_V"
        return newest(each.removeprefix(start) for each in self._environ if each.startswith(start))
