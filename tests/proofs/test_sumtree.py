from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proofs.digest import keccak
from proofs.epoch import AccountLeaf, ChannelLeaf, EntryLeaf
from proofs.sumtree import (
    EMPTY,
    MAX_SUM,
    NOTHING,
    Proof,
    SumNode,
    SumTree,
    commitment,
    leaf,
    parent,
    root_of,
    split,
    verify,
)

ANN = bytes([1]) * 20
BOB = bytes([2]) * 20


def node(number: int) -> SumNode:
    return leaf(number.to_bytes(32, "big"), number)


def plain_root(leaves: list[SumNode]) -> SumNode:
    """The tree as RFC 9162 defines it, from the top down."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY
    middle = split(len(leaves))
    return parent(plain_root(leaves[:middle]), plain_root(leaves[middle:]))


def plain_path(index: int, leaves: list[SumNode]) -> list[SumNode]:
    if len(leaves) == 1:
        return []
    middle = split(len(leaves))
    if index < middle:
        return [*plain_path(index, leaves[:middle]), plain_root(leaves[middle:])]
    return [*plain_path(index - middle, leaves[middle:]), plain_root(leaves[:middle])]


@pytest.mark.parametrize("size", range(70))
def test_every_root_and_every_path_is_the_rfcs(size: int) -> None:
    leaves = [node(number + 1) for number in range(size)]
    tree = SumTree(leaves)
    tree.check()
    assert tree.root == plain_root(leaves)
    assert tree.commitment == commitment(size, plain_root(leaves))
    for index in range(size):
        proof = tree.prove(index)
        assert list(proof.siblings) == plain_path(index, leaves)
        assert verify(leaves[index], proof, tree.commitment)


class Changing(RuleBasedStateMachine):
    """A tree under every kind of change, beside the list of leaves that it stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = SumTree()
        self.leaves: list[SumNode] = []
        self.past: list[list[SumNode]] = []

    @rule(data=st.data(), new=st.lists(st.integers(0, 1 << 100), max_size=9))
    def change(self, data: st.DataObject, new: list[int]) -> None:
        changed = st.dictionaries(
            st.integers(0, len(self.leaves) - 1), st.integers(0, 1 << 100), max_size=5
        )
        old = data.draw(changed) if self.leaves else {}
        amounts = {**old, **dict(enumerate(new, len(self.leaves)))}
        change = self.tree.plan({index: node(amount) for index, amount in amounts.items()})
        at_once = self.tree.copy()
        at_once.update({index: node(amount) for index, amount in amounts.items()})
        self.tree.apply(change)
        assert change.commitment == self.tree.commitment == at_once.commitment
        at_once.check()
        self.past.append(list(self.leaves))
        self.leaves += [EMPTY] * len(new)
        for index, amount in amounts.items():
            self.leaves[index] = node(amount)

    @precondition(lambda self: self.past)
    @rule()
    def undo(self) -> None:
        now = self.leaves
        self.leaves = self.past.pop()
        self.tree.cut(len(self.leaves))
        self.tree.update({index: old for index, old in enumerate(self.leaves) if old != now[index]})

    @invariant()
    def is_the_plain_tree(self) -> None:
        self.tree.check()
        assert self.tree.size == len(self.leaves)
        assert self.tree.root == plain_root(self.leaves)


TestChanging = Changing.TestCase
TestChanging.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)


@given(st.integers(1, 40), st.data())
def test_proof_with_anything_changed_fails(size: int, data: st.DataObject) -> None:
    tree = SumTree(node(number + 1) for number in range(size))
    index = data.draw(st.integers(0, size - 1))
    proof = tree.prove(index)
    own = tree.leaf(index)
    expected = tree.commitment
    assert not verify(replace(own, sum=own.sum + 1), proof, expected)
    assert not verify(node(index), proof, expected)
    assert not verify(own, replace(proof, siblings=(*proof.siblings, EMPTY)), expected)
    assert not verify(own, replace(proof, size=size + 1), expected)
    for other in {index - 1, index + 1, size - 1} - {index}:
        assert not verify(own, replace(proof, index=other), expected)
    for place, other in enumerate(proof.siblings):
        digest = bytes([other.hash[0] ^ 1]) + other.hash[1:]
        for changed in (replace(other, sum=other.sum + 1), replace(other, hash=digest)):
            siblings = (*proof.siblings[:place], changed, *proof.siblings[place + 1 :])
            assert not verify(own, replace(proof, siblings=siblings), expected)
        shorter = replace(proof, siblings=proof.siblings[:place])
        assert not verify(own, shorter, expected)


def test_trees_of_equal_roots_and_other_sizes_have_other_commitments() -> None:
    assert len({commitment(size, node(1)) for size in range(1, 9)}) == 8
    assert SumTree().commitment == NOTHING == keccak(b"\x02" + bytes(56))


def test_a_change_that_is_refused_changes_nothing() -> None:
    tree = SumTree([node(MAX_SUM - 5), node(5)])
    before = tree.commitment
    with pytest.raises(OverflowError):
        tree.update({2: node(1)})
    with pytest.raises(OverflowError):
        tree.update({1: node(6)})
    with pytest.raises(IndexError):
        tree.update({0: node(1), 3: node(1)})
    with pytest.raises(IndexError):
        tree.update({-1: node(1)})
    assert tree.commitment == before
    tree.check()


def test_no_leaf_beyond_the_last() -> None:
    tree = SumTree([node(1), node(2)])
    for index in (-1, 2):
        with pytest.raises(IndexError):
            tree.prove(index)
        with pytest.raises(IndexError):
            tree.leaf(index)


@pytest.mark.parametrize(
    ("own", "proof"),
    [
        (SumNode(-1, bytes(32)), Proof(0, 2, (EMPTY,))),
        (SumNode(1 << 128, bytes(32)), Proof(0, 2, (EMPTY,))),
        (SumNode(MAX_SUM, bytes(32)), Proof(0, 2, (SumNode(1, bytes(32)),))),
        (SumNode(1, bytes(31)), Proof(0, 1, ())),
        (SumNode(1, bytes(32)), Proof(0, 2, (SumNode(1, bytes(31)),))),
        (SumNode(1, bytes(32)), Proof(0, 0, ())),
        (SumNode(1, bytes(32)), Proof(2, 2, (EMPTY,))),
        (SumNode(1, bytes(32)), Proof(-1, 2, (EMPTY,))),
        (SumNode(1, bytes(32)), Proof(0, 1 << 64, (EMPTY,) * 64)),
        (SumNode(1, bytes(32)), Proof(0, (1 << 64) - 1, (EMPTY,) * 65)),
    ],
)
def test_numbers_out_of_range_prove_nothing(own: SumNode, proof: Proof) -> None:
    assert not verify(own, proof, NOTHING)
    with pytest.raises(ValueError, match=r"bytes|128 bits|no such proof|longer"):
        root_of(own, proof)


def test_aggregator_that_hashes_only_the_total_could_lie_and_here_it_cannot() -> None:
    """IACR eprint 2018/1139: the root says 100, the leaves are owed 180, and both users are
    content.
    """

    def lying_parent(left: SumNode, right: SumNode) -> SumNode:
        total = max(left.sum, right.sum) + 10  # whatever the aggregator likes to say
        return SumNode(total, keccak(b"\x01" + total.to_bytes(16, "big") + left.hash + right.hash))

    ann = leaf(ANN + (90).to_bytes(16, "big"), 90)
    bob = leaf(BOB + (90).to_bytes(16, "big"), 90)
    lie = lying_parent(ann, bob)
    assert lie.sum == 100
    # With only the total under the hash, Ann is shown a sibling that is owed 10, Bob is shown one
    # that is owed 10, and both hash to the root.
    for own, other, is_left in ((ann, bob, False), (bob, ann, True)):
        shown = SumNode(100 - own.sum, other.hash)
        pair = (shown, own) if is_left else (own, shown)
        total = own.sum + shown.sum
        assert keccak(b"\x01" + total.to_bytes(16, "big") + pair[0].hash + pair[1].hash) == lie.hash
    # With both sums under it, at most one story fits the root.
    ann_proof = Proof(0, 2, (SumNode(10, bob.hash),))
    bob_proof = Proof(1, 2, (SumNode(10, ann.hash),))
    for root in (
        lie,
        parent(ann, SumNode(10, bob.hash)),
        parent(SumNode(10, ann.hash), bob),
        parent(ann, bob),
    ):
        expected = commitment(2, root)
        assert not (verify(ann, ann_proof, expected) and verify(bob, bob_proof, expected))


def test_inner_node_cannot_be_claimed_as_a_leaf() -> None:
    """No leaf has the length of a node's two children, so nothing is both."""
    contents = [
        ChannelLeaf(bytes(32), 1, 1, bytes(32), bytes(32), bytes(32)).encoded,
        AccountLeaf(ANN, 1, bytes(32)).encoded,
        EntryLeaf(bytes(32), 1, 2, 3).encoded,
    ]
    assert [len(content) for content in contents] == [152, 68, 64]
    assert 96 not in {len(content) for content in contents}


def test_a_leaf_holds_its_amount() -> None:
    assert AccountLeaf(ANN, 7, bytes(32)).node == leaf(ANN + (7).to_bytes(16, "big") + bytes(32), 7)
    assert EntryLeaf(bytes(32), 7, 2, 3).encoded.hex() == "00" * 32 + "00" * 15 + "07" + (
        "00" * 7 + "02" + "00" * 7 + "03"
    )
    assert ChannelLeaf(bytes(32), 5, 7, bytes(32), bytes(32), bytes(32)).node.sum == 7
