"""What a training says of itself while it runs, and what is read of it from outside.

    status.json      what it does, or how it ended; always there whole
    progress.jsonl   a line for each step; what a resumed run makes anew is cut off first

A run is at work exactly while its lock is held: a process that was killed cannot lie about that. A
few bytes are kept in reserve, so that a run can say that the disk is full.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Literal

import msgspec

from ..errors import BadRun
from ..keeping import is_held, keep

LOCK_FILE = "lock"
ASKED_FILE = "asked"
STATUS_FILE = "status.json"
PROGRESS_FILE = "progress.jsonl"
RESERVE_FILE = "reserve"
RESERVE_BYTES = 64 * 1024
MAX_STATUS_BYTES = 64 * 1024
MAX_PROGRESS_BYTES = 256 << 20

Asked = Literal["pause", "finish"] | None
State = Literal["new", "working", "paused", "stopped", "finished", "failed"]


class Status(msgspec.Struct, frozen=True):
    """What a run does, or how it ended.

    new: nothing was begun. working: a process is at it. paused: it was asked to pause, or the disk
    was full. stopped: its process is gone without a word; start it again and it goes on. finished:
    the adapter is there, and `adapter` is its digest (folder.py). failed: it cannot go on as it is.
    `why` says it in a sentence, with the mend.
    """

    state: State
    why: str = ""
    pid: int | None = None
    adapter: str = ""


class Step(msgspec.Struct, frozen=True):
    """One line of progress: the step (from 1), its loss in nats a token, tokens that were learnt
    from, seconds that it took, and after a look what is held out loses.
    """

    step: int
    loss: float
    rate: float
    tokens: int
    seconds: float
    held_out: float | None = None


class Journal:
    """What the process at work writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: IO[bytes] | None = None

    def begin(self, step: int) -> None:
        """Go on after `step` steps: drop the lines of later ones."""
        path = self.folder / PROGRESS_FILE
        kept = b"".join(
            msgspec.json.encode(line) + b"\n"
            for line in read_steps(self.folder)
            if line.step <= step
        )
        self.close()
        keep(path, kept)
        self._lines = path.open("ab")
        reserve = self.folder / RESERVE_FILE
        if not reserve.exists():
            keep(reserve, bytes(RESERVE_BYTES))

    def note(self, step: Step) -> None:
        """Write a step's line. OSError where the disk is full."""
        assert self._lines is not None, "begin first"
        self._lines.write(msgspec.json.encode(step) + b"\n")
        self._lines.flush()

    def say(self, status: Status) -> None:
        """Write what the run does; by the reserve where the disk is full."""
        data = msgspec.json.encode(status)
        try:
            keep(self.folder / STATUS_FILE, data)
        except OSError:
            (self.folder / RESERVE_FILE).unlink(missing_ok=True)
            keep(self.folder / STATUS_FILE, data)

    def close(self) -> None:
        """Write no more."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None


def renew(folder: Path) -> None:
    """Forget how a run ended, because a process is about to begin."""
    keep(folder / STATUS_FILE, msgspec.json.encode(Status("new")))


def read_status(folder: Path) -> Status:
    """Return what a run does now; raises BadRun."""
    path = folder / STATUS_FILE
    try:
        with path.open("rb") as file:
            status = msgspec.json.decode(file.read(MAX_STATUS_BYTES), type=Status)
    except FileNotFoundError:
        status = Status("new")
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise BadRun(f"{path}: {error}; delete it, and start the run again") from error
    if is_at_work(folder):
        return msgspec.structs.replace(status, state="working")
    if status.state == "working":
        why = "its process is gone (killed, or out of memory); start it again and it goes on"
        return msgspec.structs.replace(status, state="stopped", why=why, pid=None)
    return status


def is_at_work(folder: Path) -> bool:
    """Whether a process works on a run."""
    return is_held(folder / LOCK_FILE)


def ask(folder: Path, wanted: Literal["pause", "finish"]) -> None:
    """Ask the process at work for something; it sees it before its next step."""
    keep(folder / ASKED_FILE, wanted.encode())


def asked_of(folder: Path) -> Asked:
    """Return what was asked of the process at work."""
    try:
        found = (folder / ASKED_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return "finish" if found == b"finish" else "pause"


def read_steps(folder: Path, after: int = 0) -> list[Step]:
    """Return the steps that were noted, in order, later than `after`; a broken end is left out."""
    try:
        with (folder / PROGRESS_FILE).open("rb") as file:
            data = file.read(MAX_PROGRESS_BYTES)
    except FileNotFoundError:
        return []
    steps: list[Step] = []
    for line in data.split(b"\n")[:-1]:
        try:
            found = msgspec.json.decode(line, type=Step)
        except msgspec.DecodeError:
            break
        if found.step > after:
            steps.append(found)
    return steps
