"""A node with nothing but a base's digest, or an invite, comes by the base from whole daemons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trio
from safetensors.numpy import load_file, save_file

from engine.base_files import base_id
from node.bases.shelf import DRAFT, FILES
from node.config import CONFIG_FILE, load_config
from node.daemon import NodeDaemon
from node.errors import ConfigError, NoBase
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.basecard import Described, build_card, parse_card
from proofs.signing import Signer
from tests.node.networks import Lab, ask, open_lab, until
from tests.node.tiny import make_adapter, make_base


def shard(folder: Path, *, more_bytes: int = 0) -> bytes:
    """Cut a base's weights into two files, the second padded; return its digest."""
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    shards = [names[: len(names) // 2], names[len(names) // 2 :]]
    if more_bytes:
        whole["padding"] = np.arange(more_bytes // 4, dtype=np.float32)
        shards[1].append("padding")
    places = {}
    for number, part in enumerate(shards, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: whole[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    described = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(described))
    (folder / "model.safetensors").unlink()
    return base_id(folder)


def wanting(lab: Lab, giver: NodeDaemon, **changes: object) -> dict[str, object]:
    """The settings of a node that has nothing but an invite."""
    info = giver.base()
    return {"base_path": "", "base": info.digest, "base_card": info.card, **changes}


async def served(daemon: NodeDaemon) -> None:
    """Wait until the daemon computes."""
    await until(lambda: daemon.engine is not None, 60)
    assert daemon.engine is not None
    await daemon.engine.wait_up(60)


async def test_a_volunteer_with_nothing_but_an_invite_gets_the_base_and_gives_it_on(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("first") as first:
            adapter = await first.push(make_adapter(tmp_path / "law", "law", 1))
            told = await ask(first, model=adapter.cid, seed=3)
            async with lab.daemon("second", **wanting(lab, first)) as second:
                await served(second)
                info = second.base()
                assert (info.origin, info.waits_for) == ("network", "")
                assert (info.card, info.digest) == (first.base().card, first.base().digest)
                assert (await ask(second, model=adapter.cid, seed=3)).text == told.text
                key = Cid(bytes.fromhex(info.digest))
                await until(lambda: _has_providers(first, key, {second.host.peer_id}))
                async with lab.daemon("third", **wanting(lab, first)) as third:
                    await served(third)
                    assert (await ask(third, model=adapter.cid, seed=3)).text == told.text
                    counted = third.telemetry.counters
            givers = {first.host.peer_id, second.host.peer_id}
            assert {name.partition(":")[2] for name in counted if name.startswith("blocks_f")} <= (
                givers
            )
        shutil.rmtree(tmp_path / "base")  # what was fetched stands on its own, nobody is asked
        async with lab.daemon("second", **wanting(lab, first, bootstrap=())) as second:
            await served(second)
            assert (await ask(second, seed=3)).text


async def _has_providers(daemon: NodeDaemon, key: Cid, peers: set[str]) -> bool:
    return peers <= {one.peer_id for one in await daemon.host.dht.find_providers(key)}


async def test_two_givers_share_a_sharded_base(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        base = shard(tmp_path / "base", more_bytes=24 << 20)
        async with (
            lab.daemon("first", role="gateway") as first,
            lab.daemon("second", role="gateway") as second,
            lab.daemon(
                "third", role="gateway", base_path="", base=base.hex(), base_card=first.base().card
            ) as third,
        ):
            assert first.base().card != second.base().card
            await until(lambda: third.waits_for() == "")
            info = third.base()
            assert (info.path, info.num_files) == ("", 0)  # it only asks: the tokenizer will do
            files = await third.files(info.name)
            assert files.is_base
            got = {file.name: file.path.read_bytes() for file in files.files}
            assert got == {
                path.name: path.read_bytes()
                for path in (tmp_path / "base").iterdir()
                if path.name in got
            }
            assert len(got) == 6
            assert base_id(files.files[0].path.parent) == base
            key = Cid.parse(info.card)
            await until(lambda: _has_providers(first, key, {third.host.peer_id}))


async def test_without_a_pinned_card_the_nodes_that_compute_are_asked_for_one(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("first") as first:
            wanted = wanting(lab, first, base_card="", role="gateway")
            async with lab.daemon("client", **wanted) as client:
                await until(lambda: client.waits_for() == "")
                assert client.base().card == first.base().card
                assert parse_card(client.base_card()).base.hex() == first.base().digest
                assert (await ask(client, seed=5)).text == (await ask(first, seed=5)).text
                assert not list((tmp_path / "client" / "bases").glob(f"*/{FILES}"))


async def test_what_a_node_waits_for_is_said_and_it_goes_on_when_a_giver_comes(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("bootstrap", role="bootstrap"):
            async with lab.daemon("first", role="gateway") as first:
                wanted = wanting(lab, first)
            async with lab.daemon("second", **wanted) as second:
                await until(lambda: "no node provides" in second.waits_for())
                assert (await second.status()).waits_for == second.waits_for()
                with pytest.raises(NoBase, match="no node provides"):
                    await ask(second)
                with pytest.raises(NoBase):
                    await second.pull("law")
                async with lab.daemon("first", role="gateway"):
                    await served(second)
                    assert (await ask(second)).text
                assert "base" not in second.telemetry.troubles


async def test_a_provider_that_lies_is_named_and_the_rest_comes_from_the_honest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path) as lab:
        shard(tmp_path / "base", more_bytes=24 << 20)
        async with (
            lab.daemon("honest", role="gateway") as honest,
            lab.daemon("liar", role="gateway", **wanting(lab, honest)) as liar,
        ):
            await until(lambda: liar.waits_for() == "")
            await liar.files(honest.base().name)
            card = Cid.parse(honest.base().card)
            await until(lambda: _has_providers(honest, card, {liar.host.peer_id}))
            real_get = BlockStore.get

            def get(self: BlockStore, cid: Cid) -> bytes | None:
                data = real_get(self, cid)
                is_lie = self is liar._store and data is not None and len(data) == 1 << 20
                return bytes(len(data)) if is_lie and data is not None else data

            monkeypatch.setattr(BlockStore, "get", get)
            wanted = wanting(lab, honest)
            async with lab.daemon("second", **wanted, role="gateway") as second:
                await until(lambda: second.waits_for() == "")
                files = await second.files(honest.base().name)
                assert base_id(files.files[0].path.parent).hex() == honest.base().digest
                liars = {peer for what, peer, _ in (await second.status()).rejections}
                assert liars == {liar.host.peer_id}


def forged(honest: NodeDaemon, lab: Lab, **changes: object) -> bytes:
    """A card as the honest one, but for some fields, signed by somebody else."""
    card = parse_card(honest.base_card())
    said = {
        name: getattr(card, name) for name in Described.__dataclass_fields__ if name != "size_bytes"
    }
    said |= {"size_bytes": card.size, "specials": dict(card.specials)}
    about = Described(**(said | changes))  # type: ignore[arg-type]
    return build_card(Signer(lab.identity("liar").secret), about, 1)


async def test_a_card_that_leads_to_another_base_is_refused_and_what_came_is_deleted(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        make_base(tmp_path / "other", seed=7)
        async with (
            lab.daemon("honest", role="gateway") as honest,
            lab.daemon("other", role="gateway", base_path=str(tmp_path / "other")) as other,
        ):
            wrong = forged(other, lab, base=bytes.fromhex(honest.base().digest))
            cid = other._store.put(wrong)
            assert await other.host.dht.provide(cid)
            wanted = wanting(lab, honest, base_card=str(cid))
            with pytest.raises(ConfigError) as caught:
                async with lab.daemon("second", **wanted):
                    await trio.sleep(60)
            assert str(cid) in str(caught.value)
            assert lab.identity("liar").peer_id in str(caught.value)
            assert "deleted" in str(caught.value)
            assert not (tmp_path / "second" / "bases" / honest.base().digest).exists()


async def test_a_card_of_another_base_than_the_networks_is_refused_by_name(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("honest", role="gateway") as honest:
            wanted = wanting(lab, honest, base="ab" * 32)
            with pytest.raises(ConfigError, match=r"is of base .*computes on abababababababab"):
                async with lab.daemon("second", **wanted):
                    await trio.sleep(60)


async def test_a_base_for_which_the_disk_has_no_room_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("first", role="gateway") as first:
            usage = shutil.disk_usage(tmp_path)
            full = usage._replace(free=1 << 20)
            monkeypatch.setattr("node.bases.fetching.shutil.disk_usage", lambda path: full)
            with pytest.raises(ConfigError, match="1 MB free: make room"):
                async with lab.daemon("second", **wanting(lab, first)):
                    await trio.sleep(60)
            [draft] = (tmp_path / "second" / "bases").glob(f"*/{DRAFT}")
            assert list(draft.iterdir()) == []


async def test_files_that_broke_on_the_disk_are_mended_block_by_block(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        shard(tmp_path / "base", more_bytes=8 << 20)
        async with lab.daemon("first", role="gateway") as first:
            wanted = wanting(lab, first)
            async with lab.daemon("second", **wanted) as second:
                await served(second)
                path = Path(second.base().path)
            broken = path / "model-00002-of-00002.safetensors"
            with broken.open("r+b") as file:
                file.seek(2 << 20)
                file.write(b"torn")
            async with lab.daemon("second", **wanted) as second:
                await served(second)
                assert second._keeper is not None
                assert second._keeper.progress.fetched_bytes == 1 << 20
                assert base_id(path).hex() == first.base().digest


def test_settings_that_name_no_base_are_refused(tmp_path: Path) -> None:
    for line, said in (
        ('base = "ab"', "64 hex"),
        ('base_card = "law"', "CID"),
        (f'base_card = "bafkrei{"a" * 52}"', "base must be set"),
    ):
        (tmp_path / CONFIG_FILE).write_text(line + "\n")
        with pytest.raises(ConfigError, match=said):
            load_config(tmp_path, {})
