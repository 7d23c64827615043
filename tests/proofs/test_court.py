"""Whatever lie an aggregator puts into a header, one honest watcher convicts it; and nobody convicts
an honest one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.batch import follow
from proofs.checkpoint import read_checkpoint, write_checkpoint
from proofs.court import (
    AbsentAnswer,
    AccountMissummed,
    AccountTwice,
    Accusation,
    AfterExit,
    Case,
    ChannelMissummed,
    ChannelTwice,
    EntryTwice,
    Excluded,
    Facts,
    Forged,
    Lowered,
    Missummed,
    Part,
    Question,
    TakenBack,
    Unbacked,
    Unfunded,
    answer,
    build_exit,
    find_lies,
)
from proofs.digest import keccak
from proofs.epoch import EntryLeaf, EpochHeader, PayoutLeaf, Shown
from proofs.inquiry import Inquiry
from proofs.payouts import ChannelPayouts
from proofs.promise import Promise, make_promise
from proofs.receipt import VerifiedReceipt
from proofs.state import EpochState
from proofs.sumtree import commitment
from proofs.voucher import channel_id
from tests.proofs.economy import NETWORK, Economy, config, signer
from tests.proofs.liar import Account, Books, Channel
from tests.proofs.office import Office, Refused
from tests.proofs.test_state import answers, economy

AGGREGATOR = signer("aggregator")
THIEF = bytes([0xEE]) * 20
POSTED_AT = 1_000


def copy(state: EpochState) -> EpochState:
    return read_checkpoint(write_checkpoint(state), NETWORK)


@dataclass
class World:
    """Three honest epochs, of which the last is the one in question."""

    made: Economy
    before: EpochState
    after: EpochState
    office: Office
    last: list[VerifiedReceipt]
    batch: bytes

    @property
    def honest(self) -> EpochHeader:
        assert self.after.header is not None
        return self.after.header

    def facts(self, promises: tuple[Promise, ...] = ()) -> Facts:
        return Facts(POSTED_AT, self.office.claimed, self.office.left_at, promises)

    def case(self, header: EpochHeader, promises: tuple[Promise, ...] = ()) -> Case:
        return Case(self.before, header, self.facts(promises))

    def post(self, header: EpochHeader) -> None:
        self.office.posted[2:] = [(header, POSTED_AT)]


def world(seed: int, counts: tuple[int, int, int] = (9, 9, 6)) -> World:
    chance = random.Random(seed)
    made = economy()
    state = EpochState(NETWORK)
    office = Office(NETWORK, AGGREGATOR.address)
    for number, count in enumerate(counts[:2]):
        made.seal(state, *answers(made, chance, count))
        assert state.header is not None
        office.posted.append((state.header, number))
    before = copy(state)
    last = answers(made, chance, counts[2])
    batch = made.batch(state, *last)
    made.seal(state, *last)
    office.claimed = {channel: tip.cumulative for channel, tip in made.tips.items()}
    found = World(made, before, state, office, last, batch)
    found.post(found.honest)
    return found


def pursue(
    found: World, books: Books, own: EpochState, promises: tuple[Promise, ...] = ()
) -> Accusation | Question | None:
    """What a watcher does: what convicted in the end, an accusation or an unanswered demand."""
    header = books.header(found.honest)
    found.post(header)
    inquiry = Inquiry(found.case(header, promises), own)
    for _ in range(500):
        accusation = inquiry.accuse()
        if accusation is not None:
            found.office.judge(accusation, 3)
            return accusation
        question = inquiry.ask()
        if question is None:
            return None
        given_answer = books.answer(question)
        if not found.office.accepts(given_answer, question, 3):
            return question
        inquiry.hear(given_answer)
    raise AssertionError("the inquiry did not come to an end")


# ── lies: each writes one into the books ──

Lie = Callable[[World, Books, random.Random], None]


def inflate_an_account(_: World, books: Books, chance: random.Random) -> None:
    account = chance.choice(books.accounts)
    account.extra = 1_000
    books.balance({account.account})


def inflate_an_entry(_: World, books: Books, chance: random.Random) -> None:
    account = chance.choice(books.accounts)
    number = chance.randrange(len(account.entries))
    account.entries[number] = replace(account.entries[number], amount=10**6)
    books.balance({account.account})


def award_the_thief_nothing_s_worth(_: World, books: Books, chance: random.Random) -> None:
    channel = chance.randrange(len(books.channels))
    entry = EntryLeaf(books.channels[channel].leaf.channel_id, 500, channel, place=0)
    books.find(THIEF).entries.append(entry)
    books.balance({THIEF})


def award_of_a_place_that_is_not(_: World, books: Books, chance: random.Random) -> None:
    channel = chance.randrange(len(books.channels))
    place = len(books.channels[channel].payouts) + chance.randrange(2)
    entry = EntryLeaf(books.channels[channel].leaf.channel_id, 500, channel, place)
    books.find(THIEF).entries.append(entry)
    books.balance({THIEF})


def award_of_a_channel_that_is_not(_: World, books: Books, chance: random.Random) -> None:
    entry = EntryLeaf(bytes([9]) * 32, 500, len(books.channels) + chance.randrange(3), 0)
    books.find(THIEF).entries.append(entry)
    books.balance({THIEF})


def name_another_channel(_: World, books: Books, chance: random.Random) -> None:
    account = chance.choice(books.accounts)
    account.entries[-1] = replace(account.entries[-1], channel_id=bytes([9]) * 32)


def count_an_entry_twice(_: World, books: Books, chance: random.Random) -> None:
    account = chance.choice(books.accounts)
    account.entries.append(chance.choice(account.entries))
    books.balance({account.account})


def count_an_account_twice(_: World, books: Books, chance: random.Random) -> None:
    account = chance.choice(books.accounts)
    books.accounts.append(Account(account.account, list(account.entries)))
    books.balance({account.account})


def count_a_channel_twice(_: World, books: Books, chance: random.Random) -> None:
    channel = chance.choice(books.channels)
    books.channels.append(replace(channel))
    line = chance.choice(channel.payouts)
    index = len(books.channels) - 1
    place = channel.payouts.index(line)
    books.find(line.account).entries.append(
        EntryLeaf(channel.leaf.channel_id, line.amount, index, place)
    )
    books.balance({line.account})


def leave_an_award_out(_: World, books: Books, chance: random.Random) -> None:
    account = chance.choice(books.accounts)
    account.entries.pop(chance.randrange(len(account.entries)))


def leave_an_account_out(_: World, books: Books, chance: random.Random) -> None:
    books.accounts.pop(chance.randrange(len(books.accounts)))


def make_up_a_channel(found: World, books: Books, _: random.Random) -> None:
    made_up = config("nobody", "thief", 7)
    channel = Channel(
        made_up,
        replace(
            books.channels[0].leaf,
            channel_id=channel_id(made_up, NETWORK),
            sequence=1,
            cumulative=5_000,
        ),
        b"",
        [PayoutLeaf(THIEF, 5_000)],
    )
    channel.sign(signer("thief"))
    books.channels.append(channel)
    index = len(books.channels) - 1
    books.find(THIEF).entries.append(EntryLeaf(channel.leaf.channel_id, 5_000, index, 0))


def make_up_a_channel_that_pays_elsewhere(
    found: World, books: Books, chance: random.Random
) -> None:
    make_up_a_channel(found, books, chance)
    channel = books.channels[-1]
    elsewhere = msgspec.structs.replace(channel.config, receiver=THIEF)
    channel.config = elsewhere
    channel.sign(signer("thief"), channel_id=channel_id(elsewhere, NETWORK))
    found.office.claimed[channel.leaf.channel_id] = 5_000
    thief = books.find(THIEF)
    thief.entries[-1] = replace(thief.entries[-1], channel_id=channel.leaf.channel_id)


def write_a_receipt_for_a_node(_: World, books: Books, chance: random.Random) -> None:
    channel = chance.choice(books.channels)
    channel.sign(signer("thief"), sequence=channel.leaf.sequence + 1)


def commit_to_no_signature(_: World, books: Books, chance: random.Random) -> None:
    channel = chance.choice(books.channels)
    channel.leaf = replace(channel.leaf, evidence=bytes([7]) * 32)


def take_a_channel_back(found: World, books: Books, chance: random.Random) -> None:
    old = Books.of(found.before)
    moved = [i for i, one in enumerate(old.channels) if one.leaf != books.channels[i].leaf]
    index = chance.choice(moved)
    books.channels[index] = old.channels[index]
    for account in books.accounts:
        account.entries = [entry for entry in account.entries if entry.channel_index != index]
    for place, line in enumerate(old.channels[index].payouts):
        books.find(line.account).entries.append(
            EntryLeaf(old.channels[index].leaf.channel_id, line.amount, index, place)
        )


def take_a_channel_behind_its_last_header(
    found: World, books: Books, chance: random.Random
) -> None:
    old = [channel for channel in Books.of(found.before).channels if channel.leaf.sequence > 1]
    channel = chance.choice(old)
    index = next(
        i for i, one in enumerate(books.channels) if one.leaf.channel_id == channel.leaf.channel_id
    )
    name = next(
        f"node {n}"
        for n in range(3)
        if signer(f"node {n}").address == channel.config.operator
    )
    channel.sign(signer(name), sequence=channel.leaf.sequence - 1)
    books.channels[index] = channel


def swap_two_channels(_: World, books: Books, chance: random.Random) -> None:
    one, other = chance.sample(range(len(books.channels)), 2)
    books.channels[one], books.channels[other] = books.channels[other], books.channels[one]
    for account in books.accounts:
        swapped = {one: other, other: one}
        account.entries = [
            replace(entry, channel_index=swapped.get(entry.channel_index, entry.channel_index))
            for entry in account.entries
        ]


def forget_the_last_channels(_: World, books: Books, chance: random.Random) -> None:
    books.channels = books.channels[:1]
    for account in books.accounts:
        account.entries = [entry for entry in account.entries if entry.channel_index == 0]
    books.accounts = [account for account in books.accounts if account.entries]


def lower_what_a_channel_owes(found: World, books: Books, chance: random.Random) -> None:
    """Node and aggregator together give a creator's part to the node's owner."""
    index = chance.choice(
        [i for i in range(found.before.channels.size) if len(books.channels[i].payouts) > 1]
    )
    channel = books.channels[index]
    place = len(found.before.payouts(index)) - 1
    taken = channel.payouts[place]
    given = channel.payouts[0] if place else channel.payouts[1]
    part = channel.payouts[place].amount
    for line, amount in ((taken, 0), (given, given.amount + part)):
        where = channel.payouts.index(line)
        channel.payouts[where] = replace(line, amount=amount)
        account = books.find(line.account)
        account.entries = [
            replace(entry, amount=amount) if entry.channel_index == index else entry
            for entry in account.entries
        ]
    name = next(
        f"node {n}" for n in range(3) if signer(f"node {n}").address == channel.config.operator
    )
    channel.sign(signer(name), sequence=channel.leaf.sequence + 1)


def owe_more_than_the_channel_cost(found: World, books: Books, chance: random.Random) -> None:
    index = chance.randrange(len(books.channels))
    channel = books.channels[index]
    channel.payouts.append(PayoutLeaf(THIEF, 700))
    books.find(THIEF).entries.append(
        EntryLeaf(channel.leaf.channel_id, 700, index, len(channel.payouts) - 1)
    )
    name = next(
        f"node {n}" for n in range(3) if signer(f"node {n}").address == channel.config.operator
    )
    channel.sign(signer(name), sequence=channel.leaf.sequence + 1)
    books.balance({THIEF})


def say_another_total(_: World, books: Books, chance: random.Random) -> None:
    books.overrides = {"payout_total": chance.randrange(1 << 40)}


def commit_to_nothing(_: World, books: Books, chance: random.Random) -> None:
    books.overrides = {chance.choice(["channels_root", "payout_root"]): bytes([5]) * 32}


def commit_to_another_size(_: World, books: Books, chance: random.Random) -> None:
    name = chance.choice(["channels_root", "payout_root"])
    tree = books.channel_tree if name == "channels_root" else books.account_tree
    size = max(0, tree.size + chance.choice([-1, 1, 5]))
    books.overrides = {name: commitment(size, tree.root)}


LIES: list[Lie] = [
    inflate_an_account,
    inflate_an_entry,
    award_the_thief_nothing_s_worth,
    award_of_a_place_that_is_not,
    award_of_a_channel_that_is_not,
    name_another_channel,
    count_an_entry_twice,
    count_an_account_twice,
    count_a_channel_twice,
    leave_an_award_out,
    leave_an_account_out,
    make_up_a_channel,
    make_up_a_channel_that_pays_elsewhere,
    write_a_receipt_for_a_node,
    commit_to_no_signature,
    take_a_channel_back,
    take_a_channel_behind_its_last_header,
    swap_two_channels,
    forget_the_last_channels,
    lower_what_a_channel_owes,
    owe_more_than_the_channel_cost,
    say_another_total,
    commit_to_nothing,
    commit_to_another_size,
]


@pytest.mark.parametrize("is_batch_there", [True, False])
@pytest.mark.parametrize("lie", LIES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_every_lie_is_convicted(lie: Lie, is_batch_there: bool, seed: int) -> None:
    found = world(seed)
    books = Books.of(found.after)
    lie(found, books, random.Random(seed))
    header = books.header(found.honest)
    if header == found.honest:
        return
    own = found.after if is_batch_there else found.before
    assert pursue(found, books, own) is not None, "the lie stands"
