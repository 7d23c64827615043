"""The client's side of the counter: opens a channel for each node it pays, deposits in steps as it
is used up, and keeps what the protocol's machine wants kept. Takes no decision about vouchers or
receipts (wire/channels.py does).

What a vanished node may still claim stays reserved until that node answers again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from proofs.receipt import VerifiedReceipt
from proofs.voucher import SALT_NONCE_BYTES, ChannelConfig, channel_id, operator_salt

from ..errors import NoChannel
from ..wire.channels import ChannelRow, PayerChannel, Persist
from ..wire.notary import Notary
from .addresses import address_of_peer
from .book import ChannelBook
from .vault import Vault

WITHDRAW_DELAY_S = 24 * 3600


@dataclass
class Pocket:
    """One channel that this daemon pays from.

    `filling`: two requests do not deposit for the same need. `visits`: how many streams use it now.
    """

    channel: PayerChannel
    visits: int = 0
    filling: trio.Lock = field(default_factory=trio.Lock)


class Purse:
    """All channels that this daemon pays from.

    `payer` holds the money; without one the key does that signs the vouchers.
    """

    def __init__(
        self,
        notary: Notary,
        book: ChannelBook,
        vault: Vault,
        on_receipt: Callable[[VerifiedReceipt], None],
        payer: bytes | None = None,
    ) -> None:
        self._notary = notary
        self._payer = payer or notary.address
        self._book = book
        self._vault = vault
        self._on_receipt = on_receipt
        self._pockets: dict[bytes, Pocket] = {}
        self._locks: dict[bytes, trio.Lock] = {}

    async def pocket(self, peer_id: str) -> Pocket:
        """The channel that pays this node; opened when there is none yet, filled when it is nearly
        used up. NoChannel says why it cannot.
        """
        operator = address_of_peer(peer_id)
        async with self._locks.setdefault(operator, trio.Lock()):
            if operator not in self._pockets:
                self._pockets[operator] = await self._load(operator) or await self._open(operator)
            pocket = self._pockets[operator]
            await self._fill_if_low(pocket)
            return pocket

    def forget(self, peer_id: str) -> None:
        """This node does not take our channel any more: ask the chain about it before it is used
        again.
        """
        operator = address_of_peer(peer_id)
        if operator in self._pockets and not self._pockets[operator].visits:
            del self._pockets[operator]

    def keep(self, persist: Persist) -> None:
        """Write a channel down, and with it the receipt that we have just signed; on the disk when
        this returns.
        """
        with self._book.transaction():
            self._book.save(persist.row)
            if persist.receipt is not None:
                self._on_receipt(persist.receipt)

    async def deposit(self, pocket: Pocket, key: int, limit: int) -> None:
        """Deposit what request `key` misses to spend up to `limit`, if it still misses any.

        PaymentRequired when more would lie in the channel than the operator allows.
        """
        async with pocket.filling:
            missing = pocket.channel.missing(key, limit)
            if missing:
                await self._fill(pocket.channel, missing)

    def check(self) -> None:
        """Raise AssertionError unless the invariants of every channel hold."""
        for pocket in self._pockets.values():
            pocket.channel.check()

    async def _load(self, operator: bytes) -> Pocket | None:
        row = self._book.find_by_operator(operator)
        if row is None:
            return None
        state = await self._vault.read(row.channel_id)
        if state.withdraw_requested_at or not state.balance:
            return None
        return Pocket(PayerChannel(row, state.balance, self._notary))

    async def _open(self, operator: bytes) -> Pocket:
        own = self._notary.address
        network = self._notary.network
        salt = operator_salt(operator, secrets.token_bytes(SALT_NONCE_BYTES))
        config = ChannelConfig(
            self._payer,
            own,
            network.settlement,
            operator,
            network.token,
            withdraw_delay=WITHDRAW_DELAY_S,
            salt=salt,
        )
        row = ChannelRow(channel_id(config, network), operator, config)
        self._book.save(row)
        return Pocket(PayerChannel(row, await self._vault.fill(config, 0), self._notary))

    async def _fill_if_low(self, pocket: Pocket) -> None:
        """Deposit another step when little is left, before a request needs it."""
        async with pocket.filling:
            if not self._vault.is_low(pocket.channel.free):
                return
            try:
                await self._fill(pocket.channel, 0)
            except NoChannel:
                if not pocket.channel.free:
                    raise

    async def _fill(self, channel: PayerChannel, missing: int) -> None:
        """Raise the deposit by at least `missing`. The caller holds the pocket's lock."""
        channel.deposited(await self._vault.fill(channel.config, channel.unspent, missing))
