"""The table of contents: what the platform is made of. No scanning: what isn't here isn't there.

Modules of one's own (`MUNIMENT_MODULES`) come behind these, by the same record.
"""

from pathlib import Path

import infra
from api import access as access_api
from api import audit as audit_api
from api import configuration as configuration_api
from api import events as events_api
from api import identity as identity_api
from api import jobs as jobs_api
from api import projections as projections_api
from api import reactions as reactions_api
from api.routing import Route
from domain.access import Role, UserAssignments
from domain.analytics import AnalyticsReader
from domain.audit import Entry, LogExport, LogRead, Refusal
from domain.backup import Backup, Restoration
from domain.builds import BuildDrop, CutOver, Rebuild, Rollback
from domain.configuration import Namespace
from domain.identity import EmailClaim, EmailVerification, Keyring, LoginAttempts, Onboarding, Session, User
from domain.jobs import Job, JobKey, JobTypes, Queue
from domain.jobs.occurrence import Occurrence
from domain.jobs.schedule import Schedule
from domain.projections import Retry, Skip
from domain.verification import Finding, Repair
from infra.configuration.heads import HEADS
from infra.inline import Inline
from infra.job_queue import JOB_QUEUE
from infra.migrate import Source
from infra.schedules import SCHEDULES
from infra.settings import Settings
from projections.access import ACCESS
from projections.audit import AUDIT, AUDITED, ROUTINE
from projections.identity import SESSIONS, USERS
from projections.jobs import JOBS
from projections.projection import Projection
from projections.schedules import SCHEDULE_VIEW
from projections.skips import SKIPS
from projections.wishes import WISHES
from runtime.module import Module
from runtime.registry import Registry
from stream_apps.access import default_role
from stream_apps.identity import EMAIL_VERIFICATION, ONBOARDING
from stream_apps.jobs.builtin import BUILTIN
from stream_apps.jobs.chores import CHORES, TIMES
from stream_apps.jobs.mail import MAILS, verification_mail
from stream_apps.reactions import Reaction

MIGRATIONS = Path(infra.__file__).parent / "migrations"


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
        audited=AUDITED,
        routine=ROUTINE,
    ),
    Module(
        "jobs",
        depends_on=("log", "projections"),
        migrations=MIGRATIONS / "jobs",
        aggregates=(Job, JobKey, Queue, Schedule, Occurrence),
        projections=(JOBS, SCHEDULE_VIEW),
        inline=(JOB_QUEUE, SCHEDULES),
        jobs=(*BUILTIN, *CHORES, *MAILS),
        reactions=lambda settings: (verification_mail(settings),),
        schedules=TIMES,
        routes=jobs_api.ROUTES,
    ),
    Module(
        "configuration",
        depends_on=("log",),
        migrations=MIGRATIONS / "configuration",
        aggregates=(Namespace,),
        inline=(HEADS,),
        routes=configuration_api.ROUTES,
    ),
)


class _Loaded:
    registry = Registry(MODULES)


def load(settings: Settings) -> Settings:
    """Adds the modules of one's own that the settings name, for this process. The first thing that a process does.

    The settings come back with those of the modules, as the environment says them. Raises SettingsError, with one line
    that names what is wrong.
    """
    if settings.modules:
        # what checks them isn't needed by whoever has none
        from runtime.own_modules import registry  # noqa: PLC0415

        _Loaded.registry = registry(MODULES, settings)
    else:
        _Loaded.registry = Registry(MODULES)
    return _Loaded.registry.with_own(settings)


def registry() -> Registry:
    """All that this process is made of."""
    return _Loaded.registry


def sources() -> list[Source]:
    """The migrations of all modules."""
    return registry().sources()


def projections() -> tuple[Projection, ...]:
    """All read models."""
    return registry().projections


def declared() -> tuple[Projection, ...]:
    """All read models, and their earlier versions that are still fed."""
    return registry().declared


def inline_tables() -> tuple[Inline, ...]:
    """All tables that are written in the commit."""
    return registry().inline_tables


def routes() -> list[Route]:
    """All routes."""
    return registry().routes


def reactions(settings: Settings) -> tuple[Reaction, ...]:
    """All reactions. Raises SettingsError for a default role that can't be one."""
    return registry().reactions(settings)


def job_types() -> JobTypes:
    """All types of job."""
    return registry().job_types
