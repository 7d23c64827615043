"""Several adapters in one answer, among real daemons: the second lacks a parent, and both creators
are paid.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine.messages import Choosing
from node.daemon import NodeDaemon
from node.errors import BadRequest, NodeRefused, UnknownModel
from node.money.audit import audit_chain, explain
from node.wire.quote import AskQuote, Quote
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.identity import Identity
from proofs.attribution.shares import POLICY, award, shares_for, terms_of
from proofs.cocktail import make_cocktail, parse_cocktail
from proofs.hextext import to_hex
from proofs.receipt import decode_body, decode_receipt
from proofs.signing import Signer
from tests.node.networks import Lab, ask, open_lab, until
from tests.node.tiny import make_adapter

from .test_quotes_among_daemons import ask_quote

MIX = "law:0.7+verse:-0.3"
GREEDY = Choosing(temperature=0.0)
WINDOW_S = 60


@dataclass
class Net:
    """`lawyer` has law, `poet` verse, each by a creator of his own; a client pays."""

    lab: Lab
    lawyer: NodeDaemon
    poet: NodeDaemon
    client: NodeDaemon
    law: Cid
    verse: Cid

    def creator(self, name: str) -> bytes:
        return Signer(creator_of(self.lab, name).secret).address

    async def cocktail(self, **weights: int) -> bytes:
        manifests = {
            "law": await self.lawyer.block(self.law.digest.hex()),
            "verse": await self.poet.block(self.verse.digest.hex()),
        }
        return make_cocktail({manifests[name]: weight for name, weight in weights.items()})


def creator_of(lab: Lab, name: str) -> Identity:
    return Identity.load_or_create(lab.folder / f"creator of {name}")


async def push(lab: Lab, daemon: NodeDaemon, name: str, rank: int) -> Cid:
    """Publish an adapter by a creator of its own."""
    folder = make_adapter(lab.folder / name, name, rank, rank=rank)
    return Cid.parse((await daemon.push(folder, lab.folder / f"creator of {name}")).cid)


@asynccontextmanager
async def open_net(lab: Lab, **everybody: Any) -> AsyncIterator[Net]:
    publishers = tuple(creator_of(lab, name).peer_id for name in ("law", "verse"))
    everybody |= {"publishers": publishers}
    async with (
        lab.daemon("lawyer", **everybody) as lawyer,
        lab.daemon("poet", **everybody) as poet,
        lab.daemon("client", role="gateway", **everybody) as client,
    ):
        law = await push(lab, lawyer, "law", 5)
        verse = await push(lab, poet, "verse", 3)
        yield Net(lab, lawyer, poet, client, law, verse)


async def test_a_node_that_lacks_a_parent_mixes_both_and_both_creators_are_paid(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=("lawyer", "poet", "client", "aggregator")) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id, "watch_interval_s": 0.5}
        async with (
            open_net(lab, **everybody) as net,
            lab.daemon("aggregator", role="aggregator", **everybody),
        ):
            answered = await ask(
                net.client, model=MIX, node=net.lawyer.host.peer_id, choosing=GREEDY
            )
            cocktail = await net.cocktail(law=7_000, verse=-3_000)
            assert answered.started.cid == str(Cid.of(cocktail))
            parents = {one.name: (one.cid, one.weight) for one in answered.started.parents}
            assert parents == {"law": (str(net.law), 0.7), "verse": (str(net.verse), -0.3)}
            rows = {row.cid: (row.name, row.why) for row in net.lawyer.held()}
            assert rows[str(net.verse)] == ("verse", "asked")
            mixed = "+".join(f"{one.name}:{one.weight:g}" for one in answered.started.parents)
            assert rows[str(Cid.of(cocktail))] == (mixed, "mixed")

            # Another node, the parents in another order: the same cocktail, the same answer.
            again = await ask(net.poet, model="verse:-0.3+law:0.7", choosing=GREEDY)
            assert (again.started.cid, again.text) == (answered.started.cid, answered.text)
            alone = await ask(net.poet, model="law", choosing=GREEDY)
            assert alone.text != answered.text

            async def is_final() -> bool:
                return {row.state for row in await net.lawyer.receipts()} == {"final"}

            await until(is_final, WINDOW_S)
            assert answered.ended.receipt is not None
            signed = await net.client.receipt(answered.ended.receipt)
            receipt = decode_body(decode_receipt(signed).body)
            assert receipt.adapter == Cid.of(cocktail).digest
            due = dict(
                award(
                    receipt.amount,
                    shares_for(POLICY, receipt.owner, terms_of(parse_cocktail(cocktail))),
                )
            )
            assert lab.chain is not None
            chain = lab.chain.client(lab.identity("client").secret)
            blocks = AdapterBlocks(tmp_path / "client")
            audit = audit_chain(chain, blocks.get)
            state = audit.history.state
            for name in ("law", "verse"):
                creator = net.creator(name)
                assert state.amount(creator) == due[creator] > 0
            [shares] = [one for one in explain(audit, chain, signed) if one.name == "shares"]
            assert "0.7 of law" in shares.detail
            assert "-0.3 of verse" in shares.detail
            assert f"{to_hex(net.creator('verse'))} {due[net.creator('verse')]}" in shares.detail
            chain.close()


async def test_a_merged_adapters_parents_are_paid_as_those_of_a_cocktail(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("lawyer", "poet", "client", "aggregator")) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id, "watch_interval_s": 0.5}
        async with (
            open_net(lab, **everybody) as net,
            lab.daemon("aggregator", role="aggregator", **everybody),
        ):
            folder = make_adapter(lab.folder / "both", "both", 9, rank=4)
            (folder / "lorikeet.toml").write_text('name = "both"\n')
            cocktail = await net.cocktail(law=7_000, verse=3_000)
            (folder / "parents.msgpack").write_bytes(cocktail)
            both = Cid.parse((await net.poet.push(folder, lab.folder / "creator of both")).cid)
            answered = await ask(
                net.client, model=str(both), node=net.poet.host.peer_id, choosing=GREEDY
            )
            assert answered.ended.amount > 0

            async def is_final() -> bool:
                return {row.state for row in await net.poet.receipts()} == {"final"}

            await until(is_final, WINDOW_S)
            assert answered.ended.receipt is not None
            signed = await net.client.receipt(answered.ended.receipt)
            receipt = decode_body(decode_receipt(signed).body)
            assert receipt.adapter == both.digest
            terms = terms_of(parse_cocktail(cocktail))
            due = dict(award(receipt.amount, shares_for(POLICY, receipt.owner, terms)))
            assert lab.chain is not None
            chain = lab.chain.client(lab.identity("client").secret)
            audit = audit_chain(chain, AdapterBlocks(tmp_path / "client").get)
            for name in ("law", "verse"):
                assert audit.history.state.amount(net.creator(name)) == due[net.creator(name)] > 0
            assert audit.history.state.amount(net.creator("both")) == 0
            [shares] = [one for one in explain(audit, chain, signed) if one.name == "shares"]
            assert shares.outcome == "holds"
            chain.close()


async def test_what_cannot_be_mixed_is_refused_and_what_can_is_quoted(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with open_net(lab) as net:
            dora = make_adapter(lab.folder / "dora", "dora", 9)
            with_dora(dora)
            await net.lawyer.push(dora, lab.folder / "creator of law")
            for model, error, why in (
                ("law:0.5+dora:0.5", NodeRefused, "dora cannot be mixed.*use_dora"),
                ("law:0.5+base", BadRequest, "'base' is the base"),
                ("law:0.5+law@1:0.5", BadRequest, "stands twice"),
                ("law:0.5+prose", UnknownModel, "prose"),
                ("law:3", BadRequest, "-2 to 2"),
            ):
                with pytest.raises(error, match=why):
                    await ask(net.client, model=model)
            assert (await ask(net.client, model="dora")).ended.completion_tokens == 8
            one = await ask(net.client, model="law:1")
            assert (one.started.cid, one.started.parents) == (str(net.law), ())

            with pytest.raises(BadRequest, match="name one adapter"):
                await net.client.pull("law+verse")

            # --- auto chooses among what is held or published by who is trusted ---
            chosen = await ask(net.client, "What does this verse say?", model="auto")
            assert chosen.started.chosen is not None
            assert (chosen.started.model, chosen.started.cid) == ("verse", str(net.verse))
            nothing = await ask(net.client, "Good morning", model="auto")
            assert (nothing.started.model, nothing.started.cid) == ("base", None)
            assert nothing.started.chosen is not None

            # --- a quote knows what a cocktail is made of ---
            cocktail = await net.cocktail(law=7_000, verse=-3_000)
            base = bytes.fromhex((await net.client.status()).base.split()[-1])
            wanted = AskQuote(
                base,
                Cid.of(cocktail).digest,
                [net.law.digest, net.verse.digest],
                prompt_tokens=5,
                max_tokens=8,
                prompt_price=0,
                completion_price=0,
            )

            async def residency() -> tuple[str, int | None]:
                quote = await ask_quote(net.client, net.lawyer, wanted)
                assert isinstance(quote, Quote)
                return quote.residency, quote.fetch_bytes

            size = next(one for one in await net.poet.adapters() if one.name == "verse").size_bytes
            assert await residency() == ("absent", size)
            await net.lawyer.pull("verse")
            assert await residency() == ("disk", None)
            await ask(net.client, model=MIX, node=net.lawyer.host.peer_id)
            assert await residency() == ("slot", None)


class AdapterBlocks:
    """The blocks that a daemon's store has, read from its disk."""

    def __init__(self, home: Path) -> None:
        self._store = BlockStore(home / "blocks")

    def get(self, digest: bytes) -> bytes:
        data = self._store.get(Cid(digest))
        assert data is not None
        return data


def with_dora(folder: Path) -> None:
    """Make a plain adapter one that was trained with DoRA."""
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in [name for name in tensors if name.endswith("lora_B.weight")]:
        vector = name.replace("lora_B.weight", "lora_magnitude_vector")
        tensors[vector] = np.ones(len(tensors[name]), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
