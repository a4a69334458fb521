"""What the machine that a process runs on is called."""

import socket

from infra.settings import Settings


def host_of(settings: Settings) -> str:
    """As the settings say, or as the machine calls itself."""
    return settings.host_name or socket.gethostname()
