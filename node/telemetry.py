"""What a daemon tells its operator: log lines a human can read, counters, the last rejections, and
what is wrong now.

Decides nothing; holds no global state. Telling never fails: a full disk costs lines, not the
daemon, and strangers cannot fill it.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .distributions import Answered, Answers, Spread
from .tracing import MAX_FILE_BYTES, Traces

MAX_REJECTIONS = 64
MAX_LINE_CHARS = 2000
MAX_LINES_KEPT = 300
"""How many of the latest lines can be looked at without the file."""
MAX_LOG_BYTES = 16 * 1024 * 1024
"""How large <home>/log grows before it becomes log.1, which it replaces."""
PEER_WINDOW_S = 60.0
MAX_LINES_PER_PEER = 20
MAX_LINES_ABOUT_PEERS = 200
"""How many lines one peer, and all together, may cause in a window."""
MAX_PEERS = 1024
TROUBLE_AGAIN_S = 600.0
TRACES_FILE = "traces"
"""Beside the log."""
MAX_COUNTED_REASONS = 512


@dataclass(frozen=True)
class Rejection:
    """A false claim by a peer.

    `what` is "receipt" | "block" | "announcement" | "answer".
    """

    what: str
    peer_id: str
    reason: str
    at: float


@dataclass
class _Window:
    """How many lines were caused since when."""

    began: float
    lines: int = 0
    withheld: int = 0


@dataclass
class _Trouble:
    """What is wrong with one part, and when it was last told."""

    reason: str
    told: float


class LogFile:
    """A file of lines that is private, bounded, and never raises."""

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._size_bytes = 0
        self.is_closed = False

    def write(self, line: bytes) -> bool:
        """Add a line; False when the disk does not take it, or not all of it."""
        try:
            if self._descriptor is None:
                self._open()
            elif self._size_bytes + len(line) > self._max_bytes:
                self._rotate()
            assert self._descriptor is not None
            written = os.write(self._descriptor, line)
        except OSError:
            return False
        self._size_bytes += written
        return written == len(line)

    def close(self) -> None:
        """Close the file; what is written afterwards is dropped."""
        self.is_closed = True
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        os.fchmod(self._descriptor, 0o600)
        self._size_bytes = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None
        self._open()


class Telemetry:
    """The counters and log of one daemon; owned by `app`, handed to whatever has something to
    report.
    """

    def __init__(
        self,
        log_path: Path | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.time,
        max_log_bytes: int = MAX_LOG_BYTES,
    ) -> None:
        self._counters: Counter[str] = Counter()
        self._answers = Answers()
        self._rejections: deque[Rejection] = deque(maxlen=MAX_REJECTIONS)
        self._troubles: dict[str, _Trouble] = {}
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._strangers = _Window(clock())
        self._clock = clock
        self._stream = sys.stderr if stream is None else stream
        self._latest: deque[str] = deque(maxlen=MAX_LINES_KEPT)
        self._written = 0
        self._file = LogFile(log_path, max_log_bytes) if log_path else None
        self._trace_file: LogFile | None = None
        self.traces = Traces()
        """What became of the latest requests."""
        if log_path is not None:
            self._trace_file = LogFile(log_path.with_name(TRACES_FILE), MAX_FILE_BYTES)
            self.traces = Traces(self._trace_file.write)
            self.traces.load(log_path.with_name(TRACES_FILE))

    def log(self, line: str, *, peer: str = "") -> None:
        """One line, with the time before it, to <home>/log and stderr.

        `peer` is whose doing it is: one peer gets so many lines a minute, all together some more.
        """
        if peer and not self._may_tell(peer):
            return
        self._write(line)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter; counters only grow."""
        self._counters[name] += amount

    def answered(self, answer: Answered) -> None:
        """Count one whole answer by how long it took and how many tokens it has."""
        self._answers.note(answer)

    def reject(self, what: str, peer_id: str, reason: str) -> None:
        """Record a false claim: count it by kind and by reason, and remember who made it and why it
        is false.
        """
        self.count(f"{what}s_rejected")
        by_reason = f"{what}s_rejected:{reason.split(':')[0][:40]}"
        if by_reason in self._counters or len(self._counters) < MAX_COUNTED_REASONS:
            self.count(by_reason)
        reason = reason[:MAX_LINE_CHARS]
        self._rejections.append(Rejection(what, peer_id, reason, self._clock()))
        self.log(f"rejected {what} from {peer_id[-8:]}: {reason}", peer=peer_id)

    def trouble(self, part: str, reason: str) -> None:
        """Something is wrong with one part of this daemon and is tried again: told at once, when it
        changes, and every ten minutes.
        """
        now = self._clock()
        known = self._troubles.get(part)
        if known is None or known.reason != reason or now - known.told >= TROUBLE_AGAIN_S:
            self._troubles[part] = _Trouble(reason, now)
            self._write(f"{part}: {reason}")

    def clear(self, part: str) -> None:
        """It is well again."""
        if self._troubles.pop(part, None) is not None:
            self._write(f"{part}: works again")

    @property
    def troubles(self) -> Mapping[str, str]:
        """What is wrong now, by part."""
        return {part: trouble.reason for part, trouble in self._troubles.items()}

    @property
    def counters(self) -> Mapping[str, int]:
        """Return a copy of all counters."""
        return dict(self._counters)

    @property
    def spreads(self) -> list[Spread]:
        """How answers were spread, as it is now."""
        return self._answers.spreads()

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """Return the latest rejections, oldest first."""
        return tuple(self._rejections)

    def latest(self) -> tuple[int, tuple[str, ...]]:
        """Return the number of the first of the latest lines, counted from 0, and those lines."""
        return self._written - len(self._latest), tuple(self._latest)

    def close(self) -> None:
        """Close the log file, and that of the traces."""
        for file in (self._file, self._trace_file):
            if file is not None:
                file.close()

    def _write(self, line: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._clock()))
        text = f"{stamp} {line[:MAX_LINE_CHARS]}\n"
        self._latest.append(text.rstrip("\n"))
        self._written += 1
        if self._file is not None and not self._file.is_closed:
            data = text.encode("utf-8", errors="replace")
            if not self._file.write(data):
                self.count("log_lines_lost")
        if not self._stream.closed:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # its disk is full, its reader gone, or it knows no ü
                self.count("log_lines_lost")

    def _may_tell(self, peer: str) -> bool:
        """Whether one more line about this peer is allowed now, and count it."""
        if peer not in self._windows:
            self._windows[peer] = _Window(self._clock())
            if len(self._windows) > MAX_PEERS:
                self._windows.popitem(last=False)
        return self._take(self._windows[peer], MAX_LINES_PER_PEER, peer[-8:]) and self._take(
            self._strangers, MAX_LINES_ABOUT_PEERS, "strangers"
        )

    def _take(self, window: _Window, most: int, whose: str) -> bool:
        now = self._clock()
        if not 0 <= now - window.began < PEER_WINDOW_S:
            if window.withheld:
                self._write(f"log: {window.withheld} more lines about {whose} were left out")
            window.began = now
            window.lines = 0
            window.withheld = 0
        window.lines += 1
        window.withheld += window.lines > most
        return window.lines <= most
