"""One key that has two lives, in two folders: a node whose books are lost signs no second receipt
for a place, a client promises nothing twice, and what is served is paid.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import NodeRefused
from proofs.chain.client import ChainClient
from proofs.ledger import Ledger, Outbox
from proofs.receipt import decode_body
from tests.node.networks import Lab, ask, open_lab, until

from .test_channels import channels


def claimed(lab: Lab, chain: ChainClient, name: str) -> int:
    """What a node has claimed of the channels that its books know."""
    rows = channels(lab.folder / name)
    return sum(
        one.total_claimed for one in chain.channels.read_many([row.channel_id for row in rows])
    )


def places(home: Path) -> list[tuple[bytes, int]]:
    """Where the receipts of a home stand."""
    ledger = Ledger(home / "ledger.sqlite")
    bodies = [decode_body(entry.signed.body) for entry in Outbox(ledger).newest(100)]
    ledger.close()
    return [(body.channel_id, body.sequence) for body in bodies]


@pytest.mark.slow
async def test_no_place_has_two_receipts_though_each_key_has_two_homes(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        assert lab.chain is not None
        chain = lab.chain.client(lab.identity("gateway").secret)
        seen: list[tuple[bytes, int]] = []
        amounts = 0
        for life in (1, 2):
            lab.bootstrap = ()
            async with lab.daemon("volunteer") as volunteer:
                async with lab.daemon("gateway", role="gateway") as gateway:
                    if life == 2:
                        with pytest.raises(NodeRefused, match="an earlier life of this node"):
                            await ask(gateway, node=volunteer.host.peer_id)
                    for _ in range(2):
                        answered = await ask(gateway, node=volunteer.host.peer_id)
                        amounts += answered.ended.amount
                if life == 2:  # the client, too, begins with nothing but its key
                    (lab.folder / "gateway" / "ledger.sqlite").unlink()
                    async with lab.daemon("gateway", role="gateway") as gateway:
                        answered = await ask(gateway, node=volunteer.host.peer_id)
                        amounts += answered.ended.amount
                    assert len(channels(lab.folder / "volunteer")) == 2
                await until(lambda: claimed(lab, chain, "volunteer") == amounts, 60)  # noqa: B023
            seen += places(lab.folder / "volunteer")
            amounts = 0
            (lab.folder / "volunteer" / "ledger.sqlite").unlink()
        chain.close()
        assert len(seen) == 5
        assert len(set(seen)) == 5
