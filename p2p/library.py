"""Builds the libp2p host that host.py runs: TCP, Noise and Yamux, and nothing else.

Decides which transports there are and how many connections; starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP

from .addresses import advertised, parse_address
from .hardening import HardenedHost, HardenedSwarm
from .identity import Identity
from .transport import FastUpgrader

MAX_CONNECTIONS = 300


@dataclass(frozen=True)
class NetworkConfig:
    """Where to listen, whom to meet first, and the network's name (prefix of its DHT protocol and
    topics).

    `announce` replaces the addresses that peers are told; `psk` (32 bytes) keeps everybody without
    it out.
    """

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    network: str = "lorikeet-devnet"
    dht_server: bool = True
    psk: bytes | None = None
    mdns: bool = False
    announce: tuple[str, ...] = ()


def new_library(identity: Identity, config: NetworkConfig) -> tuple[HardenedHost, HardenedSwarm]:
    """Build, and do not start, the library's host and the swarm inside it."""
    keys = create_new_key_pair(identity.secret)
    peer_id = ID.from_pubkey(keys.public_key)
    store = PeerStore()
    store.add_key_pair(peer_id, keys)
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    upgrader = FastUpgrader({TProtocol(NOISE_PROTOCOL): noise}, {TProtocol(YAMUX_PROTOCOL): Yamux})
    connections = ConnectionConfig(
        min_connections=0,
        low_watermark=0,
        high_watermark=MAX_CONNECTIONS,
        max_connections=MAX_CONNECTIONS,
        max_connections_per_peer=3,
    )
    swarm = HardenedSwarm(
        peer_id,
        store,
        upgrader,
        [TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=connections,
        psk=config.psk.hex() if config.psk is not None else None,
    )
    announce = [parse_address(address, identity.peer_id) for address in config.announce]
    library = HardenedHost(
        swarm,
        network_name=config.network,
        enable_mDNS=config.mdns,
        addrs_factory=lambda listening: announce or advertised(listening),
        # a peer's word about our address is not ours to spread
        disable_identify_address_discovery=True,
    )
    return library, swarm
