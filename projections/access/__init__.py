"""Access: who may do what, from the view, from the event store, and from memory."""

from projections.access.decisions import Decision, Decisions
from projections.access.explaining import Because, Explained, Fact, Missing, Near, explain_fold
from projections.access.facts import UserFacts, fold_user
from projections.access.reader import AccessReader
from projections.access.view import ACCESS

__all__ = [
    "ACCESS",
    "AccessReader",
    "Because",
    "Decision",
    "Decisions",
    "Explained",
    "Fact",
    "Missing",
    "Near",
    "UserFacts",
    "explain_fold",
    "fold_user",
]
