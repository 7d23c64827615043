"""Fees follow the text that an answer drew on, among real daemons: both compute it, one unit is
refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.messages import Choosing
from node.answering.inbound import Visit
from node.api.money import SourceInfo
from node.attributing.answers import OwnAnswer, OwnAnswers
from node.daemon import NodeDaemon
from node.errors import NodeCheated
from node.wire.session import Draw, Drew
from p2p.cid import Cid
from proofs.attribution.background import Background, write_background
from proofs.attribution.credit import credit
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.listing import Listed, write_listing
from proofs.attribution.shares import CONTRIBUTOR, terms_of
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens
from proofs.manifest import parse_manifest
from proofs.receipt import Receipt, decode_body, decode_receipt, derive_shares
from tests.node.networks import Answered, Lab, ask, open_lab, until
from tests.node.tiny import make_adapter

GREEDY = Choosing(temperature=0.0)
TOKENS = 40
MEASURED = """
[[contributors]]
address = "0x2222222222222222222222222222222222222222"
weight = 1
[attribution]
lambda_eighths = 4
r_bps = 3900
lds_bps = 4000
answers = 48
r_interval = [3100, 4600]
lds_interval = [2600, 5300]
[[datanets]]
id = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0"
version = 1
digest = "d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1"
"""
LISTED = [Listed(0, 0, b"\5" * 32, "a half", [7]), Listed(1, 0, b"\6" * 32, "a whole", [8])]


@dataclass
class Net:
    """A node that has the adapter, a client that pays, and the texts that were published."""

    lab: Lab
    node: NodeDaemon
    client: NodeDaemon
    law: Cid
    tokens: bytes
    background: bytes

    async def ask(self, **settings: bool) -> Answered:
        return await ask(
            self.client, model=str(self.law), max_tokens=TOKENS, choosing=GREEDY, **settings
        )

    def remembered(self, receipt: str | None) -> OwnAnswer | None:
        """What the client's disk has of an answer."""
        assert receipt is not None
        return OwnAnswers(self.lab.folder / "client" / "answers", 9, print).find(
            bytes.fromhex(receipt)
        )

    async def receipt_of(self, answered: Answered) -> Receipt:
        assert answered.ended.receipt is not None
        signed = decode_receipt(await self.client.receipt(answered.ended.receipt))
        assert signed.client_signature
        return decode_body(signed.body)


def with_texts(folder: Path, tokenizer_hash: bytes, answer: list[int]) -> tuple[bytes, bytes]:
    """Publish beside an adapter what two people wrote: its answer's first half, and all of it."""
    given = [Contribution(0, [answer[: TOKENS // 2]]), Contribution(1, [answer])]
    tokens = write_tokens(tokenizer_hash, 2, given)
    background = write_background(tokenizer_hash, [list(range(3, 250)), list(range(250, 2, -1))])
    (folder / "attribution.tokens").write_bytes(tokens)
    (folder / "background.tokens").write_bytes(background)
    (folder / "contributors.msgpack").write_bytes(write_listing(LISTED))
    about = folder / "lorikeet.toml"
    about.write_text(about.read_text().replace('version = "1"', 'version = "2"') + MEASURED)
    return tokens, background


@asynccontextmanager
async def open_net(tmp_path: Path) -> AsyncIterator[Net]:
    with open_lab(tmp_path, chain_for=("node", "client", "aggregator")) as lab:
        async with lab.daemon("node") as node, lab.daemon("client", role="gateway") as client:
            folder = make_adapter(tmp_path / "law", "law", 5)
            before = await node.push(folder)
            answered = await ask(node, model=before.cid, max_tokens=TOKENS, choosing=GREEDY)
            manifest = parse_manifest(await node.block(Cid.parse(before.cid).digest.hex()))
            texts = with_texts(folder, manifest.tokenizer_hash, answered.token_ids)
            law = Cid.parse((await node.push(folder)).cid)
            yield Net(lab, node, client, law, *texts)


async def test_an_answers_fee_follows_whose_text_it_drew_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_net(tmp_path) as net:
        terms = terms_of(parse_manifest(await net.node.block(net.law.digest.hex())))
        # --- neither side has the index yet: standing weights, and both fetch and sort it ---
        first = await net.receipt_of(await net.ask())
        assert first.drawn == ()
        daemons = (net.client, net.node)
        await until(lambda: all("indexes_opened" in one.telemetry.counters for one in daemons))

        # --- both have it: the receipt says what a third, who has the tokens, computes too ---
        answered = await net.ask()
        receipt = await net.receipt_of(answered)
        index = Index.build(read_tokens(net.tokens))
        background = Background.build(read_tokens(net.background))
        own = net.remembered(answered.ended.receipt)
        assert own is not None
        assert list(own.answer_ids) == answered.token_ids
        bits = measure(index, background, own.prompt_ids, own.answer_ids).bits
        assert receipt.drawn == (credit(bits, 8, 32),)
        assert receipt.amount == first.amount
        parts = {
            one.address: one.weight
            for one in derive_shares(receipt, terms)
            if one.role == CONTRIBUTOR
        }
        standing = {
            one.address: one.weight
            for one in derive_shares(first, terms)
            if one.role == CONTRIBUTOR
        }
        assert parts != standing
        assert sum(parts.values()) == sum(standing.values()) == 1_500

        # --- why: the client shows spans and the split; the node, who only served, cannot know ---
        assert answered.ended.receipt is not None
        told = await net.client.why(answered.ended.receipt)
        assert told.verdict == "agrees", told.reason
        assert sum(part.amount for part in told.split) == told.fee == receipt.amount
        [law] = told.adapters
        assert law.spans
        assert {span.contributor for span in law.spans} <= {one.name for one in law.contributors}
        where = [span.source for span in law.spans]
        assert where == [
            SourceInfo("c0" * 32, one.contribution.hex(), one.title, one.documents[0])
            for one in (LISTED[span.contribution] for span in law.spans)
        ]
        assert [one.drawn for one in law.contributors if one.drawn] == [
            part for _, part in receipt.drawn[0]
        ]
        served = await net.node.why(answered.ended.receipt)
        assert (served.verdict, served.text) == ("unknown", None)

        # --- a private answer draws on nobody, and is not remembered ---
        private = await net.ask(private=True)
        assert (await net.receipt_of(private)).drawn == ()
        assert net.remembered(private.ended.receipt) is None

        # --- a node that pays a friend by one unit is refused, left, and remembered for it ---
        honest = Visit._draw

        async def pay_a_friend(self: Visit, action: Draw) -> Drew:
            [((first, part), *others)] = (await honest(self, action)).drawn
            rest = dict(others)
            rest[1] = rest.get(1, 0) + 1
            return Drew((((first, part - 1), *rest.items()),))

        with monkeypatch.context() as patched:
            patched.setattr(Visit, "_draw", pay_a_friend)
            with pytest.raises(NodeCheated, match="drew on"):
                await net.ask()
        [kept] = (net.lab.folder / "client" / "answers" / "disputed").iterdir()
        evidence = net.remembered(kept.name)
        assert evidence is not None
        assert evidence.fits(evidence.body)
        assert decode_body(evidence.body).drawn != receipt.drawn
        assert (await net.client.why(kept.name)).verdict == "differs"

        # --- and what it earns honestly it earns in another channel ---
        again = await net.receipt_of(await net.ask())
        assert again.drawn == receipt.drawn
        assert again.channel_id != receipt.channel_id
