"""What is published is held, offered and named; and said again, after a while and a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from node.api.adapters import PushTold, SearchRequest
from node.catalogue.about import parse_announcement
from node.catalogue.announcements import Announcer
from node.catalogue.book import NameBook
from node.catalogue.catalogue import Catalogue, names_of
from node.catalogue.cocktails import Cocktails
from node.catalogue.folders import AdapterFolders
from node.catalogue.holding import Holdings
from node.catalogue.known import Known
from node.catalogue.names import Names
from node.catalogue.owning import Ownership
from node.catalogue.popularity import Popularity
from node.catalogue.publishing import Publisher
from node.errors import AdapterError, NoProvider
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.identity import Identity
from p2p.peers import PeerAddress

from .twins import (
    BASE,
    TwinEngine,
    TwinRecords,
    TwinSource,
    TwinTopics,
    announce,
    make_folder,
    put_adapter,
)

ME = Identity.generate()
CREATOR = Identity.generate()
REPUBLISH_S = 60.0


@dataclass
class Scene:
    """A whole catalogue over twins; `num_providers` is how many peers have everything."""

    home: Path
    engine: TwinEngine | None = field(default_factory=TwinEngine)
    records: TwinRecords = field(default_factory=TwinRecords)
    topics: TwinTopics = field(default_factory=TwinTopics)
    lines: list[str] = field(default_factory=list)
    num_providers: int = 0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        log = self.lines.append
        self.store = BlockStore(self.home / "blocks")
        self.known = known = Known(self.clock)
        self.book = NameBook(self.home / "names", log, self.clock)
        folders = AdapterFolders(self.home / "adapters", self.store)
        source = TwinSource(self.store)
        holdings = Holdings(BASE.base, source, folders, self.engine, lambda cid: None)
        names = Names(
            self.records,
            ME.peer_id,
            [],
            ("base",),
            lambda: names_of(known, holdings),
            book=self.book,
            known=known,
            log=log,
        )
        publisher = Publisher(
            ME,
            BASE,
            self.store,
            holdings,
            names,
            book=self.book,
            known=known,
            announcer=Announcer(self.records, self.topics, log),
            log=log,
            clock=self.clock,
        )
        self.catalogue = Catalogue(
            "SmolLM2",
            names,
            holdings,
            known,
            source,  # type: ignore[arg-type]  # a twin of the fetcher
            publisher=publisher,
            popularity=Popularity(self.find_providers),
            cocktails=Cocktails(self.store),
            ahead_fetcher=source,  # type: ignore[arg-type]
            ownership=Ownership(log),
        )

    async def find_providers(self, cid: Cid) -> list[PeerAddress]:
        await trio.lowlevel.checkpoint()
        return [PeerAddress(str(number)) for number in range(self.num_providers)]


async def test_a_published_folder_is_held_offered_named_and_announced(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    info = await scene.catalogue.publish(make_folder(tmp_path / "law", "law"), None)
    cid = Cid.parse(info.cid)
    assert (info.name, info.creator, info.state, info.providers) == ("law", ME.peer_id, "ready", 1)
    assert scene.records.provided == [cid]
    assert scene.records.names[ME.peer_id, "law"].target == cid
    assert scene.records.names[ME.peer_id, "law@1"].target == cid
    [said] = scene.topics.said
    assert parse_announcement(said).cid == cid
    assert await scene.catalogue.names.resolve("law") == cid
    report = await scene.catalogue.pull("law")
    assert (report.name, report.cid, report.size_bytes) == ("law", info.cid, info.size_bytes)


async def test_what_another_key_signed_is_said_again_as_it_was_signed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    started = time.time()
    scene = Scene(tmp_path / "home", clock=lambda: started + 20 * trio.current_time())
    info = await scene.catalogue.publish(make_folder(tmp_path / "law", "law"), CREATOR)
    assert info.creator == CREATOR.peer_id
    signed = dict(scene.records.names)
    assert {owner for owner, _ in signed} == {CREATOR.peer_id}
    scene.records.names.clear()
    with trio.move_on_after(REPUBLISH_S * 1.5):
        await scene.catalogue.publisher.run_republish(REPUBLISH_S)
    assert scene.records.names == signed
    assert Cid.parse(info.cid) in scene.records.provided


async def test_a_network_that_was_away_is_told_at_the_next_turn(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    scene = Scene(tmp_path / "home")
    scene.records.fails = True
    info = await scene.catalogue.publish(make_folder(tmp_path / "law", "law"), None)
    cid = Cid.parse(info.cid)
    assert scene.records.provided == []
    scene.records.fails = False
    scene.topics.said.clear()
    with trio.move_on_after(REPUBLISH_S * 1.5):
        await scene.catalogue.publisher.run_republish(REPUBLISH_S)
    assert scene.records.provided == [Cid(BASE.base), cid]
    assert scene.records.names[ME.peer_id, "law"].target == cid
    assert [parse_announcement(said).cid for said in scene.topics.said] == [cid]


async def test_a_node_without_an_engine_offers_no_base(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    scene = Scene(tmp_path / "home", engine=None)
    info = await scene.catalogue.publish(make_folder(tmp_path / "law", "law"), None)
    assert info.state == "held"
    scene.records.provided.clear()
    with trio.move_on_after(REPUBLISH_S * 1.5):
        await scene.catalogue.publisher.run_republish(REPUBLISH_S)
    assert scene.records.provided == [Cid.parse(info.cid)]


async def test_after_a_restart_everything_is_held_and_own_names_are_said_again(
    tmp_path: Path,
) -> None:
    before = Scene(tmp_path / "home")
    law = await before.catalogue.publish(make_folder(tmp_path / "law", "law"), None)
    verse = await before.catalogue.publish(make_folder(tmp_path / "verse", "verse"), CREATOR)
    after = Scene(tmp_path / "home")
    await after.catalogue.publisher.restore()
    assert {str(cid) for cid, _ in after.catalogue.holdings.held()} == {law.cid, verse.cid}
    said = {place: record.target for place, record in after.records.names.items()}
    assert said == {
        (owner, name): Cid.parse(info.cid)
        for owner, info in ((ME.peer_id, law), (CREATOR.peer_id, verse))
        for name in (info.name, f"{info.name}@1")
    }


async def test_one_adapter_that_cannot_be_restored_stops_no_other(tmp_path: Path) -> None:
    before = Scene(tmp_path / "home")
    infos = [
        await before.catalogue.publish(make_folder(tmp_path / name, name), None)
        for name in ("law", "verse", "medicine")
    ]
    broken, refused, good = sorted(Cid.parse(info.cid) for info in infos)
    before.store.delete(broken)
    (tmp_path / "home" / "adapters" / "bafkreinonsense").mkdir()
    after = Scene(tmp_path / "home")
    assert after.engine is not None
    after.engine.refuses.add(refused.digest)
    await after.catalogue.publisher.restore()
    assert [cid for cid, _ in after.catalogue.holdings.held()] == [good]
    assert len(after.lines) == 3


async def test_a_folder_that_is_no_adapter_is_neither_signed_nor_said(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    folder = make_folder(tmp_path / "law", "law")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="no LoRA adapter"):
        await scene.catalogue.publish(folder, None)
    assert scene.topics.said == []
    assert scene.store.list() == []


async def test_a_listing_tells_what_is_held_and_what_was_heard_of(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home", num_providers=2)
    await scene.catalogue.publish(make_folder(tmp_path / "law", "law"), None)
    verse = announce(tmp_path / "elsewhere", CREATOR, "verse")
    cid, manifest = verse.cid, verse.manifest
    scene.known.learn(verse, "a peer")
    listed = {info.name: (info.state, info.providers) for info in await scene.catalogue.listing()}
    assert listed == {"law": ("ready", 3), "verse": ("known", 2)}
    assert await scene.catalogue.manifest(cid) == manifest


async def test_a_manifest_nobody_told_of_is_fetched_once_and_then_known(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    cid, manifest = put_adapter(scene.store, CREATOR, "verse")
    assert await scene.catalogue.manifest(cid) == manifest
    scene.store.delete(cid)
    assert await scene.catalogue.manifest(cid) == manifest
    with pytest.raises(NoProvider):
        await scene.catalogue.manifest(Cid.of(b"nobody has this"))


async def test_the_bare_base_needs_no_pull(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="bare base"):
        await Scene(tmp_path / "home").catalogue.pull("base")


async def test_what_the_creator_says_of_it_is_announced_and_found(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    folder = make_folder(tmp_path / "law", "law")
    description = PushTold("What a court would say.", ("en", "fr"), "MIT")
    info = await scene.catalogue.publish(folder, None, description)
    assert (info.description, info.languages) == ("What a court would say.", ("en", "fr"))
    assert info.licence == "MIT"
    [said] = scene.topics.said
    assert parse_announcement(said).about.languages == ("en", "fr")
    found = await scene.catalogue.search(SearchRequest(words=("court",), language="fr"))
    assert [one.cid for one in found] == [info.cid]
    assert await scene.catalogue.search(SearchRequest(language="de")) == []
    with pytest.raises(AdapterError, match="languages"):
        await scene.catalogue.publish(folder, None, PushTold(languages=("no tag!",)))
