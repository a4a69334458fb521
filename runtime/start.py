"""What has to be done before the parts can run: migrate, create the views' tables, the first start's facts."""

import secrets
from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import psycopg

from commands.access import AssignRole, DefineBuiltinRoles, assign_role, define_builtin_roles
from commands.identity import NewUser, RegisterUser, checked, register_user
from commands.jobs.schedules import ensure_schedules, prepare_own
from domain.access import RoleName
from domain.context import Actor, Context
from domain.errors import DomainError
from domain.identity import EmailTaken
from domain.ports import Work
from infra.event_store import Log
from infra.migrate import Limits, apply
from infra.reaction_store import Place, ensure_started
from infra.settings import Settings, SettingsError
from projections.builds import ensure_builds
from runtime import modules
from runtime.analytics import ensure_analytics
from runtime.core import Core, ensure_keys, open_core
from runtime.feeds import feed_without_bus
from runtime.joined import join
from runtime.past import discard_other_past

Say = Callable[[str], None]

BULK_EVENTS = 20_000
"""In a longer log a release's new view is built in a process of its own, not by the follower that feeds the others."""

ADMIN_EMAIL = "admin@localhost"
ADMIN_NAME = "Administrator"


def migrate(settings: Settings, say: Say) -> None:
    """Brings schema and views' tables up to this release. Raises MigrationError, ChangedProjection, ModuleMissing."""
    limits = Limits.from_settings(settings)
    apply(settings.postgres_url, modules.sources(), limits=limits, report=lambda progress: say(progress.message))
    ensure_views(settings)
    ensure_analytics(settings, say)


def ensure_views(settings: Settings) -> None:
    """The tables of every view that this release brings, and where its reactions start; and nothing of another past.

    Raises ChangedProjection, ModuleMissing, SettingsError.
    """
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        join(connection, modules.registry(), settings)
        ensure_builds(connection, modules.projections(), bulk_events=BULK_EVENTS)
        ensure_started(connection, [(Place(each.name), each.from_start) for each in modules.reactions(settings)])
    discard_other_past(settings)


def feed_all_from_log(settings: Settings) -> None:
    """Without a bus the follower feeds every view, whoever did before. Raises NoBus, LookupError."""
    with closing(Log(settings.postgres_url)) as log:
        feed_without_bus(settings.postgres_url, log, modules.declared())


def first_facts(settings: Settings, say: Say) -> None:
    """The keyring, the built-in roles, the modules' schedules, and in an empty store one administrator.

    Twice does nothing.

    Raises SettingsError for an administrator's address or password that won't do.
    """
    with open_core(settings) as core:
        ensure_keys(core)
        context = Context(Actor("system", "bootstrap"), str(uuid4()))
        core.dispatcher.dispatch(define_builtin_roles, DefineBuiltinRoles(), context)
        if own := modules.registry().schedules:
            core.dispatcher.dispatch(ensure_schedules, prepare_own(modules.job_types(), own), context)
        if not _has_users(core):
            _create_administrator(core, context, say)


def _has_users(core: Core) -> bool:
    return bool(core.log.read(0, 1, ["identity.UserRegistered"]))


def _create_administrator(core: Core, context: Context, say: Say) -> None:
    settings = core.settings
    password = settings.admin_password or secrets.token_urlsafe(max(15, settings.password_least_chars))
    try:
        email, name = checked(
            NewUser(settings.admin_email or ADMIN_EMAIL, ADMIN_NAME, password), settings.password_least_chars
        )
    except DomainError as error:
        raise SettingsError(f"MUNIMENT_ADMIN_EMAIL / MUNIMENT_ADMIN_PASSWORD: {error.message}") from None
    command = RegisterUser(email, core.secrets.claim_id(email), name, core.passwords.hash_now(password))
    try:
        core.dispatcher.dispatch(_found, command, context)
    except EmailTaken:  # another first start was faster
        return
    say(f"administrator: {email}")
    if not settings.admin_password:
        say(f"password (shown this once): {password}")


def _found(work: Work, command: RegisterUser) -> None:
    """The administrator and their role are one unit: no crash leaves one without the other."""
    assign_role(work, AssignRole(register_user(work, command), RoleName("admin")))
