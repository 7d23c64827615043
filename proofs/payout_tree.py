"""Builds the Merkle-sum tree of payouts: one root fixes each account's amount and their sum.

Twin of contracts/src/libraries/SumTree.sol. Does not know why an account is owed.

    leaf  = keccak256(0x00 || account 20 || amount 16)    sum = amount
    node  = keccak256(0x01 || left sum 16 || left hash 32 || right sum 16 || right hash 32)
            sum = left + right

A node's hash covers the sums of *both* children. Hashing only left + right lets a tree owe more
than its root says while every single proof verifies (IACR eprint 2018/1139). Leaves are sorted by
account, each once, none zero; n of them split at the largest power of two below n, as in RFC 9162.
Amounts are unsigned 128-bit big-endian. The empty tree has sum 0 and 32 zero bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from .digest import keccak

MAX_AMOUNT = (1 << 128) - 1
MAX_PROOF_STEPS = 64


@dataclass(frozen=True)
class SumNode:
    """A subtree: what its leaves are owed together, and its hash. A root is one of these."""

    sum: int
    hash: bytes


EMPTY = SumNode(0, bytes(32))


@dataclass(frozen=True)
class Sibling:
    """One step of a proof, from the leaf up: the other child, and whether it stands on the left."""

    sum: int
    hash: bytes
    is_left: bool


@dataclass(frozen=True)
class PayoutProof:
    """The proof that `account` is owed `amount`, in all, under some root."""

    account: bytes
    amount: int
    siblings: tuple[Sibling, ...]


def leaf(account: bytes, amount: int) -> SumNode:
    """Return the leaf of one account."""
    assert len(account) == 20, "an account is a 20-byte address"
    return SumNode(amount, keccak(b"\x00" + account + _bytes16(amount)))


def parent(left: SumNode, right: SumNode) -> SumNode:
    """Join two subtrees. Raises OverflowError where their sum does not fit 128 bits."""
    sums = left.sum + right.sum
    # Raises: the contract's sums are 128 bits wide, and it could not check a larger one.
    _bytes16(sums)
    return SumNode(
        sums, keccak(b"\x01" + _bytes16(left.sum) + left.hash + _bytes16(right.sum) + right.hash)
    )


class PayoutTree:
    """All accounts of one epoch. Gives the root and the proofs under it."""

    def __init__(self, payouts: Mapping[bytes, int]) -> None:
        self._accounts = sorted(account for account, amount in payouts.items() if amount)
        self._amounts = payouts
        # Kept, because the proofs of all accounts share most of their nodes.
        self._nodes: dict[tuple[int, int], SumNode] = {}
        self.root = self._node(0, len(self._accounts)) if self._accounts else EMPTY

    def prove(self, account: bytes) -> PayoutProof:
        """Prove what an account is owed. Raises KeyError when it is owed nothing."""
        if not self._amounts.get(account):
            raise KeyError(f"account {account.hex()} is owed nothing")
        return PayoutProof(
            account, self._amounts[account], tuple(self._path(bisect_left(self._accounts, account)))
        )

    def _path(self, index: int) -> list[Sibling]:
        path: list[Sibling] = []
        low = 0
        high = len(self._accounts)
        while high - low > 1:
            middle = low + split(high - low)
            if index < middle:
                path.append(self._sibling(middle, high, is_left=False))
                high = middle
            else:
                path.append(self._sibling(low, middle, is_left=True))
                low = middle
        return path[::-1]

    def _sibling(self, low: int, high: int, *, is_left: bool) -> Sibling:
        node = self._node(low, high)
        return Sibling(node.sum, node.hash, is_left)

    def _node(self, low: int, high: int) -> SumNode:
        """Return the subtree over the leaves [low, high)."""
        found = self._nodes.get((low, high))
        if found is None:
            found = self._nodes[low, high] = self._build(low, high)
        return found

    def _build(self, low: int, high: int) -> SumNode:
        if high - low == 1:
            account = self._accounts[low]
            return leaf(account, self._amounts[account])
        middle = low + split(high - low)
        return parent(self._node(low, middle), self._node(middle, high))


def root_of(proof: PayoutProof) -> SumNode:
    """Return the root that a proof leads to, exactly as the contract computes it.

    Raises ValueError when its numbers are out of range.
    """
    if len(proof.account) != 20 or len(proof.siblings) > MAX_PROOF_STEPS:
        raise ValueError("no such proof: an account has 20 bytes, a path at most 64 steps")
    if any(len(other.hash) != 32 for other in proof.siblings):
        raise ValueError("a hash has 32 bytes")
    try:
        node = leaf(proof.account, proof.amount)
        for other in proof.siblings:
            sibling = SumNode(other.sum, other.hash)
            node = parent(sibling, node) if other.is_left else parent(node, sibling)
    except OverflowError as error:
        raise ValueError("an amount or a sum does not fit 128 bits") from error
    return node


def verify_payout(proof: PayoutProof, root: SumNode) -> bool:
    """Return whether this root, sum and hash, owes the account what the proof says."""
    try:
        return root_of(proof) == root
    except ValueError:
        return False


def split(size: int) -> int:
    """Return the largest power of two below `size` (at least 2), where a tree over so many leaves
    divides.
    """
    return 1 << ((size - 1).bit_length() - 1)


def _bytes16(amount: int) -> bytes:
    return amount.to_bytes(16, "big")
