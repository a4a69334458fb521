"""Who may pass: the access token, and the permission of the route."""

from collections.abc import Awaitable, Callable

from api import requests
from api.ports import Refusal, Services
from api.routing import Asked, Documented, Open, Own, Permission, Self, Within
from domain.errors import Forbidden, Unauthenticated

Require = Callable[[Asked], Awaitable[None]]


async def authenticate(asked: Asked) -> None:
    """Finds the caller. Raises Unauthenticated, Unavailable."""
    token = requests.bearer_token(asked.headers)
    if not token:
        raise Unauthenticated
    asked.caller = await asked.services.authenticator.authenticate(token)


def authorisation(route: Documented, permission: Permission) -> Require | None:
    """What checks the permission of this route; None where a valid token is enough so far, or none is needed."""
    if isinstance(permission, Open | Self | Within):
        return None
    if isinstance(permission, Own):
        return _own(permission, route)
    name, scope = str(permission), route.scope

    async def require(asked: Asked) -> None:
        await asked.services.authoriser.require(asked.caller, name, "/" if scope is None else scope(asked))

    return require


def _own(permission: Own, route: Documented) -> Require:
    of_others = authorisation(route, permission.permission)

    async def require(asked: Asked) -> None:
        if asked.path[permission.parameter] != asked.caller.user_id and of_others is not None:
            await of_others(asked)

    return require


async def record_refusal(
    services: Services, asked: Asked, action: str, permission: Permission, error: Unauthenticated | Forbidden
) -> None:
    """Makes an event of a refused request. Raises Unavailable where that can't be done: refused it is anyway."""
    await services.refusals.record(Refusal(asked.context, action, error.code, _needed(permission)))


def _needed(permission: Permission) -> str | None:
    if isinstance(permission, Own | Within):
        return permission.permission
    if isinstance(permission, Self):
        return permission.others or None
    return permission if isinstance(permission, str) else None
