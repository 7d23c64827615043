"""Lists what can become of a receipt that an aggregator is given.

Six values, one of them each time. Decides nothing; aggregator.py does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .promise import Evidence, Promise


@dataclass(frozen=True)
class Accepted:
    """Taken, and with it those that waited for it. One promise each, in the channel's order."""

    promises: tuple[Promise, ...]


@dataclass(frozen=True)
class Waiting:
    """Good, but receipts `first_missing` to `last_missing` of its channel are not here yet."""

    first_missing: int
    last_missing: int


@dataclass(frozen=True)
class InGrace:
    """Good, but only its node signed it: until `until` (Unix seconds) its client may still show
    another receipt for this place that both signed.
    """

    until: int


@dataclass(frozen=True)
class Duplicate:
    """Here already; the promise again."""

    promise: Promise


@dataclass(frozen=True)
class Rejected:
    """Not taken. `invariant` names what does not hold.

    Where `retryable`, the same envelope may be taken later: the chain or its payer's quota stood
    against it, not what it says.
    """

    invariant: str
    reason: str
    retryable: bool


@dataclass(frozen=True)
class Equivocation:
    """Another body for a place that is taken. Not counted; the evidence is kept."""

    evidence: Evidence


Outcome = Accepted | Waiting | InGrace | Duplicate | Rejected | Equivocation
