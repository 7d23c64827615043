"""The client's money on the chain: deposits into channels, as much at a time as the operator
allows. Signs no vouchers and knows no receipts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from proofs.chain.errors import ChainError
from proofs.voucher import ChannelConfig

from ..errors import NoChannel, PaymentRequired
from ..threads import in_thread

CHAIN_DEADLINE_S = 60.0
T = TypeVar("T")


class ChannelOnChain(Protocol):
    """What both sides read of a channel (proofs.chain's ChannelState)."""

    @property
    def balance(self) -> int:
        """All that was ever deposited and not paid back."""

    @property
    def withdraw_requested_at(self) -> int:
        """When a withdrawal was asked for, 0 when none is under way."""


Deposit = Callable[[ChannelConfig, int], object]
ReadChannel = Callable[[bytes], ChannelOnChain]


class Vault:
    """Deposits `step` at a time, and never so that more than `most` lies unspent in one channel.

    `deposit` and `read` speak to the chain and block; they run in a thread.
    """

    def __init__(self, deposit: Deposit, read: ReadChannel, step: int, most: int) -> None:
        self._deposit = deposit
        self._read = read
        self._step = step
        self._most = most

    def is_low(self, unspent: int) -> bool:
        """Whether a channel with so much left should be filled before the next request."""
        return unspent < min(self._step, self._most) // 4

    async def read(self, channel_id: bytes) -> ChannelOnChain:
        """A channel now; NoChannel when the chain does not say."""
        return await self._call(self._read, channel_id)

    async def fill(self, config: ChannelConfig, unspent: int, missing: int = 0) -> int:
        """Deposit one step, or as much as is missing, into a channel that has `unspent`; gives how
        much was deposited.
        """
        room = max(self._most - unspent, 0)
        if missing > room:
            raise PaymentRequired(
                f"this needs {unspent + missing} in the channel to the node; max_channel_deposit"
                f" allows {self._most}"
            )
        amount = min(max(self._step, missing), room)
        if amount:
            await self._call(self._deposit, config, amount)
        return amount

    async def _call(self, call: Callable[..., T], *values: object) -> T:
        try:
            return await in_thread(call, *values, deadline_s=CHAIN_DEADLINE_S)
        except trio.TooSlowError:
            raise NoChannel(
                f"the chain did not answer within {CHAIN_DEADLINE_S:.0f} s; check chain_rpc"
            ) from None
        except ChainError as error:
            raise NoChannel(f"no money could be put into a channel: {error}") from error
