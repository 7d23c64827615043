"""Measures how far honest answers of one adapter miss in a replay, and dishonest ones beside them
(`python -m engine calibrate`).

Every engine here is a real one. Honest answers are made in each of the given number formats and
kernels, and replayed by the same, and in every format by kernels in turn; the thresholds that
follow are tried on answers made without the adapter, with another, with other dice, and over a base
in fewer bits (4, or 3 of one that lies in 4). Decides no verdict; verdict.py does.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue

import msgspec
import torch

from .build import Done, assemble
from .config import EngineConfig, cpu_features
from .engine import Engine
from .errors import InvalidRequest
from .executor.library import usable_sets
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
from .verdict import MILLION, SAME, Calibration, Pairing, Thresholds, calibrate, judge, score_of

TEMPERATURES = (0.0, 0.7, 1.0)
CAPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
PROMPT_TOKENS = 24
LOAD_DEADLINE_S = 120.0
PATIENCE_S = 86_400.0  # nobody waits for these answers, however slow the machine is
ADAPTER = b"\1" * 32
OTHER = b"\2" * 32

Kind = tuple[str, str]
"""Number format and kernels."""
Margins = list[list[float]]
ALIKE = ("", "")
"""In the place of two formats: one format and the same kernels."""


@dataclass(frozen=True)
class Plan:
    """The experiment: `kinds` are what honest nodes may run, the first of each format what
    dishonest ones do; `other` is a second adapter for the comparison, or None.
    """

    config: EngineConfig
    adapter: Path
    other: Path | None
    kinds: tuple[Kind, ...]
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
class Made:
    """The answers of one kind of engine, which calls what it computes in `format`; dishonest ones
    by what was done, none where another of its format made them.
    """

    kind: Kind
    format: str
    honest: list[Answer]
    false: Mapping[str, list[Answer]]

    @property
    def kernels(self) -> str:
        """Return who computes."""
        return self.format.rpartition("/")[0]

    @property
    def number_format(self) -> str:
        """Return what it computes in."""
        return self.format.rpartition("/")[2]

    def share_of(self, maker: Made, beside: Sequence[Made]) -> list[Answer]:
        """Return the answers of `maker` that this one replays, and not one of those `beside` it
        that compute in the same format.
        """
        turn = beside.index(self)
        return [
            answer
            for number, answer in enumerate(maker.honest)
            if number // len(TEMPERATURES) % len(beside) == turn
        ]


@dataclass(frozen=True)
class Row:
    """Of answers of one kind, made in one format and replayed in another: how many of how many were
    called suspicious, and their mean score in logits.
    """

    made: str
    replayed: str
    who: str
    suspicious: int
    answers: int
    score: float


@dataclass(frozen=True)
class Report:
    """What is to be published; what was tried of it; the formats (made, replayed) that nothing is
    told across; the fewest tokens that the same kernels judge.
    """

    calibration: Calibration
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...]
    shortest: int


@dataclass
class Found:
    """Margins of replays: honest ones by temperature and by the two kernels, dishonest ones by what
    was done.
    """

    honest: dict[tuple[float, str, str], Margins] = field(default_factory=lambda: defaultdict(list))
    false: dict[str, Margins] = field(default_factory=dict)

    def all(self) -> Iterator[list[float]]:
        """Yield the margins of each honest answer."""
        for cell in self.honest.values():
            yield from cell

    def groups(self) -> list[Margins]:
        """Return the honest ones of each temperature."""
        found: dict[float, Margins] = defaultdict(list)
        for (temperature, _, _), cell in self.honest.items():
            found[temperature] += cell
        return list(found.values())

    def worst(self, cap: float) -> tuple[float, str]:
        """Return the mean score of the two kernels and temperature where honest tokens count most,
        and their names.
        """
        return max(
            (_mean_score(cell, cap), f"{made} {replayed} {temperature}")
            for (temperature, made, replayed), cell in self.honest.items()
        )


def kinds_here(weights: Weights) -> tuple[Kind, ...]:
    """List the formats and kernels in which honest nodes may serve a base, as far as they run
    here.
    """
    formats = ("float32", "bfloat16", "int8", *(("q4",) if weights.in_4_bits else ()))
    sets = [each.name for each in usable_sets(cpu_features())] or ["torch"]
    return tuple((dtype, kernels) for dtype in formats for kernels in sets)


def run(plan: Plan, say: Callable[[str], None]) -> Report:
    """Make answers, replay them, calibrate, and try the thresholds. Raises CannotServe, also where
    honest answers would be suspected.
    """
    weights = open_weights(plan.config.base_path)
    made: list[Made] = []
    for kind in plan.kinds or kinds_here(weights):
        with open_player(weights, plan, kind) as player:
            is_first = all(kind[0] != each.kind[0] for each in made)
            honest = player.answer(ADAPTER, "honest", plan)
            false = _make_false(player, weights, plan, kind) if is_first else {}
            made.append(Made(kind, player.format, honest, false))
        say(f"made {plan.answers} honest answers of {plan.tokens} tokens in {player.format}")
    found = _replay_all(weights, plan, made, say)
    return _conclude(found, sorted({each.kernels for each in made}), plan.one_in)


def _make_false(
    player: Player, weights: Weights, plan: Plan, kind: Kind
) -> dict[str, list[Answer]]:
    fewer = replace(plan, answers=max(plan.answers // 2, len(TEMPERATURES)))
    false = {
        "without the adapter": player.answer(None, "honest", fewer),
        "with other dice": player.reroll(fewer),
    }
    if plan.other is not None:
        false["with another adapter"] = player.answer(OTHER, "honest", fewer)
    bits = 3 if weights.in_4_bits else 4
    with open_player(rounded(weights), plan, kind) as coarse:
        false[f"over a base of {bits} bits"] = coarse.answer(ADAPTER, "honest", fewer)
    return false


def _replay_all(
    weights: Weights, plan: Plan, made: Sequence[Made], say: Callable[[str], None]
) -> dict[tuple[str, str], Found]:
    """Return what was found by (made, replayed): two formats, or nothing and nothing for the same
    kernels and format.
    """
    found: dict[tuple[str, str], Found] = defaultdict(Found)
    for by in made:
        beside = [each for each in made if each.number_format == by.number_format]
        with open_player(weights, plan, by.kind) as player:
            for maker in made:
                chosen = maker.honest if maker is by else by.share_of(maker, beside)
                names = ALIKE if maker is by else (maker.number_format, by.number_format)
                for answer, margins in zip(chosen, player.replay(chosen), strict=True):
                    temperature = answer.sampling.choosing.temperature
                    cell = (temperature, maker.kernels, by.kernels)
                    found[names].honest[cell].append(margins)
                if by is beside[0]:
                    for who, answers in maker.false.items():
                        margins_of = player.replay(answers)
                        found[maker.number_format, by.number_format].false[who] = margins_of
                        if maker is by:
                            found[ALIKE].false[f"{who}, {by.number_format}"] = margins_of
        say(f"replayed in {by.format}")
    return {names: each for names, each in found.items() if each.honest}


def _conclude(
    found: Mapping[tuple[str, str], Found], kernels: Sequence[str], one_in: int
) -> Report:
    across: list[Pairing] = []
    rows: list[Row] = []
    left_out: list[tuple[str, str]] = []
    for names, each in found.items():
        thresholds = SAME if names == ALIKE else _choose(each, one_in)
        cells = {"honest": list(each.all()), **each.false}
        judged = [_judge(names, who, margins, thresholds) for who, margins in cells.items()]
        if judged[0].suspicious:
            raise InvalidRequest(
                f"{judged[0].suspicious} of {judged[0].answers} honest answers"
                f" {_say(names)} would be suspected: make more of them (--answers), or leave out a"
                " format (--kinds)"
            )
        if names == ALIKE or any(row.suspicious for row in judged):
            rows += judged
        else:
            left_out.append(names)
            continue
        if names != ALIKE:
            across.append(Pairing(*names, thresholds, each.worst(thresholds.cap / MILLION)[1]))
    calibration = Calibration(tuple(kernels), tuple(across))
    return Report(calibration, tuple(rows), tuple(left_out), shortest=_shortest(SAME))


def _choose(found: Found, one_in: int) -> Thresholds:
    """Choose the cap at which most dishonest answers are caught, the least caught kind first; of
    equal ones that at which they count most beside honest ones.
    """

    def merit(thresholds: Thresholds) -> tuple[list[float], float]:
        caught = sorted(
            sum(judge(each, thresholds).outcome == "suspicious" for each in answers) / len(answers)
            for answers in found.false.values()
        )
        cap = thresholds.cap / MILLION
        least = min((_mean_score(each, cap) for each in found.false.values()), default=0.0)
        return caught, least / max(thresholds.mean, 1)

    return max((_with_worst(found, cap, one_in) for cap in CAPS), key=merit)


def _with_worst(found: Found, cap: float, one_in: int) -> Thresholds:
    """Calibrate, and take the two kernels where honest tokens count most for the mean, if that is
    more.
    """
    thresholds = calibrate(found.groups(), cap, one_in)
    mean = max(thresholds.mean, round(found.worst(cap)[0] * MILLION))
    return msgspec.structs.replace(
        thresholds, mean=mean, variance=max(thresholds.variance, round(mean * cap))
    )


def _judge(names: tuple[str, str], who: str, answers: Margins, thresholds: Thresholds) -> Row:
    suspicious = sum(judge(each, thresholds).outcome == "suspicious" for each in answers)
    score = _mean_score(answers, thresholds.cap / MILLION)
    return Row(*names, who, suspicious=suspicious, answers=len(answers), score=score)


def _mean_score(answers: Sequence[Sequence[float]], cap: float) -> float:
    return sum(score_of(each, cap) for each in answers) / len(answers)


def _say(names: tuple[str, str]) -> str:
    made, replayed = names
    return f"made in {made} and replayed in {replayed}" if made else "replayed by the same kernels"


def _shortest(thresholds: Thresholds) -> int:
    return next(
        count
        for count in range(1, 1 << 20)
        if judge([1e9] * count, thresholds).outcome == "suspicious"
    )


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
def open_player(weights: Weights, plan: Plan, kind: Kind) -> Iterator[Player]:
    """Open an engine of that kind with the plan's adapters held."""
    dtype, kernels = kind
    done: SimpleQueue[Done] = SimpleQueue()
    config = replace(plan.config, dtype=dtype, kernels=kernels, waiting_deadline_s=PATIENCE_S)
    built = assemble(weights, config, done.put)
    try:
        player = Player(built.engine, done, weights.config.vocab_size, built.ready.dtype)
        for name, folder in ((ADAPTER, plan.adapter), (OTHER, plan.other)):
            if folder is not None:
                player.hold(name, folder)
        yield player
    finally:
        built.close()


class Player:
    """Drives one engine in this process; `format` as receipts carry it."""

    def __init__(
        self, engine: Engine, done: SimpleQueue[Done], vocab_size: int, number_format: str
    ) -> None:
        self.format = number_format
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

    def replay(self, answers: Sequence[Answer]) -> Margins:
        """Replay answers and return the margins of each."""
        replies = self.run(
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
        replies = self.run(
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

    def run(self, requests: Sequence[ToEngine]) -> list[FromEngine]:
        """Step until all of it is done; return what the engine said. Raises InvalidRequest."""
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
