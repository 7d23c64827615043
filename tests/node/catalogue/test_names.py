"""What a text means: the base, a CID, a name of somebody, or nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from node.catalogue.book import NameBook
from node.catalogue.known import FRESH_S, Known
from node.catalogue.names import CACHE_S, CONFIRM_PAUSE_S, Names
from node.errors import UnknownModel
from p2p.cid import Cid
from p2p.identity import Identity
from p2p.names import NameRecord, sign_name

from .twins import TwinRecords

ME = Identity.generate()
FIRST = Identity.generate()
SECOND = Identity.generate()
NOW = int(time.time())
LAW = Cid.of(b"law")
VERSE = Cid.of(b"verse")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "folder", tmp_path, raising=False)


class Scene:
    """Names over a twin of the DHT, with a clock that stands still until it is moved."""

    folder: Path

    def __init__(self, *publishers: Identity) -> None:
        self.records = TwinRecords()
        self.now_s = 0.0
        self.lines: list[str] = []
        self.book = NameBook(self.folder, self.lines.append)
        self.known = Known(lambda: NOW + self.now_s)
        self.names = Names(
            self.records,
            ME.peer_id,
            [one.peer_id for one in publishers],
            ("base", "", "SmolLM2"),
            lambda: ["law", "verse", "medicine"],
            book=self.book,
            known=self.known,
            log=self.lines.append,
            clock=lambda: self.now_s,
        )

    def publish(self, creator: Identity, name: str, cid: Cid | None, sequence: int = 1) -> None:
        self.records.names[creator.peer_id, name] = sign_name(creator, name, sequence, cid)


@pytest.mark.parametrize("text", ["base", "", "SmolLM2"])
async def test_the_base_has_its_own_names_and_asks_nobody(text: str) -> None:
    scene = Scene()
    assert await scene.names.resolve(text) is None
    assert scene.records.asked == []


async def test_a_cid_means_itself() -> None:
    scene = Scene()
    assert await scene.names.resolve(str(LAW)) == LAW
    assert scene.records.asked == []


async def test_a_bare_name_is_the_first_publishers_that_has_it() -> None:
    scene = Scene(FIRST, SECOND)
    scene.publish(SECOND, "law", LAW)
    assert await scene.names.resolve("law") == LAW
    scene = Scene(FIRST, SECOND)
    scene.publish(SECOND, "law", LAW)
    scene.publish(FIRST, "law", VERSE)
    assert await scene.names.resolve("law") == VERSE
    assert {owner for owner, _ in scene.records.asked} == {
        FIRST.peer_id,
        SECOND.peer_id,
        ME.peer_id,
    }


async def test_who_comes_behind_the_first_that_has_it_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene(FIRST, SECOND)
    scene.publish(FIRST, "law", LAW)

    class Slow(TwinRecords):
        async def find_name(self, owner: str, name: str, deadline_s: float) -> NameRecord | None:
            found = await super().find_name(owner, name, deadline_s)
            await trio.sleep(0.0 if found else deadline_s)
            return found

    slow = Slow(scene.records.names)
    scene.names._lookup = slow
    for _ in range(2):
        assert await scene.names.resolve("law") == LAW
        assert trio.current_time() == 0.0
    assert len(slow.asked) == 3, "the second time it is known, and nobody is asked"


async def test_a_name_with_its_owner_asks_for_that_owner_alone() -> None:
    scene = Scene(FIRST)
    scene.publish(FIRST, "law", LAW)
    scene.publish(SECOND, "law", VERSE)
    assert await scene.names.resolve(f"{SECOND.peer_id}/law") == VERSE
    assert scene.records.asked == [(SECOND.peer_id, "law")]


async def test_what_this_node_published_is_known_without_asking() -> None:
    scene = Scene()
    scene.book.sign(ME, "law", LAW)
    scene.records.fails = True
    assert await scene.names.resolve("law") == LAW
    assert await scene.names.resolve(f"{ME.peer_id}/law") == LAW


async def test_what_was_found_is_asked_again_only_after_a_while() -> None:
    scene = Scene()
    model = f"{FIRST.peer_id}/law"
    scene.publish(FIRST, "law", LAW)
    assert await scene.names.resolve(model) == LAW
    scene.publish(FIRST, "law", VERSE, 2)
    scene.now_s = CACHE_S - 0.1
    assert await scene.names.resolve(model) == LAW
    assert len(scene.records.asked) == 1
    scene.now_s = FRESH_S + 0.1
    assert await scene.names.resolve(model) == VERSE


async def test_what_was_not_found_is_asked_again_at_once() -> None:
    scene = Scene()
    model = f"{FIRST.peer_id}/law"
    with pytest.raises(UnknownModel):
        await scene.names.resolve(model)
    scene.publish(FIRST, "law", LAW)
    assert await scene.names.resolve(model) == LAW


@pytest.mark.parametrize(
    ("text", "closest"),
    [("lax", ("law",)), ("medicin", ("medicine",)), ("zzzzzz", ()), ("no such name!", ())],
)
async def test_an_unknown_name_suggests_what_it_may_have_meant(
    text: str, closest: tuple[str, ...]
) -> None:
    with pytest.raises(UnknownModel) as failed:
        await Scene(FIRST).names.resolve(text)
    assert failed.value.closest == closest


@pytest.mark.parametrize("text", ["nobody/law", "/law!", "a/b/c", "nameless/"])
async def test_what_can_be_no_name_is_unknown_and_asks_nobody(text: str) -> None:
    scene = Scene(FIRST)
    with pytest.raises(UnknownModel):
        await scene.names.resolve(text.replace("nameless", FIRST.peer_id))
    assert scene.records.asked == []


async def test_a_lookup_that_fails_is_logged_and_hides_no_other_owner() -> None:
    scene = Scene(FIRST)
    scene.records.fails = True
    with pytest.raises(UnknownModel):
        await scene.names.resolve("law")
    assert len(scene.lines) == 2
    assert all("nobody answered" in line for line in scene.lines)


async def test_all_owners_are_asked_at_once(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(FIRST, SECOND)

    class Slow(TwinRecords):
        async def find_name(self, owner: str, name: str, deadline_s: float) -> None:
            await trio.sleep(3)

    scene.names._lookup = Slow()
    started = trio.current_time()
    with pytest.raises(UnknownModel):
        await scene.names.resolve("law")
    assert trio.current_time() - started == pytest.approx(3)


async def test_what_was_heard_of_lately_is_answered_at_once_and_confirmed_soon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    model = f"{FIRST.peer_id}/law"
    scene.known.learn_name(sign_name(FIRST, "law", 1, LAW))
    scene.publish(FIRST, "law", VERSE, 2)
    async with trio.open_nursery() as nursery:
        assert await scene.names.resolve(model) == LAW
        assert scene.records.asked == []
        nursery.start_soon(scene.names.run)
        await trio.testing.wait_all_tasks_blocked()
        assert scene.records.asked == [], "the request goes first"
        await trio.sleep(CONFIRM_PAUSE_S + 0.1)
        assert scene.records.asked == [(FIRST.peer_id, "law")]
        assert await scene.names.resolve(model) == VERSE
        nursery.cancel_scope.cancel()


async def test_what_was_heard_of_long_ago_counts_where_nobody_answers_or_answers_older() -> None:
    scene = Scene()
    model = f"{FIRST.peer_id}/law"
    scene.known.learn_name(sign_name(FIRST, "law", 2, LAW))
    scene.now_s = FRESH_S + 1
    assert scene.names.guess(model) == LAW
    scene.publish(FIRST, "law", VERSE, 1)
    assert await scene.names.resolve(model) == LAW
    assert scene.records.asked == [(FIRST.peer_id, "law")]
    scene.now_s *= 3
    scene.records.fails = True
    assert await scene.names.resolve(model) == LAW


async def test_a_version_is_a_name_and_one_that_is_withdrawn_says_so() -> None:
    scene = Scene(FIRST)
    scene.publish(FIRST, "law@1", LAW)
    scene.publish(FIRST, "law@2", None)
    assert await scene.names.resolve("law@1") == LAW
    assert await scene.names.resolve(f"{FIRST.peer_id}/law@1") == LAW
    with pytest.raises(UnknownModel, match="withdrawn by its creator"):
        await scene.names.resolve("law@2")
    with pytest.raises(UnknownModel, match="no adapter named"):
        await scene.names.resolve("law@3")
