"""A state under epochs of every kind, beside the plain sums that it stands for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proofs.state
from proofs.attribution.shares import award
from proofs.checkpoint import read_checkpoint, write_checkpoint
from proofs.digest import Network
from proofs.errors import LedgerError
from proofs.receipt import VerifiedReceipt, derive_shares
from proofs.state import MAX_UNDO_EPOCHS, EpochState
from tests.proofs.economy import NETWORK, Economy

ADAPTERS = (None, "law", "poems", "code")


def economy() -> Economy:
    made = Economy()
    made.publish("law", "ann", "bob", "owner of node 0")
    made.publish("poems")
    made.publish("code", "bob")
    return made


def answers(made: Economy, chance: random.Random, count: int) -> list[VerifiedReceipt]:
    return [
        made.serve(
            f"client {chance.randrange(3)}",
            f"node {chance.randrange(3)}",
            chance.randrange(2),
            chance.choice(ADAPTERS),
            tokens=chance.randrange(40),
            is_cosigned=chance.random() < 0.7,
        )
        for _ in range(count)
    ]


def awarded(made: Economy, receipts: list[VerifiedReceipt]) -> Counter[bytes]:
    """What everybody is owed, added up without any tree."""
    totals: Counter[bytes] = Counter()
    for verified in receipts:
        body = verified.receipt
        for account, part in award(body.amount, derive_shares(body, made.terms(body.adapter))):
            totals[account] += part
    return totals


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_every_epoch_adds_up_and_can_be_taken_back(seed: int, counts: list[int]) -> None:
    chance = random.Random(seed)
    made = economy()
    state = EpochState(NETWORK)
    past: list[tuple[bytes, bytes]] = [(state.header_hash, write_checkpoint(state))]
    transitions = []
    every: list[VerifiedReceipt] = []
    for count in counts:
        receipts = answers(made, chance, count)
        transitions.append(made.seal(state, *receipts))
        every += receipts
        state.check()
        totals = awarded(made, every)
        assert {
            state.account(index).leaf.account: state.account(index).leaf.amount
            for index in range(state.accounts.size)
        } == totals
        assert state.header is not None
        assert state.header.payout_total == sum(totals.values())
        assert state.header.num_receipts == len(every)
        past.append((state.header_hash, write_checkpoint(state)))
    for transition in reversed(transitions):
        assert (state.header_hash, write_checkpoint(state)) == past.pop()
        state.revert()
        state.check()
        state.apply(transition)  # as after a reorganisation that brings the same header back
        state.check()
        state.revert()
    assert (state.header_hash, write_checkpoint(state)) == past.pop()


def test_everything_is_proved_under_the_header() -> None:
    made = economy()
    state = EpochState(NETWORK)
    every = answers(made, random.Random(1), 30)
    made.seal(state, *every[:20])
    made.seal(state, *every[20:])
    header = state.header
    assert header is not None
    for verified in every:
        body = verified.receipt
        proof = state.prove_receipt(body.channel_id, body.sequence)
        assert proof.verify(verified.signed.body, header.receipts_root)
        assert not proof.verify(verified.signed.node_signature, header.receipts_root)
    with pytest.raises(KeyError):
        state.prove_receipt(every[0].receipt.channel_id, 1_000)
    with pytest.raises(KeyError):
        state.prove_receipt(bytes(32), 1)
    for number in range(state.channels.size):
        channel = state.show_channel(number)
        assert channel.commitment == header.channels_root
        for place in range(state.channel(number).num_payees):
            assert state.show_payout(number, place).commitment == channel.leaf.payouts
    for number in range(state.accounts.size):
        account = state.show_account(number)
        assert account.commitment == header.payout_root
        for entry in range(state.account(number).num_entries):
            shown = state.show_entry(number, entry)
            assert shown.commitment == account.leaf.entries
            payout = state.show_payout(shown.leaf.channel_index, shown.leaf.place)
            assert (payout.leaf.account, payout.leaf.amount) == (
                account.leaf.account,
                shown.leaf.amount,
            )


def test_indexes_are_for_ever() -> None:
    made = economy()
    state = EpochState(NETWORK)
    chance = random.Random(2)
    places: dict[bytes, int] = {}
    for _ in range(5):
        made.seal(state, *answers(made, chance, 8))
        for key, index in places.items():
            found = state.find_account(key) if len(key) == 20 else state.find_channel(key)
            assert found == index
        places |= {state.account(i).leaf.account: i for i in range(state.accounts.size)}
        places |= {state.channel(i).leaf.channel_id: i for i in range(state.channels.size)}


def test_only_the_last_epochs_can_be_taken_back() -> None:
    made = economy()
    state = EpochState(NETWORK)
    for _ in range(MAX_UNDO_EPOCHS + 1):
        made.seal(state, made.serve())
    assert state.num_undo == MAX_UNDO_EPOCHS
    for _ in range(MAX_UNDO_EPOCHS):
        state.revert()
    assert state.epoch == 1
    with pytest.raises(LookupError):
        state.revert()


def test_a_transition_is_good_for_one_state_only() -> None:
    made = economy()
    state = EpochState(NETWORK)
    transition = made.seal(state, made.serve())
    with pytest.raises(AssertionError):
        state.apply(transition)


def test_trees_that_are_not_kept_are_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = economy()
    kept = EpochState(NETWORK)
    forgetful = EpochState(NETWORK)
    chance = random.Random(3)
    for _ in range(6):
        receipts = answers(made, chance, 9)
        made.seal(kept, *receipts)
        with monkeypatch.context() as patch:
            patch.setattr(proofs.state, "MAX_KEPT_LEAVES", 5)
            made.seal(forgetful, *receipts)
        forgetful.revert()
        made.seal(forgetful, *receipts)
        assert forgetful.header == kept.header
    forgetful.check()


def test_a_checkpoint_is_the_whole_state() -> None:
    made = economy()
    state = EpochState(NETWORK)
    chance = random.Random(4)
    assert read_checkpoint(write_checkpoint(state), NETWORK).header is None
    made.seal(state, *answers(made, chance, 20))
    data = write_checkpoint(state)
    again = read_checkpoint(data, NETWORK)
    again.check()
    assert write_checkpoint(again) == data
    receipts = answers(made, chance, 20)
    assert made.seal(state, *receipts).header == made.seal(again, *receipts).header
    again.check()


def test_a_checkpoint_that_is_damaged_or_of_another_network_is_refused() -> None:
    made = economy()
    state = EpochState(NETWORK)
    made.seal(state, *answers(made, random.Random(5), 20))
    data = write_checkpoint(state)
    with pytest.raises(LedgerError, match="network"):
        read_checkpoint(data, Network(1, NETWORK.settlement, NETWORK.token))
    with pytest.raises(LedgerError, match="cannot be read"):
        read_checkpoint(data[:-1], NETWORK)
    leaf = state.channel(0).leaf.encoded
    damaged = data.replace(leaf, leaf[:-1] + bytes([leaf[-1] ^ 1]))
    with pytest.raises(LedgerError, match="damaged"):
        read_checkpoint(damaged, NETWORK)
