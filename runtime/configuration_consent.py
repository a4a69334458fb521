"""Values of configuration that give people something: only who may give it may store them."""

from commands.access import check_may_give
from domain.access import RoleNotFound
from domain.configuration import InvalidDocument
from domain.configuration.document import Values
from domain.errors import FieldError
from domain.ports import Work
from stream_apps.access import parse_default_role

_DEFAULT_ROLE = "default_role"


def consent(work: Work, name: str, before: Values, after: Values) -> None:
    """Implements `commands.configuration.OwnNamespaces.consent`.

    Otherwise who may change configuration could have every newcomer made an administrator, and be one. Raises
    Forbidden, NotHeld, InvalidDocument.
    """
    role = after.get(_DEFAULT_ROLE, "") if name == "onboarding" else ""
    if role == before.get(_DEFAULT_ROLE):
        return
    given = parse_default_role(role)
    if given is None:
        return
    try:
        check_may_give(work, *given)
    except RoleNotFound as error:
        raise InvalidDocument(error.message, errors=[FieldError(f"values.{_DEFAULT_ROLE}", error.message)]) from None
