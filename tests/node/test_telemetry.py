"""Telling the operator never fails, never grows without end, and strangers cannot flood it."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

import pytest
import trio

from node.survive import survive
from node.telemetry import (
    MAX_LINES_ABOUT_PEERS,
    MAX_LINES_KEPT,
    MAX_LINES_PER_PEER,
    PEER_WINDOW_S,
    TROUBLE_AGAIN_S,
    Telemetry,
)
from proofs.chain.errors import ChainUnreachable
from proofs.errors import LedgerError


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class FullStream(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    telemetry = Telemetry(tmp_path / "log", stream=FullStream())
    telemetry.log("before")

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        telemetry.log("lost")
        telemetry.reject("message", "peer", "lost too")
    telemetry.log("after")
    telemetry.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["before", "after"]
    assert telemetry.counters["log_lines_lost"] == 2 + 4


def test_a_log_in_a_folder_that_went_away_costs_lines_and_nothing_else(tmp_path: Path):
    telemetry = Telemetry(tmp_path / "gone" / "log", stream=io.StringIO())
    telemetry.log("lost")
    (tmp_path / "gone").mkdir()
    telemetry.log("kept")
    telemetry.close()
    assert (tmp_path / "gone" / "log").read_text().endswith("kept\n")


def test_the_log_is_private_and_turns_over(tmp_path: Path):
    telemetry = Telemetry(tmp_path / "log", stream=io.StringIO(), max_log_bytes=1000)
    for number in range(200):
        telemetry.log(f"line {number}")
    telemetry.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert max(sizes) <= 1000
    assert (tmp_path / "log").read_text().endswith("line 199\n")
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_one_stranger_cannot_flood_the_log_and_what_was_left_out_is_said():
    clock = Clock()
    told = io.StringIO()
    telemetry = Telemetry(stream=told, clock=clock)
    for _ in range(500):
        telemetry.reject("message", "noisy peer", "nonsense")
    telemetry.reject("message", "quiet peer", "once")
    lines = told.getvalue().splitlines()
    assert len(lines) == MAX_LINES_PER_PEER + 1
    assert telemetry.counters["messages_rejected"] == 501
    clock.now += PEER_WINDOW_S
    telemetry.reject("message", "noisy peer", "nonsense")
    assert "480 more lines" in told.getvalue()


def test_many_strangers_together_cannot_flood_it_either():
    told = io.StringIO()
    telemetry = Telemetry(stream=told, clock=Clock())
    for number in range(5000):
        telemetry.reject("message", f"peer {number}", f"reason {number}")
    assert len(told.getvalue().splitlines()) == MAX_LINES_ABOUT_PEERS
    telemetry.log("our own lines are told")
    assert "our own lines" in told.getvalue()
    assert len(telemetry._windows) < 2000
    assert len(telemetry.counters) < 2000, "reasons are strangers' words"


def test_a_trouble_is_told_when_it_comes_changes_lasts_and_goes():
    clock = Clock()
    told = io.StringIO()
    telemetry = Telemetry(stream=told, clock=clock)

    def fail(error: Exception | None) -> None:
        with survive(telemetry, "claims"):
            if error is not None:
                raise error

    for _ in range(50):
        fail(ChainUnreachable("nobody answers"))
    assert len(told.getvalue().splitlines()) == 1
    assert "nobody answers" in telemetry.troubles["claims"]
    fail(LedgerError("the disk is full"))
    assert len(told.getvalue().splitlines()) == 2
    clock.now += TROUBLE_AGAIN_S
    fail(LedgerError("the disk is full"))
    assert len(told.getvalue().splitlines()) == 3
    fail(None)
    fail(None)
    assert told.getvalue().splitlines()[-1].endswith("claims: works again")
    assert len(told.getvalue().splitlines()) == 4
    assert telemetry.troubles == {}


@pytest.mark.parametrize(
    "error",
    [ChainUnreachable("x"), LedgerError("x"), OSError(errno.ENOSPC, "x"), trio.TooSlowError()],
)
def test_what_the_world_refuses_ends_no_task_and_our_own_bugs_do(error: Exception):
    telemetry = Telemetry(stream=io.StringIO())
    with survive(telemetry, "part"):
        raise error
    assert "part" in telemetry.troubles
    with pytest.raises(AssertionError), survive(telemetry, "part"):
        raise AssertionError("ours")


def test_the_latest_lines_can_be_looked_at_without_a_file() -> None:
    telemetry = Telemetry(stream=io.StringIO())
    assert telemetry.latest() == (0, ())
    for number in range(MAX_LINES_KEPT + 5):
        telemetry.log(f"line {number}")
    first, lines = telemetry.latest()
    assert (first, len(lines)) == (5, MAX_LINES_KEPT)
    assert lines[0].endswith(" line 5")
    assert lines[-1].endswith(f" line {MAX_LINES_KEPT + 4}")
