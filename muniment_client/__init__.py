"""What services of one's own use of Muniment. Imports nothing of the platform itself."""

from muniment_client.live import FieldError, Live, NothingYet, Refused, Verdict

__all__ = ["FieldError", "Live", "NothingYet", "Refused", "Verdict"]
