"""The log over HTTP: recorded events as a page, live, and as the story of one correlation; secrets left out."""

from api.events.listing import LIST
from api.events.live import PERMISSION, STREAM, LogSource
from api.events.stories import STORY
from api.events.views import EventView, view_of
from api.routing import Route

ROUTES: list[Route] = [LIST, STREAM, STORY]

__all__ = ["PERMISSION", "ROUTES", "EventView", "LogSource", "view_of"]
