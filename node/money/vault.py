"""The client's money on the chain: into channels in steps that grow with trust, never more in all
than the operator allows, and back out of them. Signs no vouchers and knows no receipts.

    first deposit ──▶ twice what was spent in the channel ──▶ the whole step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from proofs.chain.errors import ChainError, ContractReverted
from proofs.chain.views import LATEST
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
    def total_claimed(self) -> int:
        """What the node has taken of it."""

    @property
    def withdraw_requested_at(self) -> int:
        """When a withdrawal was asked for, 0 when none is under way."""

    @property
    def refund_nonce(self) -> int:
        """How many refunds there were."""


class Chain(Protocol):
    """What a payer does to its channels (proofs.chain's Channels). Every call blocks."""

    def read_many(
        self, channel_ids: Sequence[bytes], block: str | int | None = None
    ) -> Sequence[ChannelOnChain]:
        """Channels' states at a block; all zeros when nobody ever deposited."""

    def deposit(self, config: ChannelConfig, amount: int) -> object:
        """Put our own money into our channel."""

    def initiate_withdraw(self, config: ChannelConfig, amount: int) -> object:
        """Ask for unclaimed money back."""

    def finalize_withdraw(self, config: ChannelConfig) -> object:
        """Take what was asked for."""


class NothingSent(NoChannel):
    """The contract refused the deposit: no money is under way."""


@dataclass(frozen=True)
class Limits:
    """What an operator lets lie in channels.

    `first`: a new channel's first deposit. `step`: at a time, at most. `most`: unspent in one
    channel. `locked`: unspent in all channels together.
    """

    first: int
    step: int
    most: int
    locked: int


class Vault:
    """Deposits and withdraws; the chain is asked in a thread."""

    def __init__(self, chain: Chain, limits: Limits) -> None:
        self._chain = chain
        self._limits = limits

    def low(self, spent: int) -> int:
        """A channel with less free than this is filled as the next request begins."""
        return min(self._step(spent), self._limits.most) // 4

    def plan(self, missing: int, *, spent: int, unspent: int, locked: int) -> int:
        """How much to deposit into a channel: what is missing or the next step, as far as the
        limits go.

        PaymentRequired when they do not go as far as what is missing.
        """
        room = max(self._limits.most - unspent, 0)
        room_in_all = max(self._limits.locked - locked, 0)
        if missing > room:
            raise PaymentRequired(
                f"this needs {unspent + missing} in the channel to the node; max_channel_deposit"
                f" allows {self._limits.most}"
            )
        if missing > room_in_all:
            raise PaymentRequired(
                f"this needs {missing} more in channels, and {locked} lies in them; max_locked"
                f" allows {self._limits.locked}. `lorikeet channels` shows them, `lorikeet"
                " withdraw` takes money back"
            )
        return min(max(self._step(spent), missing), room, room_in_all)

    def _step(self, spent: int) -> int:
        return min(max(self._limits.first, 2 * spent), self._limits.step)

    async def read(self, channel_id: bytes) -> ChannelOnChain:
        """A channel in the newest block, where our own deposits are first seen; NoChannel when the
        chain does not say.
        """
        (state,) = await self.read_many([channel_id])
        return state

    async def read_many(self, channel_ids: Sequence[bytes]) -> Sequence[ChannelOnChain]:
        """The same of many."""
        return await self._call(self._chain.read_many, channel_ids, LATEST)

    async def deposit(self, config: ChannelConfig, amount: int) -> None:
        """Put money into a channel.

        NothingSent when the contract refuses; any other end leaves open whether it arrives.
        """
        await self._call(self._chain.deposit, config, amount)

    async def ask_back(self, config: ChannelConfig, amount: int) -> None:
        """Begin to withdraw."""
        await self._call(self._chain.initiate_withdraw, config, amount)

    async def take_back(self, config: ChannelConfig) -> None:
        """Take what was asked back, once the channel's delay is over."""
        await self._call(self._chain.finalize_withdraw, config)

    async def _call(self, call: Callable[..., T], *values: object) -> T:
        try:
            return await in_thread(call, *values, deadline_s=CHAIN_DEADLINE_S)
        except trio.TooSlowError:
            raise NoChannel(
                f"the chain did not answer within {CHAIN_DEADLINE_S:.0f} s; check chain_rpc"
            ) from None
        except ContractReverted as error:
            raise NothingSent(f"the channels' contract refused: {error}") from error
        except ChainError as error:
            raise NoChannel(f"the chain did not do it: {error}; check chain_rpc") from error
