"""What a step computes, and what it may hold. Values; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from .sequence import Sequence


@dataclass(slots=True)  # not frozen, for the same reason as the Run that it becomes
class Chunk:
    """`count` tokens of one sequence to compute, from position `start`; `wanted` of them, the last
    ones, want logits.

    draft: guessed ids that follow the sequence's own; the last len(draft) of `count`.
    """

    sequence: Sequence
    start: int
    count: int
    wanted: int
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """One step's work: chunks, and pages that must be cleaned before it, since the step writes only
    their beginning.
    """

    chunks: list[Chunk]
    fresh_pages: list[int]


@dataclass(frozen=True)
class Budget:
    """What a step may hold: rows, sequences, tokens a page; how long one may be passed over; how
    far one may be guessed ahead (0: not at all).

    A step in which nobody decodes may hold `prompt_step_tokens` rows, if they are more: nobody
    waits for its end with a half-spoken answer. Where somebody does, prompts may add
    `beside_tokens` rows. An adapter that others wait for keeps its seat for `seat_steps`. window:
    how many tokens a token sees at most, in any layer; None: all of them.
    """

    step_tokens: int
    max_running: int
    page_tokens: int
    age_bound_s: float
    draft_tokens: int
    prompt_step_tokens: int
    beside_tokens: int
    seat_steps: int
    window: int | None = None
