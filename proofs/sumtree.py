"""Keeps append-only, indexed Merkle-sum trees: one commitment fixes every leaf, their number and
their sum.

Twin of contracts/src/libraries/SumTree.sol. Knows hashes and sums; what a leaf says is for
epoch.py and payouts.py.

    leaf       = (sum, keccak256(0x00 || content))                   the content holds the sum
    node       = (l.sum + r.sum, keccak256(0x01 || l.sum 16 || l.hash 32 || r.sum 16 || r.hash 32))
    commitment = keccak256(0x02 || size 8 || sum 16 || root hash 32)

A node's hash covers the sums of *both* children. Hashing only left + right lets a tree owe more
than its root says while every single proof verifies (IACR eprint 2018/1139). Leaves stand in the
order in which they were appended and never move, so an index names one for ever; n of them split
at the largest power of two below n (RFC 9162). Sums are unsigned 128-bit big-endian. The empty tree
has size 0, sum 0 and 32 zero bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from .digest import keccak

# Version 1's tree, for what is not rewritten yet.
from .payout_tree import PayoutProof as PayoutProof
from .payout_tree import PayoutTree as PayoutTree
from .payout_tree import verify_payout as verify_payout

MAX_SUM = (1 << 128) - 1
MAX_SIZE = (1 << 64) - 1
MAX_PROOF_STEPS = 64

_NODE_BYTES = 48  # sum 16 || hash 32, as the node above hashes it
_PAIR_BYTES = 2 * _NODE_BYTES


@dataclass(frozen=True)
class SumNode:
    """A subtree: the sum of its leaves, and its hash. A leaf and a root are ones, too."""

    sum: int
    hash: bytes


EMPTY = SumNode(0, bytes(32))


@dataclass(frozen=True)
class Proof:
    """The path of leaf `index` in a tree of `size` leaves: its siblings, from the leaf up."""

    index: int
    size: int
    siblings: tuple[SumNode, ...]


@dataclass(frozen=True)
class Undo:
    """What takes one `update` back: the size before, and the leaves that it replaced."""

    size: int
    replaced: Mapping[int, bytes]


def leaf(content: bytes, amount: int) -> SumNode:
    """Return the leaf of these bytes, which must hold their amount. Raises OverflowError where that
    does not fit 128 bits.
    """
    _bytes16(amount)
    return SumNode(amount, keccak(b"\x00" + content))


def parent(left: SumNode, right: SumNode) -> SumNode:
    """Join two subtrees. Raises OverflowError where their sum does not fit 128 bits."""
    return _unpack(_join(_pack(left) + _pack(right)))


def commitment(size: int, root: SumNode) -> bytes:
    """Commit to a tree: its size, its sum and its root's hash."""
    return keccak(b"\x02" + size.to_bytes(8, "big") + _pack(root))


class SumTree:
    """One tree, all of its nodes kept: 96 bytes of memory for each leaf.

    - A change costs O(log n) hashes for each leaf, and fewer where leaves share nodes.
    - What `update` returns takes it back, the newest first.
    """

    def __init__(self, leaves: Iterable[SumNode] = ()) -> None:
        # _levels[h][i] covers the leaves [i << h, (i + 1) << h) as far as there are any: a last
        # node without a right neighbour rises unchanged. The top level is the root alone.
        self._levels = [bytearray()]
        self.extend(leaves)

    def copy(self) -> SumTree:
        """Return a tree that can be changed without changing this one."""
        other = SumTree.__new__(SumTree)
        other._levels = [level.copy() for level in self._levels]
        return other

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0]) // _NODE_BYTES

    @property
    def root(self) -> SumNode:
        """Return the root: the sum of all leaves, and the hash over them."""
        return _unpack(self._levels[-1]) if self.size else EMPTY

    @property
    def commitment(self) -> bytes:
        """Return the commitment to the whole tree."""
        return commitment(self.size, self.root)

    def leaf(self, index: int) -> SumNode:
        """Return one leaf. Raises IndexError where there is none."""
        if not 0 <= index < self.size:
            raise IndexError(f"no leaf {index} in a tree of {self.size}")
        return self._node(0, index)

    def append(self, new: SumNode) -> int:
        """Add one leaf at the end and return its index."""
        self.update({self.size: new})
        return self.size - 1

    def extend(self, leaves: Iterable[SumNode]) -> Undo:
        """Add leaves at the end, in this order."""
        return self.update(dict(enumerate(leaves, self.size)))

    def update(self, leaves: Mapping[int, SumNode]) -> Undo:
        """Set leaves by index, each inner node hashed once; those from `size` on are appended.

        Raises OverflowError, and changes nothing, where the sum would not fit 128 bits. Raises
        IndexError where the appended ones leave a gap.
        """
        size = self.size
        added = sorted(index for index in leaves if index >= size)
        if added != list(range(size, size + len(added))) or any(index < 0 for index in leaves):
            raise IndexError(f"leaves are appended from index {size} on, without a gap")
        before = sum(self._sum(index) for index in leaves if index < size)
        _bytes16(self.root.sum - before + sum(new.sum for new in leaves.values()))
        undo = Undo(size, {index: self._slice(0, index) for index in leaves if index < size})
        self._set({index: _pack(new) for index, new in leaves.items()}, size + len(added))
        return undo

    def undo(self, undo: Undo) -> None:
        """Take back the newest change that is not taken back yet."""
        assert undo.size <= self.size, "a later change must be taken back first"
        self._set(undo.replaced, undo.size)

    def prove(self, index: int) -> Proof:
        """Return the path of a leaf. Raises IndexError where there is none."""
        if not 0 <= index < self.size:
            raise IndexError(f"no leaf {index} in a tree of {self.size}")
        siblings = [
            self._node(height, place ^ 1)
            for height, place in _path(index, self.size)
            if (place ^ 1) * _NODE_BYTES < len(self._levels[height])
        ]
        return Proof(index, self.size, tuple(siblings))

    def check(self) -> None:
        """Raise AssertionError unless every inner node is what its children say."""
        widths = [len(level) // _NODE_BYTES for level in self._levels]
        assert widths[-1] <= 1, "the top level is the root alone"
        assert all(above == (below + 1) // 2 for below, above in pairwise(widths))
        for height in range(1, len(self._levels)):
            for place in range(widths[height]):
                assert self._slice(height, place) == self._above(height - 1, place)

    def _set(self, leaves: Mapping[int, bytes], size: int) -> None:
        """Write packed leaves into a tree that then has `size`, and hash what stands above them."""
        dirty = set(leaves)
        if size != self.size:
            # The old right edge and the new one change even where no leaf there does.
            dirty |= {index for index in (self.size - 1, size - 1) if 0 <= index < size}
        self._resize(size)
        bottom = self._levels[0]
        for index, packed in leaves.items():
            bottom[index * _NODE_BYTES : (index + 1) * _NODE_BYTES] = packed
        for height in range(1, len(self._levels)):
            level = self._levels[height]
            dirty = {place >> 1 for place in dirty}
            for place in dirty:
                packed = self._above(height - 1, place)
                level[place * _NODE_BYTES : (place + 1) * _NODE_BYTES] = packed

    def _resize(self, size: int) -> None:
        height = 0
        width = size
        while True:
            if height == len(self._levels):
                self._levels.append(bytearray())
            level = self._levels[height]
            length = width * _NODE_BYTES
            if len(level) > length:
                del level[length:]
            else:
                level.extend(bytes(length - len(level)))
            if width <= 1:
                break
            width = (width + 1) // 2
            height += 1
        del self._levels[height + 1 :]

    def _above(self, height: int, place: int) -> bytes:
        """Compute the node above the pair `place` of a level, which may lack its right half."""
        pair = self._levels[height][place * _PAIR_BYTES : (place + 1) * _PAIR_BYTES]
        return _join(pair) if len(pair) == _PAIR_BYTES else bytes(pair)

    def _slice(self, height: int, place: int) -> bytes:
        return bytes(self._levels[height][place * _NODE_BYTES : (place + 1) * _NODE_BYTES])

    def _node(self, height: int, place: int) -> SumNode:
        return _unpack(self._slice(height, place))

    def _sum(self, index: int) -> int:
        return int.from_bytes(
            self._levels[0][index * _NODE_BYTES : index * _NODE_BYTES + 16], "big"
        )


def root_of(node: SumNode, proof: Proof) -> SumNode:
    """Return the root that a leaf and its proof lead to, exactly as the contract computes it.

    Raises ValueError where the proof has not the shape of its index and size, or a number is out of
    range.
    """
    if not 0 <= proof.index < proof.size <= MAX_SIZE or len(proof.siblings) > MAX_PROOF_STEPS:
        raise ValueError(f"no such proof: index {proof.index} of {proof.size}")
    if any(len(each.hash) != 32 for each in (node, *proof.siblings)):
        raise ValueError("a hash has 32 bytes")
    rest = list(proof.siblings)
    try:
        # One pass from the leaf up (RFC 9162, 2.1.3.2): a last node without a right neighbour rises
        # unchanged, and takes no sibling.
        width = proof.size
        for _, place in _path(proof.index, proof.size):
            if place ^ 1 < width:
                other = rest.pop(0)
                node = parent(other, node) if place & 1 else parent(node, other)
            width = (width + 1) // 2
    except OverflowError as error:
        raise ValueError("a sum does not fit 128 bits") from error
    except IndexError as error:
        raise ValueError("the proof is shorter than its index and size say") from error
    if rest:
        raise ValueError("the proof is longer than its index and size say")
    return node


def verify(node: SumNode, proof: Proof, expected: bytes) -> bool:
    """Return whether `node` is the leaf at the proof's index in the tree with this commitment."""
    try:
        return commitment(proof.size, root_of(node, proof)) == expected
    except ValueError:
        return False


def split(size: int) -> int:
    """Return the largest power of two below `size` (at least 2), where a tree over so many leaves
    divides.
    """
    return 1 << ((size - 1).bit_length() - 1)


def _path(index: int, size: int) -> list[tuple[int, int]]:
    """List (height, place) of the nodes from a leaf up to just below the root."""
    return [(height, index >> height) for height in range((size - 1).bit_length())]


def _join(pair: bytes | bytearray) -> bytes:
    sums = int.from_bytes(pair[:16], "big") + int.from_bytes(pair[48:64], "big")
    return _bytes16(sums) + keccak(b"\x01" + pair)


def _pack(node: SumNode) -> bytes:
    return _bytes16(node.sum) + node.hash


def _unpack(packed: bytes | bytearray) -> SumNode:
    return SumNode(int.from_bytes(packed[:16], "big"), bytes(packed[16:]))


def _bytes16(amount: int) -> bytes:
    return amount.to_bytes(16, "big")


NOTHING = commitment(0, EMPTY)  # of the empty tree
