"""Receipts under way: a lie is named and goes nowhere, and an aggregator that was away takes up
where it left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import trio

from node.daemon import NodeDaemon
from node.wire.receipts import TOPIC, Accepted, Promised
from proofs.envelope import decode_envelope
from proofs.evidence import check_evidence, read_evidence
from proofs.ledger import AggregatorLedger, Ledger, Outbox
from proofs.promise import verify_evidence
from proofs.signing import Signer
from proofs.stake import LORI
from tests.node.networks import Lab, ask, open_lab, until
from tests.node.outsider import flood, meet_nobody_new, open_outsider

WINDOW_S = 60
QUICK: dict[str, Any] = {"watch_interval_s": 0.5}


async def test_lies_are_named_and_receipts_wait_for_an_aggregator_that_is_away(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway", "aggregator")) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon("volunteer", **everybody) as volunteer,
            lab.daemon("gateway", role="gateway", **everybody) as gateway,
        ):

            async def all_are(state: str, count: int, at: NodeDaemon = volunteer) -> bool:
                rows = await at.receipts()
                return len(rows) == count and {row.state for row in rows} == {state}

            async with lab.daemon("aggregator", role="aggregator", **everybody) as aggregator:
                amount = (await ask(gateway)).ended.amount
                await until(lambda: all_are("final", 1), WINDOW_S)

                await until(lambda: len(gateway.host.gossip.peers_on(TOPIC)) == 2)
                await gateway.host.gossip.publish(TOPIC, tampered(tmp_path / "volunteer"))
                await until(
                    lambda: all(
                        daemon.telemetry.counters.get("receipts_rejected")
                        for daemon in (volunteer, aggregator)
                    )
                )
                (lie,) = aggregator.telemetry.rejections
                assert (lie.what, lie.peer_id) == ("receipt", gateway.host.peer_id)
                assert lie.reason.startswith("node signature")
                settlement = (await aggregator.status()).settlement
                assert settlement is not None
                assert settlement["aggregator"] == {
                    "epoch": 1,
                    "posted": 1,
                    "receipts": 1,
                    "unsealed": 0,
                    "payout_total": amount,
                    "equivocations": [],
                }

            await ask(gateway)
            await until(lambda: volunteer.telemetry.counters.get("receipts_earned") == 2)
            assert [row.state for row in await volunteer.receipts()] == ["queued", "final"]
            async with lab.daemon("aggregator", role="aggregator", **everybody) as aggregator:
                await until(lambda: all_are("final", 2), WINDOW_S)
                await until(lambda: all_are("final", 2, at=gateway), WINDOW_S)

                async def credited(
                    total: int,
                ) -> bool:  # the aggregator mirrors its own batches a moment after it posts them
                    return sum(row.credited for row in await aggregator.earnings()) == total

                await until(lambda: credited(2 * amount))
                await until(lambda: volunteer.telemetry.counters.get("payouts_claimed"))


async def test_two_receipts_for_one_place_are_kept_as_evidence_and_lies_go_nowhere(
    tmp_path: Path,
) -> None:
    with open_lab(
        tmp_path, chain_for=("outsider node", "outsider client", "aggregator", "watcher")
    ) as lab:
        assert lab.chain is not None
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon(
                "aggregator", role="aggregator", **everybody, stake=lab.chain.stake
            ) as aggregator,
            lab.daemon("watcher", role="bootstrap", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            await trio.to_thread.run_sync(stand_behind, lab, outsider.node.address)
            meet_nobody_new(watcher.host)
            await outsider.host.connect(aggregator.host.addresses[0], 60)
            meet_nobody_new(outsider.host)
            await until(lambda: aggregator.host.peer_id in outsider.host.gossip.peers_on(TOPIC))
            await until(lambda: watcher.host.peer_id in aggregator.host.gossip.peers_on(TOPIC))

            # Nothing of what is not claimed is kept: a flood of it keeps out nobody.
            unclaimed = flood(outsider.network, 64)
            answers = await outsider.deliver(aggregator.host.peer_id, *unclaimed)
            assert answers == ["Rejected"] * 64
            assert described(aggregator)["unsealed"] == 0

            def rejected() -> int:
                return aggregator.telemetry.counters["receipts_rejected"] - len(unclaimed)

            rival = outsider.envelope(tokens=1)
            again = outsider.envelope(tokens=2, spare=5)
            lies = [
                b"\x94garbage",
                msgspec.msgpack.encode(
                    msgspec.structs.replace(decode_envelope(again), voucher_amount=1)
                ),
                longer(outsider.envelope(tokens=3)),
            ]
            first = outsider.advance(tokens=2)
            await trio.to_thread.run_sync(outsider.claim_all)
            outcomes = await outsider.hand_over(aggregator.host.peer_id, first, again, rival, *lies)
            names = [type(outcome).__name__ for outcome in outcomes]
            assert names == ["Accepted"] * 2 + ["Rejected"] * 4
            expected = {"receipts_accepted": 1, "receipts_duplicate": 1, "equivocations": 1}
            assert expected.items() <= aggregator.telemetry.counters.items()
            assert rejected() == 1 + len(lies)

            accepted = outcomes[0]
            assert isinstance(accepted, Accepted)
            truth = msgspec.msgpack.encode(Promised(first, accepted.promise))
            other = [Promised(lie, accepted.promise) for lie in (rival, *lies)]
            nobodys = msgspec.structs.replace(
                accepted.promise, signature=Signer(b"\x07" * 32).sign_digest(bytes(32))
            )
            gossiped = [*map(msgspec.msgpack.encode, (*other, Promised(first, nobodys)))]
            for message in gossiped:
                await outsider.host.gossip.publish(TOPIC, message)
            await until(lambda: rejected() == 1 + len(lies) + len(gossiped))
            await aggregator.host.gossip.publish(TOPIC, truth)
            await until(lambda: watcher.telemetry.counters.get("receipts_verified") == 1)
            assert not watcher.telemetry.rejections
            assert outsider.host.peer_id not in {peer.peer_id for peer in watcher.peers()}

            second = outsider.advance(tokens=4)
            assert await outsider.deliver(aggregator.host.peer_id, second) == ["Accepted"]
            await until(lambda: described(aggregator)["receipts"] == 2, WINDOW_S)
            about = described(aggregator)
            assert about["payout_total"] == outsider.tip.cumulative
            (evidence,) = about["equivocations"]
            assert (evidence["sequence"], evidence["operator"]) == (
                1,
                "0x" + outsider.node.address.hex(),
            )
            await until(lambda: aggregator.telemetry.counters.get("offences_shown") == 1)
        (written,) = (tmp_path / "aggregator" / "evidence").iterdir()
        shown = read_evidence(written.read_bytes(), outsider.network)
        assert check_evidence(shown, outsider.network) == outsider.node.address
        ledger = Ledger(tmp_path / "aggregator" / "ledger.sqlite")
        (kept,) = AggregatorLedger(ledger).evidence()
        ledger.close()
        assert verify_evidence(kept, outsider.network) == (bytes.fromhex(evidence["channel"]), 1)


def stand_behind(lab: Lab, operator: bytes) -> None:
    """Somebody puts tokens behind an operator."""
    assert lab.chain is not None
    client = lab.chain.client(lab.chain.secrets()[0])
    client.open_stake(client.deployment.stake).add(operator, 100 * LORI)
    client.close()


def described(aggregator: NodeDaemon) -> Any:
    """What its status says about aggregating."""
    assert aggregator.money is not None
    return aggregator.money.describe()["aggregator"]


def longer(envelope: bytes) -> bytes:
    """The same envelope with its voucher's amount in a longer form than needed."""
    receipt, amount, *rest = msgspec.msgpack.decode(envelope)
    parts = (
        msgspec.msgpack.encode(receipt),
        b"\xcf" + amount.to_bytes(8, "big"),
        *map(msgspec.msgpack.encode, rest),
    )
    return b"\x94" + b"".join(parts)


def tampered(home: Path) -> bytes:
    """A promised receipt under which the node's signature stands for another one."""
    ledger = Ledger(home / "ledger.sqlite")
    (entry,) = Outbox(ledger).newest(1)
    ledger.close()
    assert entry.envelope is not None
    assert entry.promise is not None
    lie = msgspec.structs.replace(entry.signed, node_signature=entry.signed.client_signature)
    envelope = msgspec.structs.replace(
        decode_envelope(entry.envelope), receipt=msgspec.msgpack.encode(lie)
    )
    return msgspec.msgpack.encode(Promised(msgspec.msgpack.encode(envelope), entry.promise))
