"""What the stages of `scripts/gpu` share: the world that is measured, what they tell, and how one
row's failure leaves the others alone.

Figure   a measured number      Trouble   a row without one, and why      Fact   anything else worth
         keeping
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.engine.gpu.drive import Driver, release
from benchmarks.engine.gpu.model import Scale
from benchmarks.engine.gpu.world import Adapters, random_weights

if TYPE_CHECKING:
    from engine.cuda.accelerator import Accelerator


@dataclass(frozen=True)
class Figure:
    """One measured number, and what else was seen."""

    row: str
    measured: float
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """A row that gave no figure."""

    row: str
    error: str


@dataclass(frozen=True)
class Fact:
    """Something to keep that is no row of the table."""

    name: str
    value: Any


Tell = Callable[[Figure | Trouble | Fact], None]


@dataclass(frozen=True)
class World:
    """What is measured: an executor (`kernels`) on a device, in a number format, at a scale.

    free_bytes: of the device when it was empty. accelerator: the device, where it is not the one
    that the engine finds by itself.
    """

    kernels: str
    dtype: torch.dtype
    scale: Scale
    free_bytes: int
    accelerator: Accelerator | None = None

    @property
    def device(self) -> torch.device:
        """Where the executor computes."""
        if self.accelerator is not None:
            return self.accelerator.device.where
        return torch.device("cuda" if self.kernels == "cuda" else "cpu")

    @property
    def threads(self) -> int:
        """Of the processor: all where it computes, one where a device does or there is next to
        nothing to compute.
        """
        return (
            len(os.sched_getaffinity(0))
            if self.device.type == "cpu" and self.scale.shape != "tiny"
            else 1
        )

    def adapters(self, count: int, room_bytes: int = 1 << 30) -> Adapters:
        """So many of the scale's rank, in at most about `room_bytes` of host memory."""
        return Adapters(
            self.scale.config,
            self.scale.rank,
            self.dtype,
            count,
            min(room_bytes, self.scale.room_bytes),
            self.device,
        )

    @contextmanager
    def open(
        self, adapters: Adapters | None, slots: int, kv_tokens: int, **settings: Any
    ) -> Iterator[Driver]:
        """An engine of this world, in the memory that the one before has left."""
        release()
        wide = 8192 if self.free_bytes > 40 << 30 else 2048
        given: dict[str, Any] = {
            "prompt_step_tokens": wide,
            "step_tokens": max(512, self.scale.largest_batch),
            "max_running": max(
                64, 2 * self.scale.largest_batch
            ),  # two sides of a comparison are open at once
        }
        started = time.perf_counter()
        given |= {
            "dtype": str(self.dtype).removeprefix("torch."),
            "kernels": self.kernels,
            "threads": self.threads,
        }
        given |= {
            "kv_tokens": kv_tokens,
            "max_adapters": slots,
            "max_waiting": 8192,
            "host_cache_bytes": 1 << 44,
        }
        given |= {"waiting_deadline_s": 600.0, "parked_deadline_s": 600.0, **settings}
        weights = random_weights(self.scale.shape, self.dtype, self.device)
        driver = Driver(weights, adapters and adapters.load, self.accelerator, **given)
        self.opened_s.append(round(time.perf_counter() - started, 2))
        try:
            yield driver
        finally:
            driver.close()

    opened_s: list[float] = field(default_factory=list, compare=False)


class Rows:
    """Tries one row after the other."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.after_failure: Callable[[], None] = lambda: None

    def attempt(self, row: str, measure: Callable[[], Figure]) -> Figure | None:
        """The row's figure, told; a failure is told too and is None."""
        try:
            figure = measure()
        except (
            Exception
        ) as error:  # whatever went wrong, the rows after this one are still worth something
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._tell(
                Trouble(
                    row,
                    f"{type(error).__name__}: {error}"
                    f" ({os.path.basename(where.filename)}:{where.lineno})",
                )
            )
            self.after_failure()
            return None
        self._tell(figure)
        return figure

    def fact(self, name: str, value: Any) -> None:
        """Keep something beside the table."""
        self._tell(Fact(name, value))
