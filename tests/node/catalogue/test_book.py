"""The names that were published here: what is newest stays newest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.catalogue.book import NameBook
from p2p.cid import Cid
from p2p.identity import Identity
from p2p.names import MAX_AHEAD_S

CREATOR = Identity.from_secret(bytes(range(1, 33)))
NOW = 1_800_000_000


def open_book(folder: Path, now: float, lines: list[str] | None = None) -> NameBook:
    return NameBook(folder, [].append if lines is None else lines.append, lambda: now)


@given(clocks=st.lists(st.integers(-MAX_AHEAD_S, MAX_AHEAD_S), min_size=1, max_size=6))
def test_each_push_wins_against_the_last_whatever_the_clock_says(
    tmp_path_factory: pytest.TempPathFactory, clocks: list[int]
) -> None:
    """Every push after a restart, and with a clock that runs ahead or back within what is
    believed.
    """
    folder = tmp_path_factory.mktemp("names")
    last = -1
    for number, clock in enumerate(clocks):
        book = open_book(folder, NOW + clock / 2)
        record = book.sign(CREATOR, "law", Cid.of(b"%d" % number))
        assert record.sequence > last
        last = record.sequence
    after = open_book(folder, NOW)
    assert after.records() == [record]


def test_a_clock_that_ran_wild_ends_no_name(tmp_path: Path) -> None:
    wild = open_book(tmp_path, NOW + 10 * MAX_AHEAD_S).sign(CREATOR, "law", Cid.of(b"a"))
    assert wild.sequence == NOW + 10 * MAX_AHEAD_S
    mended = open_book(tmp_path, NOW)
    assert mended.sign(CREATOR, "law", Cid.of(b"b")).sequence == NOW
    assert mended.sign(CREATOR, "law", Cid.of(b"c")).sequence == NOW + 1


def test_what_another_node_of_the_same_key_signed_counts(tmp_path: Path) -> None:
    book = open_book(tmp_path / "here", NOW)
    elsewhere = open_book(tmp_path / "there", NOW + 500).sign(CREATOR, "law", Cid.of(b"b"))
    mine = book.sign(CREATOR, "law", Cid.of(b"a"))
    book.adopt(elsewhere)
    assert book.find(CREATOR.peer_id, "law") == elsewhere
    book.adopt(mine)
    assert open_book(tmp_path / "here", NOW).records() == [elsewhere]
    above = book.sign(CREATOR, "law", Cid.of(b"a"), above=NOW + 700)
    assert above.sequence == NOW + 701


def test_a_file_that_is_no_record_costs_a_line_and_no_other_name(tmp_path: Path) -> None:
    open_book(tmp_path, NOW).sign(CREATOR, "law", Cid.of(b"a"))
    open_book(tmp_path, NOW).sign(CREATOR, "law@1", None)
    (tmp_path / CREATOR.peer_id / "law.record").write_bytes(b"torn")
    lines: list[str] = []
    book = open_book(tmp_path, NOW, lines)
    assert [(record.name, record.target) for record in book.records()] == [("law@1", None)]
    assert len(lines) == 1
    assert "publish again" in lines[0]
