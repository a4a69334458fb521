"""Access: who may do what, from the view, from the event store, and from memory."""

from projections.access.decisions import Because, Decision, Decisions, Explained, Fact
from projections.access.facts import UserFacts, fold_user
from projections.access.reader import AccessReader, AsOf
from projections.access.view import ACCESS

__all__ = [
    "ACCESS",
    "AccessReader",
    "AsOf",
    "Because",
    "Decision",
    "Decisions",
    "Explained",
    "Fact",
    "UserFacts",
    "fold_user",
]
