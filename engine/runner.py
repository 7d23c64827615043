"""Runs one batch on the device: cleans fresh pages, one forward pass, then tokens or margins.

Knows nothing of waiting or money.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

from .batch import Batch, build_batch, follow
from .decoder import Decoder
from .errors import BadAdapter, CannotServe, InvalidRequest
from .executor.draw import MAX_MARGIN, Draw
from .executor.step import StepOutput
from .kv.cache import KvCache
from .lora.bank import Bank
from .lora.slots import SlotTable
from .messages import TokenLogprobs
from .sampler import report_logprobs
from .schedule import Chunk, Schedule


@dataclass(slots=True)
class ChunkResult:
    """The result of a chunk: the next tokens (more than one when a draft was right), a replay's
    margins, an embedding's vector, or the error that ends its request.
    """

    chunk: Chunk
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    vector: bytes = b""
    error: CannotServe | None = None


@dataclass(frozen=True)
class Flight:
    """A step that was begun."""

    batch: Batch
    output: StepOutput


class Runner:
    """The device side of an engine.

    A step is begun and read; where it `runs_beside` this thread, time may pass between the two.
    """

    def __init__(self, decoder: Decoder, cache: KvCache, slots: SlotTable, bank: Bank) -> None:
        self._decoder = decoder
        self._cache = cache
        self._slots = slots
        self._bank = bank
        self.runs_beside = decoder.runs_beside

    def begin(self, schedule: Schedule) -> Flight:
        """Begin a step."""
        return self._begin(
            schedule,
            build_batch(schedule.chunks, self._slots.slot, self._bank, self._cache.page_tokens),
        )

    def read(self, flight: Flight) -> list[ChunkResult]:
        """Read what the step gave, once it is over: in row order, one result per chunk.

        Must be called before the next step is begun.
        """
        return _Reading(self._decoder, flight.batch.chunks, flight.output).read()

    def prepare(self, flight: Flight, schedule: Schedule) -> Batch:
        """Prepare the step after one that is under way, of the same sequences.

        It is complete but for the tokens that the one under way gives.
        """
        batch = follow(flight.batch, schedule.chunks, self._cache.page_tokens)
        self._decoder.prepare(batch.input)
        return batch

    def begin_prepared(
        self, schedule: Schedule, batch: Batch, results: list[ChunkResult]
    ) -> Flight:
        """Begin a prepared step with the results of the one before it: a token of each
        sequence.
        """
        batch.input.tokens[:] = [result.tokens[0] for result in results]
        return self._begin(schedule, batch)

    def _begin(self, schedule: Schedule, batch: Batch) -> Flight:
        if schedule.fresh_pages:
            self._cache.clean(schedule.fresh_pages)
        return Flight(batch, self._decoder.run(batch.input, self._cache.pool))


class _Reading:
    """Turns one step's logits into results."""

    def __init__(self, decoder: Decoder, chunks: list[Chunk], output: StepOutput) -> None:
        self._decoder = decoder
        self._output = output
        self._results = [ChunkResult(chunk) for chunk in chunks]
        self._firsts = list(accumulate((chunk.wanted for chunk in chunks), initial=0))
        self._best: list[int] = output.best.tolist()

    def read(self) -> list[ChunkResult]:
        finite: list[bool] = self._output.finite.tolist()
        for result, first in zip(
            self._results if not all(finite) else (), self._firsts, strict=False
        ):
            if not all(finite[first : first + result.chunk.wanted]):
                result.error = BadAdapter(
                    "the logits are not finite; the adapter's weights overflow this dtype"
                )
        self._score(
            [i for i, r in enumerate(self._results) if r.chunk.sequence.replay and r.error is None]
        )
        self._embed()
        wave = [
            i
            for i, r in enumerate(self._results)
            if r.chunk.wanted and r.chunk.sequence.purpose == "answer" and r.error is None
        ]
        while wave:
            self._choose(wave)
            wave = [index for index in wave if self._goes_on(self._results[index])]
        return self._results

    # --- tokens: the first of each sequence together; then, where a draft was right, the next ones
    # ---

    def _choose(self, wave: list[int]) -> None:
        drawing: list[tuple[ChunkResult, int]] = []
        for index in wave:
            result = self._results[index]
            row = self._firsts[index] + len(result.tokens)
            if result.chunk.sequence.chooser.takes_best:
                self._take(result, row, self._best[row])
            else:
                drawing.append((result, row))
        if drawing:
            self._draw(drawing)

    def _draw(self, asked: list[tuple[ChunkResult, int]]) -> None:
        draws: list[Draw] = []
        drawing: list[ChunkResult] = []
        given = self._output.pick(
            [row for _, row in asked],
            [result.chunk.sequence.chooser.changed_ids for result, _ in asked],
        )
        for (result, row), logits in zip(asked, given, strict=True):
            sequence = result.chunk.sequence
            try:
                draws.append(
                    sequence.chooser.draw(logits, row, len(sequence.tokens) + len(result.tokens))
                )
                drawing.append(result)
            except InvalidRequest as error:
                result.error = error
        for result, draw, drawn in zip(
            drawing, draws, self._decoder.draw(self._output, draws), strict=True
        ):
            self._take(result, draw.row, drawn.winner)

    def _take(self, result: ChunkResult, row: int, token: int) -> None:
        sequence = result.chunk.sequence
        if sequence.num_logprobs is not None:
            result.logprobs.append(
                report_logprobs(self._output.row(row), token, sequence.num_logprobs)
            )
        result.tokens.append(token)
        sequence.chooser.accept(token)

    @staticmethod
    def _goes_on(result: ChunkResult) -> bool:
        """Return whether a draft's next row counts.

        It does when it was computed for the very token that was chosen, and the answer does not end
        with it.
        """
        chunk = result.chunk
        given = len(result.tokens)
        right = (
            given <= len(chunk.draft) and given > 0 and chunk.draft[given - 1] == result.tokens[-1]
        )
        return right and result.error is None and not chunk.sequence.ends_with(result.tokens[-1])

    # --- vectors ---

    def _embed(self) -> None:
        for result, row in zip(self._results, self._firsts, strict=False):
            chunk = result.chunk
            if chunk.wanted and chunk.sequence.purpose == "embedding" and result.error is None:
                result.vector = self._output.vector(row).astype("<f4").tobytes()

    # --- margins ---

    def _score(self, replays: list[int]) -> None:
        """Score each answered token of each replay, in order: what may follow depends on what came
        before.
        """
        for index in replays:
            result = self._results[index]
            chunk = result.chunk
            chooser = result.chunk.sequence.chooser
            first_row = self._firsts[index]
            first_place = chunk.start + chunk.count - chunk.wanted + 1
            together = 1 if chooser.remembers else max(1, chunk.wanted)
            try:
                for at in range(0, chunk.wanted, together):
                    self._score_some(result, first_row + at, first_place + at, together)
            except InvalidRequest as error:
                result.error = error

    def _score_some(self, result: ChunkResult, row: int, position: int, count: int) -> None:
        sequence = result.chunk.sequence
        tokens = sequence.tokens[position : position + count]
        if sequence.chooser.is_over:
            result.margins += [MAX_MARGIN] * count
            return
        given = self._output.pick(
            [row + i for i in range(count)], [sequence.chooser.changed_ids] * count
        )
        draws = [
            sequence.chooser.draw(given[i], row + i, position + i, token)
            for i, token in enumerate(tokens)
        ]
        result.margins += [drawn.margin for drawn in self._decoder.draw(self._output, draws)]
        if sequence.num_logprobs is not None:
            result.logprobs += [
                report_logprobs(self._output.row(row + i), token, sequence.num_logprobs)
                for i, token in enumerate(tokens)
            ]
        for token in tokens:
            sequence.chooser.accept(token)
