"""What a transaction may offer for its gas: enough to be mined, never more than is allowed.

Pure; asks no node.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import FeeTooHigh
from .structs import Fees

GWEI = 10**9


@dataclass(frozen=True)
class FeeLimits:
    """The operator's limits, in wei for each gas, and how a transaction that waits becomes
    dearer.
    """

    max_fee_wei: int = 500 * GWEI
    max_tip_wei: int = 50 * GWEI
    bump_percent: int = 13  # nodes want 10 or 12.5 more to replace a transaction
    bump_after_s: float = 30.0

    def offer(self, base_fee_wei: int, tip_wei: int) -> Fees:
        """Enough for several full blocks in a row, as far as that is allowed.

        FeeTooHigh when the tip, or what the next block takes, is above the limit.
        """
        if tip_wei > self.max_tip_wei:
            raise FeeTooHigh(
                f"the node suggests a tip of {gwei(tip_wei)} gwei for each gas; the limit is"
                f" {gwei(self.max_tip_wei)} (max_tip_gwei): wait, raise it, or name another RPC"
            )
        if base_fee_wei + tip_wei > self.max_fee_wei:
            raise FeeTooHigh(
                f"gas costs {gwei(base_fee_wei + tip_wei)} gwei; the limit is"
                f" {gwei(self.max_fee_wei)} (max_fee_gwei): wait, or raise it"
            )
        return Fees(min(2 * base_fee_wei + tip_wei, self.max_fee_wei), tip_wei)

    def bump(self, offered: Fees, asked: Fees) -> Fees | None:
        """What must be offered to take the place of a transaction that waits, now that a new one
        would offer `asked`; None when that is above the limit.
        """
        bumped = offered.bumped(self.bump_percent)
        max_fee_wei = max(bumped.max_fee_wei, asked.max_fee_wei)
        tip_wei = min(max(bumped.tip_wei, asked.tip_wei), max_fee_wei)
        if max_fee_wei > self.max_fee_wei or tip_wei > max(self.max_tip_wei, bumped.tip_wei):
            return None
        return Fees(max_fee_wei, tip_wei)


def gwei(wei: int) -> str:
    """Wei as people speak of them."""
    return f"{wei / GWEI:.12g}"
