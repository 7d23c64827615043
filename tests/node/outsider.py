"""A peer that is no daemon and has a node's and a client's key: it opens a channel to itself and
signs whatever receipts a test wants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio
from libp2p.network.exceptions import SwarmException

from node.wire.receipts import PROTOCOL, Accepted, Deliver, Rejected, Taken, Waiting
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from proofs.batch import compose, recompute
from proofs.chain.client import ChainClient, open_client
from proofs.chain.structs import VoucherClaim
from proofs.channel import ChannelTip
from proofs.digest import Network
from proofs.envelope import seal_envelope
from proofs.epoch import EpochHeader
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    SignedReceipt,
    encode_body,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.state import EpochState
from proofs.voucher import ChannelConfig, channel_id, operator_salt, sign_voucher
from tests.proofs import scene

from .networks import Lab

DEPOSIT = 1_000_000
DEADLINE_S = 60.0
NETWORK = "lorikeet-devnet"


@dataclass
class Outsider:
    """Its channel stands at `tip`."""

    host: Host
    client: Signer
    node: Signer
    chain: ChainClient  # the client's
    node_chain: ChainClient
    config: ChannelConfig
    tip: ChannelTip = field(init=False)

    def __post_init__(self) -> None:
        self.tip = ChannelTip(self.config)

    @property
    def network(self) -> Network:
        return self.chain.network

    def envelope(self, *, spare: int = 0, **changes: Any) -> bytes:
        """The channel's next receipt; the tip stays where it is."""
        return self._seal(self._sign(**changes), spare)

    def advance(self, **changes: Any) -> bytes:
        """The channel's next receipt; the tip moves on."""
        signed = self._sign(**changes)
        self.tip = self.tip.follow(verify_receipt(signed, self.network), self.network, None)
        return self._seal(signed, 0)

    def seal(self) -> tuple[bytes, EpochHeader]:
        """The batch and the header of a first epoch with the channel's first receipt alone."""
        receipt = verify_receipt(self._sign(), self.network)
        state = EpochState(self.network)
        configs = {channel_id(self.config, self.network): self.config}
        batch = compose([receipt], configs, state)
        return batch, recompute(batch, state, {}).header

    def claim(self) -> None:
        """Claim on chain what the channel's receipts cost."""
        voucher = sign_voucher(
            self.client, channel_id(self.config, self.network), self.tip.cumulative, self.network
        )
        self.node_chain.channels.claim([VoucherClaim(self.config, voucher, self.tip.cumulative)])

    def claim_all(self) -> None:
        """Claim everything that lies in the channel, whatever its receipts cost."""
        voucher = sign_voucher(
            self.client, channel_id(self.config, self.network), DEPOSIT, self.network
        )
        self.node_chain.channels.claim([VoucherClaim(self.config, voucher, DEPOSIT)])

    async def deliver(self, peer_id: str, *envelopes: bytes) -> list[str]:
        """Hand envelopes to the aggregator; the name of what it says to each."""
        return [type(one).__name__ for one in await self.hand_over(peer_id, *envelopes)]

    async def hand_over(
        self, peer_id: str, *envelopes: bytes
    ) -> list[Accepted | Waiting | Rejected]:
        """Hand envelopes to the aggregator; what it says to each."""
        async with self.host.open_stream(peer_id, PROTOCOL, DEADLINE_S) as stream:
            await stream.send(msgspec.msgpack.encode(Deliver(list(envelopes))), DEADLINE_S)
            taken = msgspec.msgpack.decode(await stream.receive(DEADLINE_S), type=Taken)
        return taken.outcomes

    def _sign(self, *, cosigned: bool = True, **changes: Any) -> SignedReceipt:
        body = scene.receipt(
            self.tip,
            network=self.network,
            operator=self.node.address,
            client=self.client.address,
            **({"adapter": BARE_BASE} | changes),
        )
        client = sign_receipt(self.client, body, self.network) if cosigned else NO_SIGNATURE
        node = sign_receipt(self.node, body, self.network)
        return SignedReceipt(encode_body(body), node, client)

    def _seal(self, signed: SignedReceipt, spare: int) -> bytes:
        receipt = verify_receipt(signed, self.network).receipt
        return seal_envelope(
            signed,
            sign_voucher(self.client, receipt.channel_id, receipt.cumulative + spare, self.network),
            self.config,
        )


@asynccontextmanager
async def open_outsider(lab: Lab) -> AsyncIterator[Outsider]:
    """An outsider on the lab's chain; the lab funds its two keys, "outsider node" and "outsider
    client".
    """
    assert lab.chain is not None
    settlement = bytes.fromhex(lab.chain.settlement.removeprefix("0x"))
    secrets = [lab.identity(name).secret for name in ("outsider node", "outsider client")]
    node, client = map(Signer, secrets)
    node_chain, chain = (open_client(lab.chain.rpc, settlement, secret) for secret in secrets)
    network = chain.network
    salt = operator_salt(node.address, bytes(12))
    config = ChannelConfig(
        client.address,
        client.address,
        network.settlement,
        node.address,
        network.token,
        86_400,
        salt,
    )
    await trio.to_thread.run_sync(chain.channels.deposit, config, DEPOSIT)
    try:
        unlisted = NetworkConfig(
            listen=("/ip4/127.0.0.1/tcp/0",), network=NETWORK, dht_server=False
        )  # in nobody's table, so nobody dials it
        async with open_host(Identity.generate(), unlisted) as host:
            yield Outsider(host, client, node, chain, node_chain=node_chain, config=config)
    finally:
        chain.close()
        node_chain.close()


def flood(network: Network, number: int) -> list[bytes]:
    """First receipts, right and covered by vouchers, of so many channels that hold nothing."""
    node, client = Signer(b"\x01" * 32), Signer(b"\x02" * 32)
    envelopes = []
    for nonce in range(number):
        salt = operator_salt(node.address, nonce.to_bytes(12, "big"))
        config = ChannelConfig(
            client.address,
            client.address,
            network.settlement,
            node.address,
            network.token,
            86_400,
            salt,
        )
        body = scene.receipt(
            ChannelTip(config),
            network=network,
            operator=node.address,
            client=client.address,
            adapter=BARE_BASE,
        )
        signed = SignedReceipt(
            encode_body(body),
            sign_receipt(node, body, network),
            sign_receipt(client, body, network),
        )
        voucher = sign_voucher(client, body.channel_id, body.cumulative, network)
        envelopes.append(seal_envelope(signed, voucher, config))
    return envelopes


def meet_nobody_new(host: Host) -> None:
    """From now on a host keeps to those it is connected to: what it hears of others, it hears
    through them.
    """
    swarm: Any = host._swarm

    async def dial(peer_id: object, told: object = None) -> list[object]:
        if known := swarm.live_connections(peer_id):
            return list(known)
        raise SwarmException("this host meets nobody new")

    swarm.dial_peer = dial
