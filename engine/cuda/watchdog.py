"""Notices a step that does not end.

A kernel that hangs cannot be stopped from outside, so the process ends and the daemon starts
another. Decides when work has lasted too long; knows neither the device nor what the work is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEP_DEADLINE_S = 120.0
"""Far longer than any step, compiling its kernels included."""
HANGS = 6
"""Exit code of a process whose device hangs."""


def end_process(message: str) -> None:
    """Print why, and exit at once: an orderly exit would wait for the device."""
    print(f"engine: {message}", file=sys.stderr, flush=True)
    os._exit(HANGS)


class Watchdog:
    """Watches one piece of work at a time: `with watchdog.over("a step"):` around what may hang.

    Past `deadline_s` the message goes to `on_hang`, on the watchdog's thread. Beginning and ending
    work costs one assignment each.
    """

    def __init__(
        self,
        deadline_s: float,
        on_hang: Callable[[str], None] = end_process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deadline_s = deadline_s
        self._on_hang = on_hang
        self._clock = clock
        self._work: tuple[str, float] | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def over(self, what: str) -> Iterator[None]:
        """Watch the work in the block."""
        self._work = what, self._clock()
        try:
            yield
        finally:
            self._work = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def look(self) -> bool:
        """Return whether the work has lasted too long, after reporting it."""
        work = self._work
        if work is None or self._clock() - work[1] <= self._deadline_s:
            return False
        self._on_hang(
            f"{work[0]} has not ended in {self._deadline_s:g} s: the device hangs; this process"
            " ends, so that another can start"
        )
        return True

    def _run(self) -> None:
        while not self._closed.wait(min(1.0, self._deadline_s / 4)):
            if self.look():
                return
