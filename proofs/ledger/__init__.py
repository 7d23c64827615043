"""Keeps what a node must not forget, in one SQLite file.

The only place in `proofs` that reaches a disk. Decides nothing.
"""

from .accepted import AggregatorLedger
from .database import Ledger, copy_ledger
from .outbox import Outbox, OutboxEntry, OutboxState
from .posts import PostAttempt, PostJournal

__all__ = [
    "AggregatorLedger",
    "Ledger",
    "Outbox",
    "OutboxEntry",
    "OutboxState",
    "PostAttempt",
    "PostJournal",
    "copy_ledger",
]
