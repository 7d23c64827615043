"""Which cocktails are held: in memory, within bounds, and no longer than their parents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.catalogue import cocktails as remembered
from node.catalogue import holding
from node.catalogue.cocktails import Cocktails
from node.catalogue.folders import AdapterFolders
from node.catalogue.holding import Holdings
from node.engine_link import CocktailFiles
from node.errors import AdapterError, EngineBusy
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.identity import Identity
from proofs.cocktail import Cocktail, make_cocktail, parse_cocktail
from proofs.codec import encode

from .twins import BASE, TwinEngine, TwinSource, put_adapter

CREATOR = Identity.from_secret(b"\1" * 32)


class Shelf:
    """Two adapters that are held, and what mixes them."""

    def __init__(self, folder: Path) -> None:
        self.store = BlockStore(folder / "blocks")
        self.engine = TwinEngine()
        self.holdings = Holdings(
            BASE.base,
            TwinSource(self.store),
            AdapterFolders(folder / "adapters", self.store),
            self.engine,
            lambda cid: None,
        )
        self.law, law = put_adapter(self.store, CREATOR, "law")
        self.verse, verse = put_adapter(self.store, CREATOR, "verse")
        self.manifests = encode(law), encode(verse)

    def cocktail(self, law: int = 7_000, verse: int = -3_000) -> tuple[Cid, Cocktail]:
        data = make_cocktail(dict(zip(self.manifests, (law, verse), strict=True)))
        return Cid.of(data), parse_cocktail(data)

    async def hold_both(self) -> None:
        await self.holdings.hold(self.law)
        await self.holdings.hold_guest(self.verse)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


async def test_the_engine_gets_each_parents_files_with_its_weight(shelf: Shelf) -> None:
    await shelf.hold_both()
    cid, cocktail = shelf.cocktail()
    await shelf.holdings.mix(cid, cocktail)
    files = shelf.engine.served[cid.digest]
    assert isinstance(files, CocktailFiles)
    assert {one.name: one.weight for one in files.parents} == {"law": 0.7, "verse": -0.3}
    paths = [path for one in files.parents for path in (one.config_path, one.weights_path)]
    assert all(map(os.path.isfile, paths))
    assert [one.name for one in files.parents] == [
        parent.parsed.name for parent in cocktail.parents
    ]


async def test_a_cocktail_is_mixed_once_and_again_when_the_engine_dropped_it(shelf: Shelf) -> None:
    await shelf.hold_both()
    cid, cocktail = shelf.cocktail()
    first = await shelf.holdings.mix(cid, cocktail)
    assert await shelf.holdings.mix(cid, cocktail) is first
    shelf.engine.release(cid.digest)
    assert await shelf.holdings.mix(cid, cocktail) is not first
    assert shelf.engine.serves(cid.digest)


async def test_without_a_parent_nothing_is_mixed(shelf: Shelf) -> None:
    await shelf.holdings.hold(shelf.law)
    cid, cocktail = shelf.cocktail()
    with pytest.raises(EngineBusy, match="verse"):
        await shelf.holdings.mix(cid, cocktail)
    assert not shelf.holdings.mixed()


async def test_a_refused_cocktail_is_not_held_and_its_parents_stay(shelf: Shelf) -> None:
    await shelf.hold_both()
    cid, cocktail = shelf.cocktail()
    shelf.engine.refuses.add(cid.digest)
    with pytest.raises(AdapterError, match="refused"):
        await shelf.holdings.mix(cid, cocktail)
    assert not shelf.holdings.mixed()
    assert shelf.engine.serves(shelf.law.digest)
    assert shelf.engine.serves(shelf.verse.digest)


async def test_a_cocktail_goes_when_a_parent_does(shelf: Shelf) -> None:
    await shelf.hold_both()
    (both, both_of), (law, law_of) = shelf.cocktail(), half_of(shelf)
    await shelf.holdings.mix(both, both_of)
    await shelf.holdings.mix(law, law_of)
    shelf.holdings.drop(shelf.verse)
    assert [cid for cid, _ in shelf.holdings.mixed()] == [law]
    assert not shelf.engine.serves(both.digest)
    assert shelf.engine.serves(law.digest)


def half_of(shelf: Shelf) -> tuple[Cid, Cocktail]:
    data = make_cocktail({shelf.manifests[0]: 5_000})
    return Cid.of(data), parse_cocktail(data)


async def test_the_cocktail_unused_for_longest_makes_room(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "MAX_MIXED", 2)
    await shelf.hold_both()
    first, second, third = (shelf.cocktail(law) for law in (1, 2, 3))
    await shelf.holdings.mix(*first)
    await shelf.holdings.mix(*second)
    await shelf.holdings.mix(*first)
    await shelf.holdings.mix(*third)
    assert [cid for cid, _ in shelf.holdings.mixed()] == [first[0], third[0]]
    assert not shelf.engine.serves(second[0].digest)


# --- remembering ---


def test_what_is_kept_is_found_after_a_restart_and_what_is_not_is_not(shelf: Shelf) -> None:
    known = Cocktails(shelf.store)
    (kept, _), (forgotten, _) = shelf.cocktail(1), shelf.cocktail(2)
    for law in (1, 2):
        known.learn(make_cocktail(dict(zip(shelf.manifests, (law, -3_000), strict=True))))
    known.keep(kept)
    again = Cocktails(shelf.store)
    assert again.find(kept) == shelf.cocktail(1)[1]
    assert Cid.of(again.bytes_of(kept)) == kept
    assert again.find(forgotten) is None
    assert again.bytes_of(forgotten) == b""
    assert again.find(shelf.law) is None, "a manifest is no cocktail"


def test_a_parents_manifest_is_known_by_its_cocktail(shelf: Shelf) -> None:
    known = Cocktails(shelf.store)
    assert known.parent(shelf.law) is None
    known.learn(make_cocktail(dict(zip(shelf.manifests, (1, 2), strict=True))))
    assert known.parent(shelf.law) == shelf.manifests[0]


def test_what_is_remembered_is_bounded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_REMEMBERED", 2)
    known = Cocktails(shelf.store)
    cids = [
        known.learn(make_cocktail(dict(zip(shelf.manifests, (law, 1), strict=True))))
        for law in (1, 2, 1, 3)
    ]
    assert [known.find(cid) is not None for cid in cids] == [True, False, True, True]


@pytest.mark.parametrize("data", [b"", b"\x92", b"junk", b"\x92\x01\x90"])
def test_what_is_no_cocktail_is_refused(shelf: Shelf, data: bytes) -> None:
    with pytest.raises(AdapterError, match="cannot be made"):
        Cocktails(shelf.store).learn(data)
