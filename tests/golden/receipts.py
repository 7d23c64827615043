"""Receipts of one channel in a row, their envelopes and promises, what is refused, and whom a
channel's fees went to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from proofs.attribution.shares import (
    POLICY,
    AdapterTerms,
    Share,
    award,
    fee,
    parties_of,
    shares_for,
    terms_of,
)
from proofs.channel import ChannelTip
from proofs.codec import encode
from proofs.envelope import seal_envelope
from proofs.epoch import PayoutLeaf
from proofs.manifest import parse_manifest
from proofs.parameters import CREATOR_SHARE, DEFAULTS, LEAST_FEE, MOST_LAMBDA, NODE_SHARE, Version
from proofs.payouts import NO_PAYOUTS, ChannelPayouts
from proofs.policies import policies_of
from proofs.promise import make_promise, promise_digest
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    VERSION,
    Receipt,
    SignedReceipt,
    commit,
    digest_of,
    encode_body,
    leaf_of,
    receipt_digest,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.voucher import channel_id, sign_voucher

from .world import (
    ADAPTER,
    AGGREGATOR,
    ATTRIBUTED,
    ATTRIBUTED_MANIFEST,
    BASE,
    CLIENT,
    CONFIG,
    MANIFEST,
    NETWORK,
    NODE,
    OWNER,
    account,
    named,
    network,
    party,
    secret,
)

CHANNEL = channel_id(CONFIG, NETWORK)
TERMS = terms_of(parse_manifest(MANIFEST))
TERMS_OF = {
    BARE_BASE: None,
    ADAPTER: TERMS,
    ATTRIBUTED: terms_of(parse_manifest(ATTRIBUTED_MANIFEST)),
}
STRANGER = Signer(secret("stranger"))
STARTED_AT = 1_795_000_000
DEADLINE = STARTED_AT + 600
OTHER = account(7)
DECIDED = {NODE_SHARE: 5_500, CREATOR_SHARE: 3_000, LEAST_FEE: 150, MOST_LAMBDA: 2}
VERSIONS = (Version(1, 1_000, DEFAULTS), Version(2, 2_000, {**DEFAULTS, **DECIDED}))
POLICIES = policies_of(VERSIONS)


def terms_for(adapter: bytes) -> AdapterTerms | None:
    """What attribution reads in the manifest of an adapter of these vectors."""
    return TERMS_OF[adapter]


def draft(tip: ChannelTip, tokens: int, **changes: Any) -> Receipt:
    """The channel's next receipt, by the rules; `changes` come first."""
    plain = Receipt(
        version=VERSION,
        chain_id=NETWORK.chain_id,
        settlement=NETWORK.settlement,
        channel_id=CHANNEL,
        sequence=tip.sequence + 1,
        previous=tip.previous,
        operator=NODE.address,
        client=CLIENT.address,
        base=BASE,
        adapter=ADAPTER,
        owner=OWNER,
        prompt_commitment=commit(bytes(16), [1, 2, 49_151]),
        answer_commitment=commit(bytes(range(16)), list(range(tokens))),
        prompt_tokens=7,
        completion_tokens=tokens,
        prompt_price=10,
        completion_price=50,
        amount=0,
        cumulative=0,
        seed=hashlib.sha256(b"seed").digest(),
        dtype=b"bfloat16",
        started_at=STARTED_AT,
        payouts=bytes(32),
    )
    body = msgspec.structs.replace(plain, **changes)
    terms = terms_for(body.adapter)
    policy = POLICIES.by_version[min(body.parameters, POLICIES.last)]
    shares = shares_for(policy, body.owner, terms, body.drawn)
    amount = fee(policy, body.price, parties_of(policy, body.owner, terms))
    return msgspec.structs.replace(
        body,
        amount=amount,
        cumulative=tip.cumulative + amount,
        payouts=tip.payouts.award(shares, amount).commitment,
    )


def sign(body: Receipt, client: Signer | None = CLIENT, node: Signer = NODE) -> SignedReceipt:
    """Both signatures, or the node's alone."""
    return SignedReceipt(
        encode_body(body),
        sign_receipt(node, body, NETWORK),
        sign_receipt(client, body, NETWORK) if client else NO_SIGNATURE,
    )


def follow(tip: ChannelTip, signed: SignedReceipt) -> ChannelTip:
    """The channel after this receipt."""
    verified = verify_receipt(signed, NETWORK)
    return tip.follow(verified, NETWORK, terms_for(verified.receipt.adapter), POLICIES)


def chain() -> list[tuple[str, SignedReceipt, ChannelTip]]:
    """Eight receipts in a row: why each is there, itself, and the channel before it."""
    rows = (
        ("three shares, both signed", {"tokens": 50}, CLIENT),
        ("the node's signature alone", {"tokens": 3}, None),
        ("so short that it costs the least fee", {"tokens": 1}, CLIENT),
        (
            "the bare base, another owner",
            {"tokens": 9, "adapter": BARE_BASE, "owner": OTHER},
            CLIENT,
        ),
        (
            "three eighths of the data's part follow what the answer drew on",
            {"tokens": 60, "adapter": ATTRIBUTED, "drawn": (((0, 3_334), (2, 6_666)),)},
            CLIENT,
        ),
        (
            "the same adapter, and nobody's text was drawn on",
            {"tokens": 2, "adapter": ATTRIBUTED},
            CLIENT,
        ),
        (
            "under the second version of the parameters: other parts, at most two eighths drawn",
            {
                "tokens": 60,
                "adapter": ATTRIBUTED,
                "parameters": 2,
                "drawn": (((0, 3_334), (2, 6_666)),),
            },
            CLIENT,
        ),
        (
            "agreed on before that version was in force, and its least fee",
            {"tokens": 2, "adapter": ATTRIBUTED, "parameters": 1},
            CLIENT,
        ),
    )
    tip = ChannelTip(CONFIG)
    found = []
    for why, changes, client in rows:
        signed = sign(draft(tip, **changes), client)
        found.append((why, signed, tip))
        tip = follow(tip, signed)
    return found


def receipts() -> dict[str, Any]:
    """Everything about receipts."""
    return {
        "network": network(),
        "node": party("node"),
        "client": party("client"),
        "aggregator": party("aggregator"),
        "channel": {"config": named(CONFIG), "channel_id": CHANNEL.hex()},
        "manifest": MANIFEST.hex(),
        "attributed_manifest": ATTRIBUTED_MANIFEST.hex(),
        "parameters": [
            {
                "version": one.number,
                "values": {name: one.values[name] for name in DECIDED},
            }
            for one in VERSIONS
        ],
        "receipts": [_shown(*row) for row in chain()],
        "refuse": [{"why": why, "envelope": data.hex()} for why, data in refused()],
        "do_not_follow": [{"why": why, "signed": encode(signed).hex()} for why, signed in strays()],
        "evidence": _evidence(),
    }


def _shown(why: str, signed: SignedReceipt, tip: ChannelTip) -> dict[str, Any]:
    verified = verify_receipt(signed, NETWORK)
    body = verified.receipt
    policy = POLICIES.of(body.parameters)
    shares = shares_for(policy, body.owner, terms_for(body.adapter), body.drawn)
    promise = make_promise(AGGREGATOR, verified, DEADLINE, NETWORK)
    return {
        "why": why,
        "fields": named(body),
        "shares": [named(share) for share in shares],
        "awards": [
            {"account": who.hex(), "amount": part} for who, part in award(body.amount, shares)
        ],
        "payouts": _rows(tip.payouts.award(shares, body.amount)),
        "body": signed.body.hex(),
        "body_sha256": digest_of(signed.body).hex(),
        "digest": receipt_digest(body, NETWORK).hex(),
        "node_signature": signed.node_signature.hex(),
        "client_signature": signed.client_signature.hex(),
        "signed": verified.encoded.hex(),
        "leaf": leaf_of(signed.body).hex(),
        "envelope": envelope(signed, spare=1_600).hex(),
        "promise": {
            **named(promise),
            "digest": promise_digest(promise, NETWORK).hex(),
            "encoded": encode(promise).hex(),
        },
    }


def envelope(
    signed: SignedReceipt, spare: int = 0, config: Any = CONFIG, payer: Signer = CLIENT
) -> bytes:
    """The receipt as it travels, with a voucher that allows `spare` more than it costs."""
    body = msgspec.msgpack.decode(signed.body, type=Receipt)
    voucher = sign_voucher(payer, channel_id(config, NETWORK), body.cumulative + spare, NETWORK)
    return seal_envelope(signed, voucher, config)


def refused() -> list[tuple[str, bytes]]:
    """Envelopes that nobody may forward."""
    tip = ChannelTip(CONFIG)
    body = draft(tip, 50)
    changed = msgspec.structs.replace

    def told(why: str, wrong: Receipt) -> tuple[str, bytes]:
        return why, envelope(sign(wrong))

    own = changed(CONFIG, receiver_authorizer=CLIENT.address)
    in_own = changed(body, channel_id=channel_id(own, NETWORK))
    return [
        told("version 3", changed(body, version=3)),
        told("for another chain", changed(body, chain_id=1)),
        told("costs less than its tokens", changed(body, amount=2_569, cumulative=2_569)),
        told("a first receipt with a previous one", changed(body, previous=bytes([1]) * 32)),
        told("a first receipt whose cumulative is not its amount", changed(body, cumulative=2_571)),
        told("its owner is the zero address", changed(body, owner=bytes(20))),
        ("signed by a stranger, not by the node", envelope(sign(body, node=STRANGER))),
        ("signed by a stranger, not by the client", envelope(sign(body, client=STRANGER))),
        (
            "half a client's signature",
            envelope(changed(sign(body), client_signature=sign(body).client_signature[:64])),
        ),
        ("the client's signature in the node's stead", envelope(sign(body, None, node=CLIENT))),
        ("a voucher for one unit less", envelope(sign(body), spare=-1)),
        ("a voucher that a stranger signed", envelope(sign(body), payer=STRANGER)),
        ("a channel whose client could refund it at once", envelope(sign(in_own), config=own)),
        ("the config of another channel", envelope(sign(body), config=own)),
    ]


def strays() -> list[tuple[str, SignedReceipt]]:
    """Good receipts that cannot be the channel's second, though both signed them."""
    first = chain()[0]
    tip = follow(first[2], first[1])
    body = draft(tip, 3)
    changed = msgspec.structs.replace
    owners = tip.payouts.award(shares_for(POLICY, OWNER, None), body.amount)

    def drew(why: str, *drawn: Any, adapter: bytes = ATTRIBUTED) -> tuple[str, SignedReceipt]:
        return why, sign(changed(draft(tip, 3, adapter=adapter), drawn=drawn))

    return [
        ("the first again", first[1]),
        ("the third", sign(changed(body, sequence=3))),
        ("follows another body", sign(changed(body, previous=bytes([1]) * 32))),
        (
            "one unit above the least fee",
            sign(changed(body, amount=body.amount + 1, cumulative=body.cumulative + 1)),
        ),
        ("its cumulative skips a unit", sign(changed(body, cumulative=body.cumulative + 1))),
        ("all of the fee is the owner's", sign(changed(body, payouts=owners.commitment))),
        ("divided by another version than it names", sign(changed(body, parameters=2))),
        ("a version of the parameters that never was", sign(draft(tip, 3, parameters=3))),
        ("another base than the adapter's", sign(changed(body, base=bytes(32)))),
        drew("drawn on by a manifest without attribution", ((0, 10_000),), adapter=ADAPTER),
        drew("drawn on by the bare base", ((0, 10_000),), adapter=BARE_BASE),
        drew("nothing drawn on, in another form", ()),
        drew("two lists for one adapter", ((0, 10_000),), ()),
        drew("drawn on a contributor that the manifest does not have", ((3, 10_000),)),
        drew("places that do not ascend", ((2, 5_000), (0, 5_000))),
        drew("parts that do not sum to the whole", ((0, 5_000), (2, 4_999))),
        drew("one unit is another contributor's", ((0, 3_334), (2, 6_666))),
    ]


def _evidence() -> dict[str, str]:
    """Two receipts for one place that the node signed; the client signed the first alone."""
    first = sign(draft(ChannelTip(CONFIG), 50))
    second = sign(draft(ChannelTip(CONFIG), 51), None)
    return {"first": encode(first).hex(), "second": encode(second).hex()}


def payouts() -> list[dict[str, Any]]:
    """Channels that paid 0 to 256 accounts: after each fee, and proofs of every row at the end."""
    crowd = [(Share(account(number), 0, 10_000),) for number in range(256)]
    three = shares_for(POLICY, OWNER, TERMS)
    return [
        _channel("nobody", []),
        _channel("one owner, twice", [(crowd[0], 100), (crowd[0], 7)]),
        _channel(
            "three shares, then two of other owners", [(three, 2_570), (crowd[9], 1), (three, 300)]
        ),
        _channel("five in turn", [(crowd[number % 5], number + 1) for number in range(12)]),
        _channel("as many as a channel may pay", [(one, 100) for one in crowd]),
    ]


def _channel(why: str, fees: Sequence[tuple[Sequence[Share], int]]) -> dict[str, Any]:
    tip = NO_PAYOUTS
    commitments = [tip.commitment.hex()]
    for shares, amount in fees:
        tip = tip.award(shares, amount)
        commitments.append(tip.commitment.hex())
    return {
        "why": why,
        "fees": [
            {"amount": amount, "shares": [named(share) for share in shares]}
            for shares, amount in fees
        ],
        "commitments": commitments,
        "rows": _rows(tip),
        "total": tip.total,
        "proofs": [_proof(tip, place) for place in range(min(len(tip), 9))],
    }


def _rows(tip: ChannelPayouts) -> list[dict[str, Any]]:
    return [{"account": who.hex(), "amount": amount} for who, amount in tip.rows]


def _proof(tip: ChannelPayouts, place: int) -> dict[str, Any]:
    proof = tip.prove(place)
    return {
        "index": proof.index,
        "size": proof.size,
        "leaf": PayoutLeaf(tip.account(place), tip.amount(place)).node.hash.hex(),
        "siblings": [{"sum": other.sum, "hash": other.hash.hex()} for other in proof.siblings],
    }
