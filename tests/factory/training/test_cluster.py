"""Trainings by the processes of Ray, which the Python that RAY_PYTHON names has (scripts/ray)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factory.keeping import held
from factory.training import cluster
from factory.training.journal import LOCK_FILE, ask, read_status, read_steps

from . import tiny

DEADLINE_S = 400.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return tiny.make_run(tmp_path / "run", base)


@pytest.fixture(scope="module")
def together(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on which two processes worked that torchrun began."""
    run = tiny.make_run(tmp_path_factory.mktemp("together") / "run", base)
    assert tiny.launch(run).wait(120) == 0
    return run


def begin(run: Path) -> subprocess.Popen[bytes]:
    command = [os.environ["RAY_PYTHON"], "-m", "factory.training.cluster", str(run)]
    return subprocess.Popen([*command, "--processes", "2", "--cpu"])


def act(monkeypatch: pytest.MonkeyPatch, run: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["cluster", str(run), "--processes", "2"])
    return cluster.main()


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_processes_of_ray_pause_go_on_and_end_with_the_bits_of_two_of_torchrun(
    run: Path, together: Path
) -> None:
    process = begin(run)
    tiny.until_step(run, 3, seconds=DEADLINE_S)
    ask(run, "pause")
    assert process.wait(DEADLINE_S) == 3
    assert read_status(run).state == "paused"
    assert begin(run).wait(DEADLINE_S) == 0
    assert read_status(run).state == "finished"
    assert tiny.weights(run) == tiny.weights(together)
    assert read_steps(run)[0].loss == read_steps(together)[0].loss


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_when_a_process_is_lost_all_begin_again_from_the_newest_checkpoint(
    run: Path, together: Path
) -> None:
    process = begin(run)
    tiny.until_step(run, 27, seconds=DEADLINE_S)
    pid = read_status(run).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert process.wait(DEADLINE_S) == 0
    assert tiny.weights(run) == tiny.weights(together)


def test_without_ray_it_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert act(monkeypatch, run) == 2
    assert "pip install 'lorikeet[ray]'" in capsys.readouterr().err


def test_a_run_that_is_none_and_one_at_work_are_refused_before_ray_begins(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(run / LOCK_FILE):
        assert act(monkeypatch, run) == 2
    assert "another process works on this run" in capsys.readouterr().err
    (run / "run.json").unlink()
    assert act(monkeypatch, run) == 2
    assert "run.json" in capsys.readouterr().err
