"""Whoever has the aggregator's key posts what it likes: an epoch that robs others and whose batch
is there, or a header of made-up roots whose batch nobody has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from node.money.audit import audit_chain
from p2p.blocks.store import BlockStore
from proofs.batch import compose, recompute
from proofs.chain.client import ChainClient, open_client
from proofs.chain.errors import ContractReverted
from proofs.chain.poster import Poster
from proofs.chain.structs import PostedHeader
from proofs.channel import ChannelTip
from proofs.court import (
    AbsentAnswer,
    AccountAnswer,
    Answer,
    ChannelAnswer,
    EntryAnswer,
    Part,
    Question,
)
from proofs.epoch import EntryLeaf, EpochHeader
from proofs.ledger import Ledger, PostJournal
from proofs.receipt import (
    BARE_BASE,
    SignedReceipt,
    encode_body,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.voucher import channel_id
from proofs.witness import in_order, sign_header
from tests.node.networks import Lab
from tests.node.outsider import Outsider
from tests.proofs import scene
from tests.proofs.chain.books import Account, Books

THIEF = bytes([0xEE]) * 20
LOOT = 400


def steal(lab: Lab, store: BlockStore, amount_tokens: int) -> PostedHeader:
    """Post, with the aggregator's key, an epoch whose only receipt is of a channel that never held
    a cent and pays the thief. Blocks.
    """
    with aggregators_chain(lab) as chain:

        def get_block(digest: bytes) -> bytes:
            raise AssertionError("there is nothing before the theft")

        audit = audit_chain(chain, get_block)
        network = chain.network
        node = scene.signer("thief's node")
        client = scene.signer("thief's client")
        config = scene.config("thief's client", "thief's node", network=network)
        body = scene.receipt(
            ChannelTip(config),
            network=network,
            operator=node.address,
            client=client.address,
            adapter=BARE_BASE,
            tokens=amount_tokens,
        )
        signed = SignedReceipt(
            encode_body(body),
            sign_receipt(node, body, network),
            sign_receipt(client, body, network),
        )
        receipts = [verify_receipt(signed, network)]
        state = audit.history.state
        batch = compose(receipts, {channel_id(config, network): config}, state)
        header = recompute(batch, state, {}).header
        store.put(batch)
        return post(chain, header)


def make_up_books(outsider: Outsider) -> Books:
    """Books of one real, claimed channel, in which a part of what it paid its node is a thief's:
    the sums are right, and nothing backs the thief's entry.
    """
    books = Books(outsider.network, outsider.node, outsider.client)
    index = books.pay(outsider.config, {outsider.node.address: 1_000})
    channel = books.channels[index].leaf.channel_id
    books.accounts = [
        Account(outsider.node.address, [EntryLeaf(channel, 1_000 - LOOT, index, 0)]),
        Account(THIEF, [EntryLeaf(channel, LOOT, index, 0)]),
    ]
    return books


def hide(lab: Lab, books: Books, accomplice: str | None = None) -> PostedHeader:
    """Post a header of these books, whose batch nobody has, signed by a witness of one's own.
    Blocks.
    """
    with aggregators_chain(lab) as chain:
        header = books.header(None)
        signatures = []
        if accomplice is not None:
            signer = Signer(lab.identity(accomplice).secret)
            signatures = [sign_header(signer, header.hash, chain.network)]
        return post(chain, header, in_order(signatures, header.hash, chain.network))


def post(chain: ChainClient, header: EpochHeader, signatures: Sequence[bytes] = ()) -> PostedHeader:
    """Post a header. Blocks."""
    Poster(chain, PostJournal(Ledger(":memory:"))).post(header, signatures)
    posted = chain.settlement.find_header(header.epoch)
    assert posted is not None
    return posted


def answer_from(books: Books, question: Question) -> Answer:
    """The best answer that made-up books give."""
    index = question.index
    if question.part == Part.CHANNEL:
        if index >= len(books.channels):
            return AbsentAnswer(question, None, books.channel_tree.opening)
        channel = books.channels[index]
        return ChannelAnswer(books.show_channel(index), channel.config, channel.signatures[0])
    if index >= len(books.accounts):
        return AbsentAnswer(question, None, books.account_tree.opening)
    account = books.accounts[index]
    if question.part == Part.ACCOUNT:
        return AccountAnswer(books.show_account(index), account.tree.opening)
    if question.entry >= len(account.entries):
        return AbsentAnswer(question, books.show_account(index), account.tree.opening)
    entry = account.entries[question.entry]
    return EntryAnswer(
        books.show_account(index),
        books.show_entry(index, question.entry),
        books.show_channel(entry.channel_index),
        books.show_payout(entry.channel_index, entry.place),
    )


@contextmanager
def answering(
    lab: Lab, posted: PostedHeader, answer: Callable[[Question], Answer]
) -> Iterator[list[Question]]:
    """An aggregator that answers whatever it can while the block lasts; what it answered."""
    answered: list[Question] = []
    refused: set[Question] = set()
    is_over = threading.Event()

    def answer_all() -> None:
        with aggregators_chain(lab) as chain:
            court = chain.settlement.court
            while not is_over.wait(0.1):
                last = chain.rpc.block_number()
                for epoch, question in court.demanded(posted.block, last):
                    known = question in refused or question in answered
                    if known or epoch != posted.header.epoch:
                        continue
                    try:
                        court.answer(posted, answer(question))
                        answered.append(question)
                    except ContractReverted:
                        refused.add(question)

    thread = threading.Thread(target=answer_all)
    thread.start()
    try:
        yield answered
    finally:
        is_over.set()
        thread.join()


@contextmanager
def aggregators_chain(lab: Lab) -> Iterator[ChainClient]:
    """The chain, for whoever has the aggregator's key."""
    assert lab.chain is not None
    secret = lab.identity("aggregator").secret
    chain = open_client(lab.chain.rpc, bytes.fromhex(lab.chain.settlement[2:]), secret)
    try:
        yield chain
    finally:
        chain.close()
