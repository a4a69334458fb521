"""Roles, who has them, and the check."""

from api.access import assignments, checks, questions, roles
from api.access.common import moment_of
from api.routing import Route

ROUTES: list[Route] = [*roles.ROUTES, *assignments.ROUTES, *checks.ROUTES, *questions.ROUTES]

__all__ = ["ROUTES", "moment_of"]
