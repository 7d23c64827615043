"""A disk that is full: the ledger says so by one name, keeps what it had, and goes on when there is
space again.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proofs.errors import LedgerConflict, LedgerError
from proofs.ledger import Ledger

PAGES = "PRAGMA max_page_count = {}"


def fill(ledger: Ledger) -> None:
    """Leave no room for another page, as a full disk does."""
    (count,) = ledger.read("PRAGMA page_count")[0]
    ledger.read(PAGES.format(count))


def make_room(ledger: Ledger) -> None:
    ledger.read(PAGES.format(2**30))


def put(ledger: Ledger, number: int, num_bytes: int = 100_000) -> None:
    with ledger.transaction():
        ledger.write("INSERT INTO kept VALUES (?, ?)", number, bytes(num_bytes))


@pytest.fixture
def ledger(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with ledger.transaction():
        ledger.write("CREATE TABLE kept (number INTEGER PRIMARY KEY, body BLOB)")
    yield ledger
    ledger.close()


def numbers(ledger: Ledger) -> list[int]:
    return [number for (number,) in ledger.read("SELECT number FROM kept ORDER BY number")]


def test_a_full_disk_is_a_ledger_error_and_loses_nothing(ledger: Ledger):
    put(ledger, 1)
    fill(ledger)
    for _ in range(3):
        with pytest.raises(LedgerError, match=r"full.*space") as refused:
            put(ledger, 2)
        assert not isinstance(refused.value, LedgerConflict)
    assert numbers(ledger) == [1]
    make_room(ledger)
    put(ledger, 2)
    assert numbers(ledger) == [1, 2]


def test_a_transaction_that_met_a_full_disk_is_undone_as_a_whole(ledger: Ledger):
    put(ledger, 1)
    fill(ledger)
    with pytest.raises(LedgerError), ledger.transaction():
        ledger.write("DELETE FROM kept WHERE number = 1")
        ledger.write("INSERT INTO kept VALUES (2, ?)", bytes(500_000))
    assert numbers(ledger) == [1]


def test_a_contradiction_keeps_its_own_name(ledger: Ledger):
    put(ledger, 1)
    with pytest.raises(LedgerConflict):
        put(ledger, 1)


def test_a_file_that_is_no_ledger_or_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "text").write_text("not a database, only text that is longer than a header" * 10)
    with pytest.raises(LedgerError):
        Ledger(tmp_path / "text")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "missing" / "ledger.sqlite")


def test_the_ledger_is_private_with_all_its_files(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    path.touch(mode=0o644)
    ledger = Ledger(path)
    with ledger.transaction():
        ledger.write("CREATE TABLE kept (number INTEGER)")
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    ledger.close()
