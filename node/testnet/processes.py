"""Starts, watches and ends the processes of one test network.

Every process of a network, and every process that those start, carries the network's mark in its
environment. So anybody can find and end what is left of a network, without trusting process numbers
written down before. Does not know what the processes are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

MARK = "LORIKEET_TESTNET"
CHILD = Path(__file__).with_name("child.py")
POLL_S = 0.05
STOP_DEADLINE_S = 6.0  # a daemon promises five
KILL_DEADLINE_S = 2.0
TAIL_LINES = 15


class ProcessDied(Exception):
    """A process of the network ended or did not become ready; the message includes the end of its
    log.
    """


@dataclass(frozen=True)
class Child:
    """One started process; what it prints goes to `log_path`."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def is_running(self) -> bool:
        """Return whether it is still running."""
        return self.process.poll() is None

    def tail(self) -> str:
        """Return the end of what it printed."""
        lines = self.log_path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines)


@dataclass(frozen=True)
class Launcher:
    """Starts the children of one network. `outlive`: they go on when this process dies."""

    mark: str
    outlive: bool = False

    def start(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a child.

        Must run on the main thread: the kernel treats the end of the starting thread as the
        parent's end.
        """
        words = (
            list(command)
            if self.outlive
            else [sys.executable, "-S", "-E", str(CHILD), str(os.getpid()), *command]
        )
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), MARK: self.mark},
                start_new_session=True,  # Ctrl-C is for us alone: we end the children in order
            )
        return Child(name, process, log_path)


async def wait_for_line(child: Child, prefix: str, deadline_s: float) -> str:
    """Return the first line it prints that starts with `prefix`.

    Raises ProcessDied when it ends first, or after the deadline.
    """
    with trio.move_on_after(deadline_s):
        while True:
            for line in child.log_path.read_text(errors="replace").splitlines(keepends=True):
                if line.startswith(prefix) and line.endswith("\n"):
                    return line.rstrip("\n")
            if not child.is_running:
                raise ProcessDied(
                    f"{child.name} ended with status {child.process.returncode}. Its last"
                    f" lines:\n{child.tail()}"
                )
            await trio.sleep(POLL_S)
    raise ProcessDied(
        f"{child.name} did not become ready within {deadline_s:.0f} s. Its last"
        f" lines:\n{child.tail()}"
    )


async def stop(children: Sequence[Child]) -> None:
    """End them all at once: politely, then by force; also while being cancelled."""
    with trio.CancelScope(shield=True):
        for child in children:
            if child.is_running:
                child.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: not any(child.is_running for child in children), STOP_DEADLINE_S)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                # the child leads its group, and others of the group may have outlived it
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait(KILL_DEADLINE_S)


async def wait_until(condition: Callable[[], bool], deadline_s: float) -> None:
    """Wait until the condition holds or the deadline passes."""
    with trio.move_on_after(deadline_s):
        # Polled: the kernel does not tell us when processes end that are not our children.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(POLL_S)


def find_marked(mark: str) -> list[int]:
    """List the running processes that carry this network's mark."""
    wanted = f"{MARK}={mark}".encode()
    return [
        pid
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if wanted in environment_of(pid)
    ]


def environment_of(pid: int) -> list[bytes]:
    """Return a process's environment; empty when it has ended or is not ours to read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


async def end_marked(mark: str) -> int:
    """End every process that carries the mark; return how many there were."""
    found = find_marked(mark)
    for number, deadline_s in (
        (signal.SIGTERM, STOP_DEADLINE_S),
        (signal.SIGKILL, KILL_DEADLINE_S),
    ):
        for pid in find_marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        await wait_until(lambda: not find_marked(mark), deadline_s)
    return len(found)
