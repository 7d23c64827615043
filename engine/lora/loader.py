"""Reads adapters on a thread of its own, one after the other.

Decides only when to wait: while what it has read is not taken yet. Knows neither who asked for an
adapter nor where its bytes go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from ..errors import BadAdapter
from .layout import Loaded


@dataclass(frozen=True)
class Source:
    """The files of one adapter, and how much of it is wanted; errors say its `name`."""

    config_path: Path
    weights_path: Path
    weight: float = 1.0
    name: str = "the adapter"


Sources = tuple[Source, ...]
"""What an adapter is made of: one, or the parents of a cocktail."""

Load = Callable[[Sources], Loaded]
"""Gives the adapter of these files, which it reads; raises BadAdapter."""


@dataclass(frozen=True)
class LoadJob:
    """Files to parse."""

    adapter: bytes
    sources: Sources


@dataclass(frozen=True)
class LoadDone:
    """What became of a job. `taken` is called by whoever keeps the outcome, or lets go of it."""

    job: LoadJob
    outcome: Loaded | BadAdapter
    load_ms: float
    taken: Callable[[], None] = field(default=lambda: None, compare=False)


class AdapterLoader:
    """One thread that parses and packs; `done` is called on that thread.

    It waits while outcomes of `untaken_bytes` are not taken yet.
    """

    def __init__(self, load: Load, done: Callable[[LoadDone], None], untaken_bytes: int) -> None:
        self._load = load
        self._done = done
        self._room_bytes = untaken_bytes
        self._untaken = threading.Condition()
        self._untaken_bytes = 0
        self._is_closing = False
        self._jobs: SimpleQueue[LoadJob | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="adapter-loader", daemon=True)
        self._thread.start()

    def submit(self, job: LoadJob) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def close(self) -> None:
        """End after the jobs that are queued, whose outcomes nobody need take any more."""
        self._jobs.put(None)
        with self._untaken:
            self._is_closing = True
            self._untaken.notify()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._untaken:
                self._untaken.wait_for(
                    lambda: self._untaken_bytes < self._room_bytes or self._is_closing
                )
            started = time.perf_counter()
            outcome = self._attempt(job)
            size_bytes = 0 if isinstance(outcome, BadAdapter) else outcome.packed.size_bytes
            self._count(size_bytes)
            self._done(
                LoadDone(
                    job,
                    outcome,
                    (time.perf_counter() - started) * 1e3,
                    partial(self._count, -size_bytes),
                )
            )
            del outcome  # or it would live beside the next one

    def _count(self, size_bytes: int) -> None:
        with self._untaken:
            self._untaken_bytes += size_bytes
            self._untaken.notify()

    def _attempt(self, job: LoadJob) -> Loaded | BadAdapter:
        try:
            return self._load(job.sources)
        except BadAdapter as error:
            return error
        except Exception as error:  # a stranger's file found a bug of ours: only it is lost
            return BadAdapter(f"the adapter could not be read ({type(error).__name__}: {error})")
