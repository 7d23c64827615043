"""What faces are told of adapters: those held here, those that are known, and how one came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AdapterState = Literal["held", "ready", "known"]
"""Its bytes are here; it is in the engine; it was heard of on the network."""
FoundState = Literal["fits", "doubtful", "refused", "base", "other"]
"""An adapter for this base; one that names another base, of the same shape; one that cannot be
served here; a base; something else.
"""
WhyHeld = Literal["published", "pulled", "asked", "ahead", "mixed"]
"""It was published here; this operator wants it; a stranger asked for it; it was fetched before
anybody asked for it here, since many want it and few hold it.
"""


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter that this daemon knows.

    `providers`: how many peers say that they hold it, this one included; at most 8 others are
    counted, 0 when nobody answered in time. `version`: what stands behind the name's @. `note`:
    what was done to it while it was published. `weights`, told by who publishes: the digest of what
    it adds, in hex (docs/protocols/registry.md).
    """

    name: str
    cid: str
    creator: str
    state: AdapterState
    size_bytes: int
    licence: str
    providers: int = 0
    version: str = ""
    description: str = ""
    languages: tuple[str, ...] = ()
    base: str = ""
    note: str = ""
    weights: str = ""


@dataclass(frozen=True)
class AlikeInfo:
    """A held adapter that adds nearly the same to the base.

    `cosine` of all that the two add; `least` of the modules that both change, which are `modules`;
    `strength`: how much more the adapter that was asked for adds than this one.
    """

    name: str
    cid: str
    creator: str
    cosine: float = 0.0
    least: float = 0.0
    modules: int = 0
    strength: float = 0.0


@dataclass(frozen=True)
class RegisteredInfo:
    """What the registry says of an adapter's weights; addresses and digests are 0x text.

    `is_theirs`: the manifest is signed by whom they are registered to.
    """

    creator: str
    owner: str
    block: int
    at: int
    royalty_bps: int
    manifest: str
    parents: tuple[str, ...]
    is_theirs: bool


@dataclass(frozen=True)
class ShownInfo:
    """One adapter, looked at closely.

    `weights` and `weights_half` are its weights' digests in hex, empty where it has none, and
    `why_none` why; `has_registry`: a registry was asked.
    """

    adapter: AdapterInfo
    weights: str = ""
    weights_half: str = ""
    why_none: str = ""
    has_registry: bool = False
    registered: RegisteredInfo | None = None
    alike: tuple[AlikeInfo, ...] = ()


@dataclass(frozen=True)
class HeldInfo:
    """One adapter that is held here. `used_at`: when it was wanted last, or came here, in Unix
    seconds.
    """

    name: str
    cid: str
    version: str
    size_bytes: int
    why: WhyHeld
    used_at: float | None = None


@dataclass(frozen=True)
class ArrivingInfo:
    """One adapter on its way here; `done_bytes` of its files are on this disk."""

    name: str
    cid: str
    size_bytes: int
    done_bytes: int


@dataclass(frozen=True)
class PushTold:
    """What a creator says of an adapter beside its folder; what is empty the folder says.

    `without`: contributors (a name, an address) and contributions (the begin of a digest) that are
    withdrawn; the versions before are then withdrawn, too. `register`: its weights are registered
    to the creator first, with `royalty_bps` of what is made of them, and with `parents`, digests in
    hex of the weights that they are made of.
    """

    description: str = ""
    languages: tuple[str, ...] = ()
    licence: str = ""
    name: str = ""
    source: str = ""
    without: tuple[str, ...] = ()
    register: bool = False
    royalty_bps: int = 0
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundInfo:
    """What was found on this disk, in a hub's cache or a folder.

    `name`: under which it would be published, empty where it cannot be. `reason`: why not, or what
    to do with it. `told`: what its card says.
    """

    repo: str
    revision: str
    state: FoundState
    folder: str
    name: str
    size_bytes: int
    reason: str
    told: PushTold


@dataclass(frozen=True)
class VersionInfo:
    """One version of a name; `cid` None: it is withdrawn. `is_meant`: the bare name means it."""

    name: str
    cid: str | None
    is_meant: bool
    signed_at: int


@dataclass(frozen=True)
class SearchRequest:
    """What to look for among the adapters known here; what is empty does not matter.

    `base` is the hex digest of a base's weights, or how it begins.
    """

    words: tuple[str, ...] = ()
    language: str = ""
    licence: str = ""
    base: str = ""
    max_size_bytes: int | None = None


@dataclass(frozen=True)
class PullReport:
    """How an adapter was obtained, and how long each part took.

    `blocks_by_peer` counts verified blocks; `rejected` lists (peer, cid, reason) for each bad one.
    """

    name: str
    cid: str
    size_bytes: int
    lookup_ms: float
    fetch_ms: float
    verify_ms: float
    load_ms: float
    blocks_by_peer: Mapping[str, int]
    rejected: tuple[tuple[str, str, str], ...] = ()
