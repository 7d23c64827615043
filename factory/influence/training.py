"""One training: the same rows in the same order, without those of who is left out.

A row that is left out is taken from its batch; the others keep their step, their place and their
weight, because a step's loss is divided by what the whole batch would have learnt. Every few
seconds all that the next step needs is kept, so that a training that was killed goes on and ends
with the same bits. No randomness but the start.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..keeping import keep
from ..learning import rate_at
from .base import Base, Given
from .errors import NotFinite
from .folder import NO_ROW, Run
from .plan import Training

KEEP_EVERY_S = 20.0
KEEP_EVERY_STEPS = 25
CACHED_TOKENS = 768  # of a batch at once: a processor's cache holds what they become
DEVICE_TOKENS = 1 << 15
Progress = Callable[[int, int, float], None]
"""Told after each step: how many are done, of how many, and the step's loss in nats a token."""


@dataclass(frozen=True)
class Rows:
    """The rows as tensors: ids and what is learnt of them, and their states below the adapter."""

    ids: Tensor  # [rows, window]
    targets: Tensor  # [rows, window - 1]
    states: Tensor | None  # [rows, window, hidden]


class Trainer:
    """Trains the base's adapter, once for each `Training` that it is given."""

    def __init__(self, run: Run, base: Base, rows: Rows) -> None:
        self.run = run
        self.base = base
        self.rows = rows
        self.owners = np.asarray(run.owners)
        self.order = orders(run)
        learnt = (rows.targets >= 0).sum(dim=1)
        self.num_learnt = learnt.cpu().numpy()
        self.tokens_at_once = CACHED_TOKENS if base.device.type == "cpu" else DEVICE_TOKENS

    def train(self, training: Training, progress: Progress) -> None:
        """Train from the start, or from where a killed process left off; the base then has the
        adapter. Raises NotFinite.
        """
        recipe = self.run.recipe
        parameters = self.base.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
        self.base.begin(recipe.seed + training.second_seed)
        path = self.checkpoint(training)
        first = resume(path, parameters, optimizer) if path.exists() else 0
        order = self.order[training.second_seed]
        kept_at = time.monotonic()
        with self.base.above() as given:
            for step in range(first, len(order)):
                batch = self._without(order[step], training.left_out)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * rate_at(step, len(order), recipe.warmup)
                total = sum(self.num_learnt[row] for row in order[step] if row != NO_ROW)
                loss = self._step(given, batch, int(total), step)
                optimizer.step()
                optimizer.zero_grad()
                progress(step + 1, len(order), loss)
                late = time.monotonic() - kept_at > KEEP_EVERY_S
                if late or (step + 1) % KEEP_EVERY_STEPS == 0:
                    keep_checkpoint(path, step + 1, parameters, optimizer)
                    kept_at = time.monotonic()

    def checkpoint(self, training: Training) -> Path:
        """Where an unfinished training is kept."""
        return self.run.work / f"{training.name}.checkpoint"

    def _without(self, batch: npt.NDArray[np.int32], left_out: frozenset[int]) -> list[int]:
        return [int(r) for r in batch if r != NO_ROW and int(self.owners[r]) not in left_out]

    def _step(self, given: Given, batch: list[int], total: int, step: int) -> float:
        """Put one batch's gradient into the parameters; return its loss a token."""
        parameters = self.base.parameters()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        if not batch:
            return 0.0
        at_once = max(1, self.tokens_at_once // self.run.rows.shape[1])
        loss = 0.0
        for first in range(0, len(batch), at_once):
            part = batch[first : first + at_once]
            states = None if self.rows.states is None else self.rows.states[part]
            each = self.base.loss(given, self.rows.ids[part], states, self.rows.targets[part])
            of_part = each.sum() / total
            of_part.backward()  # type: ignore[no-untyped-call]
            loss += of_part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.run.recipe.clip)
        if not math.isfinite(loss) or not math.isfinite(norm.item()):
            raise NotFinite(
                f"step {step + 1} has a loss or gradient that is no number, with rows {batch};"
                " lower learning_rate in run.toml and begin again in a new folder"
            )
        return loss * total / max(1, sum(int(self.num_learnt[row]) for row in batch))


def orders(run: Run) -> dict[bool, npt.NDArray[np.int32]]:
    """Return the rows of each step: as given, and for the second seed the steps' rows drawn anew
    from the same rows.
    """
    flat = run.order[run.order != NO_ROW]
    other = np.full_like(run.order, NO_ROW)
    shuffled = np.random.Generator(np.random.PCG64(run.recipe.seed + 1)).permutation(flat)
    other[run.order != NO_ROW] = shuffled
    return {False: run.order, True: other}


def keep_checkpoint(
    path: Path, step: int, parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Keep all that the next step needs."""
    held = {
        "step": step,
        "parameters": [parameter.detach() for parameter in parameters],
        "optimizer": optimizer.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(held, buffer)
    keep(path, buffer.getbuffer())


def resume(
    path: Path, parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> int:
    """Go back to a kept step; return its number."""
    held = torch.load(path, map_location=parameters[0].device, weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(parameters, held["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(held["optimizer"])
    return int(held["step"])


def forget(path: Path) -> None:
    """Remove a checkpoint that is needed no more."""
    if path.exists():
        os.unlink(path)
