"""What access does because of events: a new user is given the default role, where one is set."""

from commands.access import AssignRole, assign_role
from domain.access import RoleName, Scope
from domain.errors import Invalid
from domain.identity import User
from infra.event_store import Recorded
from infra.settings import Settings, SettingsError
from stream_apps.reactions import Intention, Reaction


def default_role(settings: Settings) -> Reaction:
    """Grants every new user the role that the settings name. Raises SettingsError.

    Without a default role it reacts to nobody, but keeps up: whoever registers before one is set isn't granted it.
    """
    given = parse_default_role(settings.default_role)

    def grant(cause: Recorded) -> Intention | None:
        return Intention(assign_role, AssignRole(cause.stream, *given)) if given else None

    return Reaction("default-role", {User.Registered: grant})


def parse_default_role(text: str) -> tuple[RoleName, Scope] | None:
    """`name@scope`, or `name` for the whole platform; None for nothing. Raises SettingsError."""
    if not text:
        return None
    name, _, scope = text.partition("@")
    try:
        return RoleName(name), Scope(scope or "/")
    except Invalid as error:
        raise SettingsError(f"MUNIMENT_DEFAULT_ROLE: name@scope, such as customer@/shop: {error}") from None
