from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from node.testnet.processes import (
    Launcher,
    ProcessDied,
    end_marked,
    find_marked,
    stop,
    wait_for_line,
    wait_until,
)
from tests.processes import ending

MARK = f"test-{os.getpid()}"
SLEEPER = [sys.executable, "-c", "import time; print('ready 1', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    (
        "import signal,time; signal.signal(15, signal.SIG_IGN); print('ready 2', flush=True);"
        " time.sleep(60)"
    ),
]
WITH_CHILD = [
    sys.executable,
    "-c",
    (
        "import subprocess,sys,time; subprocess.Popen([sys.executable,'-c','import time;"
        " time.sleep(60)']); print('ready 3', flush=True); time.sleep(60)"
    ),
]
PARENT = """
import os, sys, time
from pathlib import Path
from node.testnet.processes import Launcher
command = [sys.executable, "-c", "import time; time.sleep(60)"]
child = Launcher(sys.argv[1]).start("sleeper", command, Path(sys.argv[2]))
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    left = find_marked(MARK)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


async def until_gone(mark: str) -> None:
    await wait_until(lambda: not find_marked(mark), 60)
    assert find_marked(mark) == []


async def test_stop_ends_polite_and_stubborn_processes_and_their_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.testnet.processes.STOP_DEADLINE_S", 0.5)
    launcher = Launcher(MARK)
    children = [
        launcher.start(str(index), command, tmp_path / str(index))
        for index, command in enumerate((SLEEPER, STUBBORN, WITH_CHILD))
    ]
    for index, child in enumerate(children):
        assert await wait_for_line(child, "ready", 20) == f"ready {index + 1}"
    assert len(find_marked(MARK)) == 4
    await stop(children)
    await until_gone(MARK)


async def test_a_child_that_dies_early_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Launcher(MARK).start(
        "liar",
        [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"],
        tmp_path / "log",
    )
    with pytest.raises(ProcessDied, match=r"(?s)liar ended with status 3.*no such model"):
        await wait_for_line(child, "ready", 20)


async def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    child = Launcher(MARK).start("mute", ["sleep", "60"], tmp_path / "log")
    with pytest.raises(ProcessDied, match="did not become ready"):
        await wait_for_line(child, "ready", 0.2)
    await stop([child])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_children_die_with_a_parent_that_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    mark = f"{MARK}-killed"
    command = [sys.executable, "-c", PARENT, mark, str(tmp_path / "log")]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE)) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        assert await trio.to_thread.run_sync(parent.stdout.readline) == b"started\n"
        assert len(find_marked(mark)) == 1
        parent.send_signal(number)
        await until_gone(mark)


async def test_a_kept_network_outlives_its_parent_until_it_is_ended(tmp_path: Path) -> None:
    source = PARENT.replace("Launcher(sys.argv[1])", "Launcher(sys.argv[1], outlive=True)")
    mark = f"{MARK}-kept"
    command = [sys.executable, "-c", source, mark, str(tmp_path / "log")]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE)) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        await trio.to_thread.run_sync(parent.stdout.readline)
    assert len(find_marked(mark)) == 1
    assert await end_marked(mark) == 1
    assert find_marked(mark) == []
