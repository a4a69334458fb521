"""One setting as data: where it belongs, what may be in it, whether it can change while a process runs.

The same data reads the environment (`Settings.from_env`), makes the documentation, and is the schema of the platform's
own namespaces of configuration (`infra/configuration/schemas.py`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

VARIABLE_PREFIX = "MUNIMENT_"

UNITS = {
    "seconds": "s", "hours": "h", "days": "days", "bytes": "bytes", "chars": "characters", "events": "events",
    "messages": "messages",
}  # fmt: skip
"""What the end of a name says about the unit."""

REFERENCE = "secret://"


def is_reference(value: Any) -> bool:
    """Whether it is the name of a secret, and not what that names."""
    return isinstance(value, str) and value.startswith(REFERENCE)


Values = Mapping[str, Any]
Problem = tuple[str, str]
"""A field's name, and what is wrong with it."""
Rule = Callable[[Values], Iterable[Problem]]
"""What several fields of a namespace have to say together: yields what is wrong."""
Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""A stored document as the next number of the schema has it."""


class SettingsError(Exception):
    """A setting is wrong. The message is one line that names it."""


@dataclass(frozen=True)
class Section:
    """Some settings that belong together: a namespace of configuration, and a part of the documentation."""

    namespace: str
    title: str

    def __call__(
        self,
        default: Any,
        help: str,  # noqa: A002
        *,
        hot: bool = False,
        least: float | None = None,
        most: float | None = None,
        unit: str = "",
        choices: tuple[str, ...] = (),
        pattern: str = "",
        example: str = "",
        secret: bool = False,
        reference: bool = False,
    ) -> Any:
        """A setting of this section, as the field of a dataclass. See `Setting`."""
        return field(
            default=default,
            repr=not secret,
            metadata={
                "section": self, "help": help, "hot": hot, "least": least, "most": most, "unit": unit,
                "choices": choices, "pattern": pattern, "example": example,
                "secret": secret, "reference": reference,
            },
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting.

    `hot`: a stored value counts in every process at once; else it is read from the environment when a process starts,
    and only then. `choices` are all that it may be, `pattern` what its text must match as a whole (`example` words it
    for who got it wrong). `secret`: its value is shown nowhere; with `reference` it may be stored as the name of a
    secret, `secret://name`.
    """

    name: str
    kind: type[Any]
    default: Any
    section: Section
    help: str
    hot: bool = False
    least: float | None = None
    most: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    example: str = ""
    secret: bool = False
    reference: bool = False
    prefix: str = ""
    """What its variable has before its name: of a module's settings the module's name."""

    @classmethod
    def of(cls, made: "Field[Any]", prefix: str = "") -> "Setting":
        """What a dataclass's field says."""
        said = dict(made.metadata)
        said["unit"] = said["unit"] or UNITS.get(made.name.rpartition("_")[2], "")
        return cls(made.name, type(made.default), made.default, **said, prefix=prefix)

    @property
    def variable(self) -> str:
        """The environment variable that it is read from."""
        return VARIABLE_PREFIX + self.prefix + self.name.upper()

    @property
    def bounds(self) -> str:
        """Between which numbers it must be, in words; empty for anything else."""
        if self.most is not None:
            return f"{self.least:.12g} to {self.most:.12g}"
        return f"at least {self.least:.12g}" if self.least is not None else ""

    def parsed(self, text: str) -> Any:
        """The value that the text of the variable stands for. Raises SettingsError."""
        value = self._converted(text)
        problem = self.problem(value)
        if problem:
            raise SettingsError(f"{self.variable}: {problem}, not {'this' if self.secret else text}")
        return value

    def problem(self, value: Any) -> str:
        """What such a value must be, where it isn't; else nothing. Its type is right already."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            # not (a <= b): a bound is kept by no number that isn't one
            below = self.least is not None and not value >= self.least
            above = self.most is not None and not value <= self.most
            return self.bounds if below or above else ""
        if is_reference(value):
            return self._reference_problem(value)
        if self.choices and str(value).lower() not in self.choices:
            return " or ".join((", ".join(self.choices[:-1]), self.choices[-1]))
        if self.pattern and not re.fullmatch(self.pattern, str(value)):
            return f"such as {self.example}"
        return ""

    def _reference_problem(self, value: str) -> str:
        if not self.reference:
            return "the value itself: a reference isn't resolved here"
        from domain.configuration import reference  # noqa: PLC0415 - most settings need none of it

        return "" if reference.is_reference(value) else "secret://NAME or secret://NAME#VERSION"

    def _converted(self, text: str) -> Any:
        if self.kind is bool:
            if text.lower() not in {"true", "false", "yes", "no", "1", "0"}:
                raise SettingsError(f"{self.variable}: true or false, not {text!r}")
            return text.lower() in {"true", "yes", "1"}
        if self.kind in {int, float}:
            try:
                return self.kind(text)
            except ValueError:
                raise SettingsError(f"{self.variable}: a number is needed, not {text!r}") from None
        if issubclass(self.kind, Path):
            return Path(text)
        return text.lower() if self.choices else text


@dataclass(frozen=True, eq=False)
class Declaration:
    """A namespace as data: its settings, what these must say together, and the number of its schema.

    `upcasts` bring documents of a lower number up by one. See `domain.configuration.schema.DocumentSchema`.
    """

    section: Section
    settings: tuple[Setting, ...]
    rules: tuple[Rule, ...] = ()
    version: int = 1
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)

    def from_env(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """The values that variables give, each for itself. Raises SettingsError naming the variable."""
        return {
            each.name: each.parsed(text) for each in self.settings if (text := environ.get(each.variable, "").strip())
        }

    def check(self, values: Values) -> None:
        """What the rules say of all values. Raises SettingsError naming the variable."""
        variables = {each.name: each.variable for each in self.settings}
        for rule in self.rules:
            try:
                problems = [f"{variables[name]}: {problem}" for name, problem in rule(values)]
            except Exception as error:  # a rule may be anybody's
                name = self.section.namespace
                raise SettingsError(f"the settings of {name}: a rule fails with {type(error).__name__}") from error
            if problems:
                raise SettingsError(problems[0])

    def to_env(self, values: Values) -> dict[str, str]:
        """The variables that give these values to a child process."""
        return {each.variable: str(value) for each in self.settings if (value := values[each.name]) != each.default}
