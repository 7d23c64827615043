"""What a node remembers of adapters and names: bounded, fair to announcers, there after a
restart; and how it is searched.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.api.adapters import SearchRequest
from node.catalogue.about import About, Announcement
from node.catalogue.known import EXPIRES_S, FRESH_S, Known
from node.catalogue.searching import rank
from p2p.cid import Cid
from p2p.errors import InvalidNameRecord
from p2p.identity import Identity
from p2p.names import MAX_AHEAD_S, sign_name

from .twins import BASE, announce

CREATOR = Identity.generate()
NOW = int(time.time())
LAW = Cid.of(b"law")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Announcement]:
    folder = tmp_path_factory.mktemp("adapters")
    return [announce(folder, CREATOR, f"adapter-{number}") for number in range(10)]


def names_of(known: Known) -> list[str]:
    return [manifest.name for _, manifest in known]


heard = st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(heard, st.integers(1, 5), st.integers(1, 5))
def test_it_stays_within_its_bounds_and_one_announcer_fills_it_never(
    adapters: list[Announcement], heard: list[tuple[int, str]], limit: int, of_announcer: int
) -> None:
    known = Known(max_known=limit, max_of_announcer=of_announcer)
    for number, announcer in heard:
        known.learn(adapters[number], announcer)
        counts = [entry.announcer for entry in known._entries.values()]
        assert len(counts) <= limit
        assert all(counts.count(one) <= of_announcer for one in "abc")
        assert known._count == {one: counts.count(one) for one in set(counts)}
        sizes = [entry.announcement.size_bytes for entry in known._entries.values()]
        assert known._bytes == sum(sizes)


def test_whoever_announces_most_makes_room_for_the_others(adapters: list[Announcement]) -> None:
    known = Known(max_known=4)
    known.learn(adapters[0], "honest")
    for announcement in adapters[1:]:
        known.learn(announcement, "flood")
    assert names_of(known) == ["adapter-0", "adapter-7", "adapter-8", "adapter-9"]


def test_bytes_are_bounded_too(adapters: list[Announcement]) -> None:
    known = Known(max_bytes=3 * max(one.size_bytes for one in adapters))
    for announcement in adapters:
        known.learn(announcement, "a")
    assert names_of(known) == ["adapter-7", "adapter-8", "adapter-9"]


def test_what_nobody_repeats_expires(adapters: list[Announcement]) -> None:
    now = float(NOW)
    known = Known(lambda: now)
    known.learn(adapters[0], "a")
    known.learn_name(sign_name(CREATOR, "law", NOW, LAW))
    now += EXPIRES_S / 2
    known.learn(adapters[1], "a")
    now += EXPIRES_S / 2 + 1
    known.expire()
    assert names_of(known) == ["adapter-1"]
    assert known.find_name(CREATOR.peer_id, "law") is None


def test_it_is_there_after_a_restart_and_what_was_changed_on_the_disk_is_not(
    tmp_path: Path, adapters: list[Announcement]
) -> None:
    path = tmp_path / "known"
    known = Known()
    for announcement in adapters[:2]:
        known.learn(announcement, "a")
    record = sign_name(CREATOR, "law@1", NOW, None)
    known.learn_name(record)
    path.write_bytes(known.encode())
    after = Known()
    after.load(path)
    assert list(after) == list(known)
    assert after.find_name(CREATOR.peer_id, "law@1") == record
    path.write_bytes(known.encode().replace(b"adapter-1", b"adapter-X"))
    changed = Known()
    changed.load(path)
    assert names_of(changed) == ["adapter-0"]
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="Expected"):
        Known().load(path)
    Known().load(tmp_path / "nothing")


def test_the_newest_record_of_a_name_wins_and_one_from_the_future_never(tmp_path: Path) -> None:
    known = Known(lambda: float(NOW))
    new = sign_name(CREATOR, "law", NOW, LAW)
    assert known.learn_name(new)
    assert not known.learn_name(sign_name(CREATOR, "law", NOW - 1, Cid.of(b"old")))
    assert not known.learn_name(new)
    with pytest.raises(InvalidNameRecord):
        known.learn_name(sign_name(CREATOR, "law", NOW + MAX_AHEAD_S + 1, LAW))
    assert known.find_name(CREATOR.peer_id, "law") == new


def test_a_record_is_fresh_for_a_while_after_it_was_heard_last() -> None:
    now = float(NOW)
    known = Known(lambda: now)
    record = sign_name(CREATOR, "law", NOW, LAW)
    known.learn_name(record)
    now += FRESH_S - 1
    assert known.find_name(CREATOR.peer_id, "law", fresh=True) == record
    known.learn_name(record)
    now += FRESH_S - 1
    assert known.find_name(CREATOR.peer_id, "law", fresh=True) == record
    now += 2
    assert known.find_name(CREATOR.peer_id, "law", fresh=True) is None
    assert known.find_name(CREATOR.peer_id, "law") == record


def test_versions_stand_in_their_order_and_a_withdrawn_one_is_known(
    adapters: list[Announcement],
) -> None:
    known = Known()
    for version in ("10", "9", "beta", "1"):
        known.learn_name(sign_name(CREATOR, f"law@{version}", NOW, LAW))
    names = [record.name for record in known.versions(CREATOR.peer_id, "law")]
    assert names == ["law@1", "law@9", "law@10", "law@beta"]
    manifest = adapters[0].manifest
    assert not known.is_withdrawn(manifest)
    name = f"{manifest.name}@{manifest.adapter_version}"
    known.learn_name(sign_name(Identity.generate(), name, NOW, None))
    assert not known.is_withdrawn(manifest)
    known.learn_name(sign_name(CREATOR, name, NOW, None))
    assert known.is_withdrawn(manifest)


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        (SearchRequest(), True),
        (SearchRequest(words=("ADAPTER", "court")), True),
        (SearchRequest(words=("adapter", "cook")), False),
        (SearchRequest(language="en"), True),
        (SearchRequest(language="EN-gb"), True),
        (SearchRequest(language="e"), False),
        (SearchRequest(language="de"), False),
        (SearchRequest(licence="cc0"), True),
        (SearchRequest(licence="MIT"), False),
        (SearchRequest(base=BASE.base.hex()[:6]), True),
        (SearchRequest(base="00"), False),
        (SearchRequest(max_size_bytes=10_000), True),
        (SearchRequest(max_size_bytes=10), False),
    ],
)
def test_a_search_matches_words_and_conditions(
    adapters: list[Announcement], query: SearchRequest, matches: bool
) -> None:
    about = About("What a Court would say.", ("en-GB", "fr"))
    assert (rank(query, adapters[0].manifest, about) is not None) is matches


def test_a_word_in_the_name_counts_more_than_one_in_the_description(
    adapters: list[Announcement],
) -> None:
    in_name = rank(SearchRequest(words=("adapter",)), adapters[0].manifest, About("court"))
    in_text = rank(SearchRequest(words=("court",)), adapters[0].manifest, About("court"))
    assert in_name is not None
    assert in_text is not None
    assert in_name > in_text
