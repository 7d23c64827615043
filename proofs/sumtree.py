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

MAX_SUM = (1 << 128) - 1
MAX_SIZE = (1 << 64) - 1
MAX_PROOF_STEPS = 64

_NODE_BYTES = 48  # sum 16 || hash 32, as the node above hashes it


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
class Opening:
    """What a commitment commits to."""

    size: int
    sum: int
    root: bytes

    @property
    def commitment(self) -> bytes:
        """Return the commitment that this opens."""
        return commitment(self.size, SumNode(self.sum, self.root))


@dataclass(frozen=True)
class Change:
    """What one change writes: nodes by height and place, and the size that the tree then has."""

    size: int
    root: SumNode
    levels: tuple[Mapping[int, bytes], ...]

    @property
    def commitment(self) -> bytes:
        """Return the commitment to the tree after the change."""
        return commitment(self.size, self.root)


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

    - `update` writes at once; `plan` computes what it would write, and `apply` writes that.
    - A change costs at most log2(n) hashes for each leaf; nodes that leaves share are hashed once.
    - `cut` and an update with the former leaves take a change back.
    """

    __slots__ = ("_levels",)  # there are very many small ones

    def __init__(self, leaves: Iterable[SumNode] = ()) -> None:
        # _levels[h][i] covers the leaves [i << h, (i + 1) << h) as far as there are any: a last
        # node without a right neighbour rises unchanged. The top level is the root alone.
        self._levels = _build(b"".join(map(_pack, leaves)))

    @classmethod
    def of_contents(cls, leaves: Iterable[tuple[bytes, bytes]]) -> SumTree:
        """Build a tree from (sum, 16 bytes, and content) of each leaf: quicker than from nodes."""
        made = cls.__new__(cls)
        made._levels = _build(
            b"".join([amount + keccak(b"\x00" + content) for amount, content in leaves])
        )
        return made

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

    @property
    def opening(self) -> Opening:
        """Return what the commitment commits to."""
        root = self.root
        return Opening(self.size, root.sum, root.hash)

    def leaf(self, index: int) -> SumNode:
        """Return one leaf. Raises IndexError where there is none."""
        if not 0 <= index < self.size:
            raise IndexError(f"no leaf {index} in a tree of {self.size}")
        return self._node(0, index)

    def find_node(self, height: int, place: int, size: int) -> SumNode | None:
        """Return the node over the leaves [place << height, (place + 1) << height), or None where
        a tree of `size` leaves has others under it than this one.
        """
        end = (place + 1) << height
        if min(end, size) != min(end, self.size) or place << height >= self.size:
            return None
        return self._node(height, place)

    def append(self, new: SumNode) -> int:
        """Add one leaf at the end and return its index."""
        self.update({self.size: new})
        return self.size - 1

    def extend(self, leaves: Iterable[SumNode]) -> None:
        """Add leaves at the end, in this order."""
        self.update(dict(enumerate(leaves, self.size)))

    def update(self, leaves: Mapping[int, SumNode]) -> None:
        """Set leaves by index; those from `size` on are appended.

        Raises, and changes nothing, as `plan` does.
        """
        size = self._size_with(leaves)
        replaced = sum(self._sum(index) for index in leaves if index < self.size)
        # No subtree's sum is above that of the whole, which is looked at before anything changes.
        _bytes16(self.root.sum - replaced + sum(new.sum for new in leaves.values()))
        level = self._levels[0]
        level.extend(bytes(size * _NODE_BYTES - len(level)))
        for index, new in leaves.items():
            level[index * _NODE_BYTES : (index + 1) * _NODE_BYTES] = _pack(new)
        dirty = set(leaves)
        for height in range(1, _height(size) + 1):
            if height == len(self._levels):
                self._levels.append(bytearray())
            above = self._levels[height]
            above.extend(bytes(-(-size >> height) * _NODE_BYTES - len(above)))
            dirty = {place >> 1 for place in dirty}
            for place in dirty:
                pair = level[2 * place * _NODE_BYTES : 2 * (place + 1) * _NODE_BYTES]
                above[place * _NODE_BYTES : (place + 1) * _NODE_BYTES] = _join(pair)
            level = above

    def plan(self, leaves: Mapping[int, SumNode]) -> Change:
        """Compute what `update` would write, and change nothing: for trees too large to copy.

        Raises OverflowError where a sum would not fit 128 bits. Raises IndexError where the
        appended leaves leave a gap.
        """
        size = self._size_with(leaves)
        fresh = {index: _pack(new) for index, new in leaves.items()}
        levels = [fresh]
        for height in range(_height(size)):
            fresh = self._plan_level(height, -(-size >> height), fresh)
            levels.append(fresh)
        return Change(size, _unpack(fresh[0]) if fresh else self.root, tuple(levels))

    def apply(self, change: Change) -> None:
        """Write a change that was planned for the tree as it is."""
        for height, nodes in enumerate(change.levels):
            if height == len(self._levels):
                self._levels.append(bytearray())
            level = self._levels[height]
            missing = -(-change.size >> height) * _NODE_BYTES - len(level)
            if missing:
                level.extend(bytes(missing))
            for place, packed in nodes.items():
                level[place * _NODE_BYTES : (place + 1) * _NODE_BYTES] = packed

    def cut(self, size: int) -> None:
        """Drop the leaves from `size` on."""
        assert 0 <= size <= self.size, f"a tree of {self.size} cannot be cut to {size}"
        del self._levels[_height(size) + 1 :]
        for height, level in enumerate(self._levels):
            del level[_width(size, height) * _NODE_BYTES :]
        if size:
            # The nodes over the new right edge covered more than they do now.
            self.update({size - 1: self.leaf(size - 1)})

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
        for height, above_width in enumerate(widths[1:]):
            for place in range(above_width):
                pair = self._levels[height][2 * place * _NODE_BYTES :][: 2 * _NODE_BYTES]
                assert self._slice(height + 1, place) == _join(pair)

    def _size_with(self, leaves: Mapping[int, SumNode]) -> int:
        """Return the size after these are set; those beyond the end must leave no gap."""
        before = self.size
        if not leaves:
            return before
        size = max(before, max(leaves) + 1)
        if min(leaves) < 0 or sum(index >= before for index in leaves) != size - before:
            raise IndexError(f"leaves are appended from index {before} on, without a gap")
        return size

    def _plan_level(self, height: int, width: int, fresh: Mapping[int, bytes]) -> dict[int, bytes]:
        """Compute the nodes above the fresh ones of a level that has `width` nodes."""
        level = self._levels[height] if height < len(self._levels) else b""
        above = {}
        for place, packed in fresh.items():
            if place & 1:
                left = fresh.get(place - 1)
                pair = (
                    left or bytes(level[(place - 1) * _NODE_BYTES : place * _NODE_BYTES])
                ) + packed
            elif place + 1 in fresh:
                continue  # its right neighbour joins the two
            elif place + 1 < width:
                pair = packed + level[(place + 1) * _NODE_BYTES : (place + 2) * _NODE_BYTES]
            else:
                pair = packed
            above[place >> 1] = _join(pair)
        return above

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


def nodes_of(node: SumNode, proof: Proof) -> dict[tuple[int, int], SumNode]:
    """Return each node that a proof names or leads to, by height and place.

    Raises ValueError where it is none, as `root_of` does.
    """
    root_of(node, proof)
    found = {}
    siblings = iter(proof.siblings)
    width = proof.size
    for height, place in _path(proof.index, proof.size):
        found[height, place] = node
        if place ^ 1 < width:
            other = found[height, place ^ 1] = next(siblings)
            node = parent(other, node) if place & 1 else parent(node, other)
        width = (width + 1) // 2
    found[_height(proof.size), 0] = node
    return found


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
    return [(height, index >> height) for height in range(_height(size))]


def _height(size: int) -> int:
    """Return how many levels stand above the leaves."""
    return (size - 1).bit_length() if size else 0


def _width(size: int, height: int) -> int:
    """Return how many nodes a level has; none where the tree is not so high."""
    return -(-size >> height) if height <= _height(size) else 0


def _build(leaves: bytes) -> list[bytearray]:
    """Return all levels over these packed leaves."""
    from_bytes = int.from_bytes
    level = bytearray(leaves)
    levels = [level]
    while len(level) > _NODE_BYTES:
        above = []
        for at in range(0, len(level) - _NODE_BYTES, 2 * _NODE_BYTES):
            # As `_join`, written out: half of all hashes are made here.
            pair = level[at : at + 2 * _NODE_BYTES]
            total = from_bytes(pair[:16], "big") + from_bytes(pair[48:64], "big")
            above.append(total.to_bytes(16, "big"))
            above.append(keccak(b"\x01" + pair))
        if len(level) // _NODE_BYTES & 1:
            above.append(bytes(level[-_NODE_BYTES:]))
        level = bytearray(b"".join(above))
        levels.append(level)
    return levels


def _join(pair: bytes | bytearray) -> bytes:
    """Return the node above two packed ones, or above a last one, which rises unchanged."""
    if len(pair) == _NODE_BYTES:
        return bytes(pair)
    total = int.from_bytes(pair[:16], "big") + int.from_bytes(pair[48:64], "big")
    return total.to_bytes(16, "big") + keccak(b"\x01" + pair)


def _pack(node: SumNode) -> bytes:
    return _bytes16(node.sum) + node.hash


def _unpack(packed: bytes | bytearray) -> SumNode:
    return SumNode(int.from_bytes(packed[:16], "big"), bytes(packed[16:]))


def _bytes16(amount: int) -> bytes:
    return amount.to_bytes(16, "big")


NOTHING = commitment(0, EMPTY)  # of the empty tree
