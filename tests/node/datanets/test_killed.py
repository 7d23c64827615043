"""Killed, or with a full disk, at each write of a datanet: what was accepted is there, nothing
half-written is shown, and the next start goes on.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from factory.intake import Examined

from .dying import FILLING, Fuse, Life, in_a_fork, look_once
from .people import write_text

ROWS = ("claim", "contribution", "verdict", "version", "withdrawal")
"""What is appended to the log, each by one pwrite; its charter is a file of its own."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "fish.txt", 1, paragraphs=3)


@pytest.fixture(scope="module")
def examined(text: Path) -> Examined:
    return look_once(text)


def lives(home: Path, text: Path, examined: Examined, fuse: Fuse) -> bool:
    """Live until the fuse burns, and once more; False where it never did."""
    first = in_a_fork(Life(home, text, examined, fuse).live)
    assert first in (0, -signal.SIGKILL)
    life = Life(home, text, examined)
    assert in_a_fork(life.live) == 0
    assert set(life.told) <= {"created", "given", "accepted", "version", "withdrawn"}
    return first != 0


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=() if row == "contribution" else pytest.mark.slow) for row in ROWS],
)
def test_killed_in_the_middle_of_a_row_the_next_start_goes_on(
    row: str, tmp_path: Path, text: Path, examined: Examined
) -> None:
    fuse = Fuse(tmp_path / "home" / "datanets", ROWS.index(row) + 1, "pwrite")
    assert lives(tmp_path / "home", text, examined, fuse)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=() if row == "version" else pytest.mark.slow) for row in ROWS],
)
def test_a_disk_that_is_full_at_a_row_refuses_it_and_takes_it_when_there_is_room(
    row: str, tmp_path: Path, text: Path, examined: Examined
) -> None:
    fuse = Fuse(tmp_path / "home" / "datanets", ROWS.index(row) + 1, "pwrite", is_full=True)
    assert not lives(tmp_path / "home", text, examined, fuse)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("is_full", [False, True], ids=["killed", "full"])
def test_at_each_write_of_a_datanet(
    is_full: bool, tmp_path: Path, text: Path, examined: Examined
) -> None:
    num = 0
    for at in range(1, 400):
        home = tmp_path / str(at) / "home"
        home.parent.mkdir()
        fuse = Fuse(home / "datanets", at, is_full=is_full)
        marker = home.parent / "burnt"

        def live(home: Path = home, fuse: Fuse = fuse, marker: Path = marker) -> None:
            Life(home, text, examined, fuse).live()
            if fuse.burnt:
                marker.touch()

        first = in_a_fork(live)
        assert first in (0, -signal.SIGKILL), f"at write {at}"
        assert in_a_fork(Life(home, text, examined).live) == 0, f"after write {at}"
        if first == 0 and not marker.exists():
            break
        num += 1
    assert num > 5 * len(FILLING)
