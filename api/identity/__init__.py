"""Logging in and out, users, sessions, keys."""

from api.identity import keys, login, onboarding, users
from api.identity.keys import RotationBody, prepare_revocation, prepare_rotation
from api.routing import Route

ROUTES: list[Route] = [*login.ROUTES, *users.ROUTES, *onboarding.ROUTES, *keys.ROUTES]

__all__ = ["ROUTES", "RotationBody", "prepare_revocation", "prepare_rotation"]
