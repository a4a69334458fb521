"""Whether the rows of a view are what the log says: some streams, or all, are folded again and compared.

The fold is the view's own declaration, applied by the engine that every feed uses, into temporary tables. What it is
compared with was read in one snapshot, which knows the position that it holds for; so the view may be fed meanwhile.
"""

from projections.verification.findings import DIFFERING_LIMIT, NO_STREAM, Differing, Findings
from projections.verification.journal import Journal, Totals, totals
from projections.verification.service import Service, Wanted, sweep, verify
from projections.verification.snapshot import Spreads
from projections.verification.sources import Sample
from projections.verification.verifier import NotVerifiable, Verifier, is_verifiable, verifying
from projections.verification.walk import Walk, named_streams, walk

__all__ = [
    "DIFFERING_LIMIT",
    "NO_STREAM",
    "Differing",
    "Findings",
    "Journal",
    "NotVerifiable",
    "Sample",
    "Service",
    "Spreads",
    "Totals",
    "Verifier",
    "Walk",
    "Wanted",
    "is_verifiable",
    "named_streams",
    "sweep",
    "totals",
    "verify",
    "verifying",
    "walk",
]
