"""The schemas of the platform's own namespaces: made from the settings themselves, with their bounds and rules.

Those of modules of one's own come about in the same way, from what the modules declare (`infra/own_settings.py`).
"""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from domain.configuration.document import Values
from domain.configuration.schema import HIDDEN, DocumentSchema, Rule
from domain.errors import FieldError
from infra.mail import MailServer, MailUnavailable
from infra.setting import Declaration, Setting, SettingsError, is_reference
from infra.setting import Rule as SettingRule
from infra.settings import DECLARATIONS, Settings

TYPES = {bool: "boolean", int: "integer", float: "number"}


def json_schema(declaration: Declaration) -> dict[str, Any]:
    """A namespace's JSON Schema (2020-12), with the annotations of `domain.configuration.schema`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": declaration.section.title,
        "type": "object",
        "additionalProperties": False,
        "properties": {each.name: _property(each) for each in declaration.settings},
    }


def _property(setting: Setting) -> dict[str, Any]:
    kind = TYPES.get(setting.kind, "string")
    said: dict[str, Any] = {"type": kind, "description": setting.help, "default": plain(setting.default)}
    said["x-variable"] = setting.variable
    bounds = {"minimum": _number(setting, setting.least), "maximum": _number(setting, setting.most)}
    said |= {name: bound for name, bound in bounds.items() if bound is not None}
    if setting.choices:
        said["enum"] = list(setting.choices)
    if setting.pattern:
        said |= {"pattern": f"^(?:{setting.pattern})$", "examples": [setting.example]}
    if setting.unit:
        said["x-unit"] = setting.unit
    if not setting.hot:
        said["x-restart"] = True
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


@cache
def _schema(declaration: Declaration) -> DocumentSchema:
    rules: tuple[Rule, ...] = tuple(partial(_rule, rule) for rule in declaration.rules)
    return DocumentSchema(json_schema(declaration), declaration.version, declaration.upcasts, rules)


SCHEMAS: Mapping[str, DocumentSchema] = {name: _schema(declaration) for name, declaration in DECLARATIONS.items()}
"""Of the platform's own namespaces by name; modules of one's own may have more."""


def schemas_of(settings: Settings) -> Mapping[str, DocumentSchema]:
    """Of all namespaces that come with the software of a process: the platform's, and those of its modules."""
    own = {each.namespace: _schema(each.schema.declaration) for each in settings.own}
    return {**SCHEMAS, **own}


def settings_of(settings: Settings, namespace: str) -> tuple[Setting, ...]:
    """The settings of one of these namespaces, in order."""
    if namespace in DECLARATIONS:
        return DECLARATIONS[namespace].settings
    return next((each.schema.declaration.settings for each in settings.own if each.namespace == namespace), ())


def file_values(settings: Settings, namespace: str) -> dict[str, Any]:
    """What the environment says of a namespace; a secret's value as HIDDEN."""
    values = settings.of_namespace(namespace)
    return {
        each.name: HIDDEN if each.secret and not is_reference(value) else plain(value)
        for each in settings_of(settings, namespace)
        if (value := getattr(values, each.name)) != each.default
    }


def typed(settings: Settings, namespace: str, whole: Values) -> dict[str, Any]:
    """Values as the settings have them: JSON's 5 is a float where one is meant. They fit the schema already."""
    return {each.name: each.kind(whole[each.name]) for each in settings_of(settings, namespace) if each.name in whole}


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
