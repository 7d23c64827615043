"""Checks files against their sha-256 while they pass through, also where a client comes back for
the rest of one.

    a file passes, hashed ──▶ it breaks ──▶ the client asks for the rest, from N on
                              └─ the hash stood like this at a mark before N ─▶ it goes on there

Remembers hashes, never bytes. Pure: knows no connection and no hub.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Protocol

MAX_FILES = 64
MARK_BYTES = 1 << 20
MAX_MARKS = 64
"""How far back a client may resume, in MARK_BYTES: it lags by what the buffers between hold."""


class Hash(Protocol):
    """A sha-256 that is not finished: hashlib's."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def copy(self) -> Hash:
        """Return another one that stands where this one does."""

    def hexdigest(self) -> str:
        """Return the hash of what was taken."""


@dataclass(frozen=True)
class Mark:
    """The hash of a file's first `offset` bytes."""

    offset: int = 0
    hash: Hash = field(default_factory=hashlib.sha256)


FALSE_S = 30.0
"""For how long a file that was false is not tried again: a client that comes back hears why."""


@dataclass
class Known:
    """What passed of one file. `false_at`: when its bytes were not those that their hash names."""

    sha256: str
    marks: deque[Mark] = field(default_factory=lambda: deque([Mark()], MAX_MARKS))
    false_at: float | None = None


class Passage:
    """One file on its way through, from `offset` on."""

    def __init__(self, known: Known, mark: Mark) -> None:
        self.offset = mark.offset
        self._known = known
        self._hash = mark.hash.copy()
        self._marked = mark.offset

    def take(self, data: bytes) -> None:
        """Hash what passes."""
        self._hash.update(data)
        self.offset += len(data)
        if self.offset - self._marked >= MARK_BYTES:
            self._marked = self.offset
            self._known.marks.append(Mark(self.offset, self._hash.copy()))

    def is_true(self, now: float) -> bool:
        """Say, at the end, whether the file was what its hash names; remembers it if not."""
        is_true = self._hash.hexdigest() == self._known.sha256
        self._known.false_at = None if is_true else now
        return is_true


class Passages:
    """The files that passed lately, by a key that names each."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Known] = OrderedDict()

    def find(self, key: str) -> Known | None:
        """Return what is known of a file that a client may go on with."""
        return self._known.get(key)

    def is_false(self, key: str, now: float) -> bool:
        """Say whether the file was found false a moment ago."""
        known = self._known.get(key)
        return known is not None and known.false_at is not None and now < known.false_at + FALSE_S

    def begin(self, key: str, sha256: str) -> Passage:
        """Begin a file."""
        known = self._known[key] = Known(sha256)
        self._known.move_to_end(key)
        if len(self._known) > MAX_FILES:
            self._known.popitem(last=False)
        return Passage(known, Mark())

    @staticmethod
    def mark(known: Known, start: int) -> Mark | None:
        """Return the last mark at or before a byte, None where that is too far back."""
        before = [mark for mark in known.marks if mark.offset <= start]
        return max(before, key=lambda mark: mark.offset, default=None)
