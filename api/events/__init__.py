"""The log over HTTP: recorded events as a page, live, and as the story of one correlation; secrets left out."""

from api.events.listing import LIST
from api.events.live import STREAM, LogSource, StillAllowed
from api.events.stories import STORY
from api.events.views import EventView, view_of
from api.routing import Route

ROUTES: list[Route] = [LIST, STREAM, STORY]

__all__ = ["ROUTES", "EventView", "LogSource", "StillAllowed", "view_of"]
