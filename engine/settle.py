"""Applies a step's results to its requests, and decides the last word that each request hears.

Changes sequences and counts. Sends nothing, and knows neither pages nor seats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .intake import Limits, failed
from .messages import (
    Embedded,
    Failed,
    Finished,
    FinishReason,
    Replayed,
    StepRecord,
    Tokens,
)
from .runner import ChunkResult
from .sequence import Sequence

MAX_STEP_RECORDS = 256

LastWord = Finished | Failed | Replayed | Embedded
"""The message after which a request hears nothing more."""


@dataclass(slots=True)  # not frozen: freezing costs time for each row of each step
class Progress:
    """What a request hears after a step: new tokens, and its last word if it is over."""

    tokens: Tokens | None
    last: LastWord | None


@dataclass
class Tally:
    """Counts over all steps, and records of the latest MAX_STEP_RECORDS."""

    steps: int = 0
    tokens_generated: int = 0
    tokens_drafted: int = 0
    tokens_accepted: int = 0
    most_adapters: int = 0
    records: deque[StepRecord] = field(default_factory=lambda: deque(maxlen=MAX_STEP_RECORDS))

    def count(self, results: list[ChunkResult], step_ms: float) -> StepRecord:
        """Count a finished step, before its results are settled; return its record."""
        self.steps += 1
        record = _record(self.steps, results, step_ms)
        self.records.append(record)
        num_adapters = sum(1 for adapter in record.adapters if adapter is not None)
        self.most_adapters = max(self.most_adapters, num_adapters)
        for result in results:
            if result.chunk.draft:
                self.tokens_drafted += len(result.chunk.draft)
                self.tokens_accepted += _num_right(result)
            if result.error is None and not result.chunk.sequence.replay:
                self.tokens_generated += len(result.tokens)
        return record


def advance(result: ChunkResult, record: StepRecord, now_s: float) -> Progress:
    """Apply one sequence's part of a step; return what the request hears."""
    chunk = result.chunk
    sequence = chunk.sequence
    # the keys and values of a draft's wrong tokens are there too, and will be written over
    sequence.computed = chunk.start + chunk.count - len(chunk.draft) + _num_right(result)
    sequence.neighbours = max(sequence.neighbours, len(record.adapters))
    if sequence.first_token_s is None:
        sequence.prefill_ms += record.step_ms
    if result.error is not None:
        return Progress(None, failed(sequence.request_id, result.error))
    if sequence.replay:
        return _score(sequence, result)
    if sequence.purpose == "embedding":
        vector = result.vector
        return Progress(None, Embedded(sequence.request_id, vector) if vector else None)
    return _append(sequence, result, record.step, now_s)


def goes_on(result: ChunkResult) -> bool:
    """Return whether a row gave one token that does not end its answer."""
    return (
        result.error is None
        and len(result.tokens) == 1
        and not result.chunk.sequence.ends_with(result.tokens[0])
    )


def end_early(sequence: Sequence, now_s: float) -> LastWord:
    """Return the last word of a request that was cancelled, or parked for too long."""
    if sequence.purpose != "answer":
        return Failed(sequence.request_id, "internal", f"the {sequence.purpose} was cancelled")
    return _finished(sequence, "cancelled", now_s)


def end_before_start(request_id: int, prompt_tokens: int) -> Finished:
    """Return the last word of a request that was cancelled before it was queued."""
    return Finished(
        request_id,
        "cancelled",
        prompt_tokens,
        0,
        queue_ms=0.0,
        load_ms=0.0,
        prefill_ms=0.0,
        decode_ms=0.0,
        neighbours=0,
    )


def find_overdue(
    sequences: Iterable[Sequence], limits: Limits, now_s: float
) -> list[tuple[Sequence, LastWord]]:
    """List the sequences whose time is over, and each one's last word.

    Also records when a sequence without credit was first seen, since parking has a deadline of its
    own.
    """
    overdue: list[tuple[Sequence, LastWord]] = []
    for sequence in sequences:
        if sequence.deadline_s is not None and now_s > sequence.deadline_s:
            text = f"not finished within {sequence.deadline_s - sequence.arrived_s:.1f} s"
            overdue.append((sequence, Failed(sequence.request_id, "deadline", text)))
        elif not sequence.has_credit:
            sequence.parked_s = sequence.parked_s or now_s
            if now_s - sequence.parked_s > limits.parked_deadline_s:
                overdue.append((sequence, end_early(sequence, now_s)))
        elif sequence.started_s is None and now_s - sequence.arrived_s > limits.waiting_deadline_s:
            text = (
                f"waited {limits.waiting_deadline_s:.0f} s for a place; retry later or ask another"
                " node"
            )
            overdue.append((sequence, Failed(sequence.request_id, "busy", text)))
    return overdue


def _num_right(result: ChunkResult) -> int:
    """Count how many of a draft's tokens were right."""
    return max(0, len(result.tokens) - 1)


def _score(sequence: Sequence, result: ChunkResult) -> Progress:
    sequence.margins += result.margins
    sequence.logprobs += result.logprobs
    if sequence.computed < sequence.num_wanted:
        return Progress(None, None)
    return Progress(None, Replayed(sequence.request_id, sequence.margins, sequence.logprobs))


def _append(sequence: Sequence, result: ChunkResult, step: int, now_s: float) -> Progress:
    sequence.tokens += result.tokens
    if not result.tokens:
        return Progress(None, None)
    sequence.first_token_s = sequence.first_token_s or now_s
    sequence.last_token_s = now_s
    tokens = Tokens(sequence.request_id, result.tokens, step, result.logprobs)
    if sequence.ends_with(result.tokens[-1]):
        return Progress(tokens, _finished(sequence, "stop", now_s))
    if len(sequence.tokens) >= sequence.max_length:
        return Progress(tokens, _finished(sequence, "length", now_s))
    return Progress(tokens, None)


def _record(step: int, results: list[ChunkResult], step_ms: float) -> StepRecord:
    adapters = list(dict.fromkeys(result.chunk.sequence.adapter for result in results))
    decode = sum(1 for result in results if result.chunk.sequence.is_decoding)
    prefill = sum(r.chunk.count for r in results if not r.chunk.sequence.is_decoding)
    return StepRecord(step, adapters, prefill, decode, step_ms=step_ms)


def _finished(sequence: Sequence, reason: FinishReason, now_s: float) -> Finished:
    """Sum up a finished request.

    Its times are told apart as: waiting for a place, waiting for the adapter, prompt, decoding.
    """
    started = sequence.started_s or now_s
    loading_s = (
        (sequence.ready_s or started) - (sequence.asked_s or started)
        if sequence.adapter is not None
        else 0.0
    )
    decode_s = (sequence.last_token_s or 0.0) - (sequence.first_token_s or 0.0)
    return Finished(
        request_id=sequence.request_id,
        reason=reason,
        prompt_tokens=sequence.num_prompt,
        completion_tokens=sequence.num_generated,
        queue_ms=max(0.0, started - sequence.arrived_s - max(0.0, loading_s)) * 1e3,
        load_ms=max(0.0, loading_s) * 1e3,
        prefill_ms=sequence.prefill_ms,
        decode_ms=decode_s * 1e3,
        neighbours=sequence.neighbours,
        cached_tokens=sequence.cached_tokens,
    )
