"""Everything about money in one daemon: its view of the chain, its channels on both sides of the counter, its receipts. Only wires and reports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from p2p.blocks.store import BlockStore
from p2p.host import Host
from p2p.identity import Identity
from proofs.chain.client import ChainClient, open_client
from proofs.chain.errors import ChainError
from proofs.digest import Network
from proofs.receipt import VerifiedReceipt
from proofs.signing import Signer

from .api import EarningsInfo, ReceiptInfo
from .channel_book import ChannelBook, ChannelRow
from .config import Config
from .errors import ConfigError
from .purse import Purse
from .telemetry import Telemetry
from .threads import in_thread
from .till import Till

CHAIN_DEADLINE_S = 20.0


class Money:
    """What the rest of the daemon asks about money. Without a chain, `till` and `purse` are None and nothing is paid."""

    def __init__(self, config: Config, identity: Identity, host: Host, telemetry: Telemetry, chain: ChainClient | None, book: ChannelBook) -> None:
        self.till: Till | None = None
        self.purse: Purse | None = None
        if chain is None:
            return
        signer, deployment = Signer(identity.secret), chain.deployment
        self.network = Network(deployment.chain_id, deployment.settlement, deployment.token, deployment.channels)
        self.till = Till(signer, self.network, book, chain.read_channel, self._earned)
        self.purse = Purse(signer, self.network, book, chain.deposit, chain.read_channel, config.channel_deposit, self._paid)
        self.all: list[VerifiedReceipt] = []

    def _earned(self, receipt: VerifiedReceipt, row: ChannelRow) -> None:
        self.all.append(receipt)

    def _paid(self, receipt: VerifiedReceipt) -> None:
        self.all.append(receipt)

    def describe(self) -> dict[str, object] | None:
        return None

    def receipts(self) -> list[ReceiptInfo]:
        return []

    def receipt(self, digest: str) -> bytes | None:
        return None

    async def earnings(self) -> list[EarningsInfo]:
        return []

    async def run_in(self, nursery: trio.Nursery, store: BlockStore) -> None:
        """Start the tasks."""


@asynccontextmanager
async def open_money(config: Config, identity: Identity, host: Host, telemetry: Telemetry) -> AsyncIterator[Money]:
    """Connect to the chain that the configuration names, if any, and open the books."""
    chain = await _connect(config, identity) if config.chain_rpc else None
    book = ChannelBook(config.home / "channels.sqlite")
    try:
        yield Money(config, identity, host, telemetry, chain, book)
    finally:
        book.close()


async def _connect(config: Config, identity: Identity) -> ChainClient:
    try:
        settlement = bytes.fromhex(config.settlement.removeprefix("0x"))
        return await in_thread(open_client, config.chain_rpc, settlement, identity.secret, deadline_s=CHAIN_DEADLINE_S)
    except (ChainError, trio.TooSlowError, ValueError) as error:
        raise ConfigError(f"the chain at {config.chain_rpc} does not answer as configured: {error}; check chain_rpc and settlement") from error
