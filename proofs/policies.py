"""How fees are divided under each version of a network's parameters, and which a receipt may name.

Normative text: docs/protocols/governance.md.

    versions, as the chain has them → policies_of   every version: what was accepted once is read so
                                    → named_in      those that a receipt of one epoch may name

A receipt says of which version it is, so a decision changes nothing about what was answered before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .attribution.shares import POLICY, SharePolicy
from .errors import ReceiptError
from .parameters import (
    CREATOR_SHARE,
    LEAST_FEE,
    MOST_LAMBDA,
    NODE_SHARE,
    Values,
    Version,
    in_force,
    rule_on,
)

NAMED_S = 2_592_000
"""How long a receipt may still name a version after another one was written: as long as a channel's
longest way out, 30 days."""
TAKEN_S = NAMED_S - 86_400
"""The same for whoever takes receipts into epochs to come, a day less, so that nothing gets too old
between its promise and its header."""


@dataclass(frozen=True)
class Policies:
    """A policy for every version that was written, version 0 first; receipts may name `first` to
    `last`.
    """

    by_version: tuple[SharePolicy, ...] = (POLICY,)
    first: int = 0
    last: int = 0

    def of(self, version: int) -> SharePolicy:
        """Return how the fee of a receipt is divided that names this version. Raises ReceiptError
        where none may.
        """
        if self.first <= version <= self.last:
            return self.by_version[version]
        named = f"version {version} of the network's parameters"
        if version < self.first:
            reason = f"was replaced too long ago; {self.first} is the oldest that still counts"
        elif version < len(self.by_version):
            reason = f"was not in force yet; {self.last} was"
        elif len(self.by_version) > 1:
            reason = f"was never written; the newest is {len(self.by_version) - 1}"
        else:
            reason = "is not known here: set governor, where this network has one"
        raise ReceiptError("parameters", f"{named} {reason}")

    @property
    def every(self) -> Policies:
        """Return the same where any that was written may be named."""
        return self.between(0, len(self.by_version) - 1)

    def between(self, first: int, last: int) -> Policies:
        """Return the same where these may be named."""
        return replace(self, first=first, last=last)


UNGOVERNED = Policies()
"""Those of a network without a contract of parameters."""


def policy_of(values: Values, version: int = 0) -> SharePolicy:
    """Return how fees are divided by these values."""
    return SharePolicy(
        values[NODE_SHARE],
        values[CREATOR_SHARE],
        least_fee=values[LEAST_FEE],
        most_lambda=values[MOST_LAMBDA],
        version=version,
    )


def policies_of(versions: Sequence[Version]) -> Policies:
    """Return every version's policy; `versions` come in their order from the first."""
    rulings = (rule_on(versions[:number]) for number in range(len(versions) + 1))
    by_version = tuple(policy_of(one.values, one.version) for one in rulings)
    return Policies(by_version, 0, len(versions))


def named_in(versions: Sequence[Version], began_at: int, kept_s: int = NAMED_S) -> Policies:
    """Return what receipts may name in the epoch that began then (`in_force` has the same time):
    what is in force there, and what was until `kept_s` before.
    """
    first = sum(one.since <= began_at - kept_s for one in versions)
    return policies_of(versions).between(first, len(in_force(versions, began_at)))
