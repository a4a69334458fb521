"""Settings of a module of one's own: declared, refused, read, stored, followed, and told of like the platform's."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from infra.settings import Section, Settings, SettingsError, at_most
from runtime import modules
from runtime.environment import environment
from runtime.module import ConfigSchema, Module
from runtime.registry import with_modules
from tests.runtime.bakery import BAKERY, SCHEMA, BakerySettings, fails, joined, with_


def declaring(name: str = "bakery", **fields: Any) -> ConfigSchema:
    """The settings of a class made of these fields."""
    return ConfigSchema(dataclass(frozen=True)(type("Made", (), {"__annotations__": {
        key: type(made.default) for key, made in fields.items()}, **fields})))  # fmt: skip


# --- what can't be declared


@dataclass
class Loose:
    oven_degrees: int = BAKERY(220, "of the oven")


@dataclass(frozen=True)
class Elsewhere:
    oven_degrees: int = Section("oven", "the oven")(220, "of the oven")


@dataclass(frozen=True)
class Bare:
    oven_degrees: int = 220


@dataclass(frozen=True)
class Mixed:
    oven_degrees: float = BAKERY(220, "of the oven")


@dataclass(frozen=True)
class Choosy:
    oven_degrees: int = BAKERY(220, "of the oven")

    def __post_init__(self) -> None:
        """Nobody could say which field is wrong."""


@dataclass(frozen=True)
class Vague:
    oven: "Nowhere" = BAKERY("", "degrees")  # type: ignore[name-defined]  # noqa: F821, RUF009


@dataclass(frozen=True, slots=True)
class Slotted:
    oven: int = BAKERY(200, "degrees")


@dataclass(frozen=True)
class Nothing:
    """No settings."""


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (BakerySettings, "config_schema: <class 'tests.runtime.bakery.BakerySettings'> is no "),
        (ConfigSchema(Loose), "config_schema: <class 'tests.runtime.test_own_settings.Loose'> is no frozen dataclass"),
        (ConfigSchema(7), "config_schema: 7 is no frozen dataclass"),
        (ConfigSchema(Choosy), "config_schema: Choosy has a __post_init__: what several fields have to say together"),
        (ConfigSchema(Nothing), "config_schema: Nothing has no settings"),
        (ConfigSchema(Elsewhere), "oven_degrees isn't made by a Section of the name bakery"),
        (ConfigSchema(Bare), "oven_degrees isn't made by a Section of the name bakery"),
        (ConfigSchema(Mixed), "oven_degrees: its default 220 isn't of the type that it says"),
        (declaring(oven=BAKERY(("rye",), "flours")), "oven is none of bool, int, float, str, Path"),
        (declaring(oven=BAKERY(90, "degrees", least=100)), "the default of oven must be at least 100"),
        (
            declaring(flour=BAKERY("oat", "flour", choices=("rye", "wheat"))),
            "the default of flour must be rye or wheat",
        ),
        (declaring(flour=BAKERY("rye", "flour", pattern="(?=r)rye")), "InvalidSchema: schema.properties.flour.pattern"),
        (declaring(oven=BAKERY(float("inf"), "degrees")), "oven: inf is no number that JSON has"),
        (declaring(key=BAKERY("1234", "key", secret=True)), "key: a secret has no default but the empty text"),
        (declaring(key=BAKERY("", "key", reference=True)), "key: what may be a reference is a secret"),
        (ConfigSchema(Vague), "config_schema: NameError: name 'Nowhere' is not defined"),
        (declaring(key=BAKERY("", "key", hot=True, secret=True)), "key: a secret that is hot is a reference"),
        (replace(SCHEMA, version=0), "0 can't be the number of a schema"),
        (
            replace(SCHEMA, rules=(at_most("longest_rest_hours", "rest_hours"),)),
            "the default of longest_rest_hours: at",
        ),
        (replace(SCHEMA, rules=(lambda values: values["butter"],)), "config_schema: KeyError: 'butter'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_cant_be_declared_are_refused_in_one_line(schema, says):
    with pytest.raises(SettingsError) as refused:
        joined(with_(config_schema=schema))
    assert str(refused.value).startswith("MUNIMENT_MODULES: shop:MODULE: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("live", "readers_max", "live: the namespace live is taken by the platform"),
        ("worker", "threads", "worker: the variable MUNIMENT_WORKER_THREADS is taken by the platform"),
        ("secret", "mail", "config_schema: MUNIMENT_SECRET_MAIL would be a secret's variable"),
        ("two__words", "mail", "config_schema: Invalid: name: must be lower-case words"),
    ],
)
def test_names_that_are_taken_are_refused_in_one_line(name, setting, says):
    schema = declaring(**{setting: Section(name, "it")(7, "so many")})
    with pytest.raises(SettingsError) as refused:
        joined(Module(name, config_schema=schema))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


# --- the environment


def test_the_environment_says_them_under_the_modules_name():
    environ = {"MUNIMENT_BAKERY_OVEN_DEGREES": "250", "MUNIMENT_BAKERY_REST_HOURS": "3"}
    settings = with_modules(Settings(), [with_(config_schema=SCHEMA)], environ)
    assert settings.of(BakerySettings) == BakerySettings(oven_degrees=250, rest_hours=3.0)
    assert settings.to_env() == {"MUNIMENT_BAKERY_OVEN_DEGREES": "250", "MUNIMENT_BAKERY_REST_HOURS": "3.0"}


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("OVEN_DEGREES", "hot", "a number is needed, not 'hot'"),
        ("OVEN_DEGREES", "900", "100 to 300, not 900"),
        ("FLOUR", "oat", "rye or wheat, not oat"),
        ("REST_HOURS", "20", "at most longest_rest_hours, which is 12.0"),
    ],
)
def test_a_variable_that_says_what_cant_be_is_named(variable, text, says):
    with pytest.raises(SettingsError, match=f"^MUNIMENT_BAKERY_{variable}: {says}$"):
        with_modules(Settings(), [with_(config_schema=SCHEMA)], {f"MUNIMENT_BAKERY_{variable}": text})


def test_a_class_with_slots_will_do():
    joined(with_(config_schema=ConfigSchema(Slotted)))
    settings = with_modules(Settings(), [with_(config_schema=ConfigSchema(Slotted))], {"MUNIMENT_BAKERY_OVEN": "90"})
    assert (settings.of(Slotted).oven, settings.to_env()) == (90, {"MUNIMENT_BAKERY_OVEN": "90"})


def test_a_rule_that_fails_at_the_start_is_one_line():
    module = with_(config_schema=replace(SCHEMA, rules=(fails,)))
    with pytest.raises(SettingsError, match=r"^the settings of bakery: a rule fails with ZeroDivisionError$"):
        with_modules(Settings(), [module], {"MUNIMENT_BAKERY_OVEN_DEGREES": "250"})


def test_a_part_is_told_them_and_nobody_elses(monkeypatch):
    whole = joined(with_(config_schema=SCHEMA))
    monkeypatch.setattr(modules, "registry", lambda: whole)
    monkeypatch.setenv("MUNIMENT_BAKERY_FLOUR", "wheat")
    told = environment(whole.with_own(Settings()))
    assert {name: text for name, text in told.items() if "BAKERY" in name} == {"MUNIMENT_BAKERY_FLOUR": "wheat"}


def test_what_no_module_declares_isnt_there():
    with pytest.raises(SettingsError, match="BakerySettings: no module that is loaded declares these settings"):
        Settings().of(BakerySettings)
