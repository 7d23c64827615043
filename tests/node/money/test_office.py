"""The aggregator's office, held to its word by whole daemons on a real chain: promises, demands,
witnesses; an aggregator that is silent is replaced, and one whose chain is taken back begins anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import trio

from node.wire.witness import ATTEST_DEADLINE_S, PROTOCOL, Attest, Attested, Declined
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.batch import compose, recompute
from proofs.chain.client import ChainClient, open_client
from proofs.chain.structs import Board
from proofs.chain.views import LATEST
from proofs.court import Part, Question
from proofs.envelope import decode_envelope
from proofs.epoch import EpochHeader
from proofs.receipt import decode_receipt, verify_receipt
from proofs.signing import recover
from proofs.state import EpochState
from proofs.voucher import channel_id
from proofs.witness import witness_digest
from tests.node.networks import Lab, open_lab, until
from tests.node.outsider import Outsider, open_outsider

from .test_settlement import described

WINDOW_S = 60
QUICK: dict[str, Any] = {"watch_interval_s": 0.3}


def chain_for(lab: Lab, secret: bytes) -> ChainClient:
    assert lab.chain is not None
    return open_client(lab.chain.rpc, bytes.fromhex(lab.chain.settlement[2:]), secret)


async def test_a_promise_that_no_header_keeps_is_demanded_and_costs_the_office(
    tmp_path: Path,
) -> None:
    names = ("outsider node", "outsider client", "aggregator", "watcher")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        forgetful = {"promise_s": 1.0, "epoch_s": 3600.0}
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody | forgetful) as aggregator,
            lab.daemon("watcher", role="gateway", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 10)
            await trio.to_thread.run_sync(outsider.claim_all)
            (accepted,) = await outsider.hand_over(peer_id, outsider.advance(tokens=2))
            assert watcher.money is not None
            watcher.money._promises.add(accepted.promise)  # type: ignore[union-attr]
            before = outsider.chain.token.balance_of(lab.address("watcher"))

            def is_convicted() -> bool:
                outsider.chain.rpc.call("evm_mine")  # time passes on the chain
                return watcher.telemetry.counters.get("aggregators_convicted") == 1

            await until(is_convicted, WINDOW_S)
            settlement = outsider.chain.settlement
            assert settlement.read_office().aggregator is None
            assert outsider.chain.token.balance_of(lab.address("watcher")) > before


async def test_an_honest_aggregator_answers_whatever_is_demanded(tmp_path: Path) -> None:
    names = ("outsider node", "outsider client", "aggregator", "bully")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon("aggregator", role="aggregator", promise_s=1.0, **everybody) as aggregator,
            open_outsider(lab) as outsider,
        ):
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 10)
            await trio.to_thread.run_sync(outsider.claim_all)
            (accepted,) = await outsider.hand_over(peer_id, outsider.advance(tokens=2))
            settlement = outsider.chain.settlement
            await until(lambda: settlement.find_header(1), WINDOW_S)
            posted = settlement.find_header(1)
            assert posted is not None
            bully = chain_for(lab, lab.identity("bully").secret)
            court = bully.settlement.court
            questions = [
                Question(Part.CHANNEL, 0, 0),
                Question(Part.ACCOUNT, 0, 0),
                Question(Part.ENTRY, 0, 0),
                Question(Part.CHANNEL, 99, 0),
            ]

            def demand_all() -> None:
                for question in questions:
                    court.demand(posted, question)

            await trio.to_thread.run_sync(demand_all)
            answered = aggregator.telemetry.counters
            await until(lambda: answered.get("demands_answered") == len(questions), WINDOW_S)
            for question in questions:
                assert court.find_answer(posted, question) is not None

            # A promise that is kept can be demanded, too, and long after its header is final.
            bully.rpc.call("evm_increaseTime", 30)
            bully.rpc.call("evm_mine")
            await trio.to_thread.run_sync(court.stand, accepted.promise)  # type: ignore[union-attr]
            await until(lambda: answered.get("demands_answered") == len(questions) + 1, WINDOW_S)
            assert settlement.is_posted(posted)
            assert settlement.read_office().aggregator == lab.address("aggregator")
            bully.close()


async def test_a_witness_signs_what_it_recomputed_and_nothing_whose_batch_it_cannot_get(
    tmp_path: Path,
) -> None:
    names = ("outsider node", "outsider client", "witness")
    with open_lab(tmp_path, chain_for=names) as lab:
        async with (
            lab.daemon("witness", role="gateway", **QUICK) as witness,
            open_outsider(lab) as outsider,
        ):
            store = BlockStore(tmp_path / "published")
            serve_blocks(outsider.host, store)
            peer_id = await outsider.host.connect(witness.host.addresses[0], 10)
            batch, header = sealed(outsider)

            async def attest(asked: EpochHeader) -> Attested | Declined:
                async with outsider.host.open_stream(peer_id, PROTOCOL, 10) as stream:
                    await stream.send(msgspec.msgpack.encode(Attest(asked.encoded)), 10)
                    answer = await stream.receive(ATTEST_DEADLINE_S)
                return msgspec.msgpack.decode(answer, type=Attested | Declined)

            assert isinstance(await attest(header), Declined)  # nobody has its batch yet
            store.put(batch)
            lies = [
                dataclasses.replace(header, payout_total=header.payout_total + 1),
                dataclasses.replace(header, payout_root=bytes(31) + b"\x01"),
                dataclasses.replace(header, num_receipts=2),
                dataclasses.replace(header, epoch=2),
                dataclasses.replace(header, previous=bytes(31) + b"\x01"),
            ]
            for lie in lies:
                assert isinstance(await attest(lie), Declined), lie
            signed = await attest(header)
            assert isinstance(signed, Attested)
            digest = witness_digest(header.hash, outsider.network)
            assert recover(digest, signed.signature) == lab.address("witness")
            assert await witness.host.dht.find_providers(
                Cid(hashlib.sha256(batch).digest()), deadline_s=5
            )


def sealed(outsider: Outsider) -> tuple[bytes, EpochHeader]:
    """The batch and the header of an epoch with one receipt of the outsider."""
    network = outsider.network
    data = decode_envelope(outsider.envelope()).receipt
    receipt = verify_receipt(decode_receipt(data), network)
    state = EpochState(network)
    batch = compose([receipt], {channel_id(outsider.config, network): outsider.config}, state)
    return batch, recompute(batch, state, {}).header


async def test_an_aggregator_that_is_silent_is_dismissed_and_its_successor_goes_on(
    tmp_path: Path,
) -> None:
    names = ("outsider node", "outsider client", "aggregator", "successor", "gateway")
    with open_lab(tmp_path, chain_for=names) as lab:
        async with (
            lab.daemon("gateway", role="gateway", **QUICK) as gateway,
            open_outsider(lab) as outsider,
        ):
            settlement = outsider.chain.settlement
            rpc = outsider.chain.rpc
            await trio.to_thread.run_sync(outsider.claim_all)
            async with lab.daemon("aggregator", role="aggregator", **QUICK) as aggregator:
                peer_id = await outsider.host.connect(aggregator.host.addresses[0], 10)
                first = outsider.advance(tokens=2)
                assert await outsider.deliver(peer_id, first) == ["Accepted"]
                mirrored = gateway.telemetry.counters
                await until(lambda: mirrored.get("epochs_mirrored") == 1, WINDOW_S)
            (lab.folder / "aggregator" / "ledger.sqlite").unlink()

            rpc.call("evm_increaseTime", settlement.terms.silence + 1)
            rpc.call("evm_mine")
            await until(lambda: settlement.read_office().aggregator is None, WINDOW_S)
            assert lab.chain is not None
            owner = chain_for(lab, bytes.fromhex(lab.chain.owner_key[2:]))
            board = Board(owner.address, lab.address("successor"))

            def replace() -> None:
                owner.settlement.propose(board)
                rpc.call("evm_increaseTime", settlement.terms.timelock + 1)
                owner.settlement.install(board)

            await trio.to_thread.run_sync(replace)
            owner.close()
            # It has nothing but a key: what was settled it learns from the chain and a mirror.
            async with lab.daemon("successor", role="aggregator", **QUICK) as successor:
                peer_id = await outsider.host.connect(successor.host.addresses[0], 10)
                await until(lambda: described(successor)["epoch"] == 1, WINDOW_S)
                assert await outsider.deliver(peer_id, first) == ["Accepted"]
                second = outsider.advance(tokens=3)
                assert await outsider.deliver(peer_id, second) == ["Accepted"]
                await until(lambda: settlement.last_epoch() == 2, WINDOW_S)
                assert settlement.read().payout_total == outsider.tip.cumulative
                assert settlement.read_office().bond == settlement.terms.bond
                await until(lambda: mirrored.get("epochs_mirrored") == 2, WINDOW_S)


async def test_what_a_reorganisation_took_back_is_sealed_and_mirrored_anew(
    tmp_path: Path,
) -> None:
    names = ("outsider node", "outsider client", "aggregator", "gateway")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("gateway", role="gateway", **everybody) as gateway,
            open_outsider(lab) as outsider,
        ):
            settlement = outsider.chain.settlement
            rpc = outsider.chain.rpc
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 10)
            snapshot = rpc.call("evm_snapshot")
            await trio.to_thread.run_sync(outsider.claim)
            await trio.to_thread.run_sync(outsider.claim_all)
            assert await outsider.deliver(peer_id, outsider.advance(tokens=2)) == ["Accepted"]
            mirrored = gateway.telemetry.counters
            await until(lambda: mirrored.get("epochs_mirrored") == 1, WINDOW_S)
            lost = settlement.find_header(1)
            assert lost is not None

            rpc.call("evm_revert", snapshot)  # the claim and the header are gone
            await until(lambda: aggregator.telemetry.counters.get("epochs_unsealed"), WINDOW_S)
            await until(lambda: mirrored.get("epochs_taken_back") == 1, WINDOW_S)
            assert described(aggregator)["unsealed"] == 1
            assert settlement.last_epoch() == 0

            await trio.to_thread.run_sync(outsider.claim_all)
            await until(lambda: settlement.last_epoch() == 1, WINDOW_S)
            await until(lambda: mirrored.get("epochs_mirrored") == 2, WINDOW_S)
            again = settlement.find_header(1)
            assert again is not None
            assert again.header == lost.header
            assert rpc.get_block(LATEST).number >= again.block
