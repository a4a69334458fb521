"""What the modules are together: one list of everything, for every process alike."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from api.routing import Documented, Own, Permission, Route, Self, Within
from commands.jobs.schedules import OwnSchedule
from domain.jobs import JobTypes
from infra.inline import Inline
from infra.migrate import Source
from infra.settings import Settings
from infra.transcoding import events_of
from projections.audit import AUDIT, audit_view
from projections.meaning import Meaning
from projections.projection import Projection
from runtime.cli.lazy import Lazy
from runtime.module import Event, Module
from stream_apps.reactions import Reaction


@dataclass(frozen=True)
class Registry:
    """The platform's modules, and behind them those of one's own (`own`), dependencies first."""

    platform: tuple[Module, ...]
    own: tuple[Module, ...] = ()

    @property
    def modules(self) -> tuple[Module, ...]:
        """All of them."""
        return self.platform + self.own

    def with_own(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings, with those that modules of one's own declare. Raises SettingsError naming the variable."""
        return with_modules(settings, self.own, environ)

    def sources(self) -> list[Source]:
        """The migrations of all modules. Those of one's own come after all of the platform's."""
        return [Source(each.name, self._migrated_before(each), each.migrations) for each in self.modules
                if each.migrations]  # fmt: skip

    def _migrated_before(self, module: Module) -> tuple[str, ...]:
        """Only modules with migrations count; of those without, what they depend on themselves."""
        by_name = {each.name: each for each in self.modules}
        found: dict[str, None] = {}

        def visit(names: Sequence[str]) -> None:
            for each in (by_name[name] for name in names):
                if each.migrations:
                    found[each.name] = None
                else:
                    visit(each.depends_on)

        visit(module.depends_on)
        if module in self.own:
            visit([each.name for each in self.platform])
        return tuple(found)

    @cached_property
    def audited(self) -> dict[type[Event], Meaning]:
        """What each event means to an auditor, where it means something."""
        return {kind: meaning for each in self.modules for kind, meaning in each.audited.items()}

    @cached_property
    def audited_actions(self) -> frozenset[str]:
        """What these events are called in the audit log."""
        return frozenset(meaning.action for meaning in self.audited.values())

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        """All read models. The audit log has the entries of all modules."""
        audit = audit_view(self.audited) if self.own else AUDIT
        declared = (projection for module in self.modules for projection in module.projections)
        return tuple(audit if projection is AUDIT else projection for projection in declared)

    @property
    def declared(self) -> tuple[Projection, ...]:
        """All read models, and their earlier versions that are still fed."""
        return self.projections + tuple(projection for module in self.modules for projection in module.former)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that modules read themselves."""
        return tuple(name for module in self.modules for name in module.variables)

    @property
    def commands(self) -> dict[str, Lazy]:
        """The commands of modules of one's own, by name."""
        return {name: command for module in self.own for name, command in module.cli.items()}

    @property
    def inline_tables(self) -> tuple[Inline, ...]:
        """All tables that are written in the commit."""
        return tuple(inline for module in self.modules for inline in module.inline)

    @property
    def routes(self) -> list[Route]:
        """All routes."""
        return [route for module in self.modules for route in module.routes]

    def reactions(self, settings: Settings) -> tuple[Reaction, ...]:
        """All reactions. Raises SettingsError for a setting that can't be reacted by."""
        return tuple(reaction for module in self.modules for reaction in module.reactions(settings))

    @cached_property
    def job_types(self) -> JobTypes:
        """All types of job."""
        return JobTypes(each for module in self.modules for each in module.jobs)

    @property
    def schedules(self) -> tuple[OwnSchedule, ...]:
        """The schedules that the modules bring along."""
        return tuple(each for module in self.modules for each in module.schedules)

    @property
    def event_types(self) -> dict[str, type[Any]]:
        """Every type of event by its topic."""
        return {topic_of(kind): kind for module in self.modules for kind in events(module)}


def with_modules(settings: Settings, own: Sequence[Module], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings, with those that these modules declare. Raises SettingsError naming the variable."""
    schemas = [module.config_schema for module in own if module.config_schema is not None]
    return replace(settings, own=tuple(schema.read(environ) for schema in schemas))


def events(module: Module) -> Iterator[type[Any]]:
    """The types of event that a module's aggregates record."""
    for aggregate in module.aggregates:
        yield from events_of(aggregate)


def topic_of(kind: type[Any]) -> str:
    """The topic of an aggregate or an event; "" where it has none of its own."""
    return str(getattr(kind, "TOPIC", ""))


def permissions_of(route: Documented) -> Iterator[str]:
    """The permissions that a route asks for."""
    permission = cast("Permission", getattr(route, "permission", None))
    if isinstance(permission, Own | Within):
        yield permission.permission
    elif isinstance(permission, Self) and permission.others:
        yield permission.others
    elif isinstance(permission, str):
        yield permission
