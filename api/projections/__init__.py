"""How far the views are, what they couldn't apply, and what operators do about it."""

from api.projections import builds, catalogue, parked, verification
from api.routing import Route

ROUTES: list[Route] = [*catalogue.ROUTES, *builds.ROUTES, *parked.ROUTES, *verification.ROUTES]

__all__ = ["ROUTES"]
