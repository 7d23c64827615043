"""What faces are told of a node itself: its state, its base, its peers and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .money import PaidInInfo


@dataclass(frozen=True)
class LogInfo:
    """The latest lines of a daemon's log; `first` is the number of the first, counted from its
    start.
    """

    first: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class PeerInfo:
    """One connected peer. `weight` from 0 to 1: less than 1 where replays of its answers spoke
    against it, or what it signed or sent was not so; `against` says what of it. `received_bytes`
    from it and `sent_bytes` to it are counted over all its connections since this daemon began;
    `heard_at`: when something came last, in Unix seconds.
    """

    peer_id: str
    address: str
    roles: tuple[str, ...] = ()
    weight: float = 1.0
    received_bytes: int = 0
    sent_bytes: int = 0
    heard_at: float = 0.0
    against: str = ""


@dataclass(frozen=True)
class BannedInfo:
    """A peer with which this daemon keeps no connection; `since` in Unix seconds."""

    peer_id: str
    why: str
    since: int


@dataclass(frozen=True)
class FileInfo:
    """One file of an adapter, on this disk; `sha256` in hex, of the whole."""

    name: str
    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class FilesInfo:
    """An adapter, or a base, whose files are here; `digest` is its manifest's, in hex, or that of
    the base's index; `cid` its manifest's or its card's.
    """

    name: str
    cid: str
    digest: str
    creator: str
    licence: str
    files: tuple[FileInfo, ...]
    is_base: bool = False


BaseOrigin = Literal["installation", "base_path", "network"]
"""It came with the installation; the operator named its path; other nodes gave it."""


@dataclass(frozen=True)
class BaseInfo:
    """The base of a daemon.

    `path`: its weights, empty where only its tokenizer is here. `card`: the CID of what describes
    it, signed by the peer `signer`; empty where there is none. `waits_for`: what it still waits
    for; empty: nothing.
    """

    name: str
    digest: str
    origin: BaseOrigin
    path: str
    card: str
    signer: str
    format: str
    licence: str
    source: str
    size_bytes: int
    num_files: int
    waits_for: str


@dataclass(frozen=True)
class CoinInfo:
    """In what amounts are, in whose smallest unit they are counted: the fee token's symbol, empty
    where nothing is paid, and its decimals.
    """

    symbol: str = ""
    decimals: int = 6


@dataclass(frozen=True)
class StatusInfo:
    """A snapshot of the daemon.

    `engine` is the engine's own figures as plain values (None when this node has none), `reach` how
    others reach it.

    `base`: the base's name and digest; `base_card` the CID of its card, `base_from` where it came
    from, `waits_for` what it waits for, each empty where there is nothing to say.

    `sells_at`: where strangers buy over HTTP. `page_at`: where everybody's browser finds this
    node's page, empty where it has none or only web_listen says where. `rejections`: the latest
    false claims by peers, oldest first: (what, peer id, reason).
    """

    peer_id: str
    address: str
    role: str
    network: str
    base: str
    addresses: tuple[str, ...]
    num_peers: int
    uptime_s: float
    engine: Mapping[str, object] | None
    settlement: Mapping[str, object] | None
    counters: Mapping[str, int] = field(default_factory=dict)
    rejections: tuple[tuple[str, str, str], ...] = ()
    reach: Mapping[str, object] = field(default_factory=dict)
    hub_origin: str = ""
    sells_at: str = ""
    page_at: str = ""
    base_card: str = ""
    base_from: str = ""
    waits_for: str = ""
    coin: CoinInfo = CoinInfo()


@dataclass(frozen=True)
class OfferedInfo:
    """An adapter that a stranger's browser may be shown; `creator` is a peer id."""

    name: str
    creator: str
    licence: str
    description: str


@dataclass(frozen=True)
class WebInfo:
    """What a browser is told so that it can ask this network by itself.

    `base` is a digest in hex, `base_card` a CID, both empty where there is no base; `paid_in` None:
    nothing is paid. `publishers`: whose adapters go by their bare name.
    """

    peer_id: str
    network: str
    base: str
    base_card: str
    publishers: tuple[str, ...]
    adapters: tuple[OfferedInfo, ...]
    paid_in: PaidInInfo | None
    coin: CoinInfo = CoinInfo()
