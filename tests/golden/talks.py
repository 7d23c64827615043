"""Whole conversations of the infer protocol, made by our own rules of money and receipts.

paid → broken → pending        one channel, three requests; the second breaks off, the third costs
                               the least fee
unpaid                         the bare base, without a chain, with everything that `Ask` can say
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from engine.messages import Choosing, Grammar
from node.wire import infer as wire
from node.wire.metering import FIRST, Account, Deal, Position, Price
from node.wire.receipts import Accepted, Deliver, Rejected, Taken, Waiting
from proofs.attribution.shares import POLICY, fee, parties_of
from proofs.codec import encode
from proofs.envelope import seal_envelope
from proofs.promise import make_promise
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    Receipt,
    SignedReceipt,
    decode_receipt,
    derive_shares,
    digest_of,
    encode_body,
    receipt_digest,
    sign_receipt,
    verify_receipt,
)
from proofs.voucher import Voucher, channel_id, sign_voucher, voucher_digest

from .receipts import DEADLINE, POLICIES, TERMS
from .world import (
    ADAPTER,
    AGGREGATOR,
    BASE,
    CLIENT,
    CONFIG,
    NETWORK,
    NODE,
    OWNER,
    named,
    named_taken,
    network,
    party,
)

CHANNEL = channel_id(CONFIG, NETWORK)
DEPOSIT = 1_000_000
PRICE = Price(prompt=10, completion=50)
STARTED_AT = 1_795_000_000
STOP_ID = 2
PARAMETERS = 1  # the version that is in force: the same parts and fees as without a vote
FORGED = "channel: the receipt names another channel than the one it came with"
GREEDY = Choosing(
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    logit_bias=[],
    grammar=None,
)
EVERYTHING = Choosing(
    temperature=0.7,
    top_k=40,
    top_p=0.9,
    min_p=0.05,
    repetition_penalty=1.1,
    presence_penalty=0.5,
    frequency_penalty=-0.25,
    logit_bias=[(7, 1.5), (49_151, -100.0)],
    grammar=Grammar("regex", "(yes|no)"),
)


@dataclass
class Talk:
    """One stream. `derived` holds what both sides compute from its messages."""

    name: str
    says: str
    messages: list[tuple[str, wire.Message, str]] = field(default_factory=list)
    derived: dict[str, Any] = field(default_factory=dict)

    def client(self, message: wire.Message, means: str) -> None:
        """The client says something."""
        self.messages.append(("client", message, means))

    def node(self, message: wire.Message, means: str) -> None:
        """The node says something."""
        self.messages.append(("node", message, means))

    def find(self, kind: type[wire.M]) -> list[wire.M]:
        """All messages of a kind."""
        return [message for _, message, _ in self.messages if isinstance(message, kind)]

    def shown(self) -> dict[str, Any]:
        """The talk as JSON."""
        return {
            "name": self.name,
            "says": self.says,
            "messages": [
                {
                    "from": sender,
                    "message": type(message).__name__,
                    "means": means,
                    "fields": named(message),
                    "hex": wire.encode(message).hex(),
                }
                for sender, message, means in self.messages
            ],
            "derived": self.derived,
        }


@dataclass
class Channel:
    """The golden channel between two requests, as its payer counts."""

    account: Account = field(default_factory=lambda: Account(0, 0, DEPOSIT))
    position: Position = FIRST
    receipts: list[tuple[Receipt, Voucher]] = field(default_factory=list)

    def pay(self, key: int, prompt_tokens: int, paid_tokens: int) -> wire.Pay:
        """A voucher for the prompt and so many tokens of one request."""
        limit = fee(
            POLICY, PRICE.cost(prompt_tokens, paid_tokens), parties_of(POLICY, OWNER, TERMS)
        )
        amount = self.account.want(key, limit)
        return wire.Pay(limit, amount, sign_voucher(CLIENT, CHANNEL, amount, NETWORK).signature)

    def settle(self, key: int, receipt: Receipt) -> None:
        """Both signed: the next receipt follows this one."""
        self.account.settle(key, receipt.amount)
        voucher = sign_voucher(CLIENT, CHANNEL, self.account.voucher, NETWORK)
        self.receipts.append((receipt, voucher))
        digest = digest_of(encode_body(receipt))
        payouts = self.position.payouts.award(
            derive_shares(receipt, TERMS, POLICIES.of(receipt.parameters)), receipt.amount
        )
        self.position = Position(receipt.sequence + 1, digest, receipt.cumulative, payouts)


def digest(words: str) -> bytes:
    """Something random that is always the same."""
    return hashlib.sha256(words.encode()).digest()


def ask(name: str, prompt_ids: Sequence[int], max_tokens: int, **changes: object) -> wire.Ask:
    """What a client asks."""
    plain = wire.Ask(
        version=wire.VERSION,
        base=BASE,
        adapter=ADAPTER,
        cocktail=b"",
        prompt_ids=list(prompt_ids),
        max_tokens=max_tokens,
        terms=GREEDY,
        logprobs=None,
        stop_ids=[STOP_ID],
        seed_commitment=hashlib.sha256(digest(f"client seed {name}")).digest(),
        client=CLIENT.address,
        channel=CONFIG,
        resumed=None,
        attributed=False,
    )
    return msgspec.structs.replace(plain, **changes)


def offer(name: str, **changes: object) -> wire.Offer:
    """What the node offers for the golden adapter."""
    plain = wire.Offer(
        node_seed=digest(f"node seed {name}"),
        paid=True,
        prompt_price=PRICE.prompt,
        completion_price=PRICE.completion,
        owner=OWNER,
        dtype=b"bfloat16",
        started_at=STARTED_AT,
        attributed=False,
        parameters=PARAMETERS,
    )
    return msgspec.structs.replace(plain, **changes)


def begin(name: str, payment: wire.Pay | None) -> wire.Begin:
    """The client's half of the seed, and its first voucher."""
    return wire.Begin(digest(f"client seed {name}"), digest(f"salt {name}")[:16], payment)


def close(talk: Talk) -> Deal:
    """What both sides agreed on in this talk; writes down the seed."""
    (asked,) = talk.find(wire.Ask)
    (offered,) = talk.find(wire.Offer)
    (begun,) = talk.find(wire.Begin)
    deal = Deal.close(
        asked,
        offered,
        client_seed=begun.client_seed,
        salt=begun.salt,
        operator=NODE.address,
        channel_id=CHANNEL,
        terms=None if asked.adapter == BARE_BASE else TERMS,
        policy=POLICIES.of(offered.parameters),
    )
    talk.derived |= {
        "ask_sha256": hashlib.sha256(wire.encode(asked)).hexdigest(),
        "seed_commitment": asked.seed_commitment.hex(),
        "seed": deal.seed.hex(),
    }
    return deal


def write(talk: Talk, deal: Deal, position: Position) -> Receipt:
    """The receipt over what came in this talk; writes down how it came about."""
    answer_ids = [token for output in talk.find(wire.Output) for token in output.token_ids]
    receipt = deal.receipt(NETWORK, position, answer_ids)
    body = encode_body(receipt)
    after = position.payouts.award(derive_shares(receipt, deal.terms, deal.policy), receipt.amount)
    vouchers = [begun.payment for begun in talk.find(wire.Begin)] + talk.find(wire.Pay)
    signed = SignedReceipt(
        body, sign_receipt(NODE, receipt, NETWORK), sign_receipt(CLIENT, receipt, NETWORK)
    )
    talk.derived |= {
        "vouchers": [
            {
                "amount": pay.amount,
                "digest": voucher_digest(CHANNEL, pay.amount, NETWORK).hex(),
                "signature": pay.signature.hex(),
            }
            for pay in vouchers
            if pay is not None
        ],
        "prompt_commitment": receipt.prompt_commitment.hex(),
        "answer_commitment": receipt.answer_commitment.hex(),
        "receipt": named(receipt),
        "body": body.hex(),
        "body_sha256": digest_of(body).hex(),
        "digest": receipt_digest(receipt, NETWORK).hex(),
        "node_signature": signed.node_signature.hex(),
        "client_signature": signed.client_signature.hex(),
        "paid": [{"account": who.hex(), "amount": amount} for who, amount in after.rows],
        "payouts": after.commitment.hex(),
        "signed": encode(signed).hex(),
        "unilateral": encode(msgspec.structs.replace(signed, client_signature=NO_SIGNATURE)).hex(),
    }
    return receipt


def finish(talk: Talk, deal: Deal, channel: Channel, key: int, reason: str) -> None:
    """Done with the receipt, the client's signature, and the node's word that both are safe."""
    receipt = write(talk, deal, channel.position)
    talk.node(
        wire.Done(
            reason,
            neighbours=1,
            timings=[("queue", 0.25), ("prefill", 8.5), ("decode", 412.0), ("load", 0.0)],
            body=encode_body(receipt),
            node_signature=sign_receipt(NODE, receipt, NETWORK),
        ),
        f"receipt {receipt.sequence} of the channel, over {receipt.amount:,}",
    )
    signature = sign_receipt(CLIENT, receipt, NETWORK)
    talk.client(wire.Settle(signature), "the client wrote the same receipt, and signs it")
    talk.node(wire.Settled(), "both signatures are on the node's disk")
    channel.settle(key, receipt)


def paid(channel: Channel) -> Talk:
    """An answer of 25 tokens, paid in two vouchers, that ends with a stop id."""
    talk = Talk("paid", "An answer with an adapter, paid in two vouchers.")
    talk.client(ask("paid", (1, 2, 49_151, 7), 40), "40 tokens at most; vouchers of this channel")
    talk.node(offer("paid"), "10 for a token of prompt, 50 for one of the answer")
    payment = channel.pay(1, prompt_tokens=4, paid_tokens=32)
    talk.client(begin("paid", payment), "opens the seed; pays for the prompt and 32 tokens")
    talk.node(wire.Output(list(range(100, 120)), []), "20 tokens; 12 of the paid ones are left")
    talk.client(channel.pay(1, prompt_tokens=4, paid_tokens=40), "pays for all 40")
    talk.node(wire.Output([200, 49_000, 128, 127, STOP_ID], []), "5 more; the last is a stop id")
    finish(talk, close(talk), channel, 1, reason="stop")
    return talk


def broken(channel: Channel) -> tuple[Talk, Receipt]:
    """The client falls silent after the tokens that it paid; what it owes then."""
    talk = Talk("broken", "No second voucher comes, so the node ends the answer.")
    talk.client(ask("broken", (5, 6), 40), "the same channel")
    talk.node(offer("broken"), "the adapter is here already")
    payment = channel.pay(2, prompt_tokens=2, paid_tokens=32)
    talk.client(begin("broken", payment), "pays for the prompt and 32 tokens")
    talk.node(wire.Output(list(range(300, 332)), []), "all 32")
    deal = close(talk)
    reason = "no voucher came within 10 s after 32 paid tokens"
    talk.node(wire.Refusal("payment_required", reason), "ends the stream; 32 tokens are owed")
    return talk, write(talk, deal, channel.position)


def pending(channel: Channel, owed: Receipt) -> Talk:
    """The next request, which begins with the receipt that the broken one left."""
    talk = Talk("pending", "The next request on that channel: first the receipt that is owed.")
    talk.client(ask("pending", (8,), 3), "the same channel again")
    shown = wire.Pending(encode_body(owed), sign_receipt(NODE, owed, NETWORK))
    talk.node(shown, f"receipt {owed.sequence}, over the 32 tokens of `broken`")
    talk.client(wire.Settle(sign_receipt(CLIENT, owed, NETWORK)), "signs it")
    channel.settle(2, owed)
    talk.node(offer("pending"), "now the offer")
    payment = channel.pay(3, prompt_tokens=1, paid_tokens=3)
    talk.client(begin("pending", payment), "pays for the prompt and all 3 tokens")
    talk.node(wire.Output([11, 12, 13], []), "the answer")
    finish(talk, close(talk), channel, 3, reason="length")
    return talk


def unpaid() -> Talk:
    """The bare base without a chain; the client stops it."""
    talk = Talk("unpaid", "The bare base, without a chain: no voucher and no receipt.")
    wish = ask("unpaid", (1, 2), 16, terms=EVERYTHING, logprobs=2, channel=None, adapter=bytes(32))
    talk.client(wish, "no channel; two alternatives of each token")
    talk.node(offer("unpaid", paid=False), "asks for nothing")
    talk.client(begin("unpaid", None), "opens the seed")
    top = [(5, -0.25), (9, -1.75)]
    talk.node(wire.Output([5], [wire.TokenLogprobs(-0.25, top)]), "a token and its alternatives")
    talk.client(wire.Stop(), "that is enough")
    talk.node(wire.Done("cancelled", 2, [], b"", None), "no receipt: `body` empty, no signature")
    close(talk)
    return talk


def resumed(lost: Talk) -> Talk:
    """Another node goes on with the answer that `lost` began, after its one token."""
    talk = Talk("resumed", "Another node goes on with the answer of `unpaid`, after its one token.")
    seed = bytes.fromhex(lost.derived["seed"])
    goes_on = wire.Resumed(seed, num_answered=1)
    wish = ask(
        "resumed",
        (1, 2, 5),
        15,
        terms=EVERYTHING,
        channel=None,
        adapter=bytes(32),
        resumed=goes_on,
    )
    talk.client(wish, "the last of the prompt's tokens is the answer so far")
    talk.node(offer("resumed", paid=False), "its own half of a seed, which nobody needs")
    talk.client(begin("resumed", None), "opens a seed, which nobody needs either")
    talk.node(wire.Output([], []), "a beat: the node is at work")
    talk.node(wire.Output([9, STOP_ID], []), "the answer's second and last token")
    talk.node(wire.Done("stop", 1, [], b"", None), "its end")
    close(talk)
    return talk


@cache
def talks() -> tuple[dict[str, Talk], Channel]:
    """All conversations, and where the channel stands after them."""
    channel = Channel()
    first = paid(channel)
    second, owed = broken(channel)
    third = pending(channel, owed)
    fourth = unpaid()
    found = {talk.name: talk for talk in (first, second, third, fourth, resumed(fourth))}
    return found, channel


def envelopes() -> list[bytes]:
    """The three receipts on their way to the aggregator."""
    return [
        seal_envelope(
            SignedReceipt(
                encode_body(receipt),
                sign_receipt(NODE, receipt, NETWORK),
                sign_receipt(CLIENT, receipt, NETWORK),
            ),
            voucher,
            CONFIG,
        )
        for receipt, voucher in talks()[1].receipts
    ]


def delivery() -> dict[str, Any]:
    """Receipts 1 and 3 and a forged one are delivered, and what the aggregator answers."""
    first, _, third = envelopes()
    forged = bytearray(third)
    forged[-1] ^= 1  # of the channel's salt: the receipt now names another channel
    signed = decode_receipt(bytes.fromhex(talks()[0]["paid"].derived["signed"]))
    receipt = verify_receipt(signed, NETWORK)
    deliver = Deliver([first, third, bytes(forged)])
    taken = Taken(
        [
            Accepted(make_promise(AGGREGATOR, receipt, DEADLINE, NETWORK)),
            Waiting("receipts 2 to 2 of the channel come first"),
            Rejected(FORGED, retryable=False),
        ]
    )
    return {
        "aggregator": party("aggregator"),
        "messages": [
            {"from": "node", "fields": named(deliver), "hex": encode(deliver).hex()},
            {"from": "aggregator", "fields": named_taken(taken), "hex": encode(taken).hex()},
        ],
    }


def infer() -> dict[str, Any]:
    """Every message of the infer protocol and of the delivery of receipts."""
    return {
        "network": network(),
        "node": party("node"),
        "client": party("client"),
        "channel": {"config": named(CONFIG), "channel_id": CHANNEL.hex(), "deposit": DEPOSIT},
        "talks": [talk.shown() for talk in talks()[0].values()],
        "delivery": delivery(),
    }
