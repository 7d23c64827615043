"""Runs the base model on its device: rows in, logits out, over paged keys and values and each row's
adapter.

Decides nothing about scheduling. What an adapter changes outside the layers (embedding, head) is
applied here, in torch, to the few rows that have it; everything inside the layers is left to the
executor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .choose import make_executor
from .config import Stored
from .executor.draw import Draw, Drawn
from .executor.step import Segment, StepInput, StepOutput, find_best
from .lora.bank import Bank
from .lora.ends import Ends
from .model.weights import Weights

if TYPE_CHECKING:
    from .cuda.accelerator import Accelerator

Changing = tuple[Segment, Ends]
"""Rows whose adapter changes something outside the layers, and what."""


class Decoder:
    """The model as the runner sees it: `run` does a step, `forward` returns only its logits.

    `name` tells which executor runs it; `wants_torch_threads` and `runs_beside` are the executor's.
    """

    def __init__(
        self,
        weights: Weights,
        dtype: torch.dtype,
        context: int,
        kernels: str = "auto",
        threads: int = 1,
        stored: Stored = Stored.PLAIN,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = weights.config
        self._executor = make_executor(
            weights,
            dtype,
            stored,
            context,
            kernels=kernels,
            threads=threads,
            accelerator=accelerator,
        )
        self.name = self._executor.name
        self.wants_torch_threads = self._executor.wants_torch_threads
        self.runs_beside = self._executor.runs_beside

    def make_pool(self, num_pages: int, page_tokens: int) -> torch.Tensor:
        """Allocate keys and values, [layers, 2 * kv_heads, num_pages, page_tokens * head_dim], not
        yet written.
        """
        return self._executor.make_pool(num_pages, page_tokens)

    def warm_up(self, pool: torch.Tensor, bank: Bank) -> str:
        """Do once what the first steps over `pool` and `bank` would have to wait for.

        Returns what that was, "" if nothing.
        """
        return self._executor.warm_up(pool, bank)

    def close(self) -> None:
        """End the executor's threads."""
        self._executor.close()

    def forward(self, step: StepInput, pool: torch.Tensor) -> torch.Tensor:
        """Run a step to its end and return its logits [len(logit_rows), vocab] float32.

        They are valid until the next call. Writes keys and values into `pool`.
        """
        output = self.run(step, pool)
        output.wait()
        return output.logits

    def run(self, step: StepInput, pool: torch.Tensor) -> StepOutput:
        """Run one step and return everything that it gives."""
        changing = [
            (segment, ends)
            for segment in step.segments
            if (ends := step.bank.ends(segment.slot)) is not None
        ]
        embedded = (
            self._embed(step, changing)
            if any(ends.changes_embedding for _, ends in changing)
            else None
        )
        output = self._executor.run(step, pool, embedded)
        if changing:
            self._change_logits(step, changing, output)
        if self.config.logit_cap is not None:
            _bend(output.logits, self.config.logit_cap)
        return output

    def prepare(self, step: StepInput) -> None:
        """Prepare the next step while one is under way."""
        self._executor.prepare(step)

    def draw(self, output: StepOutput, draws: list[Draw]) -> list[Drawn]:
        """Choose tokens from rows of a step's finite logits."""
        return self._executor.draw(output.logits, draws) if draws else []

    @torch.inference_mode()
    def _embed(self, step: StepInput, changing: list[Changing]) -> torch.Tensor:
        """Embed all rows, some of them changed by their adapters."""
        tokens = torch.from_numpy(step.tokens).to(self._executor.where)
        embedded = self._executor.embed(tokens)
        for segment, ends in changing:
            if ends.changes_embedding:
                rows = slice(segment.first, segment.first + segment.count)
                embedded[rows] = ends.embed(embedded[rows], tokens[rows])
        return embedded

    @torch.inference_mode()
    def _change_logits(self, step: StepInput, changing: list[Changing], output: StepOutput) -> None:
        for segment, ends in changing:
            if not ends.changes_logits:
                continue
            chosen = (step.logit_rows >= segment.first) & (
                step.logit_rows < segment.first + segment.count
            )
            places = chosen.nonzero()[0]
            if len(places):
                rows = torch.from_numpy(places).to(self._executor.where)
                changed = ends.logits(output.logits[rows], output.final[rows])
                output.logits[rows] = changed
                output.best[places], output.finite[places] = find_best(changed)


@torch.inference_mode()
def _bend(logits: torch.Tensor, cap: float) -> None:
    """Bring logits to within the cap, in place; which of them is the highest stays as it is."""
    logits.div_(cap).tanh_().mul_(cap)
