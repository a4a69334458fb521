"""Whether the rows of a view are what the log says: some streams, or all, are folded again and compared.

The fold is the view's own declaration, applied by the engine that every feed uses, into temporary tables. What it is
compared with was read in one snapshot, which knows the position that it holds for; so the view may be fed meanwhile.
"""

from projections.verification.findings import NO_STREAM, Differing, Findings
from projections.verification.sources import Sample
from projections.verification.verifier import NotVerifiable, Verifier, is_verifiable, verifying
from projections.verification.walk import Walk, named_streams, walk

__all__ = [
    "NO_STREAM",
    "Differing",
    "Findings",
    "NotVerifiable",
    "Sample",
    "Verifier",
    "Walk",
    "is_verifiable",
    "named_streams",
    "verifying",
    "walk",
]
