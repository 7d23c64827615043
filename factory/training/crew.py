"""The processes of one training: one, or several that torchrun or Ray (cluster.py) began.

Each takes every n-th row of a step; what they found is added up, so that all decide alike. Only
the first writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Crew:
    """This process among the others."""

    def __init__(self) -> None:
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.count: int = self._accelerator.num_processes
        self.number: int = self._accelerator.process_index
        self.device: torch.device = self._accelerator.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.number == 0

    def join(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients become the mean of all processes'."""
        joined: nn.Module = self._accelerator.prepare_model(module)
        return joined

    def alone(self, module: nn.Module) -> AbstractContextManager[Any]:
        """While the block runs, gradients stay this process's own."""
        if self.count == 1:
            return nullcontext()
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return context

    def total(self, values: Sequence[float]) -> list[float]:
        """Add values up over all processes."""
        if self.count == 1:
            return list(values)
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        summed: Tensor = self._accelerator.reduce(mine, "sum")
        return [float(value) for value in summed.tolist()]

    def meet(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()

    def leave(self) -> None:
        """End the process group."""
        self._accelerator.end_training()
