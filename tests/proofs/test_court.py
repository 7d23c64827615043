"""Whatever lie an aggregator puts into a header, one honest watcher convicts it; nobody convicts an
honest one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proofs.batch import ReceiptBatch, follow
from proofs.checkpoint import read_checkpoint, write_checkpoint
from proofs.codec import encode
from proofs.court import (
    AccountMissummed,
    AccountTwice,
    Accusation,
    AfterExit,
    Case,
    ChannelMissummed,
    ChannelTwice,
    EntryTwice,
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
    keeps,
)
from proofs.epoch import EntryLeaf, EpochHeader, PayoutLeaf
from proofs.inquiry import Inquiry
from proofs.promise import make_promise
from proofs.receipt import BARE_BASE, SignedReceipt, VerifiedReceipt, decode_body
from proofs.signing import Signer
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

    def facts(self) -> Facts:
        return Facts(POSTED_AT, self.office.claimed, self.office.left_at)

    def case(self, header: EpochHeader) -> Case:
        return Case(self.before, header, self.facts())

    def post(self, header: EpochHeader) -> None:
        self.office.posted[2:] = [(header, POSTED_AT)]


def world(seed: int) -> World:
    """One of a few worlds, with an office of its own."""
    found = built(seed % 4)
    office = Office(
        NETWORK, AGGREGATOR.address, dict(found.office.claimed), posted=list(found.office.posted)
    )
    return replace(found, office=office)


@cache
def built(seed: int, counts: tuple[int, int, int] = (7, 7, 5)) -> World:
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


def pursue(found: World, books: Books, own: EpochState) -> Accusation | Question | None:
    """What a watcher does: what convicted in the end, an accusation or an unanswered demand."""
    header = books.header(found.honest)
    found.post(header)
    inquiry = Inquiry(found.case(header), own)
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


def operator_of(channel: Channel) -> Signer:
    nodes = (signer(f"node {number}") for number in range(3))
    return next(node for node in nodes if node.address == channel.config.operator)


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


def take_a_channel_behind_its_last_header(
    found: World, books: Books, chance: random.Random
) -> None:
    old = [channel for channel in Books.of(found.before).channels if channel.leaf.sequence > 1]
    channel = chance.choice(old)
    index = next(
        i for i, one in enumerate(books.channels) if one.leaf.channel_id == channel.leaf.channel_id
    )
    channel.sign(operator_of(channel), sequence=channel.leaf.sequence - 1)
    books.channels[index] = channel


def swap_two_channels(found: World, books: Books, chance: random.Random) -> None:
    one = chance.randrange(found.before.channels.size)
    other = chance.choice([index for index in range(len(books.channels)) if index != one])
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
    channel.sign(operator_of(channel), sequence=channel.leaf.sequence + 1)


def owe_more_than_the_channel_cost(found: World, books: Books, chance: random.Random) -> None:
    index = chance.randrange(len(books.channels))
    channel = books.channels[index]
    channel.payouts.append(PayoutLeaf(THIEF, 700))
    books.find(THIEF).entries.append(
        EntryLeaf(channel.leaf.channel_id, 700, index, len(channel.payouts) - 1)
    )
    channel.sign(operator_of(channel), sequence=channel.leaf.sequence + 1)
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


def commit_to_no_entries(_: World, books: Books, chance: random.Random) -> None:
    chance.choice(books.accounts).size = 0


LIES: list[Lie] = [
    commit_to_no_entries,
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
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_every_lie_is_convicted(lie: Lie, is_batch_there: bool, seed: int) -> None:
    found = world(seed)
    books = Books.of(found.after)
    lie(found, books, random.Random(seed))
    if books.header(found.honest) == found.honest:
        return
    own = found.after if is_batch_there else found.before
    assert pursue(found, books, own) is not None, "the lie stands"


def search(
    found: World, books: Books, own: EpochState, first: list[Question]
) -> tuple[Accusation | Question | None, list[list[Question]]]:
    """What a watcher does that demands all that differs at once: what convicted, and its rounds."""
    header = books.header(found.honest)
    found.post(header)
    inquiry = Inquiry(found.case(header), own, first=first)
    rounds: list[list[Question]] = []
    while True:
        accusation = inquiry.accuse()
        if accusation is not None:
            found.office.judge(accusation, 3)
            return accusation, rounds
        questions = list(iter(inquiry.ask, None))
        if not questions:
            return None, rounds
        rounds.append(questions)
        for question in questions:
            given_answer = books.answer(question)
            if not found.office.accepts(given_answer, question, 3):
                return question, rounds
            inquiry.hear(given_answer)


def most_rounds(state: EpochState) -> int:
    """How many rounds the page allows: one and the height of the higher tree, then the same among
    the entries of one account.
    """
    entries = max(state.entries(index).size for index in range(state.accounts.size))
    higher = max(state.channels.size, state.accounts.size)
    return 2 + higher.bit_length() + entries.bit_length()


@pytest.mark.parametrize("lie", LIES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_a_hidden_lie_is_found_in_few_rounds_and_what_is_ours_is_asked_first(
    lie: Lie, seed: int
) -> None:
    found = world(seed)
    chance = random.Random(seed)
    books = Books.of(found.after)
    lie(found, books, chance)
    header = books.header(found.honest)
    if header == found.honest:
        return
    before = found.before
    first = [
        Question(Part.ACCOUNT, chance.randrange(before.accounts.size)),
        Question(Part.CHANNEL, chance.randrange(before.channels.size)),
    ]
    convicting, rounds = search(found, books, before, first)
    assert convicting is not None, "the lie stands"
    assert len(rounds) <= most_rounds(found.after)
    if rounds and header.channels_root != before.channels.commitment:
        assert first[1] in rounds[0]
    if rounds and header.payout_root != before.accounts.commitment:
        assert first[0] in rounds[0]


def test_nothing_is_demanded_twice_and_nothing_convicts_an_honest_header_without_its_batch() -> (
    None
):
    for seed in range(4):
        found = world(seed)
        books = Books.of(found.after)
        first = [Question(Part.ACCOUNT, 0), Question(Part.CHANNEL, 0)]
        convicting, rounds = search(found, books, found.before, first)
        assert convicting is None
        asked = [question for questions in rounds for question in questions]
        assert len(asked) == len(set(asked))
        assert len(rounds) <= most_rounds(found.after)


@pytest.mark.parametrize("is_batch_there", [True, False])
@given(seed=st.integers(0, 3))
@settings(max_examples=4, deadline=None)
def test_nobody_convicts_an_honest_header(is_batch_there: bool, seed: int) -> None:
    found = world(seed)
    books = Books.of(found.after)
    assert books.header(found.honest) == found.honest
    own = found.after if is_batch_there else found.before
    assert pursue(found, books, own) is None
    assert not list(find_lies(found.case(found.honest), found.after))


def test_an_honest_aggregator_answers_every_demand() -> None:
    found = world(1)
    after = found.after
    questions = [
        *(Question(Part.CHANNEL, index) for index in range(after.channels.size + 2)),
        *(Question(Part.ACCOUNT, index) for index in range(after.accounts.size + 2)),
        *(
            Question(Part.ENTRY, index, entry)
            for index in range(after.accounts.size)
            for entry in range(after.account(index).num_entries + 2)
        ),
        Question(Part.ENTRY, after.accounts.size, 0),
    ]
    for question in questions:
        assert found.office.accepts(answer(after, question), question, 3)
        other = Question(question.part, question.index + 1, question.entry)
        assert not found.office.accepts(answer(after, question), other, 3)


def honest_accusations(found: World, chance: random.Random) -> list[Accusation]:
    """Every kind of accusation, put together from what an honest header shows."""
    before = found.before
    after = found.after
    index = chance.randrange(before.channels.size)
    channel = after.show_channel(index)
    elsewhere = after.show_channel(chance.randrange(after.channels.size))
    standing = after.channel(index)
    number = chance.randrange(after.accounts.size)
    account = after.show_account(number)
    entry = after.show_entry(number, chance.randrange(after.account(number).num_entries))
    other = after.show_entry(number, chance.randrange(after.account(number).num_entries))
    backing = entry.leaf.channel_index
    owed = before.show_payout(index, chance.randrange(before.channel(index).num_payees))
    accusations: list[Accusation] = [
        Unfunded(channel),
        Forged(channel, standing.config, standing.node_signature),
        Forged(channel, standing.config, AGGREGATOR.sign_digest(bytes(32))),
        Forged(channel, msgspec.structs.replace(standing.config, receiver=THIEF), bytes(65)),
        Missummed(after.channels.opening),
        Missummed(after.accounts.opening),
        Missummed(before.accounts.opening),
        ChannelMissummed(channel, after.payouts(index).opening),
        AccountMissummed(account, after.entries(number).opening),
        ChannelTwice(channel, elsewhere),
        ChannelTwice(channel, channel),
        AccountTwice(account, after.show_account(chance.randrange(after.accounts.size))),
        EntryTwice(account, entry, other),
        TakenBack(before.show_channel(index), channel),
        TakenBack(before.show_channel(index), elsewhere),
        AfterExit(channel, before.show_channel(index)),
        AfterExit(channel, None),
    ]
    for place in range(after.channel(index).num_payees):
        line = after.show_payout(index, place)
        accusations.append(Lowered(before.show_channel(index), channel, owed, line))
    for where in range(after.channels.size):
        for place in range(after.channel(backing).num_payees):
            line = after.show_payout(backing, place)
            accusations.append(Unbacked(account, entry, after.show_channel(where), line))
        accusations.append(Unbacked(account, entry, after.show_channel(where), None))
    return accusations


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=20, deadline=None)
def test_no_accusation_made_of_honest_leaves_is_accepted(seed: int) -> None:
    found = world(seed)
    for accusation in honest_accusations(found, random.Random(seed)):
        assert not found.office.convicts(accusation, 3), accusation


# ── what only the chain knows ──


def take_a_channel_back(found: World, books: Books, chance: random.Random) -> int:
    """Leave out what this epoch brought to a channel; returns its index."""
    old = Books.of(found.before)
    moved = [i for i, one in enumerate(old.channels) if one.leaf != books.channels[i].leaf]
    assume(moved)
    index = chance.choice(moved)
    books.channels[index] = old.channels[index]
    for account in books.accounts:
        account.entries = [entry for entry in account.entries if entry.channel_index != index]
    for place, line in enumerate(old.channels[index].payouts):
        books.find(line.account).entries.append(
            EntryLeaf(old.channels[index].leaf.channel_id, line.amount, index, place)
        )
    books.accounts = [account for account in books.accounts if account.entries]
    return index


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=10, deadline=None)
def test_a_receipt_that_is_left_out_is_no_lie_of_the_header(seed: int) -> None:
    """It takes from nobody. Whoever was promised it, asks for it by itself."""
    found = world(seed)
    books = Books.of(found.after)
    index = take_a_channel_back(found, books, random.Random(seed))
    assert pursue(found, books, found.after) is None
    channel = books.channels[index].leaf.channel_id
    (left_out, *_) = (one for one in found.last if one.receipt.channel_id == channel)
    promise = make_promise(AGGREGATOR, left_out, POSTED_AT, NETWORK)
    where = found.after.find_channel(channel)
    assert where is not None
    assert not keeps(books.channels[index].leaf, promise)
    assert keeps(found.after.channel(where).leaf, promise)


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=10, deadline=None)
def test_a_channel_that_left_must_not_be_moved(seed: int) -> None:
    found = world(seed)
    channel = random.Random(seed).choice(found.last).receipt.channel_id
    found.office.left_at = {channel: POSTED_AT}
    assert not list(find_lies(found.case(found.honest), found.after)), "it left later"
    found.office.left_at = {channel: POSTED_AT - 1}
    lies = list(find_lies(found.case(found.honest), found.after))
    assert [type(lie) for lie in lies] == [AfterExit]
    assert found.office.convicts(lies[0], 3)


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=10, deadline=None)
def test_an_unclaimed_channel_convicts(seed: int) -> None:
    found = world(seed)
    receipt = random.Random(seed).choice(found.last).receipt
    found.office.claimed[receipt.channel_id] = found.made.tips[receipt.channel_id].cumulative - 1
    lies = list(find_lies(found.case(found.honest), found.after))
    assert [type(lie) for lie in lies] == [Unfunded]
    assert found.office.convicts(lies[0], 3)


# ── lies that stand in the published batch itself ──


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"sequence": 9}, None),  # a gap: the node signed it, nobody else loses by it
        ({"cumulative": 10**7}, Missummed),
        ({"payouts": bytes([8]) * 32}, Question),
        ({"sequence": 1, "previous": bytes(32)}, TakenBack),
    ],
)
def test_a_receipt_that_breaks_its_channel_convicts(
    changes: dict[str, object], kind: type | None
) -> None:
    made = economy()
    state = EpochState(NETWORK)
    made.seal(state, *(made.serve(adapter="law") for _ in range(3)))
    before = copy(state)
    right = made.draft(adapter="law")
    wrong = msgspec.structs.replace(right, **changes)
    signed = made.sign(wrong)
    batch = compose_unchecked(made, state, signed)
    followed = follow(batch, state, made.manifests)
    assert followed.faults
    state.apply(followed.transition)
    channel = right.channel_id
    assert state.header is not None
    facts = Facts(POSTED_AT, {channel: 1 << 60})
    case = Case(before, state.header, facts)
    office = Office(NETWORK, AGGREGATOR.address, {channel: 1 << 60})
    assert before.header is not None
    office.posted = [(before.header, 0), (state.header, POSTED_AT)]
    lies = list(find_lies(case, state, followed.transition.channels))
    found: Accusation | Question | None = lies[0] if lies else None
    if found is None:
        found = Inquiry(case, state, followed.transition.channels).ask()
        books = Books.of(state)
        books.header(state.header)
        assert found is None or not office.accepts(books.answer(found), found, 2)
    else:
        assert not isinstance(found, Question)
        assert office.convicts(found, 2)
    assert (None if found is None else type(found)) == kind


def test_a_forged_signature_and_a_foreign_channel_convict() -> None:
    made = economy()
    state = EpochState(NETWORK)
    before = copy(state)
    channel = made.open()
    foreign = msgspec.structs.replace(made.configs[channel], receiver=THIEF)
    for config_, node in ((made.configs[channel], "thief"), (foreign, "node")):
        id_ = channel_id(config_, NETWORK)
        body = msgspec.structs.replace(made.draft(), channel_id=id_)
        signed = made.sign(body, node=node)
        made.configs[id_] = config_
        followed = follow(compose_unchecked(made, state, signed), state, made.manifests)
        assert followed.faults
        header = followed.transition.header
        office = Office(NETWORK, AGGREGATOR.address, {id_: 1 << 60}, posted=[(header, POSTED_AT)])
        state.apply(followed.transition)
        case = Case(before, header, Facts(POSTED_AT, office.claimed))
        lies = list(find_lies(case, state))
        assert [type(lie) for lie in lies] == [Forged]
        assert office.convicts(lies[0], 1)
        state.revert()


def compose_unchecked(made: Economy, state: EpochState, signed: SignedReceipt) -> bytes:
    """A batch of one receipt that nobody verified."""
    body = decode_body(signed.body)
    new = state.find_channel(body.channel_id) is None
    adapters = {body.adapter} - state.adapters.keys() - {BARE_BASE}
    return encode(
        ReceiptBatch(
            version=2,
            chain_id=NETWORK.chain_id,
            settlement=NETWORK.settlement,
            token=NETWORK.token,
            channels=NETWORK.channels,
            epoch=state.epoch + 1,
            previous=state.header_hash,
            opened=[made.configs[body.channel_id]] if new else [],
            adapters=sorted(adapters),
            receipts=[encode(signed)],
        )
    )


# ── exits ──


@pytest.mark.parametrize("is_cosigned", [True, False])
def test_an_exit_pays_what_no_header_paid(is_cosigned: bool) -> None:
    made = economy()
    state = EpochState(NETWORK)
    made.seal(state, made.serve(adapter="law"), made.serve("other"))
    settled = made.tips[made.open()].cumulative
    last = [made.serve(adapter="poems", is_cosigned=is_cosigned) for _ in range(2)][-1]
    channel = last.receipt.channel_id
    tip = made.tips[channel]
    assert state.header is not None
    office = Office(
        NETWORK, AGGREGATOR.address, {channel: tip.cumulative}, posted=[(state.header, 0)]
    )
    request = build_exit(state, tip.config, last.signed, tip.payouts)
    assert office.settles(request) == tip.cumulative - settled
    assert len(request.client_signature) == (65 if is_cosigned else 0)
    # once more, from the exit before
    following = made.serve(adapter="code")
    after = made.tips[channel]
    again = build_exit(state, after.config, following.signed, after.payouts, paid=tip.payouts)
    assert again.base is None
    assert again.paid == request.owed
    assert sum(line.amount for line in again.owed) == after.cumulative


def test_an_exit_of_a_channel_that_no_header_has() -> None:
    made = economy()
    state = EpochState(NETWORK)
    made.seal(state, made.serve("other"))
    last = made.serve(adapter="law")
    tip = made.tips[last.receipt.channel_id]
    assert state.header is not None
    office = Office(
        NETWORK,
        AGGREGATOR.address,
        {last.receipt.channel_id: tip.cumulative},
        posted=[(state.header, 0)],
    )
    request = build_exit(state, tip.config, last.signed, tip.payouts)
    assert (request.base, request.paid) == (None, ())
    assert office.settles(request) == tip.cumulative
    for wrong in (
        replace(request, owed=request.owed[:-1]),
        replace(request, owed=(PayoutLeaf(THIEF, tip.cumulative),)),
        replace(request, node_signature=signer("thief").sign_digest(bytes(32))),
        replace(request, receipt=replace(request.receipt, cumulative=1)),
    ):
        with pytest.raises(Refused):
            office.settles(wrong)
