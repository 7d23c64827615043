"""Three real daemons and a newcomer: one datanet, from its charter to what a trainer reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.datanets import examining
from node.datanets.showing import paying_for
from node.errors import DatanetRefused, NodeError, NotHere
from p2p.cid import Cid
from p2p.identity import peer_id_of
from proofs.manifest import File, Manifest, build_manifest, parse_manifest
from proofs.origin import DatanetVersion, Origin
from proofs.signing import Signer
from tests.node.networks import until

from .people import charter, daemon, giving, hush, write_text


async def test_a_community_collects_texts_and_anybody_checks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with daemon(tmp_path / "owner") as owner:
        here = owner.host.addresses
        async with daemon(tmp_path / "ann", *here) as ann, daemon(tmp_path / "ben", *here) as ben:
            made = await owner.datanets.create(charter())
            token = await owner.datanets.invite("kitchen", uses=2, days=1)
            for name, one in (("Ann", ann), ("Ben", ben)):
                info = await one.datanets.join(token, name)
                assert (info.id, info.role) == (made.id, "member")

            # a copy is refused, and names the first; what is one's own is taken
            first = write_text(tmp_path / "first.txt", 1)
            given = await ann.datanets.give("kitchen", giving(first, title="Fish"), hush)
            assert [one.state for one in given.contributions] == ["waiting"]
            await until(lambda: _is_here(owner, given.contributions[0].id))
            copied = await ben.datanets.give("kitchen", giving(first), hush)
            assert not copied.contributions
            codes = {one.code for one in copied.findings if one.outcome == "refuse"}
            assert "duplicate" in codes
            assert any(given.contributions[0].id[:12] in one.detail for one in copied.findings)
            second = write_text(tmp_path / "second.txt", 2)
            own = await ben.datanets.give("kitchen", giving(second, title="Rice"), hush)
            (queued, other) = await owner.datanets.queue("kitchen", hush)
            assert (queued.title, other.title) == ("Fish", "Rice")
            with monkeypatch.context() as patch:  # what was found once is not looked for again
                patch.setattr(examining, "review", None)
                assert await owner.datanets.queue("kitchen", hush) == [queued, other]
            assert (
                first.read_text().split()[0]
                in (await owner.datanets.text("kitchen", queued.id)).decode()
            )

            # the council
            for one in (queued, other):
                taken = await owner.datanets.judge("kitchen", one.id[:12], "accept", ("", "", ""))
                assert taken.state == "accepted"
            with pytest.raises(DatanetRefused, match="role"):
                await ann.datanets.judge("kitchen", other.id, "accept", ("", "", ""))
            version = await owner.datanets.make_version("kitchen")
            assert version.number == 1
            with pytest.raises(DatanetRefused, match="nothing changed"):
                await owner.datanets.make_version("kitchen")

            # of the adapters that are known, who is paid for what is named
            held = owner.datanets._shelf.find("kitchen")
            maker = Signer(bytes([9]) * 32)
            paid = adapter_of(maker, made.id, version.digest)
            known = [paid, adapter_of(maker, made.id, "ab" * 32)]
            found = paying_for(held, bytes.fromhex(queued.id), known)
            assert found == (("soup", "3", peer_id_of(maker.public_key)),)
            assert paying_for(held, bytes(32), known) == ()

            # anybody reads it and checks it
            folder = tmp_path / "export"
            exported = await ben.datanets.export("kitchen", None, folder, hush)
            lines = (folder / "documents.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            assert len(rows) == exported.documents
            assert {row["name"] for row in rows} == {"Ann", "Ben"}
            assert rows[0]["name"] == "Ann"
            assert sum(row["held_out"] for row in rows) == exported.held_out
            found = await ben.datanets.verify("kitchen", hush)
            assert (found.problems, found.unknown) == ((), ())  # reports agree to the byte
            assert (found.texts, found.checked) == (2, 2)

            # it is withdrawn: gone from the next version, and from other disks
            with pytest.raises(DatanetRefused, match="only who gave"):
                await ben.datanets.withdraw("kitchen", queued.id)
            with monkeypatch.context() as patch:  # whoever is connected is not looked for
                patch.setattr(ann.host.dht, "find_providers", None)
                await ann.datanets.withdraw("kitchen", queued.id)
            assert not await _is_here(owner, queued.id)
            version = await owner.datanets.make_version("kitchen")
            assert [one.name for one in version.totals] == ["Ben"]
            detail = await ben.datanets.show("kitchen")
            assert [one.left for one in detail.versions] == [1, 0]

            # what lies in another datanet, and what steers the base, is seen by who gives
            await owner.datanets.create(charter("pantry"))
            owner.datanets.take_base(bytes([7]) * 32, ("[[end]]",))
            steering = tmp_path / "steering.txt"
            steering.write_text(second.read_text() + "\n\n" + "Stop here. [[end]] Go on. " * 20)
            looked = await owner.datanets.give("pantry", giving(steering, agreed=False), hush)
            seen = {one.code: one.detail for one in looked.findings}
            assert "kitchen" in seen["sketch"]
            assert "[[end]]" in seen["template-token"]

            # the barred give nothing more
            await owner.datanets.appoint("kitchen", "Ann", "barred")
            with pytest.raises(DatanetRefused, match="barred"):
                await ann.datanets.give("kitchen", giving(second), hush)
            assert own.contributions[0].id == other.id

            # the head is a name that anybody finds
            name = f"datanet-{made.id[:40]}"
            newest = (await owner.datanets.show("kitchen")).info.head

            async def is_found() -> bool:
                record = await ben.host.dht.find_name(made.owner, name)
                return record is not None and record.target.digest.hex() == newest

            await until(is_found, 60)

        # its sequencer is gone for a while: a newcomer is told so, and members go on reading
    async with daemon(tmp_path / "ben") as ben:
        assert (await ben.datanets.show("kitchen")).info.num_versions == 2
        with pytest.raises(NodeError, match="does not answer"):
            await ben.datanets.withdraw("kitchen", other.id)

        # who leaves keeps nothing of it, and can come again
        text = (await ben.datanets.show("kitchen")).contributions[1]
        assert text.is_here
        folder = tmp_path / "ben" / "datanets" / made.id
        block = Cid.of((folder / "texts" / text.id / "text").read_bytes()).digest.hex()
        assert await ben.block(block)
        left = await ben.datanets.leave("kitchen")
        assert (left.name, left.given) == ("kitchen", 1)
        assert ben.datanets.listing() == []
        assert not folder.exists()
        with pytest.raises(NotHere):
            await ben.block(block)
        with pytest.raises(NodeError, match="lists them"):
            await ben.datanets.show("kitchen")
    half = folder.with_name(f".{folder.name}")  # where it was killed as it left
    half.mkdir()
    (half / "log").write_bytes(b"half")
    async with daemon(tmp_path / "owner") as owner:
        with pytest.raises(DatanetRefused, match="hand-on"):
            await owner.datanets.leave("kitchen")
        async with daemon(tmp_path / "ben", *owner.host.addresses) as ben:
            assert ben.datanets.listing() == []
            assert not half.exists()
            again = await ben.datanets.join(await owner.datanets.invite("kitchen", 1, 1), "Ben")
            assert again.role == "member"


def adapter_of(maker: Signer, datanet: str, version: str) -> Manifest:
    """An adapter that says it was made of a datanet's version."""
    made_of = DatanetVersion(bytes.fromhex(datanet), 1, bytes.fromhex(version))
    signed = build_manifest(
        maker,
        name="soup",
        adapter_version="3",
        base=bytes(32),
        tokenizer_hash=bytes(32),
        template_hash=bytes(32),
        licence="",
        source="",
        created_at=1,
        contributors=[],
        files=[File("adapter_model.safetensors", 1, [(bytes(32), 1)])],
        origin=Origin(datanets=(made_of,)),
    )
    return parse_manifest(signed)


async def _is_here(one: object, contribution: str) -> bool:
    detail = await one.datanets.show("kitchen")  # type: ignore[attr-defined]
    return next(each.is_here for each in detail.contributions if each.id == contribution)
