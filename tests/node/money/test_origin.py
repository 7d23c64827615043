"""A home belongs to one chain; another one, or one that was started anew, is told at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from node.errors import ConfigError
from node.money.origin import Origin, check_same_chain
from proofs.errors import LedgerError

FIRST = Origin(31337, "0x11", 2, "0xaa")


def test_the_first_chain_is_remembered_and_no_other_taken(tmp_path: Path):
    path = tmp_path / "chain.json"
    check_same_chain(path, FIRST)
    check_same_chain(path, FIRST)
    anew = msgspec.structs.replace(FIRST, first_hash="0xbb")
    with pytest.raises(ConfigError, match=r"started anew.*new --home"):
        check_same_chain(path, anew)
    elsewhere = msgspec.structs.replace(FIRST, settlement="0x22")
    with pytest.raises(ConfigError, match="belongs to the settlement contract 0x11"):
        check_same_chain(path, elsewhere)
    path.unlink()
    check_same_chain(path, anew)


def test_a_broken_note_is_named(tmp_path: Path):
    (tmp_path / "chain.json").write_text("{")
    with pytest.raises(ConfigError, match=r"chain\.json is broken"):
        check_same_chain(tmp_path / "chain.json", FIRST)


def test_a_full_disk_leaves_no_half_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "chain.json"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(LedgerError, match=r"chain\.json was not written: No space"):
            check_same_chain(path, FIRST)
    assert list(tmp_path.iterdir()) == []
    check_same_chain(path, FIRST)
    check_same_chain(path, FIRST)
