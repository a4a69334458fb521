"""What services of one's own use of Muniment: their configuration, live. Imports nothing of the platform itself.

Needs the standard library only.
"""

from muniment_client.configuration import Configuration, Instance, NoConfiguration, Status
from muniment_client.document import Snapshot, frozen
from muniment_client.live import FieldError, Live, NothingYet, Refused, Verdict
from muniment_client.watching import Pace

__all__ = [
    "Configuration",
    "FieldError",
    "Instance",
    "Live",
    "NoConfiguration",
    "NothingYet",
    "Pace",
    "Refused",
    "Snapshot",
    "Status",
    "Verdict",
    "frozen",
]
