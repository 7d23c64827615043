"""A client without an engine pays other nodes for replays."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.verdict import Thresholds
from node.api.answers import CompletionRequest
from node.api.verifying import VerifyInfo
from node.attributing.answers import OwnAnswers
from node.errors import NodeError
from node.telemetry import Telemetry
from node.verifying.asking import SecondNode
from node.verifying.lending import Lender
from node.verifying.limits import choose_limits
from node.verifying.replaying import Replayed, answer_in, hold_to
from node.wire import replay as wire
from p2p.identity import Identity
from proofs.attestation.record import Judged, build_attestation, parse_attestation
from proofs.codec import encode
from proofs.receipt import NO_SIGNATURE, SignedReceipt, encode_body
from proofs.signing import Signer
from tests.golden import other
from tests.golden.world import NETWORK
from tests.node.networks import ask, until

from .test_among_daemons import TOKENS, WARM, open_net, weight_of

GOLDEN = parse_attestation(other.unhex(other.load("attestation")["accept"][1]["hex"]), NETWORK)
assert GOLDEN.opening is not None
CALIBRATED = Thresholds(cap=250_000, mean=500, variance=96, one_in=10_000)
NODES = [Identity.from_secret(bytes([number]) * 32) for number in range(1, 4)]
JUNK, HONEST = [5.0] * 64, [0.0] * 64


async def test_a_gateway_pays_a_named_node_for_replays_and_junk_loses_its_weight(
    tmp_path: Path,
) -> None:
    async with (
        open_net(tmp_path, "repeat") as net,
        net.lab.daemon(
            "client",
            role="gateway",
            verify_one_in=1,
            verify_elsewhere=True,
            auditors=(net.honest.host.peer_id,),
        ) as client,
    ):
        junk = net.cheats["repeat"]
        await until(lambda: len(client.peers()) == 2)
        bad = await ask(
            client, model=net.law, node=junk.host.peer_id, max_tokens=TOKENS, choosing=WARM
        )
        await until(lambda: weight_of(client, junk) < 0.01)
        assert weight_of(client, net.honest) == 1.0
        paid = [one for one in await net.honest.receipts() if one.role == "node"]
        assert paid, "the replay was paid"
        assert bad.ended.receipt is not None
        told = await client.verify_answer(bad.ended.receipt)
        assert (told.verdict, told.attested) == ("differs", "differs")


# --- whose word is taken ---


def word(node: Identity, margins: list[float]) -> bytes:
    found = hold_to(choose_limits(CALIBRATED), GOLDEN.receipt, GOLDEN.body, margins, own="float32")
    assert found.measured is not None
    outcome = found.told.verdict
    assert outcome != "unknown"
    judged = Judged(GOLDEN.body, GOLDEN.node_signature, outcome, found.measured, None)
    return build_attestation(Signer(node.secret), judged, 1, NETWORK)


class Market:
    """Nodes that say what they are told to say, or nothing."""

    def __init__(self, says: dict[str, bytes | None]) -> None:
        self.says = says
        self.bought: list[str] = []

    def replaying(self) -> list[str]:
        return list(self.says)

    async def buy(self, request: CompletionRequest) -> bytes:
        assert request.node is not None
        assert request.private
        if self.says[request.node] is None:
            raise NodeError("not now")
        self.bought.append(request.node)
        return bytes(32)

    @asynccontextmanager
    async def open_stream(
        self, peer_id: str, protocol: str, deadline_s: float
    ) -> AsyncIterator[Any]:
        yield Line(self.says[peer_id] or b"")


class Line:
    def __init__(self, attestation: bytes) -> None:
        self._attestation = attestation

    async def send(self, frame: bytes, deadline_s: float) -> None:
        assert wire.decode_ask(frame).body == GOLDEN.body

    async def receive(self, deadline_s: float, max_bytes: int) -> bytes:
        return wire.encode(wire.Attested(self._attestation))


async def verdict(
    folder: Path, says: list[bytes | None], *, named: tuple[int, ...] = (0,)
) -> tuple[VerifyInfo | Replayed, Market]:
    assert GOLDEN.opening is not None
    answers = OwnAnswers(folder, 9, print)
    kept = answer_in(GOLDEN.digest, GOLDEN.opening)
    assert kept is not None
    answers.keep(kept)
    market = Market(dict(zip((one.peer_id for one in NODES), says, strict=False)))
    keys = frozenset(NODES[number].public_key for number in named)
    second = SecondNode(market, answers, NETWORK, named=keys, dice=random.Random(1))
    return await second.verify(GOLDEN.body, GOLDEN.node_signature), market


async def test_strangers_in_league_are_not_even_asked(tmp_path: Path) -> None:
    found, market = await verdict(tmp_path, [word(one, JUNK) for one in NODES], named=())
    assert isinstance(found, VerifyInfo)
    assert "name more (auditors)" in found.reason
    assert market.bought == []


async def test_of_those_who_are_named_one_is_asked_and_believed(tmp_path: Path) -> None:
    says = [word(NODES[0], JUNK), word(NODES[1], JUNK), word(NODES[2], HONEST)]
    found, market = await verdict(tmp_path, list(says), named=(2,))
    assert isinstance(found, Replayed)
    assert found.told.verdict == "agrees"
    assert market.bought == [NODES[2].peer_id]
    silent, market = await verdict(tmp_path, [None, word(NODES[1], JUNK), None], named=(0, 1, 2))
    assert isinstance(silent, Replayed)
    assert silent.told.verdict == "differs"
    assert market.bought == [NODES[1].peer_id]


async def test_a_word_of_somebody_else_or_of_nothing_is_none(tmp_path: Path) -> None:
    for bad in (word(NODES[1], HONEST), b"", other.unhex("c0")):
        found, _ = await verdict(tmp_path, [bad])
        assert isinstance(found, VerifyInfo)
        assert "nobody replayed it" in found.reason


# --- what is replayed for whom ---


class Asked:
    def __init__(self, frame: bytes, remote: str) -> None:
        self.frame = frame
        self.remote = remote
        self.said: list[bytes] = []
        self.was_reset = False

    async def receive(self, deadline_s: float, max_bytes: int) -> bytes:
        return self.frame

    async def send(self, frame: bytes, deadline_s: float) -> None:
        self.said.append(frame)

    async def reset(self) -> None:
        self.was_reset = True


class Replays:
    async def replay(self, body: bytes, node_signature: bytes, own: object) -> Replayed:
        found = hold_to(choose_limits(CALIBRATED), GOLDEN.receipt, body, HONEST, own="float32")
        data = word(NODES[0], HONEST)
        return replace(found, told=replace(found.told, attestation=data.hex()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"adapter": bytes(32)}, "another adapter"),
        ({"client": bytes(20)}, "not of this client"),
        ({"operator": bytes(20)}, "not of this client"),
        ({"prompt_tokens": 3}, "fewer tokens"),
        ({"started_at": 0}, "old"),
    ],
)
async def test_a_replay_is_paid_by_a_receipt_of_ones_own_once(
    changes: dict[str, Any], reason: str
) -> None:
    assert GOLDEN.opening is not None
    us, client = (Signer(one.secret) for one in NODES[:2])
    fitting = {
        "operator": us.address,
        "client": client.address,
        "prompt_tokens": 67,
        "started_at": GOLDEN.receipt.started_at,
    }
    paid = encode_body(msgspec.structs.replace(GOLDEN.receipt, **(fitting | changes)))
    ledger = {b"p" * 32: encode(SignedReceipt(paid, bytes(65), NO_SIGNATURE))}
    lender = Lender(
        Replays(),  # type: ignore[arg-type]
        ledger.get,
        us.address,
        Telemetry(),
        lambda: float(GOLDEN.receipt.started_at),
    )

    async def answer(which: bytes) -> wire.Attested | wire.Declined:
        question = wire.AskReplay(GOLDEN.body, GOLDEN.node_signature, GOLDEN.opening, which)
        stream = Asked(wire.encode(question), NODES[1].peer_id)
        await lender.serve(stream)  # type: ignore[arg-type]
        return wire.decode_answer(stream.said[0])

    found = await answer(b"p" * 32)
    if reason:
        assert isinstance(found, wire.Declined)
        assert reason in found.reason
        return
    assert isinstance(found, wire.Attested)
    again = await answer(b"p" * 32)
    assert isinstance(again, wire.Declined)
    assert "used" in again.reason
    nothing = await answer(b"q" * 32)
    assert isinstance(nothing, wire.Declined)
    assert "buy one token" in nothing.reason
    garbage = Asked(b"\xc1", NODES[1].peer_id)
    await lender.serve(garbage)  # type: ignore[arg-type]
    assert garbage.was_reset
