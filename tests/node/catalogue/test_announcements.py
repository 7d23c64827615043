"""What is heard of adapters and names, and what is said."""

from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from node.catalogue.about import ABOUT_FILE, MAX_ABOUT_BYTES, Announcement, make_announcement
from node.catalogue.announcements import NAMES_TOPIC, Announcer, keep_saved, run_announcements
from node.catalogue.known import Known
from node.telemetry import Telemetry
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import NameRefused, StaleName
from p2p.gossip import Verdict
from p2p.identity import Identity
from p2p.names import MAX_AHEAD_S, encode_name, sign_name
from proofs.manifest import ManifestError

from .twins import TwinRecords, TwinTopics, announce, put_adapter

CREATOR = Identity.generate()
NOW = int(time.time())
LAW = Cid.of(b"law")


def telemetry() -> Telemetry:
    return Telemetry(stream=io.StringIO())


async def test_what_a_creator_signed_is_forwarded_and_remembered(tmp_path: Path) -> None:
    topics = TwinTopics()
    known = Known()
    heard = telemetry()
    law = announce(tmp_path, CREATOR, "law", about=b'{"description":"Judges"}')
    async with trio.open_nursery() as nursery:
        await nursery.start(run_announcements, topics, known, TwinRecords(), heard)
        assert topics.bring(law.encode(), "peer") is Verdict.ACCEPT
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [(cid, manifest.name) for cid, manifest in known] == [(law.cid, "law")]
    assert known.about(law.cid).description == "Judges"
    assert heard.counters == {"announcements_heard": 1}


async def test_what_nobody_signed_is_rejected_and_named(tmp_path: Path) -> None:
    topics = TwinTopics()
    known = Known()
    heard = telemetry()
    law = announce(tmp_path, CREATOR, "law", about=b'{"description":"Judges"}')
    unsigned = bytearray(law.manifest_bytes)
    unsigned[-1] ^= 1
    other_page = Announcement(law.manifest_bytes, law.manifest, b'{"description":"Cooks"}')
    async with trio.open_nursery() as nursery:
        await nursery.start(run_announcements, topics, known, TwinRecords(), heard)
        for bad in (
            Announcement(bytes(unsigned), law.manifest).encode(),
            other_page.encode(),
            law.manifest_bytes,
            b"garbage",
            law.encode() + b"more",
        ):
            assert topics.bring(bad, "a peer") is Verdict.REJECT
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert list(known) == []
    assert [one.what for one in heard.rejections] == ["announcement"] * 5


@pytest.mark.parametrize(
    "page", [b"[]", b'{"more":1}', b'{"languages":["no such tag!"]}', b"x" * (MAX_ABOUT_BYTES + 1)]
)
def test_a_page_that_describes_nothing_is_refused(tmp_path: Path, page: bytes) -> None:
    store = BlockStore(tmp_path / "blocks")
    cid, _ = put_adapter(store, CREATOR, "law", about=page)
    data = store.get(cid)
    assert data is not None
    with pytest.raises(ManifestError, match=f"about|{ABOUT_FILE}"):
        make_announcement(data, page)


async def test_a_name_that_its_owner_signed_is_kept_to_answer_others_with() -> None:
    topics = TwinTopics()
    known = Known()
    kept = TwinRecords()
    heard = telemetry()
    record = sign_name(CREATOR, "law", NOW, LAW)
    future = sign_name(CREATOR, "law", NOW + 2 * MAX_AHEAD_S, LAW)
    forged = bytearray(encode_name(record))
    forged[-2] ^= 1
    async with trio.open_nursery() as nursery:
        await nursery.start(run_announcements, topics, known, kept, heard)
        assert topics.bring(encode_name(record), "peer", NAMES_TOPIC) is Verdict.ACCEPT
        assert topics.bring(encode_name(future), "peer", NAMES_TOPIC) is Verdict.IGNORE
        assert topics.bring(bytes(forged), "a liar", NAMES_TOPIC) is Verdict.REJECT
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert kept.names == {(CREATOR.peer_id, "law"): record}
    assert known.find_name(CREATOR.peer_id, "law") == record
    assert [(one.what, one.peer_id) for one in heard.rejections] == [("name", "a liar")]


async def test_a_daemon_without_adapters_forwards_all_the_same(tmp_path: Path) -> None:
    topics = TwinTopics()
    heard = telemetry()
    async with trio.open_nursery() as nursery:
        await nursery.start(run_announcements, topics, None, TwinRecords(), heard)
        law = announce(tmp_path, CREATOR, "law")
        assert topics.bring(law.encode(), "peer") is Verdict.ACCEPT
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert heard.counters == {"announcements_heard": 1}


async def test_what_is_said_reaches_the_network(tmp_path: Path) -> None:
    records = TwinRecords()
    topics = TwinTopics()
    lines: list[str] = []
    announcer = Announcer(records, topics, lines.append)
    record = sign_name(CREATOR, "law", NOW, LAW)
    law = announce(tmp_path, CREATOR, "law")
    await announcer.provide(LAW)
    assert await announcer.put_name(record) == 1
    await announcer.announce(law)
    assert records.provided == [LAW]
    assert records.names[CREATOR.peer_id, "law"] == record
    assert topics.names_said == [encode_name(record)]
    assert topics.said == [law.encode()]
    assert lines == []


async def test_a_network_that_does_not_answer_costs_a_line_and_raises_nothing() -> None:
    lines: list[str] = []
    announcer = Announcer(TwinRecords(fails=True), TwinTopics(), lines.append)
    record = sign_name(CREATOR, "law", NOW, LAW)
    for say in (partial(announcer.provide, LAW), partial(announcer.put_name, record)):
        await say()
    assert len(lines) == 2
    assert all("nobody answered" in line for line in lines)


@pytest.mark.parametrize("error", [NameRefused("none took it"), StaleName("it is older", 9)])
async def test_a_name_that_others_do_not_believe_is_the_callers_to_hear(error: Exception) -> None:
    topics = TwinTopics()
    announcer = Announcer(TwinRecords(refuses=error), topics, [].append)  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        await announcer.put_name(sign_name(CREATOR, "law", NOW, LAW))
    assert topics.names_said == []


async def test_what_is_known_is_written_when_it_has_changed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    known = Known()
    path = tmp_path / "catalogue" / "known"
    known.learn(announce(tmp_path, CREATOR, "law"), "peer")
    with trio.move_on_after(61):
        await keep_saved(known, path, lambda line: None)
    after = Known()
    after.load(path)
    assert list(after) == list(known)
