"""The channels in which this node pays itself what strangers paid outright, so that such an answer
makes a receipt as any other, and its creator and contributors are paid.

    a stranger's transfer ──▶ payee ──▶ a channel of the house ──▶ settlement ──▶ creator, …, owner
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import trio

from proofs.chain.errors import ChainError
from proofs.voucher import SALT_NONCE_BYTES, ChannelConfig, Voucher, channel_id, operator_salt

from ..api.sales import Payment, TransferRefused
from ..errors import NoChannel, NodeError
from ..threads import in_thread
from ..wire.notary import Notary
from .selling import SEND_DEADLINE_S, WITHDRAW_DELAY_S
from .till import Tab, Till

MAX_CHANNELS = 8  # so many outright paid answers are made at once
MAX_NUMBERS_TRIED = 64

T = TypeVar("T")


class Chain(Protocol):
    """What is asked of the channels (proofs.chain's Channels). Every call blocks."""

    def deposit(self, config: ChannelConfig, amount: int) -> object:
        """Put our own money into our channel."""


class House:
    """Pays this node's answers from `payer`'s money. `balance` asks the token what it has; `step`:
    what is put into a channel at a time, where there is as much.
    """

    def __init__(
        self,
        till: Till,
        notary: Notary,
        chain: Chain,
        balance: Callable[[bytes], int],
        *,
        payer: bytes,
        step: int,
    ) -> None:
        self._till = till
        self._notary = notary
        self._chain = chain
        self._balance = balance
        self._payer = payer
        self._step = step
        self._taken: set[int] = set()

    @asynccontextmanager
    async def paying(self, amount: int) -> AsyncIterator[Payment]:
        """Give a payment of so much for one answer, from a channel that nobody else uses until the
        block ends. Raises TransferRefused, NodeError.
        """
        for number in range(MAX_NUMBERS_TRIED):
            if number in self._taken:
                continue
            self._taken.add(number)
            try:
                tab = await self._find(number)
                if tab is not None:
                    yield await self._fill(tab, amount)
                    return
            finally:
                self._taken.discard(number)
        raise NodeError("no channel is left in which this node could pay itself; ask another node")

    def check_room(self) -> None:
        """Raise TransferRefused where as many answers are made as may be."""
        if len(self._taken) >= MAX_CHANNELS:
            raise TransferRefused(
                "busy", f"{MAX_CHANNELS} answers are made that were paid so; ask again in a moment"
            )

    async def _find(self, number: int) -> Tab | None:
        """Find a channel by its number; None where it pays no more, or is of an earlier life."""
        try:
            tab = self._till.open_for(self._notary.address, self._config(number))
            await self._till.read(tab, trio.current_time())
        except NoChannel:
            return None
        return None if tab.channel.is_dead or tab.channel.is_withdrawing else tab

    def _config(self, number: int) -> ChannelConfig:
        own, network = self._notary.address, self._notary.network
        return ChannelConfig(
            self._payer,
            own,
            network.settlement,
            own,
            network.token,
            withdraw_delay=WITHDRAW_DELAY_S,
            salt=operator_salt(own, number.to_bytes(SALT_NONCE_BYTES, "big")),
        )

    async def _fill(self, tab: Tab, amount: int) -> Payment:
        config = tab.channel.row.config
        assert tab.seen is not None, "it was read"
        total = tab.channel.row.owed + amount
        missing = total - tab.seen.balance
        if missing > 0:
            has = await self._ask(self._balance, self._payer)
            await self._ask(self._chain.deposit, config, max(missing, min(self._step, has)))
            await self._till.read(tab, trio.current_time())
        channel = channel_id(config, self._notary.network)
        return Payment(config, Voucher(channel, total, self._notary.sign_voucher(channel, total)))

    async def _ask(self, call: Callable[..., T], *values: object) -> T:
        try:
            return await in_thread(call, *values, deadline_s=SEND_DEADLINE_S)
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(f"the chain does not do its part: {error}; ask again") from error
