"""The record by which a module joins the platform: ours (`runtime/modules.py`) and those of one's own alike.

    MODULE = Module("invoicing", aggregates=(Invoice,), projections=(INVOICES,), routes=ROUTES, ...)

and `MUNIMENT_MODULES=shop.invoicing:MODULE`. docs/modules.md goes through it field by field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from api.routing import Route
from commands.jobs.schedules import OwnSchedule
from domain.aggregate import Aggregate
from domain.jobs import JobType
from infra.inline import Inline
from infra.own_settings import ConfigSchema
from infra.settings import Settings
from projections.meaning import Meaning
from projections.projection import Projection
from runtime.cli.lazy import Lazy
from stream_apps.reactions import Reaction

Event = Aggregate.Event


def _none(_: Settings) -> tuple[Reaction, ...]:
    return ()


@dataclass(frozen=True)
class Module:
    """One module: what it needs, what it decides about (`aggregates`), what it shows, what it answers.

    `name` is the first part of its topics, and names its topic on Kafka and its migrations. `depends_on` are modules
    that are migrated before it. `former` are declarations of earlier versions whose builds are fed on for as long as
    processes of the release before may read them. `reactions` is what it does because of events, as the settings say;
    `jobs` are the types of job that it declares, `schedules` what it has enqueued at which times (created once, and the
    operators' from then on). `permissions` are those that it introduces, `resource:action`. `config_schema` declares
    its settings (the platform's own are those of `infra/settings.py`). `variables` are the environment variables that
    it reads beside, which `muniment up` hands on to the parts. `cli` are its commands by name
    (`muniment NAME`), each imported when it is used. Each of its events stands in `audited`, with what it means to an
    auditor, or in `routine`, where it means nothing to one (for the platform's own, audit says it).
    """

    name: str
    depends_on: tuple[str, ...] = ()
    migrations: Path | None = None
    aggregates: tuple[type[Aggregate], ...] = ()
    projections: tuple[Projection, ...] = ()
    former: tuple[Projection, ...] = ()
    inline: tuple[Inline, ...] = ()
    routes: Sequence[Route] = ()
    reactions: Callable[[Settings], tuple[Reaction, ...]] = _none
    jobs: tuple[JobType, ...] = ()
    schedules: tuple[OwnSchedule, ...] = ()
    permissions: tuple[str, ...] = ()
    config_schema: ConfigSchema | None = None
    variables: tuple[str, ...] = ()
    cli: Mapping[str, Lazy] = field(default_factory=dict)
    audited: Mapping[type[Event], Meaning] = field(default_factory=dict)
    routine: frozenset[type[Event]] = frozenset()


__all__ = ["ConfigSchema", "Event", "Lazy", "Module"]
