"""Runs one batch on the device: cleans fresh pages, one forward pass, then tokens or margins. Knows nothing of waiting or money."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .batch import build_batch
from .executor.step import StepOutput
from .kv.cache import KvCache
from .lora.bank import SlotBank
from .lora.slots import SlotTable
from .model.decoder import Decoder
from .sampler import choose_tokens, miss_margin
from .scheduler import Chunk, Schedule


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk gave: the next token, or a replay's margins, or `failed` when its logits are not finite; else nothing."""

    chunk: Chunk
    token: int | None = None
    margins: tuple[float, ...] = ()
    failed: bool = False


class Runner:
    """The device side of an engine."""

    def __init__(self, decoder: Decoder, cache: KvCache, slots: SlotTable, bank: SlotBank) -> None:
        self._decoder, self._cache, self._slots, self._bank = decoder, cache, slots, bank

    @torch.inference_mode()
    def run(self, schedule: Schedule) -> list[ChunkResult]:
        """One step. Results are in row order, one per chunk."""
        if schedule.fresh_pages:
            self._cache.clean(schedule.fresh_pages)
        batch = build_batch(schedule.chunks, self._slots.slot, self._bank, self._cache.page_tokens)
        return self._read(batch.chunks, self._decoder.run(batch.input, self._cache.pool))

    def _read(self, chunks: list[Chunk], output: StepOutput) -> list[ChunkResult]:
        logits, finite = output.logits, output.finite.tolist()
        places: dict[int, int] = {}
        row = 0
        for index, chunk in enumerate(chunks):
            places[index] = row
            row += chunk.wanted
        tokens = self._sample(chunks, output, places, finite)
        results = []
        for index, chunk in enumerate(chunks):
            rows = range(places[index], places[index] + chunk.wanted)
            if not all(finite[r] for r in rows):
                results.append(ChunkResult(chunk, failed=True))
            elif chunk.sequence.replay:
                results.append(ChunkResult(chunk, margins=_margins(chunk, logits[rows.start : rows.stop])))
            else:
                results.append(ChunkResult(chunk, token=tokens.get(index)))
        return results

    def _sample(self, chunks: list[Chunk], output: StepOutput, places: dict[int, int], finite: list[bool]) -> dict[int, int]:
        chosen = [i for i, c in enumerate(chunks) if c.wanted and not c.sequence.replay and finite[places[i]]]
        if not chosen:
            return {}
        rows = [places[i] for i in chosen]
        sequences = [chunks[i].sequence for i in chosen]
        best = output.best[rows].tolist()
        tokens = choose_tokens(output.logits, rows, best, [s.sampling for s in sequences], [len(s.tokens) for s in sequences])
        return dict(zip(chosen, tokens, strict=True))


def _margins(chunk: Chunk, logits: torch.Tensor) -> tuple[float, ...]:
    sequence = chunk.sequence
    first = chunk.start + chunk.count - chunk.wanted + 1
    wide = logits.float().numpy()
    return tuple(miss_margin(wide[i], sequence.tokens[first + i], sequence.sampling, first + i) for i in range(chunk.wanted))
