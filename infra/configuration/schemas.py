"""The schemas of the platform's own namespaces: made from the settings themselves, with their bounds and rules."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from domain.configuration.document import Values
from domain.configuration.schema import HIDDEN, DocumentSchema, Rule
from domain.errors import FieldError
from infra.mail import MailServer, MailUnavailable
from infra.setting import Rule as SettingRule
from infra.setting import Section, Setting, SettingsError, is_reference
from infra.setting_rules import RULES
from infra.settings import SECTIONS, SETTINGS, Settings

TYPES = {bool: "boolean", int: "integer", float: "number"}
VERSIONS: Mapping[str, int] = {}
"""The number of a namespace's schema, where it isn't 1: raised when a stored document needs an upcast from here on."""
UPCASTS: Mapping[str, Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}


def settings_of(namespace: str) -> Iterator[Setting]:
    """The settings of a namespace, in order."""
    return (each for each in SETTINGS.values() if each.section.namespace == namespace)


def json_schema(section: Section) -> dict[str, Any]:
    """A namespace's JSON Schema (2020-12), with the annotations of `domain.configuration.schema`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": section.title,
        "type": "object",
        "additionalProperties": False,
        "properties": {each.name: _property(each) for each in settings_of(section.namespace)},
    }


def _property(setting: Setting) -> dict[str, Any]:
    kind = TYPES.get(setting.kind, "string")
    said: dict[str, Any] = {"type": kind, "description": setting.help, "default": plain(setting.default)}
    bounds = {"minimum": _number(setting, setting.least), "maximum": _number(setting, setting.most)}
    said |= {name: bound for name, bound in bounds.items() if bound is not None}
    if setting.choices:
        said["enum"] = list(setting.choices)
    if setting.pattern:
        said |= {"pattern": f"^(?:{setting.pattern})$", "examples": [setting.example]}
    if setting.unit:
        said["x-unit"] = setting.unit
    if not setting.hot:
        said |= {"x-restart": True, "x-variable": setting.variable}
    if setting.secret:
        said["x-secret"] = True
    return said


def _number(setting: Setting, bound: float | None) -> float | None:
    return int(bound) if bound is not None and setting.kind is int else bound


def plain(value: Any) -> Any:
    """A setting's value as JSON has it."""
    return str(value) if isinstance(value, Path) else value


def _rule(rule: SettingRule, whole: Values) -> Iterator[FieldError]:
    return (FieldError(name, problem) for name, problem in rule(whole))


def _schema(section: Section) -> DocumentSchema:
    name = section.namespace
    rules: tuple[Rule, ...] = tuple(partial(_rule, rule) for rule in RULES.get(name, ()))
    return DocumentSchema(json_schema(section), VERSIONS.get(name, 1), UPCASTS.get(name, {}), rules)


SCHEMAS: Mapping[str, DocumentSchema] = {section.namespace: _schema(section) for section in SECTIONS}
"""By the namespace's name."""


def file_values(settings: Settings, namespace: str) -> dict[str, Any]:
    """What the environment says of a namespace; a secret's value as HIDDEN."""
    return {
        each.name: HIDDEN if each.secret and not is_reference(value) else plain(value)
        for each in settings_of(namespace)
        if (value := getattr(settings, each.name)) != each.default
    }


def typed(namespace: str, whole: Values) -> dict[str, Any]:
    """Values as the settings have them: JSON's 5 is a float where one is meant. They fit the schema already."""
    return {each.name: each.kind(whole[each.name]) for each in settings_of(namespace) if each.name in whole}


def unusable(namespace: str, settings: Settings) -> Iterator[FieldError]:
    """What only shows once secrets are resolved. No message holds a value."""
    if namespace != "onboarding":
        return
    try:
        MailServer.of(settings)
    except MailUnavailable:
        return  # the secret isn't at hand: there is nothing to look at
    except SettingsError as error:
        variable, _, problem = str(error).partition(": ")
        yield FieldError(variable.removeprefix("MUNIMENT_").lower(), problem)
