"""Every lie that a header can tell convicts by one proof, and no proof convicts a header that tells
the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.court import (
    AccountMissummed,
    AccountTwice,
    Accusation,
    AfterExit,
    ChannelMissummed,
    ChannelTwice,
    EntryTwice,
    Forged,
    Lowered,
    Missummed,
    TakenBack,
    Unbacked,
    Unfunded,
)
from proofs.digest import keccak
from proofs.epoch import EntryLeaf, PayoutLeaf
from proofs.signing import Signer
from proofs.sumtree import Opening
from tests.proofs.chain.books import Account, Books
from tests.proofs.chain.world import World, address, memory_world, secret

A = address("account a")
B = address("account b")
C = address("account c")
FUNDS = 10_000


@dataclass
class Scene:
    """Two honest headers over two channels, and books in which the third is written."""

    world: World
    posted: list[PostedHeader]
    before: Books
    books: Books

    @property
    def last(self) -> int:
        return len(self.posted) - 1

    def post(self, **changes: object) -> None:
        self.posted.append(self.world.post(self.books.header(self.posted[-1], **changes)))

    def accuse(self, accusation: Accusation, by: str = "anybody") -> str | None:
        """The contract's refusal; None where it convicts."""
        court = self.world.client(by).settlement.court
        try:
            court.prove(self.posted[-1], self.posted[-2], accusation)
        except ContractReverted as error:
            return error.error
        return None


@pytest.fixture(scope="module")
def opened(engine: World) -> Scene:
    return write_two_headers(engine)


def write_two_headers(world: World) -> Scene:
    books = world.books()
    posted: list[PostedHeader] = []
    for epoch in (1, 2):
        for number in (0, 1):
            config = world.config(number=number)
            if epoch == 1:
                world.fund(config, FUNDS)
            books.pay(config, {A: 100, B: 50})
        posted.append(world.post(books.header(posted[-1] if posted else None)))
    before = books.copy()
    books.pay(world.config(number=0), {A: 10, B: 20, C: 30})
    return Scene(world, posted, before, books)


@pytest.fixture
def scene(opened: Scene) -> Iterator[Scene]:
    """The same two headers for each test, and what it does undone."""
    height = opened.world.rpc.call("evm_snapshot")
    yield replace(opened, posted=list(opened.posted), books=opened.books.copy())
    opened.world.rpc.call("evm_revert", height)


# ── what an aggregator may write, and what shows it ──


def unfunded(scene: Scene) -> Accusation:
    scene.books.pay(scene.world.config(number=1), {A: FUNDS})
    return Unfunded(scene.books.show_channel(1))


def forged_by_another(scene: Scene) -> Accusation:
    channel = scene.books.channels[0]
    signature = Signer(secret("other")).sign_digest(scene.books.digest(channel.leaf))
    channel.leaf = replace(channel.leaf, evidence=keccak(signature))
    return Forged(scene.books.show_channel(0), channel.config, signature)


def forged_by_nobody(scene: Scene) -> Accusation:
    channel = scene.books.channels[0]
    channel.leaf = replace(channel.leaf, evidence=keccak(b"no signature"))
    return Forged(scene.books.show_channel(0), channel.config, b"no signature")


def forged_channel(scene: Scene) -> Accusation:
    """A real channel in which the money goes back to whoever pays."""
    config = replace_config(scene.world, receiver=address("payer"))
    scene.world.client("payer").channels.deposit(config, FUNDS)
    scene.world.client("operator").channels.claim([scene.world.voucher(config, FUNDS)])
    index = scene.books.pay(config, {A: 10})
    return Forged(scene.books.show_channel(index), config, b"")


def missummed_channels(scene: Scene) -> Accusation:
    return Missummed(scene.books.channel_tree.opening)


def missummed_accounts(scene: Scene) -> Accusation:
    scene.books.accounts[0].extra = 5
    return Missummed(scene.books.account_tree.opening)


def missummed_by_emptiness(scene: Scene) -> Accusation:
    return Missummed(Opening(0, scene.books.channel_tree.root.sum, b"\x07" * 32))


def channel_missummed(scene: Scene) -> Accusation:
    books = scene.books
    books.sign(0, cumulative=books.channels[0].leaf.cumulative + 7)
    return ChannelMissummed(books.show_channel(0), books.channels[0].tree.opening)


def account_missummed(scene: Scene) -> Accusation:
    scene.books.accounts[0].extra = 5
    return AccountMissummed(scene.books.show_account(0), scene.books.accounts[0].tree.opening)


def unbacked_amount(scene: Scene) -> Accusation:
    books = scene.books
    books.accounts[0].entries[0] = replace(books.accounts[0].entries[0], amount=1_000)
    return backing(books, 0, 0)


def unbacked_account(scene: Scene) -> Accusation:
    """Somebody else is awarded another's line."""
    books = scene.books
    books.accounts.append(Account(address("thief"), [books.accounts[0].entries[0]]))
    return backing(books, len(books.accounts) - 1, 0)


def unbacked_channel(scene: Scene) -> Accusation:
    books = scene.books
    entry = replace(books.accounts[0].entries[0], channel_id=b"\x09" * 32)
    books.accounts[0].entries[0] = entry
    channel = books.show_channel(0)
    return Unbacked(books.show_account(0), books.show_entry(0, 0), channel, None)


def unbacked_index(scene: Scene) -> Accusation:
    books = scene.books
    books.accounts.append(Account(address("thief"), [EntryLeaf(b"\x09" * 32, 60, 2, 0)]))
    account = len(books.accounts) - 1
    channel = books.show_channel(1)
    return Unbacked(books.show_account(account), books.show_entry(account, 0), channel, None)


def unbacked_place(scene: Scene) -> Accusation:
    books = scene.books
    identity = books.channels[0].leaf.channel_id
    books.accounts.append(Account(address("thief"), [EntryLeaf(identity, 60, 0, 3)]))
    account = len(books.accounts) - 1
    return Unbacked(
        books.show_account(account),
        books.show_entry(account, 0),
        books.show_channel(0),
        books.show_payout(0, 1),
    )


def channel_twice(scene: Scene) -> Accusation:
    scene.books.channels.append(scene.books.channels[0])
    return ChannelTwice(scene.books.show_channel(0), scene.books.show_channel(2))


def account_twice(scene: Scene) -> Accusation:
    scene.books.accounts.append(scene.books.accounts[1])
    count = len(scene.books.accounts)
    return AccountTwice(scene.books.show_account(1), scene.books.show_account(count - 1))


def entry_twice(scene: Scene) -> Accusation:
    account = scene.books.accounts[0]
    account.entries.append(account.entries[1])
    books = scene.books
    return EntryTwice(books.show_account(0), books.show_entry(0, 1), books.show_entry(0, 2))


def taken_back(scene: Scene) -> Accusation:
    scene.books.sign(1, sequence=1)
    return TakenBack(scene.before.show_channel(1), scene.books.show_channel(1))


def rewritten(scene: Scene) -> Accusation:
    scene.books.sign(1, body=b"\x08" * 32)
    return TakenBack(scene.before.show_channel(1), scene.books.show_channel(1))


def replaced(scene: Scene) -> Accusation:
    books = scene.books
    books.channels.reverse()
    return TakenBack(scene.before.show_channel(1), books.show_channel(1))


def dropped(scene: Scene) -> Accusation:
    del scene.books.channels[1]
    return TakenBack(scene.before.show_channel(1), scene.books.show_channel(0))


def lowered(scene: Scene) -> Accusation:
    """The node signs another's share away, in its next receipt."""
    move(scene.books, 100)
    return lowering(scene, 0)


def lowered_account(scene: Scene) -> Accusation:
    books = scene.books
    books.channels[0].payouts[0] = PayoutLeaf(address("thief"), 210)
    books.sign(0)
    return lowering(scene, 0)


def lowered_out(scene: Scene) -> Accusation:
    books = scene.books
    total = books.channels[0].leaf.cumulative
    books.channels[0].payouts[:] = [PayoutLeaf(A, total)]
    books.sign(0)
    return Lowered(
        scene.before.show_channel(0),
        books.show_channel(0),
        owed_earlier=scene.before.show_payout(0, 1),
        owed_later=books.show_payout(0, 0),
    )


LIES = [
    unfunded,
    forged_by_another,
    forged_by_nobody,
    forged_channel,
    missummed_accounts,
    channel_missummed,
    account_missummed,
    unbacked_amount,
    unbacked_account,
    unbacked_channel,
    unbacked_index,
    unbacked_place,
    channel_twice,
    account_twice,
    entry_twice,
    taken_back,
    rewritten,
    replaced,
    dropped,
    lowered,
    lowered_account,
    lowered_out,
]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_taken_back_and_costs_the_office_and_the_bond(
    scene: Scene, lie: Callable[[Scene], Accusation]
):
    accusation = lie(scene)
    total = scene.books.channel_tree.root.sum
    scene.post(payout_total=max(total, scene.posted[-1].header.payout_total + 1))
    prover = scene.world.client("anybody")
    had = prover.token.balance_of(prover.address)
    bond = prover.settlement.terms.bond
    assert scene.accuse(accusation) is None
    state = prover.settlement.read()
    back = scene.posted[-2]
    assert (state.epoch, state.header_hash) == (2, back.header.hash)
    assert state.posted_at == back.posted_at
    assert state.num_receipts == back.header.num_receipts
    assert state.payout_total == back.header.payout_total
    assert prover.settlement.read_office().aggregator is None
    assert prover.token.balance_of(prover.address) == had + bond // 2, "half is the prover's"
    assert not prover.settlement.is_posted(scene.posted[-1])
    with pytest.raises(ContractReverted, match="NotAggregator"):
        scene.world.send_post(scene.books.header(back))


def test_a_total_that_the_trees_do_not_have_is_a_lie(scene: Scene):
    scene.post(payout_total=scene.books.channel_tree.root.sum + 1)
    assert scene.accuse(missummed_channels(scene)) is None


def test_a_tree_that_is_said_to_be_empty_is_a_lie(scene: Scene):
    accusation = missummed_by_emptiness(scene)
    scene.post(channels_root=accusation.opening.commitment)
    assert scene.accuse(accusation) is None


@pytest.mark.parametrize("lie", LIES)
def test_the_same_proof_about_honest_books_convicts_nobody(
    scene: Scene, lie: Callable[[Scene], Accusation]
):
    """What a liar's books show is shown of a header that is right."""
    honest = scene.books.copy()
    accusation = lie(scene)
    scene.books = honest
    scene.post()
    assert scene.accuse(accusation) in ("BadProof", "NotALie", "NotOurChannel")


def test_nothing_that_is_true_convicts(scene: Scene):
    scene.post()
    before, books = scene.before, scene.books
    channel = books.show_channel(0)
    config, signature = books.channels[0].config, books.channels[0].signatures[0]
    other = scene.world.config(number=9)
    for accusation in (
        Unfunded(channel),
        Forged(channel, config, signature),
        Missummed(books.channel_tree.opening),
        Missummed(books.account_tree.opening),
        ChannelMissummed(channel, books.channels[0].tree.opening),
        AccountMissummed(books.show_account(0), books.accounts[0].tree.opening),
        *(
            backing(books, account, number)
            for account in range(3)
            for number in range(len(books.accounts[account].entries))
        ),
        ChannelTwice(channel, books.show_channel(1)),
        ChannelTwice(channel, channel),
        AccountTwice(books.show_account(0), books.show_account(1)),
        AccountTwice(books.show_account(0), books.show_account(0)),
        EntryTwice(books.show_account(0), books.show_entry(0, 0), books.show_entry(0, 1)),
        EntryTwice(books.show_account(0), books.show_entry(0, 0), books.show_entry(0, 0)),
        TakenBack(before.show_channel(0), channel),
        TakenBack(before.show_channel(1), books.show_channel(1)),
        TakenBack(before.show_channel(1), channel),
        lowering(scene, 0),
        lowering(scene, 1),
        AfterExit(channel, before.show_channel(0)),
    ):
        assert scene.accuse(accusation) == "NotALie", accusation
    # What shows nothing of this header is refused as such.
    for accusation in (
        Forged(channel, config, b"\x01" * 65),
        Forged(channel, other, signature),
        Unfunded(before.show_channel(0)),
        Unfunded(replace(channel, proof=books.show_channel(1).proof)),
        Unfunded(replace(channel, leaf=replace(channel.leaf, cumulative=FUNDS + 1))),
        Missummed(before.channel_tree.opening),
        replace(backing(books, 0, 0), channel=books.show_channel(1)),
        replace(backing(books, 0, 0), payout=books.show_payout(0, 1)),
        replace(backing(books, 0, 0), payout=None),
        TakenBack(channel, before.show_channel(0)),
    ):
        assert scene.accuse(accusation) == "BadProof", accusation


def test_a_final_header_is_never_taken_back(scene: Scene):
    accusation = unfunded(scene)
    scene.post()
    scene.world.wait(scene.world.client("anybody").settlement.terms.window)
    assert scene.accuse(accusation) == "StillOpen"


def test_all_headers_after_a_lie_fall_with_it(scene: Scene):
    accusation = unfunded(scene)
    scene.post()
    lying = scene.posted[-1], scene.posted[-2]
    scene.books.pay(scene.world.config(number=0), {A: 1})
    scene.post()
    settlement = scene.world.client("anybody").settlement
    settlement.court.prove(*lying, accusation)
    assert settlement.read().epoch == 2
    assert [each.header.epoch for each in settlement.headers()] == [1, 2]
    assert settlement.find_header(3) is None
    with pytest.raises(ContractReverted, match="UnknownHeader"):
        settlement.court.prove(*lying, accusation)


def test_the_first_header_can_be_taken_back_too():
    world, _ = memory_world()
    world.fund(world.config(), FUNDS)
    books = world.books()
    books.pay(world.config(), {A: 5})
    books.pay(world.config(number=1), {A: 50})
    posted = world.post(books.header(None))
    settlement = world.client("anybody").settlement
    settlement.court.prove(posted, None, Unfunded(books.show_channel(1)))
    assert settlement.read().epoch == 0
    assert settlement.read().payout_total == 0


def test_the_header_before_must_be_the_one_before(scene: Scene):
    accusation = unfunded(scene)
    scene.post()
    court = scene.world.client("anybody").settlement.court
    for before in (scene.posted[0], None, replace(scene.posted[1], posted_at=1)):
        with pytest.raises(ContractReverted, match="UnknownHeader"):
            court.prove(scene.posted[2], before, accusation)


def test_nobody_but_the_court_convicts(scene: Scene):
    scene.post()
    client = scene.world.client("anybody")
    contract = client.settlement._contract
    from proofs.chain.structs import posted_values

    here, before = (posted_values(each) for each in scene.posted[:0:-1])
    for call in (
        ("convict", here, before, client.address),
        ("punish", client.address),
        ("blockHeader", 3, scene.posted[2].word),
        ("unblockHeader", 3, scene.posted[2].word),
    ):
        with pytest.raises(ContractReverted, match="NotCourt"):
            contract.send(*call)


# ── parts of accusations ──


def backing(books: Books, account: int, number: int) -> Unbacked:
    entry = books.show_entry(account, number)
    return Unbacked(
        books.show_account(account),
        entry,
        books.show_channel(entry.leaf.channel_index),
        books.show_payout(entry.leaf.channel_index, entry.leaf.place),
    )


def lowering(scene: Scene, place: int) -> Lowered:
    return Lowered(
        scene.before.show_channel(0),
        scene.books.show_channel(0),
        owed_earlier=scene.before.show_payout(0, place),
        owed_later=scene.books.show_payout(0, place),
    )


def move(books: Books, amount: int) -> None:
    """From the first account of the first channel to the second, under the same total."""
    payouts = books.channels[0].payouts
    payouts[0] = replace(payouts[0], amount=payouts[0].amount - amount)
    payouts[1] = replace(payouts[1], amount=payouts[1].amount + amount)
    books.sign(0)


def replace_config(world: World, **changes: object):
    return world.config(number=7, **changes)
