"""Receipts under way: a lie is named and goes nowhere, and an aggregator that was away takes up where it left."""

from __future__ import annotations

from pathlib import Path

import msgspec

from node.settlement import TOPIC
from proofs.envelope import decode_envelope
from proofs.ledger import Ledger, Outbox

from .networks import ask, open_lab, until


async def test_lies_are_named_and_receipts_wait_for_an_aggregator_that_is_away(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway", "aggregator")) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id}
        async with lab.daemon("volunteer", **everybody) as volunteer, lab.daemon("gateway", role="gateway", **everybody) as gateway:

            async def all_are(state: str, count: int) -> bool:
                rows = await volunteer.receipts()
                return len(rows) == count and {row.state for row in rows} == {state}

            async with lab.daemon("aggregator", role="aggregator", **everybody) as aggregator:
                await ask(gateway)
                await until(lambda: all_are("final", 1), 30)

                await until(lambda: len(gateway.host.gossip.peers_on(TOPIC)) == 2)
                await gateway.host.gossip.publish(TOPIC, tampered(tmp_path / "volunteer"))
                await until(lambda: all(daemon.telemetry.counters.get("receipts_rejected") for daemon in (volunteer, aggregator)))
                (lie,) = aggregator.telemetry.rejections
                assert (lie.what, lie.peer_id) == ("receipt", gateway.host.peer_id)
                assert lie.reason.startswith("node signature")
                settlement = (await aggregator.status()).settlement
                assert settlement is not None
                assert settlement["aggregator"] == {"epoch": 1, "posted": 1, "receipts": 1, "payout_total": 450}

            await ask(gateway)
            await until(lambda: volunteer.telemetry.counters.get("receipts_earned") == 2)
            assert [row.state for row in await volunteer.receipts()] == ["gossiped", "final"]
            async with lab.daemon("aggregator", role="aggregator", **everybody) as aggregator:
                await until(lambda: all_are("final", 2), 40)
                assert {row.state for row in await gateway.receipts()} <= {"final", "queued"}
                assert sum(row.credited for row in await aggregator.earnings()) == 900


def tampered(home: Path) -> bytes:
    """A real receipt under which the node's signature stands for another one."""
    ledger = Ledger(home / "ledger.sqlite")
    (entry,) = Outbox(ledger).newest(1)
    ledger.close()
    assert entry.envelope is not None
    lie = msgspec.structs.replace(entry.signed, node_signature=entry.signed.client_signature)
    return msgspec.msgpack.encode(msgspec.structs.replace(decode_envelope(entry.envelope), receipt=msgspec.msgpack.encode(lie)))
