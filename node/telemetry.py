"""Tells the operator what a daemon does: readable log lines, counters, and the latest rejections.

Decides nothing; holds no global state.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

MAX_REJECTIONS = 64
MAX_LINE_CHARS = 2000


@dataclass(frozen=True)
class Rejection:
    """A false claim by a peer.

    `what` is "receipt" | "block" | "announcement" | "answer".
    """

    what: str
    peer_id: str
    reason: str
    at: float


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
    ) -> None:
        self._counters: Counter[str] = Counter()
        self._rejections: deque[Rejection] = deque(maxlen=MAX_REJECTIONS)
        self._clock = clock
        self._stream = sys.stderr if stream is None else stream
        self._file = log_path.open("a", buffering=1) if log_path else None

    def log(self, line: str) -> None:
        """Write one line, preceded by the time, to <home>/log and stderr."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._clock()))
        text = f"{stamp} {line[:MAX_LINE_CHARS]}\n"
        for sink in (self._file, self._stream):
            if sink is not None and not sink.closed:
                sink.write(text)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter; counters only grow."""
        self._counters[name] += amount

    def reject(self, what: str, peer_id: str, reason: str) -> None:
        """Record a false claim: count it by kind and by reason, and remember who made it and why it
        is false.
        """
        self.count(f"{what}s_rejected")
        self.count(f"{what}s_rejected:{reason.split(':')[0][:40]}")
        self._rejections.append(Rejection(what, peer_id, reason, self._clock()))
        self.log(f"rejected {what} from {peer_id[-8:]}: {reason}")

    @property
    def counters(self) -> Mapping[str, int]:
        """Return a copy of all counters."""
        return dict(self._counters)

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """Return the latest rejections, oldest first."""
        return tuple(self._rejections)

    def close(self) -> None:
        """Close the log file."""
        if self._file is not None:
            self._file.close()
