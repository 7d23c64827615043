"""Measures how far honest answers of one adapter miss in a replay, and dishonest ones beside them
(`python -m engine calibrate`).

Every engine here is a real one. Honest answers are made in each of the given number formats and
with both executors, and replayed in all others; the thresholds that follow are tried on answers
made without the adapter, with another, with other dice, and over a base in fewer bits (4, or 3 of
one that lies in 4). Decides no verdict; verdict.py does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import msgspec
import torch

from .build import Done, assemble
from .config import EngineConfig
from .engine import Engine
from .errors import InvalidRequest
from .messages import (
    AdapterRefused,
    Choosing,
    Failed,
    FromEngine,
    HoldAdapter,
    Replay,
    Replayed,
    Sampling,
    Submit,
    ToEngine,
    Tokens,
)
from .model.quantised import Quantised
from .model.weights import Weights, open_weights
from .verdict import Thresholds, calibrate, judge

TEMPERATURES = (0.0, 0.7, 1.0)
CAPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
PROMPT_TOKENS = 24
LOAD_DEADLINE_S = 120.0
ADAPTER = b"\1" * 32
OTHER = b"\2" * 32


@dataclass(frozen=True)
class Plan:
    """The experiment: `kinds` are (number format, kernels) that honest nodes may run; `other` is a
    second adapter for the comparison, or None.
    """

    config: EngineConfig
    adapter: Path
    other: Path | None
    kinds: tuple[tuple[str, str], ...]
    answers: int
    tokens: int
    one_in: int


@dataclass(frozen=True)
class Answer:
    """One answer as a client knows it."""

    prompt: list[int]
    tokens: list[int]
    sampling: Sampling


@dataclass(frozen=True)
class Report:
    """The thresholds, and for each kind of answer how many of how many were called suspicious, and
    their mean score in logits.
    """

    thresholds: Thresholds
    rows: tuple[tuple[str, int, int, float], ...]
    shortest: int


def run(plan: Plan, say: Callable[[str], None]) -> Report:
    """Make answers, replay them, calibrate, and try the thresholds. Raises CannotServe."""
    weights = open_weights(plan.config.base_path)
    honest: list[Answer] = []
    for kind in plan.kinds:
        with open_player(weights, plan, kind) as player:
            honest += player.answer(ADAPTER, "honest", plan)
        say(f"made {plan.answers} honest answers of {plan.tokens} tokens in {' '.join(kind)}")
    with open_player(weights, plan, plan.kinds[0]) as player:
        false = {
            "made without the adapter": player.answer(None, "honest", plan),
            "made with other dice": player.reroll(plan),
        }
        if plan.other is not None:
            false["made with another adapter"] = player.answer(OTHER, "honest", plan)
    with open_player(rounded(weights), plan, plan.kinds[0]) as player:
        bits = 3 if weights.in_4_bits else 4
        false[f"made over a base of {bits} bits"] = player.answer(ADAPTER, "honest", plan)
    say(f"made {sum(map(len, false.values()))} dishonest answers of {len(false)} kinds")
    margins: list[list[float]] = []
    for kind in plan.kinds:
        with open_player(weights, plan, kind) as player:
            margins += player.replay(honest)
        say(f"replayed {len(honest)} honest answers in {' '.join(kind)}")
    with open_player(weights, plan, plan.kinds[0]) as player:
        tried = {name: player.replay(answers) for name, answers in false.items()}
    return _choose(margins, tried, plan.one_in)


def _choose(honest: list[list[float]], tried: dict[str, list[list[float]]], one_in: int) -> Report:
    """Choose the cap at which most dishonest answers are caught, the least caught kind first."""

    def caught(thresholds: Thresholds) -> list[float]:
        return sorted(
            sum(judge(each, thresholds).outcome == "suspicious" for each in answers) / len(answers)
            for answers in tried.values()
        )

    thresholds = max((calibrate(honest, cap, one_in) for cap in CAPS), key=caught)
    rows = []
    for name, answers in {"honest": honest, **tried}.items():
        verdicts = [judge(each, thresholds) for each in answers]
        suspicious = sum(verdict.outcome == "suspicious" for verdict in verdicts)
        rows.append(
            (
                name,
                suspicious,
                len(verdicts),
                sum(verdict.score for verdict in verdicts) / len(verdicts),
            )
        )
    shortest = next(
        count
        for count in range(1, 1 << 20)
        if judge([1e9] * count, thresholds).outcome == "suspicious"
    )
    return Report(thresholds, tuple(rows), shortest)


def rounded(weights: Weights) -> Weights:
    """Return the same base with its linears rounded to 4 bits, 32 numbers a scale; those that lie
    in 4 bits to 3, by leaving out every second code.

    It is what a dishonest node saves memory with.
    """

    def stored_quantised(name: str) -> Quantised | None:
        weight = weights.stored_quantised(name)
        if weight is None or "embed" in name:
            return weight
        codes = (weight.codes & 15, weight.codes >> 4)
        low, high = (((code + 1) // 2 * 2).clamp(max=14) for code in codes)
        return replace(weight, codes=low | high << 4)

    def stored(name: str) -> torch.Tensor:
        codes = stored_quantised(name)
        if codes is not None and "embed" not in name:
            return codes.dequantise()
        tensor = weights.stored(name)
        if tensor.dim() != 2 or "embed" in name or tensor.shape[1] % 32:
            return tensor
        groups = tensor.float().reshape(len(tensor), -1, 32)
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 7
        near: torch.Tensor = (groups / scale).round() * scale
        return near.reshape(tensor.shape).to(tensor.dtype)

    return replace(weights, stored=stored, stored_quantised=stored_quantised)


@contextmanager
def open_player(weights: Weights, plan: Plan, kind: tuple[str, str]) -> Iterator[Player]:
    """Open an engine of that kind with the plan's adapters held."""
    dtype, kernels = kind
    done: SimpleQueue[Done] = SimpleQueue()
    built = assemble(weights, replace(plan.config, dtype=dtype, kernels=kernels), done.put)
    try:
        player = Player(built.engine, done, weights.config.vocab_size)
        for name, folder in ((ADAPTER, plan.adapter), (OTHER, plan.other)):
            if folder is not None:
                player.hold(name, folder)
        yield player
    finally:
        built.close()


class Player:
    """Drives one engine in this process."""

    def __init__(self, engine: Engine, done: SimpleQueue[Done], vocab_size: int) -> None:
        self._engine = engine
        self._done = done
        self._vocab_size = vocab_size

    def hold(self, name: bytes, folder: Path) -> None:
        """Take an adapter in. Raises InvalidRequest with the engine's reason."""
        self._engine.handle(
            HoldAdapter(
                name, str(folder / "adapter_config.json"), str(folder / "adapter_model.safetensors")
            )
        )
        self._engine.receive(self._done.get(timeout=LOAD_DEADLINE_S))
        for message in self._engine.take_messages():
            if isinstance(message, AdapterRefused):
                raise InvalidRequest(f"{folder}: {message.message}")

    def answer(self, adapter: bytes | None, dice: str, plan: Plan) -> list[Answer]:
        """Make the plan's answers.

        The model itself goes on from one token to make each prompt, then answers it at each
        temperature in turn.
        """
        starts = [1 + number * 7919 % (self._vocab_size - 1) for number in range(plan.answers)]
        prompts = self.go_on(
            [
                ([start], Sampling(_seed("prompt", number), Choosing(1.0)))
                for number, start in enumerate(starts)
            ],
            adapter,
            PROMPT_TOKENS,
        )
        asked = []
        for number, (start, more) in enumerate(zip(starts, prompts, strict=True)):
            asked.append(
                (
                    [start, *more],
                    Sampling(
                        _seed(dice, number), Choosing(TEMPERATURES[number % len(TEMPERATURES)])
                    ),
                )
            )
        made = self.go_on(asked, adapter, plan.tokens)
        return [
            Answer(prompt, tokens, sampling)
            for (prompt, sampling), tokens in zip(asked, made, strict=True)
        ]

    def reroll(self, plan: Plan) -> list[Answer]:
        """Make answers with other dice than those given; at temperature 0 there are none to
        throw.
        """
        made = [
            answer
            for answer in self.answer(ADAPTER, "other dice", plan)
            if answer.sampling.choosing.temperature > 0
        ]
        return [
            replace(
                answer, sampling=msgspec.structs.replace(answer.sampling, seed=_seed("honest", n))
            )
            for n, answer in enumerate(made)
        ]

    def replay(self, answers: Sequence[Answer]) -> list[list[float]]:
        """Replay answers and return the margins of each."""
        replies = self._run(
            [
                Replay(n, each.prompt, each.tokens, ADAPTER, sampling=each.sampling)
                for n, each in enumerate(answers)
            ]
        )
        margins = {
            message.request_id: message.margins
            for message in replies
            if isinstance(message, Replayed)
        }
        return [margins[number] for number in range(len(answers))]

    def go_on(
        self, asked: list[tuple[list[int], Sampling]], adapter: bytes | None, count: int
    ) -> list[list[int]]:
        """Return `count` tokens after each prompt, whatever they are."""
        replies = self._run(
            [
                Submit(n, prompt, adapter, sampling, max_tokens=count, credit=count, stop_ids=[])
                for n, (prompt, sampling) in enumerate(asked)
            ]
        )
        made: list[list[int]] = [[] for _ in asked]
        for message in replies:
            if isinstance(message, Tokens):
                made[message.request_id] += message.token_ids
        return made

    def _run(self, requests: Sequence[ToEngine]) -> list[FromEngine]:
        for request in requests:
            self._engine.handle(request)
        while self._engine.step() or self._await_copy():
            pass
        replies = self._engine.take_messages()
        for message in replies:
            if isinstance(message, Failed):
                raise InvalidRequest(message.message)
        return replies

    def _await_copy(self) -> bool:
        """Wait for an adapter on its way into a slot; return whether there was one."""
        if not self._engine.num_copying:
            return False
        self._engine.receive(self._done.get(timeout=LOAD_DEADLINE_S))
        return True


def _seed(purpose: str, number: int) -> bytes:
    return hashlib.sha256(f"{purpose} {number}".encode()).digest()
