"""What is heard of adapters, and what is said."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st

from node.catalogue.announcements import Announcer, Known, run_announcements
from node.telemetry import Telemetry
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.gossip import Verdict
from p2p.identity import Identity

from .twins import TwinRecords, TwinTopics, put_adapter

CREATOR = Identity.generate()


def manifest_bytes(tmp_path: Path, name: str) -> bytes:
    store = BlockStore(tmp_path / "blocks")
    cid, _ = put_adapter(store, CREATOR, name)
    data = store.get(cid)
    assert data is not None
    return data


async def test_what_a_creator_signed_is_forwarded_and_remembered(tmp_path: Path) -> None:
    topics = TwinTopics()
    known = Known()
    telemetry = Telemetry(stream=io.StringIO())
    law = manifest_bytes(tmp_path, "law")
    async with trio.open_nursery() as nursery:
        await nursery.start(run_announcements, topics, known, telemetry)
        assert topics.bring(law, "peer") is Verdict.ACCEPT
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [(cid, manifest.name) for cid, manifest in known] == [(Cid.of(law), "law")]
    assert telemetry.counters == {"announcements_heard": 1}


async def test_what_nobody_signed_is_rejected_and_named(tmp_path: Path) -> None:
    topics = TwinTopics()
    known = Known()
    telemetry = Telemetry(stream=io.StringIO())
    law = bytearray(manifest_bytes(tmp_path, "law"))
    law[-1] ^= 1
    async with trio.open_nursery() as nursery:
        await nursery.start(run_announcements, topics, known, telemetry)
        assert topics.bring(bytes(law), "a peer") is Verdict.REJECT
        assert topics.bring(b"garbage", "a peer") is Verdict.REJECT
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert list(known) == []
    assert [one.what for one in telemetry.rejections] == ["announcement"] * 2


async def test_a_daemon_without_adapters_forwards_all_the_same(tmp_path: Path) -> None:
    topics = TwinTopics()
    telemetry = Telemetry(stream=io.StringIO())
    async with trio.open_nursery() as nursery:
        await nursery.start(run_announcements, topics, None, telemetry)
        assert topics.bring(manifest_bytes(tmp_path, "law"), "peer") is Verdict.ACCEPT
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert telemetry.counters == {"announcements_heard": 1}


@given(heard=st.lists(st.integers(0, 9), max_size=40), limit=st.integers(1, 5))
def test_the_latest_heard_of_are_remembered(heard: list[int], limit: int) -> None:
    known = Known(limit)
    for number in heard:
        known.learn(Cid.of(bytes([number])), None)  # type: ignore[arg-type]  # any value will do
    latest = list(dict.fromkeys(reversed(heard)))[:limit]
    assert [cid for cid, _ in known] == [Cid.of(bytes([number])) for number in reversed(latest)]


async def test_what_is_said_reaches_the_network() -> None:
    records = TwinRecords()
    topics = TwinTopics()
    lines: list[str] = []
    announcer = Announcer(records, topics, lines.append)
    law = Cid.of(b"law")
    await announcer.provide(law)
    await announcer.put_name(CREATOR, "law", law)
    await announcer.announce(b"manifest")
    assert records.provided == [law]
    assert records.names[CREATOR.peer_id, "law"].target == law
    assert records.names[CREATOR.peer_id, "law"].sequence > 1_700_000_000
    assert topics.said == [b"manifest"]
    assert lines == []


async def test_a_network_that_does_not_answer_costs_a_line_and_raises_nothing() -> None:
    lines: list[str] = []
    announcer = Announcer(TwinRecords(fails=True), TwinTopics(), lines.append)
    law = Cid.of(b"law")
    for say in (partial(announcer.provide, law), partial(announcer.put_name, CREATOR, "law", law)):
        await say()
    assert len(lines) == 2
    assert all("nobody answered" in line for line in lines)
