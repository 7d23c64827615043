"""A witness signs what it recomputed: a real daemon on a real chain."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from node.wire.witness import ATTEST_DEADLINE_S, PROTOCOL, Attest, Attested, Declined
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from proofs.epoch import EpochHeader
from proofs.signing import recover
from proofs.witness import witness_digest
from tests.node.networks import open_lab
from tests.node.outsider import open_outsider

WINDOW_S = 60
QUICK: dict[str, Any] = {"watch_interval_s": 0.3}


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
            peer_id = await outsider.host.connect(witness.host.addresses[0], 60)
            batch, header = outsider.seal()

            async def attest(asked: EpochHeader) -> Attested | Declined:
                async with outsider.host.open_stream(peer_id, PROTOCOL, 60) as stream:
                    await stream.send(msgspec.msgpack.encode(Attest(asked.encoded)), 60)
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
