"""Golden parameters: what is known of each, values by content and by bytes, bytes to refuse, and
which values are in force after votes of every kind.
"""

from __future__ import annotations

from typing import Any

from proofs.parameters import (
    ATTRIBUTION_RULE,
    AUDIT_ONE_IN,
    COMPLETION_FLOOR,
    CREATOR_SHARE,
    DEFAULTS,
    NODE_SHARE,
    PARAMETERS,
    ROW_BYTES,
    STAKE_PER_ANSWER,
    Values,
    Version,
    digest_parameters,
    encode_parameters,
    in_force,
    name_word,
    rule_on,
)

LATER = "later.thing"


def parameters() -> dict[str, Any]:
    """Everything about parameters."""
    return {
        "parameters": [
            {
                "name": one.name,
                "kind": int(one.kind),
                "unit": one.unit,
                "default": str(one.default),
                "least": str(one.least),
                "most": str(one.most),
            }
            for one in PARAMETERS
        ],
        "accept": [
            _accepted("the defaults", DEFAULTS),
            _accepted("changed values", {**DEFAULTS, NODE_SHARE: 5_500, AUDIT_ONE_IN: 20}),
            _accepted("one that a later program knows", {**DEFAULTS, LATER: (1 << 256) - 1}),
            _accepted("a network without parameters", {}),
        ],
        "refuse": [{"why": why, "rule": rule, "hex": data.hex()} for why, rule, data in _refused()],
        "histories": [_history(*one) for one in _histories()],
    }


def _accepted(why: str, values: Values) -> dict[str, Any]:
    return {
        "why": why,
        "values": _pairs(values),
        "hex": encode_parameters(values).hex(),
        "digest": digest_parameters(values).hex(),
    }


def _refused() -> list[tuple[str, str, bytes]]:
    whole = encode_parameters(DEFAULTS)
    row = whole[:ROW_BYTES]
    number = (1).to_bytes(32, "big")
    return [
        ("half a row", "size", whole[:-1]),
        ("more rows than fit", "size", row * 65),
        ("a name twice", "name", row * 2),
        ("no name", "name", bytes(32) + number),
        ("a name with a large letter", "name", b"Shares".ljust(32, b"\0") + number),
        ("zeros within a name", "name", b"a\0b".ljust(32, b"\0") + number),
        ("a name that no zero ends", "name", b"a" * 32 + number),
        ("more basis points than there are", "value", name_word(NODE_SHARE) + _word(10_001)),
        ("an amount that no receipt holds", "value", name_word(COMPLETION_FLOOR) + _word(1 << 63)),
    ]


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _histories() -> list[tuple[str, list[Version], int]]:
    first = Version(1, 1_000, DEFAULTS)
    second = Version(2, 2_000, {**DEFAULTS, COMPLETION_FLOOR: 40})
    third = Version(3, 3_000, {**second.values, COMPLETION_FLOOR: 501, AUDIT_ONE_IN: 50})
    fourth = Version(4, 4_000, {**DEFAULTS, ATTRIBUTION_RULE: 7, LATER: 1})
    shares = Version(2, 2_000, {**DEFAULTS, CREATOR_SHARE: 2_000, AUDIT_ONE_IN: 50})
    dear = Version(2, 2_000, {**DEFAULTS, STAKE_PER_ANSWER: 250})
    dearer = Version(3, 3_000, {**DEFAULTS, STAKE_PER_ANSWER: 1_001})
    every = [first, second, third, fourth]
    return [
        ("before the first header the first version holds", every, 0),
        ("what is written in the middle of an epoch waits for its end", every, 1_999),
        ("a version of the second in which the epoch begins holds", every, 2_000),
        ("beyond its bounds a value stays what it was, and the rest is applied", every, 3_500),
        ("shares may change: receipts name their version", [first, shares], 2_000),
        ("no vote asks for more than ten times the stake", [first, dear, dearer], 3_000),
        ("another rule and an unknown name change nothing", every, 4_000),
    ]


def _history(why: str, versions: list[Version], began_at: int) -> dict[str, Any]:
    ruling = rule_on(in_force(versions, began_at))
    return {
        "why": why,
        "versions": [
            {"number": one.number, "since": one.since, "values": _pairs(one.values)}
            for one in versions
        ],
        "began_at": began_at,
        "version": ruling.version,
        "values": _pairs(ruling.values),
        "refused": [one.name for one in ruling.refusals],
        "unknown": list(ruling.unknown),
    }


def _pairs(values: Values) -> list[list[str]]:
    return [[name, str(value)] for name, value in values.items()]
