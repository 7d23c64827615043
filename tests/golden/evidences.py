"""Evidence of each offence that costs stake, and what shows none."""

from __future__ import annotations

from typing import Any

import msgspec

from proofs.channel import ChannelTip
from proofs.codec import encode
from proofs.evidence import (
    Evidence,
    FalseVerdict,
    TwoReceipts,
    check_evidence,
    show_false_verdict,
    show_two_receipts,
)
from proofs.receipt import SignedReceipt

from .attestations import attestations
from .receipts import draft, sign
from .world import CLIENT, CONFIG, NETWORK, OWNER, named, network


def evidence() -> dict[str, Any]:
    """Evidence to accept, by field and by bytes, with whose stake it costs; evidence to refuse."""
    return {
        **network(),
        "accept": [
            {
                "why": why,
                "culprit": check_evidence(one, NETWORK).hex(),
                "fields": named(one),
                "hex": encode(one).hex(),
            }
            for why, one in _accepted()
        ],
        "refuse": [{"why": why, "rule": rule, "hex": data.hex()} for why, rule, data in _refused()],
    }


def two_receipts() -> tuple[SignedReceipt, SignedReceipt]:
    """A channel's first place, for which its node signed twice; the client signed the first."""
    tip = ChannelTip(CONFIG)
    return sign(draft(tip, 50)), sign(draft(tip, 51), None)


def _accepted() -> list[tuple[str, Evidence]]:
    told = {one["why"]: bytes.fromhex(one["hex"]) for one in attestations()["refuse"]}
    return [
        ("two receipts for one place", show_two_receipts(CONFIG, *two_receipts(), NETWORK)),
        *(
            (why, show_false_verdict(told[why], NETWORK))
            for why in (
                "a verdict that its score does not give",
                "another half of the seed",
                "another answer",
            )
        ),
    ]


def _refused() -> list[tuple[str, str, bytes]]:
    (_, pair), (_, verdict), *_ = _accepted()
    assert isinstance(pair, TwoReceipts)
    assert isinstance(verdict, FalseVerdict)
    client = _resigned(pair, sign(draft(ChannelTip(CONFIG), 50), node=CLIENT).node_signature)
    honest = bytes.fromhex(attestations()["accept"][0]["hex"])
    wrong: list[tuple[str, str, Evidence]] = [
        ("another version", "version", _changed(pair, version=2)),
        ("another chain", "network", _changed(pair, chain_id=1)),
        ("another settlement contract", "network", _changed(verdict, settlement=bytes(20))),
        ("a channel that pays another contract", "channel", _config(pair, receiver=bytes(20))),
        ("a channel of another token", "channel", _config(pair, token=bytes(20))),
        ("a channel of another node", "signature", _config(pair, receiver_authorizer=OWNER)),
        ("another channel of the node's", "signature", _config(pair, withdraw_delay=900)),
        ("another place", "signature", _changed(pair, sequence=2)),
        ("one receipt twice", "order", _changed(pair, second=pair.first)),
        ("in the other order", "order", _changed(pair, first=pair.second, second=pair.first)),
        ("signed by the client", "signature", client),
        ("fields swapped between both", "signature", _swapped(pair)),
        ("a verdict that is what it says", "attestation", _changed(verdict, attestation=honest)),
    ]
    refused = [(why, rule, encode(one)) for why, rule, one in wrong]
    plain = encode(pair)
    return [*refused, ("a longer form", "canonical", bytes([0xDC, 0, plain[0] & 15]) + plain[1:])]


def _resigned(pair: TwoReceipts, signature: bytes) -> TwoReceipts:
    """The pair with somebody else's signature."""
    return _changed(pair, first=_changed(pair.first, signature=signature))


def _swapped(pair: TwoReceipts) -> TwoReceipts:
    return _changed(pair, first=_changed(pair.first, payouts=pair.second.payouts))


def _config(pair: TwoReceipts, **changes: Any) -> TwoReceipts:
    return _changed(pair, config=_changed(pair.config, **changes))


def _changed(one: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(one, **changes)
