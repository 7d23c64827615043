"""Runs one child process with limits, and sees to it that nothing outlives the call.

The parent's side; `worker.py` is the child's. Decides how a child ended, not what it found.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import Broken, Stopped

MAX_RESULT_BYTES = 128 << 20
"""Of the checks: 16 MiB of text and what was found; of a trace, ten bytes for each word."""
LOOK_S = 0.1
"""How often the caller's wish to stop is looked at, and how far the child is."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Limits:
    """What one child may take."""

    memory_bytes: int
    cpu_s: int
    wall_s: float
    output_bytes: int


PARSING = Limits(memory_bytes=1 << 30, cpu_s=20, wall_s=40.0, output_bytes=20 << 20)
"""For one file of a stranger's. The output is 16 MiB of text and what stands around it."""


def checking(num_bytes: int) -> Limits:
    """Return what the checks of so much clean text may take: about four times what an honest one
    needs, since some patterns can be made slow; and five times that by the wall's clock, since the
    code is ours and only the machine can keep it waiting.
    """
    cpu_s = 20 + 6 * num_bytes // (1 << 20)
    return Limits(
        memory_bytes=3 << 30,
        cpu_s=cpu_s,
        wall_s=5.0 * cpu_s,
        output_bytes=MAX_RESULT_BYTES,
    )


def run_child(
    task: str,
    folder: Path,
    limits: Limits,
    stop: threading.Event | None,
    look: Callable[[], None] | None = None,
) -> str | None:
    """Have a child do `task` in `folder`, where it finds its job and leaves its result.

    Returns None when it ended well, else the code of what went wrong: time, memory, room (on the
    disk) or crashed. `look` is called now and then meanwhile. Raises Stopped. However this ends,
    the child and what it started are gone.
    """
    command = [sys.executable, "-P", "-m", "factory.intake.worker", task]
    numbers = (limits.memory_bytes, limits.cpu_s, limits.output_bytes)
    deadline = time.monotonic() + limits.wall_s
    with (folder / "errors.txt").open("wb") as errors:
        child = subprocess.Popen(
            [*command, *map(str, numbers)],
            cwd=folder,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            status = _wait(child, deadline, stop, look)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return _read_status(status)


def _wait(
    child: subprocess.Popen[bytes],
    deadline: float,
    stop: threading.Event | None,
    look: Callable[[], None] | None,
) -> int | None:
    """The child's status, or None when the deadline passed."""
    while True:
        if stop is not None and stop.is_set():
            raise Stopped("intake was stopped; nothing was taken")
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        if look is not None:
            look()
        with suppress(subprocess.TimeoutExpired):
            return child.wait(min(left, LOOK_S))


def _read_status(status: int | None) -> str | None:
    if status == 0:
        return None
    if status is None or status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "time"
    return {NO_MEMORY: "memory", NO_ROOM: "room"}.get(status, "crashed")


def child_environment() -> dict[str, str]:
    """Nothing of the daemon's environment but how to find Python's modules."""
    there = os.environ.get("PYTHONPATH", "")
    return {
        "PYTHONPATH": os.pathsep.join(part for part in (str(ROOT), there) if part),
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def read_result(path: Path, max_bytes: int) -> bytes:
    """What a child left. Raises Broken when that is nothing or too much."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise Broken(f"the child's answer has {size} bytes; at most {max_bytes} are allowed")
        return path.read_bytes()
    except OSError as error:
        raise Broken(f"the child left no answer ({error}); try again") from error


NO_MEMORY = 3
NO_ROOM = 4
"""The child's exit status when it ran out of memory, or out of room on the disk."""
