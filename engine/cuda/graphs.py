"""Runs steps of few rows as graphs, so that hundreds of launches become one.

There is one graph per number of rows and largest rank; adapters are no part of it.

    decoding   every run is one row whose logits are wanted: a graph for each bucket of rows
    mixed      prompts among them: a graph for each bucket of rows and of runs, of each of which one
               row's logits may be wanted

A graph is captured the first time that its key comes, after that very step has run launch by
launch; what cannot be captured, e.g. for want of memory, goes on running launch by launch. Decides
which buckets exist and when to capture; does not know what a launch computes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import OutOfDeviceMemory
from .device import Device, Work, fault_of

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Rows that graphs exist for; a step is padded to the next."""
MAX_ROWS = BUCKETS[-1]
MIXED_ROWS = (64, 128, 192, 256, 384, 512)
MIXED_RUNS = (16, 64, MAX_ROWS)
"""Rows and runs that graphs of mixed steps exist for; a larger step runs launch by launch."""
MAX_MIXED_ROWS = MIXED_ROWS[-1]
RANKS = (16, 32, 64, 128, 256, 512)
"""Largest ranks that graphs with adapters exist for."""


@dataclass(frozen=True)
class Key:
    """Which graph: its bucket of `rows`, and the largest `rank` that an adapter of its rows may
    have (0: the graph knows no adapters).

    runs: the bucket of a mixed graph; 0 for decoding.
    """

    rows: int
    rank: int
    runs: int = 0


def log_line(text: str) -> None:
    """Print one line for the operator."""
    print(f"engine: {text}", file=sys.stderr, flush=True)


def bucket_of(count: int, buckets: tuple[int, ...] = BUCKETS) -> int | None:
    """Return the smallest of `buckets` that holds so many; None when none does."""
    return next((bucket for bucket in buckets if bucket >= count), None)


def rank_of(rank: int) -> int:
    """Return the rank that scratch is laid out for when the largest in a step is `rank`; 0
    stays 0.
    """
    return 0 if rank == 0 else next((each for each in RANKS if each >= rank), rank)


class Graphs:
    """Runs work by key, as a graph where there is one."""

    def __init__(self, device: Device, log: Callable[[str], None] = log_line) -> None:
        self._device = device
        self._log = log
        self._graphs: dict[Key, Work] = {}
        self._refused: set[Key] = set()
        self.capture_s = 0.0
        """Seconds spent capturing so far."""

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Key, make: Callable[[], Work]) -> None:
        """Do the work of a key. It must be the same launches over the same addresses whenever that
        key comes.

        `make` builds the work where there is no graph yet.
        """
        graph = self._graphs.get(key)
        if graph is not None:
            graph()
            return
        work = make()
        work()
        if key not in self._refused:
            self._capture(key, work)

    def forget(self) -> None:
        """Forget all graphs, because the addresses in them are no longer right."""
        self._graphs.clear()

    def _capture(self, key: Key, work: Work) -> None:
        started = time.perf_counter()
        try:
            self._graphs[key] = self._device.capture(work)
        except Exception as error:  # the same work has just run, and can go on as it did
            self._refused.add(key)
            self._device.release()
            # Only want of memory is believed here: a broken capture can look like a lost device,
            # and one that is really lost says so again at the next step.
            fault = fault_of(error)
            reason = (
                fault
                if isinstance(fault, OutOfDeviceMemory)
                else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            )
            mixed = f" in up to {key.runs} runs" if key.runs else ""
            self._log(
                f"a graph of {key.rows} rows{mixed} (rank {key.rank}) cannot be captured; such"
                f" steps run launch by launch now: {reason}"
            )
        self.capture_s += time.perf_counter() - started
