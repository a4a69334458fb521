"""Configuration: asking, changing, watching, and which instances run what."""

from api.configuration.documents import ROUTES as DOCUMENTS
from api.configuration.history import ROUTES as HISTORY
from api.configuration.instances import ROUTES as INSTANCES
from api.configuration.namespaces import ROUTES as NAMESPACES
from api.configuration.watch import PERMISSION, Documents
from api.configuration.watch import ROUTES as WATCH
from api.configuration.watching import Watches
from api.routing import Route

ROUTES: list[Route] = [*DOCUMENTS, *HISTORY, *INSTANCES, *WATCH, *NAMESPACES]

__all__ = ["PERMISSION", "ROUTES", "Documents", "Watches"]
