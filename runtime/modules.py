"""The table of contents: what the platform is made of. No scanning: what isn't here isn't there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import infra
from api import access as access_api
from api import audit as audit_api
from api import events as events_api
from api import identity as identity_api
from api import projections as projections_api
from api import reactions as reactions_api
from api.routing import Route
from domain.access import Role, UserAssignments
from domain.aggregate import Aggregate
from domain.analytics import AnalyticsReader
from domain.audit import Entry, LogExport, LogRead, Refusal
from domain.backup import Backup, Restoration
from domain.builds import BuildDrop, CutOver, Rebuild, Rollback
from domain.identity import EmailClaim, EmailVerification, Keyring, LoginAttempts, Onboarding, Session, User
from domain.jobs import Job, JobKey, Queue
from domain.projections import Retry, Skip
from domain.verification import Finding, Repair
from infra.inline import Inline
from infra.job_queue import JOB_QUEUE
from infra.migrate import Source
from infra.settings import Settings
from projections.access import ACCESS
from projections.audit import AUDIT
from projections.identity import SESSIONS, USERS
from projections.projection import Projection
from projections.skips import SKIPS
from projections.wishes import WISHES
from stream_apps.access import default_role
from stream_apps.identity import EMAIL_VERIFICATION, ONBOARDING
from stream_apps.reactions import Reaction

MIGRATIONS = Path(infra.__file__).parent / "migrations"


@dataclass(frozen=True)
class Module:
    """One module: what it needs, what it decides about (`aggregates`), what it shows, what it answers.

    `former` are declarations of earlier versions whose builds are fed on for as long as processes of the release before
    may read them. `reactions` is what it does because of events, as the settings say.
    """

    name: str
    depends_on: tuple[str, ...] = ()
    migrations: Path | None = None
    aggregates: tuple[type[Aggregate], ...] = ()
    projections: tuple[Projection, ...] = ()
    former: tuple[Projection, ...] = ()
    inline: tuple[Inline, ...] = ()
    routes: Sequence[Route] = ()
    reactions: Callable[[Settings], tuple[Reaction, ...]] = lambda _: ()


MODULES = (
    Module("log", migrations=MIGRATIONS / "log", aggregates=(Backup, Restoration), routes=events_api.ROUTES),
    Module(
        "projections",
        depends_on=("log",),
        migrations=MIGRATIONS / "projections",
        inline=(WISHES, SKIPS),
        aggregates=(Rebuild, CutOver, Rollback, BuildDrop, Retry, Skip, Finding, Repair),
        routes=projections_api.ROUTES,
    ),
    Module("analytics", depends_on=("log",), aggregates=(AnalyticsReader,)),
    Module("reactions", depends_on=("log",), migrations=MIGRATIONS / "reactions", routes=reactions_api.ROUTES),
    Module("bus", depends_on=("log", "projections"), migrations=MIGRATIONS / "bus"),
    Module(
        "identity",
        depends_on=("log", "projections", "reactions"),
        migrations=MIGRATIONS / "identity",
        aggregates=(User, EmailClaim, EmailVerification, Onboarding, Session, LoginAttempts, Keyring),
        projections=(USERS,),
        inline=(SESSIONS,),
        routes=identity_api.ROUTES,
        reactions=lambda _: (EMAIL_VERIFICATION, ONBOARDING),
    ),
    Module(
        "access",
        depends_on=("identity",),
        migrations=MIGRATIONS / "access",
        aggregates=(Role, UserAssignments),
        projections=(ACCESS,),
        routes=access_api.ROUTES,
        reactions=lambda settings: (default_role(settings),),
    ),
    Module(
        "audit",
        depends_on=("log", "projections"),
        migrations=MIGRATIONS / "audit",
        aggregates=(Entry, Refusal, LogRead, LogExport),
        projections=(AUDIT,),
        routes=audit_api.ROUTES,
    ),
    Module(
        "jobs",
        depends_on=("log", "projections"),
        migrations=MIGRATIONS / "jobs",
        aggregates=(Job, JobKey, Queue),
        inline=(JOB_QUEUE,),
    ),
)


def sources() -> list[Source]:
    """The migrations of all modules."""
    return [Source(module.name, module.depends_on, module.migrations) for module in MODULES if module.migrations]


def projections() -> tuple[Projection, ...]:
    """All read models."""
    return tuple(projection for module in MODULES for projection in module.projections)


def declared() -> tuple[Projection, ...]:
    """All read models, and their earlier versions that are still fed."""
    return projections() + tuple(projection for module in MODULES for projection in module.former)


def inline_tables() -> tuple[Inline, ...]:
    """All tables that are written in the commit."""
    return tuple(inline for module in MODULES for inline in module.inline)


def routes() -> list[Route]:
    """All routes."""
    return [route for module in MODULES for route in module.routes]


def reactions(settings: Settings) -> tuple[Reaction, ...]:
    """All reactions. Raises SettingsError for a default role that can't be one."""
    return tuple(reaction for module in MODULES for reaction in module.reactions(settings))
