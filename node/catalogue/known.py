"""Remembers which adapters there are and what names mean, as creators signed it and peers announced
it: what `search` looks through, and what a look-up may answer from at once.

Bounded in entries and bytes; an announcer that says much makes room before one that says little,
and what nobody repeats expires. Asks nobody, and does not know who is alive.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2p.cid import Cid
from p2p.errors import InvalidInput
from p2p.identity import peer_id_of
from p2p.names import NameRecord, check_date, decode_name, encode_name, newest, version_name
from proofs.manifest import Manifest, ManifestError

from .about import About, Announcement, parse_announcement

MAX_KNOWN = 4096
MAX_KNOWN_BYTES = 32 << 20
MAX_OF_ANNOUNCER = 512
MAX_NAMES = 16_384
MAX_NAMES_OF_OWNER = 1024
EXPIRES_S = 14 * 24 * 3600.0
FRESH_S = 900.0  # a name heard or looked up within this is answered at once
STRANGER = ""
"""Who announced what was fetched here and not heard of."""


@dataclass(frozen=True)
class Entry:
    """An adapter, who announced it first, and when it was heard of last (Unix seconds)."""

    announcement: Announcement
    announcer: str
    heard_at: float

    @property
    def manifest(self) -> Manifest:
        """Return what its creator signed."""
        return self.announcement.manifest


class Known:
    """The adapters and names that this node heard of."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        max_known: int = MAX_KNOWN,
        max_of_announcer: int = MAX_OF_ANNOUNCER,
        max_bytes: int = MAX_KNOWN_BYTES,
    ) -> None:
        self._clock = clock
        self._max_known = max_known
        self._max_of_announcer = max_of_announcer
        self._max_bytes = max_bytes
        self._entries: dict[Cid, Entry] = {}  # latest heard of last
        self._names: dict[tuple[str, str], tuple[NameRecord, float]] = {}
        self._count: Counter[str] = Counter()
        self._bytes = 0
        self.is_dirty = False

    # --- adapters ---

    def learn(self, announcement: Announcement, announcer: str = STRANGER) -> None:
        """Remember an adapter that was announced; whoever announced most makes room."""
        cid = announcement.cid
        known = self._entries.get(cid)
        if known is not None:
            announcer = known.announcer
            about = announcement if announcement.about_bytes else known.announcement
            announcement = about
        self._put(Entry(announcement, announcer, self._clock()))
        if self._count[announcer] > self._max_of_announcer:
            self._drop_oldest_of(announcer)
        while len(self._entries) > self._max_known or self._bytes > self._max_bytes:
            self._drop_oldest_of(self._count.most_common(1)[0][0])

    def find(self, cid: Cid) -> Manifest | None:
        """Return the manifest with this CID, or None if it was not heard of."""
        entry = self._entries.get(cid)
        return entry.manifest if entry else None

    def announced(self, cid: Cid) -> tuple[bytes, str] | None:
        """Return a manifest's bytes and the peer that announced it, STRANGER where nobody did."""
        entry = self._entries.get(cid)
        return (entry.announcement.manifest_bytes, entry.announcer) if entry else None

    def about(self, cid: Cid) -> About:
        """Return what its creator says of an adapter; nothing where it was not heard."""
        entry = self._entries.get(cid)
        return entry.announcement.about if entry else About()

    def __iter__(self) -> Iterator[tuple[Cid, Manifest]]:
        """Iterate over every adapter known, the latest heard of last."""
        return iter([(cid, entry.manifest) for cid, entry in self._entries.items()])

    def _put(self, entry: Entry) -> None:
        self._drop(entry.announcement.cid)
        self._entries[entry.announcement.cid] = entry
        self._count[entry.announcer] += 1
        self._bytes += entry.announcement.size_bytes
        self.is_dirty = True

    def _drop_oldest_of(self, announcer: str) -> None:
        self._drop(next(cid for cid, one in self._entries.items() if one.announcer == announcer))

    def _drop(self, cid: Cid) -> None:
        entry = self._entries.pop(cid, None)
        if entry is not None:
            self._bytes -= entry.announcement.size_bytes
            self._count[entry.announcer] -= 1
            if not self._count[entry.announcer]:
                del self._count[entry.announcer]

    # --- names ---

    def learn_name(self, record: NameRecord) -> bool:
        """Remember a record whose signature holds; return whether it says something new.

        Raises InvalidNameRecord for one from the future.
        """
        check_date(record, self._clock())
        place = (record.owner, record.name)
        known, _ = self._names.get(place, (None, 0.0))
        if known is not None and newest([known, record]) == 0 and known != record:
            return False
        self._names.pop(place, None)
        self._names[place] = (record, self._clock())
        self._make_room_for_names(record.owner)
        self.is_dirty = True
        return record != known

    def find_name(self, owner: str, name: str, *, fresh: bool = False) -> NameRecord | None:
        """Return the newest record heard of; with `fresh` only one heard within FRESH_S."""
        record, heard_at = self._names.get((owner, name), (None, 0.0))
        return record if not fresh or self._clock() - heard_at < FRESH_S else None

    def current(self) -> list[Manifest]:
        """List the adapters that their creators have not withdrawn."""
        return [manifest for _, manifest in self if not self.is_withdrawn(manifest)]

    def is_withdrawn(self, manifest: Manifest) -> bool:
        """Return whether an adapter's creator has withdrawn this version of it."""
        owner = peer_id_of(manifest.creator)
        try:
            name = version_name(manifest.name, manifest.adapter_version)
        except InvalidInput:
            return False
        record = self.find_name(owner, name)
        return record is not None and record.target is None

    def versions(self, owner: str, name: str) -> list[NameRecord]:
        """List the records of a name's versions, the oldest first."""
        found = [
            record
            for (whose, what), (record, _) in self._names.items()
            if whose == owner and what.startswith(f"{name}@")
        ]
        return sorted(found, key=lambda record: _version_order(record.name))

    def _make_room_for_names(self, owner: str) -> None:
        of_owner = [place for place in self._names if place[0] == owner]
        if len(of_owner) > MAX_NAMES_OF_OWNER:
            del self._names[of_owner[0]]
        while len(self._names) > MAX_NAMES:
            del self._names[next(iter(self._names))]

    # --- the disk ---

    def expire(self) -> None:
        """Forget what nobody has repeated for EXPIRES_S."""
        until = self._clock() - EXPIRES_S
        for cid in [cid for cid, entry in self._entries.items() if entry.heard_at < until]:
            self._drop(cid)
        for place in [place for place, (_, at) in self._names.items() if at < until]:
            del self._names[place]

    def encode(self) -> bytes:
        """Return everything as the bytes of a file."""
        self.expire()
        entries = [
            (one.announcement.encode(), one.announcer, one.heard_at)
            for one in self._entries.values()
        ]
        names = [(encode_name(record), at) for record, at in self._names.values()]
        self.is_dirty = False
        return msgspec.msgpack.encode(_File(entries, names))

    def load(self, path: Path) -> None:
        """Read what was saved; every signature is checked again. Raises OSError, ValueError."""
        if not path.exists():
            return
        kept = msgspec.msgpack.decode(path.read_bytes(), type=_File)
        for data, announcer, heard_at in kept.entries:
            try:
                self._put(Entry(parse_announcement(data), announcer, heard_at))
            except ManifestError:
                continue
        for data, heard_at in kept.names:
            try:
                record = decode_name(data)
            except InvalidInput:
                continue
            self._names[record.owner, record.name] = (record, heard_at)
        self.expire()


class _File(msgspec.Struct, array_like=True, frozen=True):
    entries: list[tuple[bytes, str, float]]
    names: list[tuple[bytes, float]]


def _version_order(name: str) -> tuple[int, str]:
    """Sort whole numbers by their value, behind them whatever else a version is called."""
    version = name.rpartition("@")[2]
    return (int(version), "") if version.isdecimal() else (1 << 64, version)
