"""How far a base has come that this node is getting: what it waits for, in words and numbers.

Counts and formats; fetches nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

SPEED_WINDOW_S = 5.0
SAMPLE_S = 0.5
FIRST_TELL_S = 2.0
TELL_SHARE = 0.2  # of the time that it has taken so far


@dataclass
class Progress:
    """The state of one base on its way. `doing` is what happens now; empty: nothing is awaited."""

    name: str
    doing: str = ""
    trouble: str = ""
    total_bytes: int = 0
    here_bytes: int = 0
    fetched_bytes: int = 0
    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def begin(self, doing: str) -> None:
        """Something else happens now."""
        self.doing = doing
        self.total_bytes = self.here_bytes = 0
        self.samples.clear()

    def expect(self, total_bytes: int, here_bytes: int) -> None:
        """So many bytes are to be had, and so many of them are here already."""
        self.total_bytes = total_bytes
        self.here_bytes = here_bytes

    def add(self, num_bytes: int) -> None:
        """So many bytes came."""
        self.here_bytes += num_bytes
        self.fetched_bytes += num_bytes
        self.trouble = ""

    def sample(self, now: float) -> None:
        """Note how much has come by now."""
        self.samples.append((now, self.fetched_bytes))
        while now - self.samples[0][0] > SPEED_WINDOW_S:
            self.samples.popleft()

    @property
    def bytes_per_s(self) -> float:
        """Return how fast it comes."""
        if len(self.samples) < 2:
            return 0.0
        (began, had), (ended, has) = self.samples[0], self.samples[-1]
        return (has - had) / (ended - began) if ended > began else 0.0

    def text(self) -> str:
        """Say what is awaited; nothing where nothing is."""
        if not self.doing:
            return ""
        said = f"{self.doing} {self.name}"
        if self.total_bytes:
            share = 100 * self.here_bytes // self.total_bytes
            here, total = self.here_bytes / 1e6, self.total_bytes / 1e6
            said += f", {here:,.1f} of {total:,.1f} MB ({share} %)"
            speed = self.bytes_per_s
            if speed >= 1:
                left_s = (self.total_bytes - self.here_bytes) / speed
                said += f", {speed / 1e6:,.1f} MB/s, {_duration(left_s)} left"
        return f"{said}; {self.trouble}; it is tried again" if self.trouble else said


async def tell(progress: Progress, log: Callable[[str], None]) -> None:
    """Log how far it is, often in the beginning and seldom later, until cancelled."""
    began = trio.current_time()
    next_s = FIRST_TELL_S
    said = ""
    while True:
        now = trio.current_time()
        progress.sample(now)
        if now - began >= next_s:
            next_s = now - began + max(FIRST_TELL_S, TELL_SHARE * (now - began))
            text = progress.text()
            if text and text != said:
                log(f"base: {text}")
            said = text
        await trio.sleep(SAMPLE_S)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
