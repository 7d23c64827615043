from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.digest import keccak
from proofs.payout_tree import (
    EMPTY,
    MAX_AMOUNT,
    PayoutProof,
    PayoutTree,
    Sibling,
    SumNode,
    leaf,
    parent,
    root_of,
    verify_payout,
)

payouts = st.dictionaries(
    st.binary(min_size=20, max_size=20), st.integers(1, 2**100), min_size=1, max_size=70
)


@given(payouts)
def test_every_account_proves_its_amount_and_no_other(owed: dict[bytes, int]) -> None:
    tree = PayoutTree(owed)
    assert tree.root.sum == sum(owed.values())
    for account, amount in owed.items():
        proof = tree.prove(account)
        assert (proof.account, proof.amount) == (account, amount)
        assert verify_payout(proof, tree.root)
        assert not verify_payout(replace(proof, amount=amount + 1), tree.root)
        assert not verify_payout(
            replace(proof, account=bytes(20) if any(account) else bytes([1]) * 20), tree.root
        )


@given(payouts, st.data())
def test_proof_with_anything_changed_fails(owed: dict[bytes, int], data: st.DataObject) -> None:
    tree = PayoutTree(owed)
    proof = tree.prove(data.draw(st.sampled_from(sorted(owed))))
    assert not verify_payout(
        replace(proof, siblings=(*proof.siblings, Sibling(0, bytes(32), True))), tree.root
    )
    if proof.siblings:
        place = data.draw(st.integers(0, len(proof.siblings) - 1))
        other = proof.siblings[place]
        digest = bytes([other.hash[0] ^ 1]) + other.hash[1:]
        for changed in (
            replace(other, sum=other.sum + 1),
            replace(other, hash=digest),
            replace(other, is_left=not other.is_left),
        ):
            siblings = (*proof.siblings[:place], changed, *proof.siblings[place + 1 :])
            assert not verify_payout(replace(proof, siblings=siblings), tree.root)
        assert not verify_payout(replace(proof, siblings=proof.siblings[:-1]), tree.root)


def test_root_does_not_depend_on_the_order_of_insertion() -> None:
    owed = {bytes([number]) * 20: number for number in range(1, 30)}
    assert PayoutTree(owed).root == PayoutTree(dict(reversed(owed.items()))).root


def test_who_is_owed_nothing_is_not_in_the_tree() -> None:
    tree = PayoutTree({bytes([1]) * 20: 5, bytes([2]) * 20: 0})
    assert tree.root == leaf(bytes([1]) * 20, 5)
    with pytest.raises(KeyError):
        tree.prove(bytes([2]) * 20)
    assert PayoutTree({}).root == EMPTY


ANN = bytes([1]) * 20
BOB = bytes([2]) * 20


def test_aggregator_that_hashes_only_the_total_could_lie_and_here_it_cannot() -> None:
    """IACR eprint 2018/1139: the root says 100, the leaves are owed 180, and both users are
    content.
    """

    def lying_parent(left: SumNode, right: SumNode) -> SumNode:
        total = max(left.sum, right.sum) + 10  # whatever the aggregator likes to say
        return SumNode(total, keccak(b"\x01" + total.to_bytes(16, "big") + left.hash + right.hash))

    ann = leaf(ANN, 90)
    bob = leaf(BOB, 100 - 10)
    lie = lying_parent(ann, bob)
    assert lie.sum == 100
    # With only the total under the hash, Ann is shown a sibling that is owed 10, Bob is shown one
    # that is owed 10, and both hash to the root.
    for own, other, is_left in ((ann, bob, False), (bob, ann, True)):
        shown = SumNode(100 - own.sum, other.hash)
        pair = (shown, own) if is_left else (own, shown)
        assert (
            keccak(
                b"\x01" + (own.sum + shown.sum).to_bytes(16, "big") + pair[0].hash + pair[1].hash
            )
            == lie.hash
        )
    # With both sums under it, at most one story fits the root.
    honest = parent(leaf(ANN, 90), SumNode(10, bob.hash))
    ann_proof = PayoutProof(ANN, 90, (Sibling(10, bob.hash, False),))
    bob_proof = PayoutProof(BOB, 90, (Sibling(10, ann.hash, True),))
    for root in (lie, honest, parent(SumNode(10, ann.hash), leaf(BOB, 90)), parent(ann, bob)):
        assert not (verify_payout(ann_proof, root) and verify_payout(bob_proof, root))


def test_sums_beyond_128_bits_are_refused() -> None:
    with pytest.raises(OverflowError):
        PayoutTree({ANN: MAX_AMOUNT, BOB: 1})
    with pytest.raises(ValueError, match="128 bits"):
        root_of(PayoutProof(ANN, 1, (Sibling(MAX_AMOUNT, bytes(32), True),)))


@pytest.mark.parametrize(
    "proof",
    [
        PayoutProof(bytes(19), 1, ()),
        PayoutProof(ANN, -1, ()),
        PayoutProof(ANN, 1 << 128, ()),
        PayoutProof(ANN, 1, (Sibling(-1, bytes(32), True),)),
        PayoutProof(ANN, 1, (Sibling(1, bytes(31), True),)),
        PayoutProof(ANN, 1, (Sibling(0, bytes(32), True),) * 65),
    ],
)
def test_numbers_out_of_range_prove_nothing(proof: PayoutProof) -> None:
    assert not verify_payout(proof, EMPTY)
    with pytest.raises(ValueError, match=r"bytes|128 bits"):
        root_of(proof)


def test_inner_node_cannot_be_claimed_as_an_account() -> None:
    """A leaf's preimage has 37 bytes and begins with 0, a node's 97 and 1: no claim can be made for
    a subtree.
    """
    tree = PayoutTree({bytes([number]) * 20: number for number in range(1, 9)})
    proof = tree.prove(ANN)
    inner = parent(leaf(ANN, 1), leaf(BOB, 2))
    shorter = PayoutProof(inner.hash[:20], inner.sum, proof.siblings[1:])
    assert not verify_payout(shorter, tree.root)
