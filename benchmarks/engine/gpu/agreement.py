"""Whether the device says what the CPU says: answers made here are replayed there, and the other
way round, over one random base.

    float32   the same request must get the same tokens with the same probabilities, up to the order
              in which sums are taken, and every token
              must win the other side's replay, or miss by rounding only
    the format that serves   the limits are calibrated on this very CPU, from answers made in
                             float32 and replayed in that format and the other
              way round, all of them honest; then answers of the device must be called honest by the
              CPU, and answers of the CPU by the device

Answers are greedy and at two temperatures, bare and with adapters. The CPU side runs the torch
twins: no kernel of ours is on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from benchmarks.engine.gpu.drive import Driver, RowFailed, release
from benchmarks.engine.gpu.model import SHAPES, quantile
from benchmarks.engine.gpu.rows import Fact, Figure, Rows, Tell
from benchmarks.engine.gpu.world import MixedAdapters, make_prompts, random_weights
from engine.messages import Choosing, Sampling
from engine.verdict import Thresholds, calibrate, judge

if TYPE_CHECKING:
    from engine.cuda.accelerator import Accelerator

SHAPE = "small"
FLOAT32_TOLERANCE = 1e-4
"""By how much log-probabilities, and margins in logits, may differ in float32, over sums of a few
hundred terms in another order.
"""
CAP = 1.0
ONE_IN = 1000
TEMPERATURES = (0.0, 0.7, 1.0)
NUM_ADAPTERS = 3
"""With which answers are made; one more is held, for replays with a wrong one."""
PROMPT_TOKENS = 40
ANSWER_TOKENS = 48


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
    """Who computes: an executor in a number format, on the device that is given or found."""

    kernels: str
    dtype: torch.dtype
    accelerator: Accelerator | None = None

    def __str__(self) -> str:
        return f"{self.kernels} {str(self.dtype).removeprefix('torch.')}"


class Party:
    """One side with its engine, over the same weights and adapters as every other; `close` when it
    is no longer asked.
    """

    def __init__(self, side: Side, num_answers: int) -> None:
        self.side = side
        host = torch.device(
            "cpu"
        )  # where all sides' weights are made: a device draws other numbers from the same seed
        adapters = MixedAdapters(SHAPES[SHAPE], side.dtype)
        dtype = str(side.dtype).removeprefix("torch.")
        self._driver = Driver(
            random_weights(SHAPE, torch.float32, host),
            adapters.load,
            side.accelerator,
            dtype=dtype,
            kernels=side.kernels,
            threads=torch.get_num_threads(),
            kv_tokens=8192,
            max_adapters=NUM_ADAPTERS + 1,
        )
        self._driver.hold(range(NUM_ADAPTERS + 1))
        self.made = self._make(num_answers)

    def replay(self, answers: Sequence[Answer]) -> list[list[float]]:
        """By how much each token of each answer misses here."""
        return self._driver.replay(
            [((each.prompt, each.adapter, each.sampling), each.tokens) for each in answers]
        )

    def close(self) -> None:
        """Give back its memory."""
        self._driver.close()
        del self._driver
        release()

    def _make(self, count: int) -> list[Answer]:
        prompts = make_prompts(count, PROMPT_TOKENS, SHAPES[SHAPE].vocab_size, 5)
        asked = []
        for n, prompt in enumerate(prompts):
            number = n % (NUM_ADAPTERS + 1)
            temperature = TEMPERATURES[n // (NUM_ADAPTERS + 1) % len(TEMPERATURES)]
            asked.append(
                (
                    prompt,
                    number - 1 if number else None,
                    Sampling(bytes([n]) * 32, Choosing(temperature)),
                )
            )
        return [
            Answer(*each, *answer)
            for each, answer in zip(asked, self._driver.answer(asked, ANSWER_TOKENS), strict=True)
        ]


def agreement(
    kernels: str,
    dtype: torch.dtype,
    tell: Tell,
    num_answers: int = 24,
    accelerator: Accelerator | None = None,
) -> None:
    """Make, replay, judge; tells the figures `agree-float32` (the largest difference) and
    `agree-served` (answers called suspicious).
    """
    rows = Rows(tell)
    far = Party(Side("torch", torch.float32), num_answers)
    near = Party(Side("torch", dtype), num_answers)
    tell(Fact("agreement_base", str(SHAPES[SHAPE])))
    for name, measure, number_format in (
        ("agree-float32", _exact, torch.float32),
        ("agree-served", _served, dtype),
    ):
        side = Side(kernels, number_format, accelerator)
        rows.attempt(name, lambda measure=measure, side=side: measure(side, far, near, num_answers))  # type: ignore[misc]
    far.close()
    near.close()


def _exact(side: Side, far: Party, near: Party, num_answers: int) -> Figure:
    """Tokens, probabilities and margins in float32."""
    ours = Party(side, num_answers)
    margins = ours.replay(far.made) + far.replay(ours.made)
    ours.close()
    pairs = list(zip(ours.made, far.made, strict=True))
    alike = [_alike(one, other) for one, other in pairs]
    differences = [
        abs(x - y)
        for (one, other), count in zip(pairs, alike, strict=True)
        for x, y in zip(one.logprobs[:count], other.logprobs[:count], strict=True)
    ]
    margin = max(max(each) for each in margins)
    difference = max(differences)
    detail = {
        "sides": [str(side), str(far.side)],
        "whole_answers_alike": alike.count(ANSWER_TOKENS),
        "answers": num_answers,
        "margin_max": margin,
        "logprob_difference_max": difference,
        "logprob_difference_median": quantile(differences, 0.5),
    }
    if max(margin, difference) > FLOAT32_TOLERANCE:
        raise RowFailed(f"both sides differ by more than {FLOAT32_TOLERANCE}: {detail}")
    return Figure("agree-float32", difference, detail)


def _served(side: Side, far: Party, near: Party, num_answers: int) -> Figure:
    """Verdicts on answers in the format that serves, by limits that honest answers of the CPU alone
    have given.
    """
    honest = calibrate([near.replay(far.made) + far.replay(near.made)], CAP, ONE_IN)
    ours = Party(side, num_answers)
    replays = {
        (str(judging.side), str(maker.side)): judging.replay(maker.made)
        for judging, maker in ((ours, near), (ours, far), (near, ours), (far, ours))
    }
    swapped = near.replay(
        [
            replace(each, adapter=0 if each.adapter is None else each.adapter + 1)
            for each in ours.made
        ]
    )
    ours.close()
    seen = {
        f"made by {maker}, replayed by {judging}": _suspicious(margins, honest)
        for (judging, maker), margins in replays.items()
    }
    if any(seen.values()):
        raise RowFailed(f"honest answers were called suspicious, of {num_answers} each: {seen}")
    false = _suspicious(swapped, honest)
    if false == 0:
        raise RowFailed(
            "answers replayed with another adapter were all called honest: this check cannot fail"
        )
    return Figure(
        "agree-served",
        0.0,
        {
            "suspicious": seen,
            "mean_limit": honest.mean / 1e6,
            "with_another_adapter": [false, num_answers],
        },
    )


def _suspicious(margins: Sequence[Sequence[float]], honest: Thresholds) -> int:
    return sum(judge(each, honest).outcome == "suspicious" for each in margins)


def _alike(one: Answer, other: Answer) -> int:
    """How many tokens both begin with; behind the first that differs nothing can be compared."""
    return next(
        (
            place
            for place, (x, y) in enumerate(zip(one.tokens, other.tokens, strict=True))
            if x != y
        ),
        len(one.tokens),
    )
