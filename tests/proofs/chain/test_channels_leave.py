"""Exits, forced receipts, demands and the office, as Python calls them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from proofs.chain.court import DemandState
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import Board, PostedHeader
from proofs.court import AbsentAnswer, AccountAnswer, ChannelAnswer, EntryAnswer, Part, Question
from proofs.signing import Signer
from proofs.witness import in_order, sign_header
from tests.proofs.chain.books import Books
from tests.proofs.chain.world import TERMS, World, address, secret

A = address("account a")
B = address("account b")
FUNDS = 10_000


@dataclass
class Scene:
    """One header over one channel, and books with one receipt more."""

    world: World
    posted: PostedHeader
    before: Books
    books: Books

    @property
    def settlement(self):
        return self.world.client("anybody").settlement

    def balance(self, account: bytes) -> int:
        return self.world.client("anybody").token.balance_of(account)


@pytest.fixture(scope="module")
def opened(engine: World) -> Scene:
    world = engine
    config = world.config()
    world.fund(config, FUNDS)
    before = world.books()
    before.pay(config, {A: 100, B: 50})
    posted = world.post(before.header(None))
    books = before.copy()
    books.pay(config, {A: 10, B: 20})
    return Scene(world, posted, before, books)


@pytest.fixture
def scene(opened: Scene) -> Iterator[Scene]:
    height = opened.world.rpc.call("evm_snapshot")
    yield replace(opened, books=opened.books.copy())
    opened.world.rpc.call("evm_revert", height)


def refusal(call, *values) -> str:
    with pytest.raises(ContractReverted) as reverted:
        call(*values)
    return reverted.value.error


def test_a_channel_settles_when_the_aggregator_is_silent(scene: Scene):
    request = scene.books.exit(0, scene.before)
    assert refusal(scene.settlement.exit, request, scene.posted) == "NotSilent"
    scene.world.wait(TERMS.silence + 1)
    scene.settlement.exit(request, scene.posted)
    assert (scene.balance(A), scene.balance(B)) == (10, 20)
    assert scene.settlement.read_office().aggregator is None
    assert scene.settlement.credit_of(address("aggregator")) == TERMS.bond
    left = scene.settlement.find_exit(request.receipt.channel_id)
    assert (left.sequence, left.payouts) == (2, request.receipt.payouts)
    assert scene.settlement.read().total_exited == 30
    scene.settlement.claim(scene.posted, scene.before.show_account(0))
    assert scene.balance(A) == 110, "and the header pays what it awarded"


def test_one_signature_waits_for_the_window(scene: Scene):
    scene.world.wait(TERMS.silence + 1)
    request = scene.books.exit(0, scene.before, cosigned=False)
    scene.settlement.exit(request, scene.posted)
    pending = scene.settlement.find_pending_exit(request.receipt.channel_id)
    assert (pending.sequence, pending.is_cosigned) == (2, False)
    finish = (request.receipt.channel_id, request.paid, request.owed)
    assert refusal(scene.settlement.finish_exit, *finish) == "NoExitDue"
    scene.world.wait(TERMS.window)
    scene.settlement.finish_exit(*finish)
    assert (scene.balance(A), scene.balance(B)) == (10, 20)
    assert scene.settlement.find_pending_exit(request.receipt.channel_id) is None


def test_a_hidden_leaf_cancels_an_exit(scene: Scene):
    scene.world.wait(TERMS.silence + 1)
    request = replace(scene.books.exit(0), paid=())
    scene.settlement.exit(request, scene.posted)
    scene.settlement.cancel_exit(scene.posted, scene.before.show_channel(0))
    assert scene.settlement.find_pending_exit(request.receipt.channel_id) is None


def test_a_forced_receipt_is_included_or_lets_its_channel_go(scene: Scene):
    channel = scene.books.channels[0]
    forced = (channel.config, channel.leaf, channel.signatures[0])
    scene.settlement.force(*forced)
    waiting = scene.settlement.find_forced(channel.leaf.channel_id)
    assert waiting.sequence == 2
    assert scene.settlement.left_at(channel.leaf.channel_id) == waiting.deadline
    posted = scene.world.post(scene.books.header(scene.posted))
    scene.settlement.answer_forced(posted, scene.books.show_channel(0))
    assert scene.settlement.find_forced(channel.leaf.channel_id) is None


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (Question(Part.CHANNEL, 0), ChannelAnswer),
        (Question(Part.CHANNEL, 1), AbsentAnswer),
        (Question(Part.ACCOUNT, 1), AccountAnswer),
        (Question(Part.ACCOUNT, 2), AbsentAnswer),
        (Question(Part.ENTRY, 1, 0), EntryAnswer),
        (Question(Part.ENTRY, 1, 1), AbsentAnswer),
        (Question(Part.ENTRY, 7, 1), AbsentAnswer),
    ],
)
def test_every_question_has_its_answer(scene: Scene, question: Question, kind: type):
    posted = scene.world.post(scene.books.header(scene.posted))
    court = scene.settlement.court
    assert court.find_demand(posted, question) is None
    court.demand(posted, question)
    head = scene.world.rpc.block_number()
    assert list(court.demanded(0, head)) == [(posted.header.epoch, question)]
    assert court.find_demand(posted, question).state is DemandState.OPEN
    answer = answer_from(scene.books, question)
    assert type(answer) is kind
    court.answer(posted, answer)
    assert court.find_demand(posted, question).state is DemandState.CLOSED


def test_an_unanswered_question_convicts(scene: Scene):
    posted = scene.world.post(scene.books.header(scene.posted))
    court = scene.settlement.court
    question = Question(Part.CHANNEL, 0)
    court.demand(posted, question)
    assert refusal(court.convict_default, posted, scene.posted, question) == "NotDue"
    scene.world.wait(TERMS.answer_time + 1)
    court.convict_default(posted, scene.posted, question)
    assert scene.settlement.read().epoch == 1


def test_a_board_is_replaced_after_its_timelock(scene: Scene):
    owner = scene.world.client("deployer").settlement
    board = Board(address("deployer"), address("other"), (address("anybody"),), 1)
    owner.propose(board)
    assert refusal(scene.settlement.install, board) == "NotEffective"
    scene.world.wait(TERMS.timelock)
    scene.settlement.install(board)
    assert scene.settlement.aggregator() == address("other")
    assert scene.settlement.witnesses() == ((address("anybody"),), 1)
    scene.world.client("other").settlement.fund_bond(TERMS.bond)
    header = scene.books.header(scene.posted)
    other = scene.world.client("other")
    assert refusal(scene.world.send_post, header, "other") == "WitnessesMissing"
    signature = sign_header(Signer(secret("anybody")), header.hash, other.network)
    signatures = in_order([signature], header.hash, other.network)
    other.wallet.send(*other.settlement.encode_post(header, signatures))
    assert other.settlement.read().epoch == 2


def answer_from(books: Books, question: Question):
    index = question.index
    if question.part is Part.CHANNEL:
        if index >= len(books.channels):
            return AbsentAnswer(question, None, books.channel_tree.opening)
        channel = books.channels[index]
        return ChannelAnswer(books.show_channel(index), channel.config, channel.signatures[0])
    if index >= len(books.accounts):
        return AbsentAnswer(question, None, books.account_tree.opening)
    account = books.show_account(index)
    entries = books.accounts[index].tree.opening
    if question.part is Part.ACCOUNT:
        return AccountAnswer(account, entries)
    if question.entry >= entries.size:
        return AbsentAnswer(question, account, entries)
    entry = books.show_entry(index, question.entry)
    place = (entry.leaf.channel_index, entry.leaf.place)
    return EntryAnswer(account, entry, books.show_channel(place[0]), books.show_payout(*place))
