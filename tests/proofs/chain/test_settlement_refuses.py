"""Every way in which the settlement contract refuses, and that nothing can be paid twice or
elsewhere.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from proofs.chain.errors import ContractReverted
from proofs.epoch import EpochHeader
from proofs.sumtree import PayoutProof, PayoutTree
from tests.proofs.chain.world import World, address, memory_world

A, B, C = (address(name) for name in "ABC")
PAYOUTS = {A: 50, B: 30, C: 20}


def post(world: World, header: EpochHeader, sender: str = "aggregator") -> str:
    with pytest.raises(ContractReverted) as reverted:
        world.post(header, sender)
    return reverted.value.error


def claim(world: World, header: EpochHeader, proof: PayoutProof) -> str:
    with pytest.raises(ContractReverted) as reverted:
        world.client("anybody").settlement.claim(header, proof)
    return reverted.value.error


def test_headers(world: World):
    world.earn(100)
    header = world.next_header(PAYOUTS)
    assert post(world, header, "operator") == "NotAggregator"
    assert post(world, replace(header, epoch=2)) == "WrongEpoch"
    assert post(world, replace(header, epoch=0)) == "WrongEpoch"
    assert post(world, replace(header, previous=b"\1" * 32)) == "WrongPrevious"
    assert post(world, replace(header, payout_total=101)) == "PayoutExceedsReceived"
    world.post(header)
    assert post(world, header) == "WrongEpoch", "the same header twice"
    following = world.next_header(PAYOUTS)
    assert post(world, replace(following, payout_total=99)) == "TotalsFell"
    assert post(world, replace(following, num_receipts=0)) == "TotalsFell"


def test_a_proof_fails_when_any_part_of_it_is_changed(world: World):
    world.earn(100)
    header = world.next_header(PAYOUTS)
    world.post(header)
    proof = PayoutTree(PAYOUTS).prove(A)
    for wrong in (
        replace(proof, amount=51),
        replace(proof, account=B),
        replace(proof, siblings=proof.siblings[:-1]),
    ):
        assert claim(world, header, wrong) == "BadProof"
    first = proof.siblings[0]
    for sibling in (
        replace(first, sum=first.sum + 1),
        replace(first, hash=bytes(32)),
        replace(first, is_left=not first.is_left),
    ):
        assert (
            claim(world, header, replace(proof, siblings=(sibling, *proof.siblings[1:])))
            == "BadProof"
        )
    for name in ("payout_root", "receipts_root", "previous", "batch_digest"):
        assert claim(world, replace(header, **{name: b"\7" * 32}), proof) == "UnknownHeader"
    assert claim(world, replace(header, payout_total=99), proof) == "UnknownHeader"
    assert claim(world, replace(header, epoch=7), proof) == "UnknownHeader"
    overflow = replace(proof, siblings=(replace(first, sum=(1 << 128) - 1),))
    assert claim(world, header, overflow) == "Panic"


def test_a_tree_that_owes_more_than_its_total_pays_nobody_too_much(world: World):
    # The aggregator states a total below the tree's own sum: no proof leads to the stated total.
    world.earn(100)
    lying = world.next_header({A: 80, B: 80}, payout_total=100)
    world.post(lying)
    for account in (A, B):
        assert claim(world, lying, PayoutTree({A: 80, B: 80}).prove(account)) == "BadProof"


def test_an_award_that_moves_after_it_was_paid_does_not_touch_later_fees(world: World):
    world.earn(100)
    first = world.next_header({A: 100})
    world.post(first)
    world.client("anybody").settlement.claim(first, PayoutTree({A: 100}).prove(A))
    world.earn(500)
    second = world.next_header({B: 100})  # an unjust aggregator gives A's award to B as well
    world.post(second)
    assert claim(world, second, PayoutTree({B: 100}).prove(B)) == "ClaimExceedsTotal"
    assert world.client("anybody").token.balance_of(world.deployment.settlement) == 500


def test_an_old_header_still_pays_who_did_not_ask_yet(world: World):
    world.earn(100)
    first = world.next_header(PAYOUTS)
    world.post(first)
    world.earn(10)
    second = world.next_header({**PAYOUTS, A: 60})
    world.post(second)
    anybody = world.client("anybody")
    anybody.settlement.claim(first, PayoutTree(PAYOUTS).prove(A))
    anybody.settlement.claim(second, PayoutTree({**PAYOUTS, A: 60}).prove(A))
    assert anybody.token.balance_of(A) == 60
    assert claim(world, first, PayoutTree(PAYOUTS).prove(A)) == "NothingToClaim"


def test_a_header_of_another_network_pays_nothing_here(world: World):
    elsewhere, _ = memory_world()
    for each in (world, elsewhere):
        each.earn(100)
    header = elsewhere.next_header(PAYOUTS)
    elsewhere.post(header)
    assert claim(world, header, PayoutTree(PAYOUTS).prove(A)) == "UnknownHeader"


def test_python_and_the_contract_agree_on_header_hash_and_payout_root(world: World):
    anybody = world.client("anybody")
    settlement = world.deployment.settlement
    header = world.next_header(
        PAYOUTS, epoch=2**64 - 1, num_receipts=2**64 - 1, payout_total=2**128 - 1
    )
    from proofs.chain.structs import header_values, proof_values

    assert (
        anybody.rpc.read("Settlement", settlement, "headerHash", header_values(header))[0]
        == header.hash
    )
    for size in (1, 2, 3, 5, 8, 13):
        payouts = {address(f"account {n}"): 10**n + n + 1 for n in range(size)}
        tree = PayoutTree(payouts)
        for account in payouts:
            assert anybody.rpc.read(
                "Settlement", settlement, "payoutRootOf", *proof_values(tree.prove(account))
            ) == (tree.root.sum, tree.root.hash)
