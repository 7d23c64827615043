"""An aggregator that steals: with its key it posts an epoch of its own, whose only receipt is of a
channel that never held a cent and pays the thief.

The epoch follows from its batch, so witnesses sign it; only the money is not there.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from node.money.audit import Audit
from node.money.quorum import Quorum, QuorumMissing
from node.telemetry import Telemetry
from node.testnet.plan import NETWORK
from node.threads import in_thread
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress
from proofs.attribution.shares import POLICY, shares_for
from proofs.batch import compose, recompute
from proofs.chain.client import ChainClient
from proofs.chain.governance import Governance
from proofs.chain.poster import Poster
from proofs.chain.structs import PostedHeader
from proofs.channel import ChannelTip
from proofs.digest import Network
from proofs.epoch import EpochHeader
from proofs.ledger import Ledger, PostJournal
from proofs.receipt import (
    BARE_BASE,
    FIRST_PREVIOUS,
    VERSION,
    Receipt,
    SignedReceipt,
    encode_body,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, channel_id, operator_salt

from .audit import audit_with

CONNECT_S = 10.0
POST_S = 60.0
SIGN_S = 20.0
AGAIN_S = 0.5
WITHDRAW_DELAY_S = 86_400


@dataclass
class Thief:
    """Whoever has the aggregator's key; `account` is where the loot is to go."""

    host: Host
    chain: ChainClient
    store: BlockStore
    witnesses: Sequence[PeerAddress]
    governance: Governance
    account: bytes

    async def steal(self, loot: int) -> PostedHeader:
        """Post a header that awards the loot to ourselves."""
        audit = await audit_with(self.host, self.chain, self.store, self.witnesses, self.governance)
        batch = forge_batch(audit, self.account, loot)
        header = recompute(batch, audit.history.state, {}).header
        self.store.put(batch)
        signatures = await self._gather(header)
        return await in_thread(self._post, header, signatures, deadline_s=POST_S)

    async def _gather(self, header: EpochHeader) -> list[bytes]:
        """A quorum's signatures; a witness that has not followed the chain so far signs soon."""
        peers = [peer.peer_id for peer in self.witnesses]
        quorum = Quorum(self.host, self.chain, peers, Telemetry(stream=io.StringIO()))
        with trio.fail_after(SIGN_S):
            while True:
                try:
                    return await quorum.gather(header)
                except QuorumMissing:
                    await trio.sleep(AGAIN_S)

    def _post(self, header: EpochHeader, signatures: Sequence[bytes]) -> PostedHeader:
        Poster(self.chain, PostJournal(Ledger(":memory:"))).post(header, signatures)
        posted = self.chain.settlement.find_header(header.epoch)
        assert posted is not None, "what was posted a moment ago can still be challenged"
        return posted


@asynccontextmanager
async def open_thief(
    identity: Identity,
    chain: ChainClient,
    folder: Path,
    witnesses: Sequence[PeerAddress],
    governance: Governance,
) -> AsyncIterator[Thief]:
    """The thief as a peer that others fetch its batch from."""
    store = BlockStore(folder)
    async with open_host(identity, NetworkConfig(network=NETWORK)) as host:
        serve_blocks(host, store)
        for peer in witnesses:
            await host.connect(peer.addresses[0], CONNECT_S)
        account = Signer(secrets.token_bytes(32)).address
        yield Thief(host, chain, store, witnesses, governance, account=account)


def forge_batch(audit: Audit, account: bytes, loot: int) -> bytes:
    """The next batch: one receipt, of a node and a client that the thief made up."""
    network = audit.history.network
    node, client = (Signer(secrets.token_bytes(32)) for _ in range(2))
    channel = ChannelConfig(
        client.address,
        client.address,
        network.settlement,
        node.address,
        network.token,
        withdraw_delay=WITHDRAW_DELAY_S,
        salt=operator_salt(node.address, secrets.token_bytes(12)),
    )
    body = invent_receipt(channel, network, client.address, account, loot)
    signed = SignedReceipt(
        encode_body(body), sign_receipt(node, body, network), sign_receipt(client, body, network)
    )
    opened = {body.channel_id: channel}
    return compose([verify_receipt(signed, network)], opened, audit.history.state)


def invent_receipt(
    channel: ChannelConfig, network: Network, client: bytes, account: bytes, loot: int
) -> Receipt:
    """An answer that nobody gave, for all the money there is."""
    shares = shares_for(POLICY, account, None)
    return Receipt(
        version=VERSION,
        chain_id=network.chain_id,
        settlement=network.settlement,
        channel_id=channel_id(channel, network),
        sequence=1,
        previous=FIRST_PREVIOUS,
        operator=channel.operator,
        client=client,
        base=bytes(32),
        adapter=BARE_BASE,
        owner=account,
        prompt_commitment=bytes(32),
        answer_commitment=bytes(32),
        prompt_tokens=0,
        completion_tokens=1,
        prompt_price=0,
        completion_price=loot,
        amount=loot,
        cumulative=loot,
        seed=bytes(32),
        dtype=b"bfloat16",
        started_at=0,
        payouts=ChannelTip(channel).payouts.award(shares, loot).commitment,
    )
