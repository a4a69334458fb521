"""Roles, who has them, and the check."""

from api.access import assignments, checks, questions, roles
from api.routing import Route

ROUTES: list[Route] = [*roles.ROUTES, *assignments.ROUTES, *checks.ROUTES, *questions.ROUTES]

__all__ = ["ROUTES"]
