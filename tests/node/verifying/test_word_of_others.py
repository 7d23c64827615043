"""What somebody else's word on an answer is worth, and what is passed on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.verdict import Thresholds
from node.telemetry import Telemetry
from node.verifying.consequences import Consequences, Surroundings
from node.verifying.heard import MAX_KEPT, MAX_OF_AUDITOR, Heard
from node.verifying.limits import choose_limits
from node.verifying.replaying import Replayed, hold_to
from node.verifying.spreading import AUDITOR_BURST, Spreading
from node.verifying.trust import HALF_S, SUSPECTED_S, Trust
from node.wire.attestation import MAX_AGE_S, MAX_TOLD_BYTES
from p2p.gossip import Verdict
from proofs.attestation.record import (
    Attestation,
    Judged,
    Measured,
    build_attestation,
    parse_attestation,
)
from proofs.receipt import Receipt, decode_body, encode_body, sign_receipt
from proofs.signing import Signer
from tests.golden import other
from tests.golden.world import AGGREGATOR, NETWORK, NODE

KEPT_BACK, SHOWN = (other.unhex(one["hex"]) for one in other.load("attestation")["accept"])
GOLDEN = parse_attestation(SHOWN, NETWORK)
CALIBRATED = Thresholds(cap=250_000, mean=500, variance=96, one_in=10_000)
NOW = float(GOLDEN.receipt.started_at + 60)
NODE_ADDRESS, LAW = GOLDEN.receipt.operator, GOLDEN.receipt.adapter
STRANGER = Signer(bytes(31) + b"\x07")
OWN = Signer(bytes(31) + b"\x08")
JUNK, HONEST = [5.0] * 64, [0.0] * 64


def receipt(number: int = 1) -> Receipt:
    return msgspec.structs.replace(GOLDEN.receipt, seed=number.to_bytes(32, "big"))


def replayed(margins: list[float], number: int = 1, *, by: Signer = OWN) -> Replayed:
    """What a replay of the node's answer with that number finds, attested."""
    body = encode_body(receipt(number))
    found = hold_to(choose_limits(CALIBRATED), receipt(number), body, margins, own="float32")
    assert found.measured is not None
    outcome = "differs" if found.told.verdict == "differs" else "agrees"
    data = attest(body, outcome, found.measured, by)
    return replace(found, told=replace(found.told, attestation=data.hex()))


def attest(body: bytes, outcome: str, measured: Measured, by: Signer, at: int = int(NOW)) -> bytes:
    signature = sign_receipt(NODE, decode_body(body), NETWORK)
    return build_attestation(
        by,
        Judged(body, signature, outcome, measured, None),  # type: ignore[arg-type]
        at,
        NETWORK,
    )


def word(margins: list[float], number: int, by: Signer) -> tuple[bytes, Attestation]:
    """An auditor's attestation."""
    data = bytes.fromhex(replayed(margins, number, by=by).told.attestation)
    return data, parse_attestation(data, NETWORK)


def make(
    tmp_path: Path,
    *named: Signer,
    now: float = NOW,
    told: list[bytes] | None = None,
    replays_here: bool = True,
) -> Consequences:
    keys = frozenset(one.public_key for one in named)
    around = Surroundings(
        NETWORK,
        lambda operator: operator.hex(),
        tmp_path / "trust",
        (told if told is not None else []).append,
        own=OWN.public_key,
        named=keys,
        replays_here=replays_here,
        clock=lambda: now,
    )
    heard = Heard(lambda auditor: auditor == OWN.public_key or auditor in keys)
    return Consequences(Trust(), heard, around, Telemetry())


def weight(here: Consequences) -> float:
    return here.trust.weight(NODE_ADDRESS, NOW)


async def test_a_strangers_word_has_a_node_watched_and_takes_no_weight(tmp_path: Path) -> None:
    here = make(tmp_path)
    for number in range(1, 100):
        await here.hear(*word(JUNK, number, STRANGER))
    assert weight(here) == 1.0
    assert here.is_watched(NODE_ADDRESS, LAW)
    assert not here.is_watched(NODE_ADDRESS, bytes(32))
    assert not here.trust.is_watched(NODE_ADDRESS, LAW, NOW + SUSPECTED_S)
    assert {one.weighs for one in here.listing()} == {"stranger"}
    praised = make(tmp_path)
    await praised.hear(*word(HONEST, 1, STRANGER))
    assert not praised.is_watched(NODE_ADDRESS, LAW)


async def test_a_named_auditors_word_counts_by_half_until_a_replay_here_decides(
    tmp_path: Path,
) -> None:
    here = make(tmp_path, STRANGER)
    for number in range(1, 100):
        await here.hear(*word(JUNK, number, STRANGER))
    assert weight(here) == 0.5
    assert "named auditor" in here.trust.reason(NODE_ADDRESS, NOW)
    assert here.is_watched(NODE_ADDRESS, LAW)
    await here.take(replayed(HONEST, 200))
    assert weight(here) == 1.0, "he lied, and it was seen here"
    assert here.is_watched(NODE_ADDRESS, LAW), "the next ones are looked at too"
    await here.hear(*word(JUNK, 201, STRANGER))
    assert weight(here) == 0.5
    assert here.trust.weight(NODE_ADDRESS, NOW + SUSPECTED_S) == 1.0
    await here.take(replayed(JUNK, 202))
    assert weight(here) == 0.0


async def test_a_named_auditor_who_praises_spares_a_node_no_replay_here(tmp_path: Path) -> None:
    here = make(tmp_path, STRANGER)
    for number in range(1, 100):
        await here.hear(*word(HONEST, number, STRANGER))
    assert here.one_in(NODE_ADDRESS, LAW, 100) == 1


async def test_an_answer_bought_here_that_would_convict_when_shown_convicts_too(
    tmp_path: Path,
) -> None:
    """Hundreds of good ones before it forgive a chance, and no proof."""
    here = make(tmp_path)
    for number in range(1, 202):
        await here.take(replayed(HONEST, number))
    for number in (300, 301):
        await here.take(replayed(JUNK, number))
    assert [one.what for one in here._telemetry.rejections] == ["answer"] * 2
    assert here.trust.weight(NODE_ADDRESS, NOW + 2 * HALF_S) == 0.5
    doubtful = make(tmp_path)
    await doubtful.take(replayed([0.25] * 6 + [0.0] * 58, 1))
    assert not doubtful._telemetry.rejections
    assert doubtful.trust.weight(NODE_ADDRESS, NOW + HALF_S) == 0.5


async def test_where_nothing_is_replayed_a_named_auditors_word_counts_as_a_replay_and_once(
    tmp_path: Path,
) -> None:
    here = make(tmp_path, STRANGER, replays_here=False)
    for _ in range(50):
        await here.hear(*word(JUNK, 1, STRANGER))
    assert weight(here) == 0.0
    later = here.trust.weight(NODE_ADDRESS, NOW + HALF_S)
    assert later == 0.5, "one answer, however often it is told"
    for number in range(2, 8):
        await here.hear(*word(JUNK, number, STRANGER))
    assert here.trust.weight(NODE_ADDRESS, NOW + HALF_S) < 0.1
    again = Trust()
    again.load(tmp_path / "trust")
    assert again == here.trust
    await here.hear(*word(JUNK, 99, AGGREGATOR))
    assert [one.weighs for one in here.listing()][:2] == ["stranger", "named"]


async def test_one_shown_answer_that_is_junk_convicts_once_and_a_doubtful_one_does_not(
    tmp_path: Path,
) -> None:
    here = make(tmp_path)
    doubtful = replayed([0.25] * 6 + [0.0] * 58, 1)
    assert doubtful.told.verdict == "differs"
    await here.recompute(GOLDEN, doubtful)
    assert weight(here) == 1.0
    assert here.is_watched(NODE_ADDRESS, LAW)
    await here.recompute(GOLDEN, replayed(JUNK, 2))
    assert weight(here) == 0.0
    await here.recompute(GOLDEN, replayed(JUNK, 2))
    later = here.trust.weight(NODE_ADDRESS, NOW + HALF_S)
    assert later == 0.5, "what is shown twice, or was given before a conviction, counts no more"
    await here.recompute(GOLDEN, replayed(JUNK, 3))
    assert here.trust.weight(NODE_ADDRESS, NOW + HALF_S) == 0.5


async def test_what_is_shown_of_an_old_answer_says_nothing_of_its_node_today(
    tmp_path: Path,
) -> None:
    here = make(tmp_path, now=NOW + 40 * 86_400)
    await here.recompute(GOLDEN, replayed(JUNK))
    assert here.trust.weight(NODE_ADDRESS, NOW + 40 * 86_400) == 1.0


async def test_an_auditor_whose_word_a_replay_contradicts_is_heard_no_more(
    tmp_path: Path,
) -> None:
    here = make(tmp_path)
    accusing = word(JUNK, 1, STRANGER)
    await here.hear(*accusing)
    await here.recompute(accusing[1], replayed(HONEST, 1))
    assert weight(here) == 1.0
    assert [one.weighs for one in here.listing()] == ["own"]
    await here.hear(*word(JUNK, 2, STRANGER))
    assert len(here.listing()) == 1
    praising = word(HONEST, 3, AGGREGATOR)
    await here.recompute(praising[1], replayed(JUNK, 3))
    assert here.heard.is_liar(AGGREGATOR.public_key)


async def test_an_auditor_with_other_kernels_is_no_liar(tmp_path: Path) -> None:
    here = make(tmp_path)
    near = [0.25] * 6 + [0.0] * 58
    agreeing = word(HONEST, 1, STRANGER)
    await here.recompute(agreeing[1], replayed(near, 1))
    assert not here.heard.is_liar(STRANGER.public_key)


async def test_what_was_bought_and_replayed_here_is_told(tmp_path: Path) -> None:
    told: list[bytes] = []
    here = make(tmp_path, told=told)
    await here.take(replayed(JUNK, 1))
    [data] = told
    assert parse_attestation(data, NETWORK).auditor == OWN.public_key
    assert [one.weighs for one in here.listing()] == ["own"]


async def test_a_lie_to_this_daemon_takes_the_weight_is_kept_and_told_to_nobody(
    tmp_path: Path,
) -> None:
    told: list[bytes] = []
    here = make(tmp_path, told=told)
    for _ in range(5):
        await here.blame(NODE_ADDRESS, LAW, "it sent more tokens than were paid")
    assert weight(here) == 0.0
    assert here.trust.weight(NODE_ADDRESS, NOW + HALF_S) == 0.5
    again = Trust()
    again.load(tmp_path / "trust")
    assert again == here.trust
    assert not told
    assert not here.listing()


async def test_a_lie_is_kept_though_whoever_asked_has_left(tmp_path: Path) -> None:
    here = make(tmp_path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await here.blame(NODE_ADDRESS, LAW, "it sent a receipt of another answer")
    again = Trust()
    again.load(tmp_path / "trust")
    assert again.weight(NODE_ADDRESS, NOW) == 0.0


# --- what is kept ---


def test_strangers_make_room_and_what_is_kept_outlives_a_restart(tmp_path: Path) -> None:
    heard = Heard(lambda auditor: auditor == OWN.public_key)
    own = word(JUNK, 1, OWN)
    assert heard.learn(*own)
    assert not heard.learn(*own)
    template = word(JUNK, 2, STRANGER)[1]
    for number in range(MAX_KEPT + 10):
        auditor = (number // MAX_OF_AUDITOR).to_bytes(33, "big")
        one = msgspec.structs.replace(template, auditor=auditor, body=number.to_bytes(8, "big"))
        assert heard.learn(b"", one)
    assert len(list(heard.all())) == MAX_KEPT
    assert heard.knows(own[1])
    small = Heard(lambda auditor: False)
    for number in range(MAX_OF_AUDITOR + 5):
        small.learn(b"", msgspec.structs.replace(template, body=number.to_bytes(8, "big")))
    assert len(list(small.all())) == MAX_OF_AUDITOR
    kept = Heard(lambda auditor: False)
    kept.learn(*word(JUNK, 1, STRANGER))
    kept.convict(AGGREGATOR.public_key)
    again = Heard(lambda auditor: False)
    path = tmp_path / "attestations"
    path.write_bytes(kept.encode())
    again.load(path, lambda data: parse_attestation(data, NETWORK))
    assert list(again.all()) == list(kept.all())
    assert again.is_liar(AGGREGATOR.public_key)
    path.write_bytes(b"\xc1")
    with pytest.raises(ValueError, match=r"."):
        again.load(path, lambda data: parse_attestation(data, NETWORK))


# --- what is passed on ---


def spreading(now: float = NOW) -> Spreading:
    return Spreading(None, NETWORK, Telemetry(), lambda: now)  # type: ignore[arg-type]


def test_what_nobody_signed_is_refused_and_what_is_untimely_is_not_passed_on() -> None:
    assert spreading().judge(KEPT_BACK, "peer") is Verdict.ACCEPT
    for bad in (b"", SHOWN, KEPT_BACK + b"\0", bytes(MAX_TOLD_BYTES + 1)):
        assert spreading().judge(bad, "peer") is Verdict.REJECT
    for now in (NOW + MAX_AGE_S + 120, NOW - 3_600):
        assert spreading(now).judge(KEPT_BACK, "peer") is Verdict.IGNORE
    unpaid = Spreading(None, None, Telemetry())  # type: ignore[arg-type]
    assert unpaid.judge(KEPT_BACK, "peer") is Verdict.IGNORE


def test_one_auditor_fills_no_topic() -> None:
    topic = spreading()
    verdicts = [topic.judge(KEPT_BACK, "peer") for _ in range(int(AUDITOR_BURST) + 5)]
    assert verdicts.count(Verdict.ACCEPT) == AUDITOR_BURST


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_never_passed_on(data: st.DataObject) -> None:
    changed = bytearray(KEPT_BACK)
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    assert spreading().judge(bytes(changed), "peer") is Verdict.REJECT
