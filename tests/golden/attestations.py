"""Golden attestations of one answer: its question shown or kept back, and what nobody takes."""

from __future__ import annotations

from typing import Any

import msgspec

from node.wire.infer import Ask, encode, seed_of
from proofs.attestation.record import (
    Attestation,
    Judged,
    Measured,
    Opening,
    build_attestation,
    parse_attestation,
)
from proofs.receipt import commit, decode_body, encode_body, sign_receipt
from proofs.signed import sign_record

from .receipts import STARTED_AT, chain
from .talks import ask
from .world import AGGREGATOR, NETWORK, NODE, named, network, secret

PROMPT = (1, 2, 3)
ANSWER = tuple(range(100, 164))
SALT = bytes(range(16))
DOMAIN = b"lorikeet attestation 1\0"
AGREES = Measured(64, 3, 1_200, 9_000, cap=100_000, mean=314, variance=29, one_in=10_000)
DIFFERS = msgspec.structs.replace(AGREES, missed=60, score=71_000)


def attestations() -> dict[str, Any]:
    """Two to accept, by field and by bytes; some to refuse."""
    body, signature = _receipt()
    kept_back = _build(Judged(body, signature, "agrees", AGREES, None))
    shown = _build(Judged(body, signature, "differs", DIFFERS, _opening()))
    return {
        **network(),
        "auditor_secret": secret("aggregator").hex(),
        "domain": DOMAIN.hex(),
        "accept": [
            {"why": why, "fields": named(parse_attestation(data, NETWORK)), "hex": data.hex()}
            for why, data in (("kept back", kept_back), ("shown", shown))
        ],
        "refuse": [
            {"why": why, "rule": rule, "hex": data.hex()} for why, rule, data in _refused(shown)
        ],
    }


def _build(judged: Judged) -> bytes:
    return build_attestation(AGGREGATOR, judged, STARTED_AT + 60, NETWORK)


def _ask() -> Ask:
    return ask("attested", PROMPT, 64)


def _opening() -> Opening:
    return Opening(encode(_ask()), secret("client half"), secret("node half"), SALT, ANSWER)


def _receipt() -> tuple[bytes, bytes]:
    """The channel's first receipt, of this answer; its body and its node's signature."""
    _, first, _ = chain()[0]
    plain = decode_body(first.body)
    opening = _opening()
    cost = len(PROMPT) * plain.prompt_price + len(ANSWER) * plain.completion_price
    receipt = msgspec.structs.replace(
        plain,
        seed=seed_of(_ask(), opening.node_seed, opening.client_seed),
        prompt_commitment=commit(SALT, PROMPT),
        answer_commitment=commit(SALT, ANSWER),
        prompt_tokens=len(PROMPT),
        completion_tokens=len(ANSWER),
        amount=cost,
        cumulative=cost,
    )
    return encode_body(receipt), sign_receipt(NODE, receipt, NETWORK)


def _refused(data: bytes) -> list[tuple[str, str, bytes]]:
    good = parse_attestation(data, NETWORK)
    opening = _opening()
    wrong = [
        ("another version", "version", {"version": 2}),
        ("a receipt that its node did not sign", "receipt", {"node_signature": good.signature}),
        ("more tokens than the receipt has", "tokens", {"measured": _measured(tokens=65)}),
        ("more missed than there are", "measured", {"measured": _measured(missed=65)}),
        ("a score above its cap", "measured", {"measured": _measured(score=100_001)}),
        ("too short to judge", "limit", {"measured": _measured(limit=100_000)}),
        ("a verdict that its score does not give", "outcome", {"outcome": "agrees"}),
        ("another half of the seed", "seed", {"opening": _open(opening, node_seed=bytes(32))}),
        ("another answer", "answer", {"opening": _open(opening, answer_ids=ANSWER[1:])}),
        ("another salt", "answer", {"opening": _open(opening, salt=bytes(16))}),
    ]
    return [
        *((why, rule, _signed(good, **changes)) for why, rule, changes in wrong),
        ("somebody else's signature", "signature", sign_record(NODE, good, DOMAIN)),
        ("a longer form", "canonical", b"\xdc\x00\x09" + data[1:]),
    ]


def _measured(**changes: int) -> Measured:
    return msgspec.structs.replace(DIFFERS, **changes)


def _open(opening: Opening, **changes: Any) -> Opening:
    return msgspec.structs.replace(opening, **changes)


def _signed(good: Attestation, **changes: Any) -> bytes:
    return sign_record(AGGREGATOR, msgspec.structs.replace(good, **changes), DOMAIN)
