"""Says what stake is for: how much an operator needs, what an offence costs. Knows no chain.

Normative text: docs/protocols/stake.md. Twin of contracts/src/stake/Pools.sol.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .parameters import WHOLE_BPS

LORI = 10**6
"""One of the network's own token, in its smallest unit: all there is fits a receipt's amount."""
WHOLE = 100  # hundredths, in which a vote says how much each answer needs


@dataclass(frozen=True)
class StakeTerms:
    """What was fixed when a stake contract was deployed: `thaw` in seconds, amounts in the token's
    smallest unit, parts in basis points.
    """

    thaw: int
    per_answer: int
    slash_bps: int
    cap: int
    bounty_bps: int

    def voted(self, hundredths: int) -> StakeTerms:
        """Return the terms where a vote asks for so many hundredths of what each answer needs."""
        return replace(self, per_answer=-(-self.per_answer * hundredths // WHOLE))

    def needed(self, answers: int) -> int:
        """Return what must stand behind an operator that announces so many answers at once."""
        return answers * self.per_answer

    def covers(self, stake: int) -> int:
        """Return how many answers at once this much is enough for."""
        return stake // self.per_answer

    def lost(self, counted: int, thawing: int) -> int:
        """Return what an offence costs those who have this much behind an operator."""
        everything = counted + thawing
        most = min(everything * self.slash_bps // WHOLE_BPS, self.cap)
        if not most:
            return 0
        return most * counted // everything + most * thawing // everything

    def bounty(self, lost: int) -> int:
        """Return what of a loss is its reporter's; the rest is burned."""
        return lost * self.bounty_bps // WHOLE_BPS


@dataclass(frozen=True)
class Holding:
    """What one holder has behind an operator: what counts, in shares and in the token's units, and
    what thaws, until `ready_at` (Unix seconds of the chain; 0 where nothing ever did).
    """

    shares: int
    amount: int
    thawing: int
    ready_at: int

    def shares_of(self, amount: int) -> int:
        """Return how many of the shares are worth at least this much; all, where they are not."""
        if amount >= self.amount:
            return self.shares
        return -(-amount * self.shares // self.amount)
