"""Settings of a module of one's own: declared, read, stored and followed as the platform's are.

    SHOP = Section("shop", "the shop")

    @dataclass(frozen=True)
    class ShopSettings:
        basket_hours: int = SHOP(24, "how long a basket is kept", hot=True, least=1, most=720)

    MODULE = Module("shop", config_schema=ConfigSchema(ShopSettings), ...)

and, wherever there are settings, `settings.of(ShopSettings).basket_hours`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Self, get_type_hints

from infra.setting import Declaration, Rule, Section, Setting, Upcast, Values

KINDS = (bool, int, float, str, Path)
"""What a setting may be."""


@dataclass(frozen=True, eq=False)
class ConfigSchema:
    """What a module declares as its namespace of configuration, whose name is the module's.

    `settings` is a frozen dataclass, each field of which is made by one `Section` of that name: the setting x is read
    from `MUNIMENT_<NAME>_X`, over that counts what is stored. `rules` are what several fields have to say together.
    `version` is the schema's number; `upcasts` bring documents of a lower one up, each by one.
    """

    settings: type[Any]
    rules: tuple[Rule, ...] = ()
    version: int = 1
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)

    @cached_property
    def declaration(self) -> Declaration:
        """The namespace as data. What it is made of is sound (`objections`)."""
        made = fields(self.settings)
        section: Section = made[0].metadata["section"]
        prefix = f"{section.namespace.upper()}_"
        settings = tuple(Setting.of(each, prefix) for each in made)
        return Declaration(section, settings, self.rules, self.version, self.upcasts)

    def read(self, environ: Mapping[str, str]) -> "Own":
        """The settings that the environment says. Raises SettingsError naming the variable."""
        values = self.settings(**self.declaration.from_env(environ))
        self.declaration.check(values_of(values))
        return Own(self, values)

    def objections(self, name: str) -> Iterator[str]:
        """What is wrong with it as the settings of the module of this name."""
        kind: Any = self.settings
        made_by: Any = getattr(kind, "__dataclass_params__", None)
        if not (isinstance(kind, type) and is_dataclass(kind) and made_by.frozen):
            yield f"{kind!r} is no frozen dataclass"
            return
        if hasattr(kind, "__post_init__"):
            yield f"{kind.__qualname__} has a __post_init__: what several fields have to say together is a rule"
        if not fields(kind):
            yield f"{kind.__qualname__} has no settings"
            return
        hints = get_type_hints(kind)
        for made in fields(kind):
            section = made.metadata.get("section")
            if not isinstance(section, Section) or section.namespace != name:
                yield f"{made.name} isn't made by a Section of the name {name}"
            else:
                yield from _kind(made, hints[made.name])
        if self.version < 1:
            yield f"{self.version!r} can't be the number of a schema"

    def flaws(self) -> Iterator[str]:
        """What is wrong with the defaults, once the form is right."""
        defaults = values_of(self.settings())
        for setting in self.declaration.settings:
            if problem := setting.problem(defaults[setting.name]):
                yield f"the default of {setting.name} must be {problem}"
        for rule in self.rules:
            for name, problem in rule(defaults):
                yield f"the default of {name}: {problem}" if name in defaults else f"a rule is about {name!r}"


def values_of(settings: Any) -> dict[str, Any]:
    """By name, of a class with slots, too."""
    return {each.name: getattr(settings, each.name) for each in fields(settings)}


def _kind(made: "Field[Any]", hint: object) -> Iterator[str]:
    default, said = made.default, made.metadata
    kind = Path if isinstance(default, Path) else type(default)
    if default is MISSING or kind not in KINDS:
        yield f"{made.name} is none of {', '.join(each.__name__ for each in KINDS)}"
    elif hint is not kind:
        yield f"{made.name}: its default {default!r} isn't of the type that it says"
    elif isinstance(default, float) and not isfinite(default):
        yield f"{made.name}: {default} is no number that JSON has"
    elif said["secret"] and default != "":
        yield f"{made.name}: a secret has no default but the empty text: everybody is shown it"
    elif said["hot"] and said["secret"] and not said["reference"]:
        yield f"{made.name}: a secret that is hot is a reference (reference=True)"
    elif said["reference"] and not said["secret"]:
        yield f"{made.name}: what may be a reference is a secret (secret=True)"


@dataclass(frozen=True)
class Own:
    """The settings of a module with their values: an instance of the class that declares them."""

    schema: ConfigSchema
    values: Any

    @property
    def namespace(self) -> str:
        """Its name, which is the module's."""
        return self.schema.declaration.section.namespace

    def with_values(self, values: Values) -> Self:
        """With others in their place."""
        return replace(self, values=replace(self.values, **values)) if values else self

    def to_env(self) -> dict[str, str]:
        """The variables that give them to a child process."""
        return self.schema.declaration.to_env(values_of(self.values))
