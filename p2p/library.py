"""Builds the libp2p host that host.py runs: TCP and WebSockets, Noise and Yamux, and nothing else.

Decides which transports there are and how many connections; starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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

from .banned import BannedPeers
from .hardening import HardenedHost
from .identity import Identity
from .reach.reservations import RelayLimits
from .swarm import HardenedSwarm
from .transport import FastUpgrader
from .websocket.transport import WebSockets

MAX_CONNECTIONS = 300


@dataclass(frozen=True)
class NetworkConfig:
    """Where to listen, whom to meet first, and the network's name (prefix of its DHT protocol and
    topics).

    `announce` replaces the addresses that peers are told; `psk` (32 bytes) keeps everybody without
    it out. `relay` bounds what this host carries for hosts behind routers, None: nothing. A router
    is asked to map the port where `port_mapping` says so; `known_peers` and `banned_peers` are the
    files in which peers, and bans, outlive a restart. An empty `listen` takes no connection: such a
    host is reached by relays. `beside` are addresses at which somebody else listens and hands
    WebSockets on (`Host.take_websocket`); they are told with the others.
    """

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    network: str = "lorikeet-devnet"
    dht_server: bool = True
    psk: bytes | None = None
    mdns: bool = False
    announce: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    relay: RelayLimits | None = field(default_factory=RelayLimits)
    port_mapping: bool = True
    known_peers: Path | None = None
    banned_peers: Path | None = None


def new_library(identity: Identity, config: NetworkConfig) -> tuple[HardenedHost, HardenedSwarm]:
    """Build, and do not start, the library's host and the swarm inside it. Raises HostFailed."""
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
        [TCP(), WebSockets()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=connections,
        psk=config.psk.hex() if config.psk is not None else None,
    )
    library = HardenedHost(
        swarm,
        network_name=config.network,
        # a peer's word about our address is not ours to spread
        disable_identify_address_discovery=True,
    )
    swarm.banned = BannedPeers(config.banned_peers)
    swarm.entrance.serves_dht = library.serves_dht
    return library, swarm
