"""What a registry gives to somebody else is refused; all else is served."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from node.api.adapters import AlikeInfo, PushTold
from node.catalogue.folders import AdapterFolders
from node.catalogue.holding import Holdings
from node.catalogue.origins import PARENTS_FILE
from node.catalogue.owning import Ownership
from node.catalogue.packaging import load_package
from node.catalogue.vetting import Vetting
from node.errors import BadRequest, NodeError, RegisteredElsewhere, RoyaltyUnpaid
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.identity import Identity
from proofs.cocktail import make_cocktail
from proofs.manifest import parse_manifest
from proofs.registration import Registration
from proofs.royalty import find_unpaid
from proofs.signing import Signer, address_of
from proofs.weights import WeightsDigest

from ..networks import until
from .peft_folders import make_tensors, write_folder
from .test_publishing import Scene as Publishing
from .twins import BASE, TwinEngine, TwinSource

OWNER = Identity.generate()
THIEF = Identity.generate()
PAST = 1_000_000


@dataclass
class TwinRegistry:
    """Says whose weights are; `fails` has it answer nothing."""

    entries: dict[bytes, Registration] = field(default_factory=dict)
    fails: bool = False

    async def find(self, weights: WeightsDigest) -> Registration | None:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise NodeError("the chain is away")
        return self.entries.get(weights.brain) or self.entries.get(weights.half)

    async def register(
        self,
        creator: Signer,
        weights: WeightsDigest,
        manifest: bytes,
        *,
        royalty_bps: int,
        parents: tuple[bytes, ...],
    ) -> Registration:
        await trio.lowlevel.checkpoint()
        entry = Registration(
            creator.address, creator.address, PAST, PAST, 7, royalty_bps, manifest, parents
        )
        self.entries |= {weights.brain: entry, weights.half: entry}
        return entry

    def note(self, weights: WeightsDigest, who: Identity, at: int = PAST) -> None:
        address = address_of(who.public_key)
        entry = Registration(address, address, at, registered_at=at, first_block=7)
        self.entries |= {weights.brain: entry, weights.half: entry}

    def ask(self, who: Identity, royalty_bps: int) -> bytes:
        """Register weights that ask for a royalty; gives their digest."""
        digest = bytes([0x44 + len(self.entries)]) * 32
        self.note(WeightsDigest(digest, digest), who)
        self.entries[digest] = replace(
            self.entries[digest], royalty_bps=royalty_bps, manifest=bytes(32)
        )
        return digest


@dataclass
class Scene:
    """Holdings with a registry, over twins, on a real disk."""

    home: Path
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = TwinRegistry()
        self.ownership = Ownership(self.lines.append, self.registry)
        self.store = BlockStore(self.home / "blocks")
        self.folders = AdapterFolders(self.home / "adapters", self.store)
        self.holdings = Holdings(
            BASE.base,
            TwinSource(self.store),
            self.folders,
            TwinEngine(),
            lambda cid: None,
            admit=self.ownership.admit,
        )

    def publish(
        self,
        name: str,
        creator: Identity,
        seed: int = 1,
        dtype: str = "F32",
        owed: Sequence[Registration] = (),
    ) -> Cid:
        """Sign a folder and lay it out, as publishing does."""
        folder = self.home / name
        write_folder(folder, make_tensors(seed), dtype=dtype)
        package = load_package(folder, creator.secret, BASE, owed=owed)
        cid = self.store.put(package.manifest_bytes)
        self.holdings.place(cid, package.manifest, package.blocks())
        return cid

    async def weights(self, cid: Cid) -> WeightsDigest:
        return await self.ownership.weigh(cid, self.holdings.paths(cid))


async def test_weights_of_somebody_else_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    own = scene.publish("law", OWNER)
    await scene.holdings.hold(own)
    scene.registry.note(await scene.weights(own), OWNER)
    for dtype in ("F32", "F16", "BF16"):
        for hold in (scene.holdings.hold, scene.holdings.hold_guest):
            copy = scene.publish(f"stolen-{dtype}", THIEF, dtype=dtype)
            with pytest.raises(RegisteredElsewhere, match="since block 7"):
                await hold(copy)
            assert scene.holdings.find(copy) is None
            assert not (tmp_path / "adapters" / str(copy)).exists()
    await scene.holdings.restore(own)
    await scene.holdings.hold(scene.publish("other", THIEF, seed=2))


async def test_a_new_owner_may_publish_too(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    own = scene.publish("law", THIEF)
    await scene.holdings.hold(own)
    sold = Registration(
        b"\1" * 20, address_of(THIEF.public_key), PAST, registered_at=PAST, first_block=7
    )
    scene.registry.entries[(await scene.weights(own)).brain] = sold
    await scene.holdings.hold(scene.publish("again", THIEF))


async def test_what_was_here_before_it_was_registered_stays(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    own = scene.publish("law", OWNER)
    await scene.holdings.hold(own)
    scene.holdings.drop(own)
    os.utime(scene.holdings.paths(own)[1], (PAST - 10, PAST - 10))
    scene.registry.note(await scene.weights(own), THIEF)
    await scene.holdings.restore(own)
    assert "was here before" in scene.lines[-1]


async def test_a_registry_that_does_not_answer_stops_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.registry.fails = True
    own = scene.publish("law", OWNER)
    await scene.holdings.hold(own)
    assert "so served" in scene.lines[-1]


async def test_near_copies_are_found_among_what_is_held(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    names = {"law": 1, "copy": 1, "other": 2}
    cids = {name: scene.publish(name, OWNER, seed) for name, seed in names.items()}
    paths = {name: scene.holdings.paths(cid) for name, cid in cids.items()}
    for cid in cids.values():
        await scene.holdings.hold(cid)
    others = [(AlikeInfo(name, str(cids[name]), "me"), paths[name]) for name in ("other", "copy")]
    [found] = await scene.ownership.find_alike(paths["law"], others)
    assert found.name == "copy"
    assert found.cosine == pytest.approx(1)
    assert found.modules == 6


async def test_weights_are_registered_before_anybody_hears_of_them(tmp_path: Path) -> None:
    scene = Publishing(tmp_path / "home")
    registry = TwinRegistry()
    parent = registry.ask(THIEF, 1_000)
    catalogue = replace(scene.catalogue, ownership=Ownership(scene.lines.append, registry))
    write_folder(tmp_path / "law", make_tensors(1))
    told = PushTold(register=True, royalty_bps=250, parents=("0x" + parent.hex(),))
    scene.records.fails = True  # nobody can be told
    with suppress(NodeError):
        await catalogue.publish(tmp_path / "law", OWNER, told)
    [entry] = set(registry.entries.values()) - {registry.entries[parent]}
    assert entry.creator == address_of(OWNER.public_key)
    assert (entry.royalty_bps, entry.parents) == (250, (parent,))
    scene.records.fails = False
    info = await catalogue.publish(tmp_path / "law", OWNER, told)
    assert info.weights in {digest.hex() for digest in registry.entries}
    shown = await catalogue.show(info.cid)
    assert shown.registered is not None
    assert shown.registered.is_theirs
    assert Cid.parse(info.cid).digest.hex() == shown.registered.manifest[2:]
    manifest = catalogue.holdings.find(Cid.parse(info.cid))
    assert manifest is not None
    assert find_unpaid(manifest, [registry.entries[parent]]) is None
    assert manifest.contributors[-1].address == address_of(THIEF.public_key)
    nobody = PushTold(register=True, parents=("55" * 32,))
    with pytest.raises(BadRequest, match="no weights with the digest 0x5555"):
        await catalogue.publish(tmp_path / "law", OWNER, nobody)


async def test_an_adapter_that_does_not_pay_its_parents_is_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    parent = scene.registry.ask(THIEF, 1_000)
    asked = scene.registry.entries[parent]
    own = scene.publish("law", OWNER)
    await scene.holdings.hold(own)
    weights = await scene.weights(own)
    scene.registry.note(weights, OWNER)
    derived = replace(scene.registry.entries[weights.brain], parents=(parent,))
    scene.registry.entries |= {weights.brain: derived, weights.half: derived}
    free = scene.publish("free", OWNER)
    with pytest.raises(RoyaltyUnpaid, match="royalty of 10 %"):
        await scene.holdings.hold(free)
    assert scene.holdings.find(free) is None
    await scene.holdings.hold(scene.publish("paying", OWNER, owed=[asked]))
    scene.registry.fails = True
    await scene.holdings.hold(scene.publish("again", OWNER))
    assert "so served" in scene.lines[-1]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (PushTold(register=True, parents=("0x12",)), "64 hex digits"),
        (PushTold(register=True, parents=("parent",)), "digest of its weights"),
        (PushTold(register=True, royalty_bps=10_001), "basis points"),
    ],
)
async def test_odd_terms_are_refused_before_anything_is_published(
    tmp_path: Path, told: PushTold, why: str
) -> None:
    scene = Publishing(tmp_path / "home")
    write_folder(tmp_path / "law", make_tensors(1))
    with pytest.raises(BadRequest, match=why):
        await scene.catalogue.publish(tmp_path / "law", OWNER, told)
    assert scene.catalogue.held() == []


async def test_without_a_registry_nothing_is_registered(tmp_path: Path) -> None:
    scene = Publishing(tmp_path / "home")
    write_folder(tmp_path / "law", make_tensors(1))
    with pytest.raises(BadRequest, match="no registry is set"):
        await scene.catalogue.publish(tmp_path / "law", OWNER, PushTold(register=True))


async def test_who_only_pays_for_an_adapter_looks_whose_it_is_and_keeps_nothing(
    tmp_path: Path,
) -> None:
    elsewhere = Scene(tmp_path / "elsewhere")
    own, copy, other = (
        elsewhere.publish("law", OWNER),
        elsewhere.publish("copy", THIEF, dtype="BF16"),
        elsewhere.publish("other", THIEF, seed=2),
    )
    gateway = Scene(tmp_path / "gateway")
    for cid in (own, copy, other):
        await elsewhere.holdings.hold(cid)
    gateway.registry.note(await elsewhere.weights(own), OWNER)
    source = TwinSource(gateway.store, remote=published_by(elsewhere, (own, copy, other)))
    folder = tmp_path / "gateway" / "vetting"
    vetting = Vetting(gateway.ownership, source, gateway.holdings, folder, gateway.lines.append)
    manifests = {cid: parse_manifest(elsewhere.store.get(cid) or b"") for cid in (own, copy, other)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(vetting.run)
        for _ in range(2):
            with pytest.raises(RegisteredElsewhere, match="'copy' are registered"):
                await until(lambda: vetting.check(copy, manifests[copy]))
            await vetting.check(own, manifests[own])
            await vetting.check(other, manifests[other])
        await until(lambda: source.num_fetched == 3)
        assert gateway.holdings.held() == []
        await until(lambda: not folder.exists())
        gateway.registry.fails = True
        await vetting.check(Cid(bytes(32)), manifests[other])
        await until(lambda: "so asked for" in gateway.lines[-1])
        nursery.cancel_scope.cancel()


def published_by(scene: Scene, cids: Sequence[Cid]) -> BlockStore:
    """A store with whole adapters, as their providers have them."""
    store = BlockStore(scene.home / "provided")
    for cid in cids:
        data = scene.store.get(cid)
        assert data is not None
        store.put(data)
        layout = scene.holdings.layout(cid, parse_manifest(data))
        for path, file in layout.items():
            content = path.read_bytes()
            for _, size_bytes in file.blocks:
                store.put(content[:size_bytes])
                content = content[size_bytes:]
    return store


async def test_what_was_merged_names_its_registered_parents_by_itself(tmp_path: Path) -> None:
    scene = Publishing(tmp_path / "home")
    registry = TwinRegistry()
    catalogue = replace(scene.catalogue, ownership=Ownership(scene.lines.append, registry))
    weights = {}
    manifests = {}
    for seed, name in enumerate(("law", "verse"), start=1):
        write_folder(tmp_path / name, make_tensors(seed))
        told = PushTold(register=name == "law", royalty_bps=3_000 if name == "law" else 0)
        info = await catalogue.publish(tmp_path / name, THIEF if name == "law" else None, told)
        weights[name] = bytes.fromhex(info.weights)
        manifests[name] = scene.store.get(Cid.parse(info.cid)) or b""
    for name, law in (("mixed", 4_000), ("mean", 1_000)):
        write_folder(tmp_path / name, make_tensors(3))
        parts = {manifests["law"]: law, manifests["verse"]: 10_000 - law}
        (tmp_path / name / PARENTS_FILE).write_bytes(make_cocktail(parts))
    info = await catalogue.publish(tmp_path / "mixed", OWNER, PushTold(register=True))
    assert registry.entries[bytes.fromhex(info.weights)].parents == (weights["law"],)
    named = PushTold(register=True, parents=(weights["law"].hex(),))
    again = await catalogue.publish(tmp_path / "mixed", OWNER, named)
    assert again.weights == info.weights
    with pytest.raises(RoyaltyUnpaid, match="royalty of 30 %"):
        await catalogue.publish(tmp_path / "mean", OWNER, PushTold(register=True))
