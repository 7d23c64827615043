"""What a run's folder must hold, and how the command says that it does not."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from factory.errors import BadRun, Busy
from factory.influence.folder import read_run
from factory.keeping import held, keep

from . import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.make_run(tmp_path / "run", tmp_path / "base")


def spoil(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        array = np.load(folder / name)
        changed = change(array)
        np.save(folder / name, array if changed is None else np.asarray(changed))

    return act


def put(place: tuple[int | slice, ...], value: int) -> Callable[[np.ndarray], None]:
    def act(array: np.ndarray) -> None:
        array[place] = value

    return act


def line(text: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        with (folder / "run.toml").open("a") as file:
            file.write(text + "\n")

    return act


def unlearnt(folder: Path) -> None:
    spoil("rows.npy", put((0, slice(6, None)), -1))(folder)
    spoil("starts.npy", put((0,), 6))(folder)


FAULTS = {
    "no rows": ("rows.npy", lambda folder: (folder / "rows.npy").unlink()),
    "no array": ("rows.npy", lambda folder: (folder / "rows.npy").write_bytes(b"rows")),
    "a pickle": (
        "order.npy",
        lambda folder: np.save(folder / "order.npy", np.array([None]), allow_pickle=True),
    ),
    "another type": ("int32", spoil("owners.npy", lambda a: a.astype(np.int64))),
    "a hole in a row": ("rows.npy", spoil("rows.npy", put((0, 5), -1))),
    "an owner too many": ("owners.npy", spoil("owners.npy", put((0,), 4))),
    "nobody's rows": ("owners.npy", spoil("owners.npy", lambda a: np.zeros_like(a))),
    "a row that is not there": ("order.npy", spoil("order.npy", put((0, 0), 16))),
    "an empty step": ("order.npy", spoil("order.npy", put((0,), -1))),
    "a start beyond the row": ("starts.npy", spoil("starts.npy", put((0,), 12))),
    "nothing to learn in a row": ("starts.npy", unlearnt),
    "a name that moves the cursor": (
        "contributors",
        lambda folder: (folder / "run.toml").write_text(
            (folder / "run.toml").read_text().replace("Karim", "Karim\\u001b[2J")
        ),
    ),
    "an unknown value": ("colour", line("colour = 3")),
    "a value out of bounds": ("temperature", line("temperature = 0.0")),
    "broken TOML": ("run.toml", line("= =")),
    "no prompts": ("prompts.json", lambda folder: (folder / "prompts.json").write_text("[]")),
    "a prompt of a stranger": (
        "prompts.json",
        lambda folder: (folder / "prompts.json").write_text('[{"ids": [1], "owner": 9}]'),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_is_refused_by_the_name_of_its_file(
    folder: Path, fault: str
) -> None:
    read_run(folder)
    named, act = FAULTS[fault]
    act(folder)
    with pytest.raises(BadRun, match=named):
        read_run(folder)


def test_the_command_refuses_a_bad_folder_at_once_and_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "factory.influence", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("BadRun: ")
    assert "run.toml" in done.stderr


def test_a_second_process_does_not_touch_a_run_that_is_at_work(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another process"), held(lock):
            pass
    with held(lock):
        pass


def test_a_file_is_whole_or_as_it_was_when_its_writer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result"
    keep(path, b"first")

    def no_room(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        keep(path, b"second")
    assert path.read_bytes() == b"first"
    monkeypatch.undo()
    keep(path, b"third")
    assert path.read_bytes() == b"third"
