"""Modules of one's own, as `MUNIMENT_MODULES` names them: imported, checked, put in order.

Every process does this before anything else, and all with the same list. What is wrong is one line.
"""

import re
from collections.abc import Sequence
from importlib import import_module

from infra.settings import Settings, listed
from runtime.joining import WrongModules, check
from runtime.module import Module
from runtime.registry import Registry

_ENTRY = re.compile(r"(?P<path>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")


def registry(platform: Sequence[Module], settings: Settings) -> Registry:
    """The platform's modules and those that the setting names, as `package.module:ATTRIBUTE,...`.

    Raises WrongModules.
    """
    named = [(entry, found(entry)) for entry in listed(settings.modules)]
    check(platform, named, settings)
    return Registry(tuple(platform), _in_order([module for _, module in named]))


def found(entry: str) -> Module:
    """What one entry names. Raises WrongModules."""
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise WrongModules(f"{entry!r} isn't of the form package.module:ATTRIBUTE")
    path, attribute = match["path"], match["attribute"]
    try:
        package = import_module(path)
    except (Exception, SystemExit) as error:  # the author's code may fail in any way
        raise WrongModules(f"{path} can't be imported: {_told(error, path)}") from error
    if not hasattr(package, attribute):
        raise WrongModules(f"{path} has no attribute {attribute}")
    module = getattr(package, attribute)
    if not isinstance(module, Module):
        kind = type(module)
        raise WrongModules(f"{entry} is no runtime.module.Module, but a {kind.__module__}.{kind.__qualname__}")
    return module


def _told(error: BaseException, path: str) -> str:
    text = f"{type(error).__name__}: {error}"
    is_itself = isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}.")
    return f"{text} (is it installed, or on PYTHONPATH?)" if is_itself else text


def _in_order(modules: Sequence[Module]) -> tuple[Module, ...]:
    """Dependencies first; where these leave a choice, as given. They have been checked: there is no circle."""
    by_name = {module.name: module for module in modules}
    ordered: dict[str, Module] = {}

    def visit(module: Module) -> None:
        for name in module.depends_on:
            if name in by_name:
                visit(by_name[name])
        ordered.setdefault(module.name, module)

    for module in modules:
        visit(module)
    return tuple(ordered.values())
