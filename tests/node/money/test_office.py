"""An aggregator that breaks its promise loses its office, one that answers keeps it: whole daemons
on a real chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from node.daemon import NodeDaemon
from node.money.promises import Heard
from proofs.aggregator import Aggregator
from proofs.chain.client import ChainClient, open_client
from proofs.court import Part, Question
from proofs.envelope import open_envelope
from proofs.promise import make_promise
from proofs.signing import Signer
from proofs.voucher import operator_salt
from tests.node.networks import Lab, open_lab, until
from tests.node.outsider import DEPOSIT, Outsider, open_outsider

WINDOW_S = 60
QUICK: dict[str, Any] = {"watch_interval_s": 0.3}


@dataclass
class Forgotten:
    """A receipt that was promised with the aggregator's key, and that its daemon never saw; and
    another channel, whose receipts it takes.
    """

    outsider: Outsider
    other: Outsider
    heard: Heard
    peer_id: str

    async def go_on(self) -> None:
        """Have one more receipt of the other channel taken, and a block mined."""
        await self.other.deliver(self.peer_id, self.other.advance(tokens=2))
        await trio.to_thread.run_sync(self.outsider.chain.rpc.call, "evm_mine")

    async def go_on_until(self, is_over: Callable[[], bool]) -> None:
        with trio.fail_after(WINDOW_S):
            while not is_over():
                await self.go_on()
                await trio.sleep(0.5)


async def forget(lab: Lab, outsider: Outsider, aggregator: NodeDaemon) -> Forgotten:
    peer_id = await outsider.host.connect(aggregator.host.addresses[0], 60)
    salt = operator_salt(outsider.node.address, b"other".rjust(12))
    other = replace(outsider, config=msgspec.structs.replace(outsider.config, salt=salt))
    await trio.to_thread.run_sync(outsider.chain.channels.deposit, other.config, DEPOSIT)
    await trio.to_thread.run_sync(outsider.claim_all)
    await trio.to_thread.run_sync(other.claim_all)
    envelope = outsider.envelope(tokens=2)
    receipt = open_envelope(envelope, outsider.network).receipt
    key = Signer(lab.identity("aggregator").secret)
    now = outsider.chain.rpc.get_block().timestamp
    promise = make_promise(key, receipt, now, outsider.network)
    return Forgotten(outsider, other, Heard(promise, envelope), peer_id)


async def test_a_promise_that_is_left_out_though_it_is_demanded_costs_the_office(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Aggregator, "recall", lambda *_: False)
    names = ("outsider node", "outsider client", "aggregator", "watcher")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("watcher", role="gateway", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            case = await forget(lab, outsider, aggregator)
            before = outsider.chain.token.balance_of(lab.address("watcher"))
            assert watcher.money is not None
            watcher.money._promises.add(case.heard.promise, case.heard.envelope)

            def count(name: str) -> int:
                return watcher.telemetry.counters.get(name, 0)

            await case.go_on_until(lambda: count("aggregators_convicted") == 1)
            assert count("promises_demanded") == 1
            assert outsider.chain.settlement.read_office().aggregator is None
            assert outsider.chain.token.balance_of(lab.address("watcher")) > before


async def test_a_promise_that_was_forgotten_is_kept_once_somebody_shows_it(
    tmp_path: Path,
) -> None:
    """As after a lost disk: the receipt itself stands on the chain with the promise."""
    names = ("outsider node", "outsider client", "aggregator", "watcher")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("watcher", role="gateway", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            case = await forget(lab, outsider, aggregator)
            assert watcher.money is not None
            watcher.money._promises.add(case.heard.promise, case.heard.envelope)

            def count(name: str) -> int:
                return aggregator.telemetry.counters.get(name, 0)

            await case.go_on_until(lambda: count("demands_answered") == 1)
            assert count("receipts_recalled") >= 1
            state = aggregator.money.aggregator._core.state  # type: ignore[union-attr]
            tip = state.find_tip(case.heard.promise.channel_id)
            assert tip is not None
            assert tip.sequence == 1
            office = outsider.chain.settlement.read_office()
            assert office.aggregator == lab.address("aggregator")


async def test_an_honest_aggregator_answers_whatever_is_demanded(tmp_path: Path) -> None:
    names = ("outsider node", "outsider client", "aggregator", "bully")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon("aggregator", role="aggregator", promise_s=1.0, **everybody) as aggregator,
            open_outsider(lab) as outsider,
        ):
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 60)
            await trio.to_thread.run_sync(outsider.claim_all)
            settlement = outsider.chain.settlement
            bully = chain_for(lab, lab.identity("bully").secret)
            court = bully.settlement.court
            fees = 3 * settlement.terms.demand_fee
            await trio.to_thread.run_sync(bully.token.allow, court.address, fees)
            envelope = outsider.advance(tokens=2)
            (accepted,) = await outsider.hand_over(peer_id, envelope)
            await until(lambda: settlement.find_header(1), WINDOW_S)
            posted = settlement.find_header(1)
            assert posted is not None
            questions = [
                Question(Part.CHANNEL, 0, 0),
                Question(Part.ENTRY, 0, 0),
            ]

            def demand_all() -> None:
                # Late in the window, so that each answer holds the header for a while.
                bully.rpc.call("evm_increaseTime", settlement.terms.window // 2)
                for question in questions:
                    court.demand(posted, question)

            await trio.to_thread.run_sync(demand_all)
            await until(
                lambda: aggregator.telemetry.counters.get("demands_answered") == len(questions),
                WINDOW_S,
            )
            for question in questions:
                assert court.find_answer(posted, question) is not None

            await until(
                lambda: aggregator.telemetry.counters.get("holds_released") == len(questions),
                WINDOW_S,
            )
            await until(lambda: settlement.is_final(posted), WINDOW_S)

            # A promise that is kept can be demanded, too, and long after its header is final.
            bully.rpc.call("evm_increaseTime", 30)
            bully.rpc.call("evm_mine")
            promise = accepted.promise  # type: ignore[union-attr]
            reminder = Heard(promise, envelope).remind(b"")
            await trio.to_thread.run_sync(court.stand, reminder, None, None)
            await until(
                lambda: aggregator.telemetry.counters.get("demands_answered") == len(questions) + 1,
                WINDOW_S,
            )
            assert settlement.is_posted(posted)
            assert settlement.read_office().aggregator == lab.address("aggregator")
            bully.close()


def chain_for(lab: Lab, secret: bytes) -> ChainClient:
    assert lab.chain is not None
    return open_client(lab.chain.rpc, bytes.fromhex(lab.chain.settlement[2:]), secret)
