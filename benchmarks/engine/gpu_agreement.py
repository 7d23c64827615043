"""Whether the device says what the CPU says: answers made here are replayed there, and the other way round, over one random base.

    float32   the same request must get the same tokens with the same probabilities, up to the order in which sums are taken, and every token
              must win the other side's replay, or miss by rounding only
    the format that serves   the limits are calibrated on this very CPU, from answers made in float32 and replayed in that format and the other
              way round, all of them honest; then answers of the device must be called honest by the CPU, and answers of the CPU by the device

Answers are greedy and at two temperatures, bare and with adapters. The CPU side runs the torch twins: no kernel of ours is on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from benchmarks.engine.gpu_drive import Driver, RowFailed
from benchmarks.engine.gpu_model import SHAPES, quantile
from benchmarks.engine.gpu_rows import Fact, Figure, Rows, Tell
from benchmarks.engine.gpu_world import MixedAdapters, make_prompts, random_weights
from engine.messages import Sampling
from engine.verdict import calibrate, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE = "small"
FLOAT32_TOLERANCE = 1e-4
"""By how much log-probabilities, and margins in logits, may differ in float32, over sums of a few hundred terms in another order."""
CAP, ONE_IN = 1.0, 1000
TEMPERATURES = (0.0, 0.7, 1.0)
NUM_ADAPTERS = 3
"""With which answers are made; one more is held, for replays with a wrong one."""
PROMPT_TOKENS, ANSWER_TOKENS = 40, 48


@dataclass(frozen=True)
class Answer:
    """One answer as a client knows it."""

    prompt: list[int]
    adapter: int | None
    sampling: Sampling
    tokens: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Side:
    """Who computes: an executor in a number format."""

    kernels: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.kernels} {str(self.dtype).removeprefix('torch.')}"


def agreement(kernels: str, dtype: torch.dtype, tell: Tell, num_answers: int = 24) -> None:
    """Make, replay, judge; tells the figures `agree-float32` (the largest difference) and `agree-served` (answers called suspicious)."""
    rows, precise = Rows(tell), torch.float32
    base = {side: _make(side, num_answers) for side in (Side(kernels, precise), Side("torch", precise))}

    def exact() -> Figure:
        ours, theirs = base
        margins = _replay(theirs, base[ours]) + _replay(ours, base[theirs])
        pairs = list(zip(base[ours], base[theirs], strict=True))
        alike = [_alike(one, other) for one, other in pairs]
        differences = [abs(x - y) for (one, other), count in zip(pairs, alike, strict=True)
                       for x, y in zip(one.logprobs[:count], other.logprobs[:count], strict=True)]  # fmt: skip
        margin, difference = max(max(each) for each in margins), max(differences)
        detail = {"sides": [str(ours), str(theirs)], "whole_answers_alike": alike.count(ANSWER_TOKENS), "answers": num_answers, "margin_max": margin,
                  "logprob_difference_max": difference, "logprob_difference_median": quantile(differences, 0.5)}  # fmt: skip
        if max(margin, difference) > FLOAT32_TOLERANCE:
            raise RowFailed(f"both sides differ by more than {FLOAT32_TOLERANCE}: {detail}")
        return Figure("agree-float32", difference, detail)

    def served() -> Figure:
        ours, near, far = Side(kernels, dtype), Side("torch", dtype), Side("torch", precise)
        made = {side: base[side] if side in base else _make(side, num_answers) for side in (ours, near, far)}
        honest = calibrate(_replay(near, made[far]) + _replay(far, made[near]), CAP, ONE_IN)
        seen: dict[str, int] = {}
        for maker, judge_side in ((ours, near), (ours, far), (near, ours), (far, ours)):
            verdicts = [judge(each, honest).outcome for each in _replay(judge_side, made[maker])]
            seen[f"made by {maker}, replayed by {judge_side}"] = verdicts.count("suspicious")
        if any(seen.values()):
            raise RowFailed(f"honest answers were called suspicious, of {num_answers} each: {seen}")
        detail = {"suspicious": seen, "mean_limit": honest.mean / 1e6, "false": _false(ours, near, made[ours], honest)}
        return Figure("agree-served", 0.0, detail)

    rows.attempt("agree-float32", exact)
    rows.attempt("agree-served", served)
    tell(Fact("agreement_base", {"shape": SHAPE, "config": str(SHAPES[SHAPE])}))


def _false(ours: Side, near: Side, made: Sequence[Answer], honest: object) -> dict[str, int]:
    """How many answers of the device are called suspicious when they are replayed with another adapter: the check must be able to fail."""
    swapped = [replace(each, adapter=0 if each.adapter is None else each.adapter + 1) for each in made]
    verdicts = [judge(each, honest).outcome for each in _replay(near, swapped)]  # type: ignore[arg-type]
    return {"replayed with another adapter": verdicts.count("suspicious"), "of": len(verdicts)}


@contextmanager
def _open(side: Side) -> Iterator[Driver]:
    """An engine of that side over the same weights and adapters: made on the CPU, for a device draws other numbers from the same seed."""
    host = torch.device("cpu")
    weights = random_weights(SHAPE, torch.float32, host)
    adapters = MixedAdapters(SHAPES[SHAPE], side.dtype)
    driver = Driver(weights, adapters.load, dtype=str(side.dtype).removeprefix("torch."), kernels=side.kernels, threads=torch.get_num_threads(),
                    kv_tokens=8192, max_adapters=NUM_ADAPTERS + 1)  # fmt: skip
    try:
        driver.hold(range(NUM_ADAPTERS + 1))
        yield driver
    finally:
        driver.close()


def _make(side: Side, count: int) -> list[Answer]:
    prompts = make_prompts(count, PROMPT_TOKENS, SHAPES[SHAPE].vocab_size, 5)
    adapters = [None if n % (NUM_ADAPTERS + 1) == 0 else n % (NUM_ADAPTERS + 1) - 1 for n in range(count)]
    samplings = [Sampling(bytes([n]) * 32, TEMPERATURES[n // (NUM_ADAPTERS + 1) % len(TEMPERATURES)]) for n in range(count)]
    with _open(side) as driver:
        answers = driver.answer(list(zip(prompts, adapters, samplings, strict=True)), ANSWER_TOKENS)
    return [
        Answer(prompt, adapter, sampling, *answer) for prompt, adapter, sampling, answer in zip(prompts, adapters, samplings, answers, strict=True)
    ]


def _alike(one: Answer, other: Answer) -> int:
    """How many tokens both begin with; behind the first that differs nothing can be compared."""
    return next((place for place, (x, y) in enumerate(zip(one.tokens, other.tokens, strict=True)) if x != y), len(one.tokens))


def _replay(side: Side, answers: Sequence[Answer]) -> list[list[float]]:
    with _open(side) as driver:
        return driver.replay([((each.prompt, each.adapter, each.sampling), each.tokens) for each in answers])
