"""Keeps the attestations that were made here or told by others. Believes none of them.

    made here, of an auditor that is named ──kept before──▶ of strangers: the oldest makes room

Each auditor has one word on each receipt, the first, and so many at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from proofs.attestation.record import Attestation

MAX_KEPT = 4_096
MAX_OF_AUDITOR = 256  # of a stranger
MAX_LIARS = 1_024
MAX_PLEDGES = 1_024
MAX_FILE_BYTES = 8 << 20

Key = tuple[bytes, bytes]


class Heard:
    """The newest attestations. `is_near` says whose are not strangers': this node's own key, and
    those of the auditors that its operator named (compressed public keys).
    """

    def __init__(self, is_near: Callable[[bytes], bool]) -> None:
        self._is_near = is_near
        self._kept: dict[Key, tuple[bytes, Attestation]] = {}
        self._counts = Counter[bytes]()
        self._liars: dict[bytes, None] = {}
        self._pledges: dict[bytes, float] = {}
        self.is_dirty = False

    def learn_pledge(self, commitment: bytes, now: float) -> None:
        """Remember when an auditor's commitment was heard first; a restart forgets it."""
        self._pledges.setdefault(commitment, now)
        if len(self._pledges) > MAX_PLEDGES:
            del self._pledges[next(iter(self._pledges))]

    def pledged_at(self, commitment: bytes) -> float | None:
        """Return when a commitment was heard first, in Unix seconds; None where it was not."""
        return self._pledges.get(commitment)

    def knows(self, found: Attestation) -> bool:
        """Return whether this auditor's word on this receipt is here already."""
        return _key(found) in self._kept

    def is_liar(self, auditor: bytes) -> bool:
        """Return whether an auditor attested what a replay here contradicted."""
        return auditor in self._liars

    def learn(self, data: bytes, found: Attestation) -> bool:
        """Keep one, its opening left to others; return whether it is new and has room."""
        if self.knows(found) or self.is_liar(found.auditor):
            return False
        if not self._is_near(found.auditor) and self._counts[found.auditor] >= MAX_OF_AUDITOR:
            self._drop(next(key for key in self._kept if key[0] == found.auditor))
        self._kept[_key(found)] = (data, found)
        self._counts[found.auditor] += 1
        if len(self._kept) > MAX_KEPT:
            strangers = (key for key in self._kept if not self._is_near(key[0]))
            self._drop(next(strangers, next(iter(self._kept))))
        self.is_dirty = True
        return True

    def convict(self, auditor: bytes) -> None:
        """Forget what an auditor said, and hear him no more."""
        self._liars[auditor] = None
        if len(self._liars) > MAX_LIARS:
            del self._liars[next(iter(self._liars))]
        for key in [key for key in self._kept if key[0] == auditor]:
            self._drop(key)
        self.is_dirty = True

    def all(self) -> Iterator[Attestation]:
        """Yield what is kept, the newest first."""
        return (found for _, found in reversed(self._kept.values()))

    def encode(self) -> bytes:
        """Return all of it, for `load` after a restart."""
        self.is_dirty = False
        return msgspec.msgpack.encode(([data for data, _ in self._kept.values()], [*self._liars]))

    def load(self, path: Path, parse: Callable[[bytes], Attestation]) -> None:
        """Take what was kept before a restart, nothing where there is no file; `parse` checks each.
        Raises OSError, ValueError, and what `parse` does.
        """
        if not path.exists():
            return
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        kept, liars = msgspec.msgpack.decode(
            path.read_bytes(), type=tuple[list[bytes], list[bytes]]
        )
        self._liars = dict.fromkeys(liars[-MAX_LIARS:])
        for one in kept[-MAX_KEPT:]:
            self.learn(one, parse(one))
        self.is_dirty = False

    def _drop(self, key: Key) -> None:
        del self._kept[key]
        self._counts[key[0]] -= 1
        if not self._counts[key[0]]:
            del self._counts[key[0]]


def _key(found: Attestation) -> Key:
    return found.auditor, found.digest


_FILE = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]])
