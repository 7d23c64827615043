"""Keeps the log of receipts: an append-only Merkle tree (RFC 9162, section 2.1) over bytes.

Knows no receipt and no signature.

    leaf = sha256(0x00 || data)
    node = sha256(0x01 || left || right)
    empty log = sha256("")

A log of n leaves splits at the largest power of two below n, so its full subtrees never change:
`Frontier` keeps just those on the right edge, enough to append and to give the root; `Log` keeps
all of them, enough to prove anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .sumtree import split

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash one entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into one."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """The full subtrees of a log, largest first: one per set bit of its size."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaves: Iterable[bytes]) -> Frontier:
        """Return the frontier after more leaf hashes."""
        size = self.size
        peaks = list(self.peaks)
        for new in leaves:
            peaks.append(new)
            # Like a carry in binary: each trailing one is a full subtree that the new leaf
            # completes.
            for _ in range(trailing_ones(size)):
                right = peaks.pop()
                peaks[-1] = node_hash(peaks[-1], right)
            size += 1
        return Frontier(size, tuple(peaks))

    @property
    def root(self) -> bytes:
        """Return the log's root."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        # From the right: the smallest subtree is the deepest, each larger one joins above it.
        for peak in self.peaks[-2::-1]:
            root = node_hash(peak, root)
        return root


class Log:
    """A whole log: proves that an entry is in it, and that an older log is its beginning.

    64 bytes of memory per entry.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # The full subtree over the leaves [i << h, (i + 1) << h) is the i-th hash of _levels[h].
        self._levels = [bytearray()]
        self.append(leaves)

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes at the end."""
        below = self._levels[0]
        below.extend(b"".join(leaves))
        height = 0
        # Level by level: each complete pair of nodes closes a subtree of the level above.
        while len(below) >= 2 * HASH_BYTES:
            height += 1
            if height == len(self._levels):
                self._levels.append(bytearray())
            level = self._levels[height]
            pairs = range(2 * len(level), len(below) - 2 * HASH_BYTES + 1, 2 * HASH_BYTES)
            level.extend(b"".join(_join(below[at : at + 2 * HASH_BYTES]) for at in pairs))
            below = level

    def cut(self, size: int) -> None:
        """Drop the entries from `size` on."""
        assert 0 <= size <= self.size, f"a log of {self.size} cannot be cut to {size}"
        for height, level in enumerate(self._levels):
            del level[(size >> height) * HASH_BYTES :]

    @property
    def leaves(self) -> bytes:
        """Return all leaf hashes, one after the other."""
        return bytes(self._levels[0])

    def leaf(self, index: int) -> bytes:
        """Return one leaf hash. Raises IndexError where there is none."""
        if not 0 <= index < self.size:
            raise IndexError(f"no entry {index} in a log of {self.size}")
        return self._full(0, index)

    def root_with(self, leaves: Sequence[bytes]) -> bytes:
        """Return the root that the log would have with these leaf hashes added."""
        size = self.size
        peaks = tuple(
            self._full(height, (size >> height) - 1)
            for height in range(size.bit_length() - 1, -1, -1)
            if size >> height & 1
        )
        return Frontier(size, peaks).append(leaves).root

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the whole log, or of its first `size` entries."""
        size = self.size if size is None else size
        return self._node(0, size) if size else EMPTY_ROOT

    def prove_inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the path from an entry to the root of the first `size` entries, leaf first."""
        size = self.size if size is None else size
        if not 0 <= index < size <= self.size:
            raise IndexError(f"no entry {index} in a log of {size}")
        low = 0
        high = size
        path = list[bytes]()
        while high - low > 1:
            middle = low + split(high - low)
            if index < middle:
                path.append(self._node(middle, high))
                high = middle
            else:
                path.append(self._node(low, middle))
                low = middle
        return path[::-1]

    def prove_consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """Prove that the first `old` entries are the beginning of the first `size` (RFC 9162,
        2.1.4.1).
        """
        size = self.size if size is None else size
        if not 0 <= old <= size <= self.size:
            raise IndexError(f"no log of {old} inside a log of {size}")
        if old in (0, size):
            return []
        low = 0
        high = size
        path = list[bytes]()
        while old < high:
            middle = low + split(high - low)
            if old <= middle:
                path.append(self._node(middle, high))
                high = middle
            else:
                path.append(self._node(low, middle))
                low = middle
        # When `old` is itself a full subtree from the left edge, the verifier has its hash: the old
        # root.
        if low:
            path.append(self._node(low, high))
        return path[::-1]

    def _node(self, low: int, high: int) -> bytes:
        """Return the subtree over [low, high); `low` is a multiple of the power of two that covers
        it.
        """
        width = high - low
        height = width.bit_length() - 1
        # Full subtrees are kept; only those on the right edge are hashed anew.
        if width == 1 << height:
            return self._full(height, low >> height)
        middle = low + split(width)
        return node_hash(self._node(low, middle), self._node(middle, high))

    def _full(self, height: int, place: int) -> bytes:
        return bytes(self._levels[height][place * HASH_BYTES : (place + 1) * HASH_BYTES])


@dataclass(frozen=True)
class InclusionProof:
    """The proof that an entry is number `index` in the log of `size` entries."""

    index: int
    size: int
    path: tuple[bytes, ...]

    def verify(self, data: bytes, receipts_root: bytes) -> bool:
        """Return whether these bytes (a receipt's body) are in the log with this root."""
        return verify_inclusion(
            leaf_hash(data), self.index, self.size, self.path, root=receipts_root
        )


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> bool:
    """Tell whether `leaf` (a leaf hash) is entry `index` of the log of `size` entries.

    `root` is that log's (RFC 9162, 2.1.3.2).
    """
    if not 0 <= index < size:
        return False
    first = index
    last = size - 1
    node = leaf
    for other in path:
        if last == 0:
            return False
        # The bits of `first` say left or right; a last node without a right neighbour rises
        # unchanged.
        if first & 1 or first == last:
            node = node_hash(other, node)
            while not first & 1 and first:
                first = first >> 1
                last = last >> 1
        else:
            node = node_hash(node, other)
        first = first >> 1
        last = last >> 1
    return last == 0 and node == root


def verify_consistency(
    old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]
) -> bool:
    """Tell whether the log of `old` entries is the beginning of the log of `size` entries.

    See RFC 9162, 2.1.4.2.
    """
    if not 0 <= old <= size:
        return False
    if old in (0, size):
        return not path and (old_root == EMPTY_ROOT if old == 0 else old_root == root)
    # A power of two is one full subtree: its hash is the old root, and the path leaves it out.
    steps = list(path) if old & (old - 1) else [old_root, *path]
    if not steps:
        return False
    ones = trailing_ones(old - 1)
    first = (old - 1) >> ones
    last = (size - 1) >> ones
    # One walk rebuilds both roots: siblings on the left belong to both logs, those on the right
    # only to the new one.
    old_node = node = steps[0]
    for other in steps[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old_node = node_hash(other, old_node)
            node = node_hash(other, node)
            while not first & 1 and first:
                first = first >> 1
                last = last >> 1
        else:
            node = node_hash(node, other)
        first = first >> 1
        last = last >> 1
    return last == 0 and old_node == old_root and node == root


def _join(pair: bytes | bytearray) -> bytes:
    return hashlib.sha256(b"\x01" + pair).digest()


def trailing_ones(value: int) -> int:
    """Count the ones at the low end of a number's binary form."""
    return (~value & (value + 1)).bit_length() - 1
