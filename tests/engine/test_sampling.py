"""docs/protocols/sampling.md, held: golden vectors, a naive twin, the native twin, and the noise's
distribution.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Stored
from engine.executor.draw import MAX_MARGIN, Draw, Drawn, draw_one
from engine.executor.native import NativeExecutor
from engine.executor.step import Executor, find_best
from engine.executor.twins import TorchExecutor
from engine.messages import Choosing, Sampling
from engine.model.weights import open_weights
from engine.noise import GUMBEL_LIMIT, derive_key, gumbel, noise_words, philox
from engine.sampler import Chooser, report_logprobs

from .worlds import BOTH, make_base

VECTORS = json.loads((Path(__file__).parent / "sampling_vectors.json").read_text())
LOGITS = (((np.arange(2000) * 7919) % 1009) / 100).astype(np.float32)
SEED = bytes(range(32))


def naive(logits: np.ndarray, draw: Draw) -> int:
    """The specification, word by word, over all ids."""
    row = {i: float(x) for i, x in enumerate(logits)} | dict(
        zip(draw.changed.tolist(), draw.values.tolist(), strict=True)
    )
    if draw.allowed is not None:
        row = {i: x for i, x in row.items() if int(draw.allowed[i // 32]) >> (i % 32) & 1}
    order = sorted(row, key=lambda i: (-row[i], i))
    if draw.temperature == 0:
        return order[0]
    order = order[: draw.top_k] if draw.top_k else order
    weights = np.exp([(row[i] - row[order[0]]) / draw.temperature for i in order])
    kept = next(
        (
            n + 1
            for n, total in enumerate(np.cumsum(weights))
            if total >= draw.top_p * weights.sum()
        ),
        len(order),
    )
    order = order[: len(order) if draw.top_p == 1 else kept]
    order = [
        i
        for i in order
        if draw.min_p == 0 or row[i] >= row[order[0]] + draw.temperature * np.log(draw.min_p)
    ]
    noise = gumbel(noise_words(draw.key, draw.position, np.array(order)))
    scores = {i: row[i] / draw.temperature + n for i, n in zip(order, noise, strict=True)}
    return min(scores, key=lambda i: (-scores[i], i))


@cache
def executor(kernels: str, vocab: int) -> Executor:
    """An executor over the smallest model with that vocabulary."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        make_base(
            Path(folder),
            vocab_size=vocab,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        weights = open_weights(Path(folder))
        with torch.inference_mode():
            if kernels == "native":
                return NativeExecutor(weights, torch.float32, Stored.PLAIN, 64, threads=2)
            return TorchExecutor(weights, torch.float32, Stored.PLAIN, 64)


def run(kernels: str, logits: np.ndarray, *draws: Draw) -> list[Drawn]:
    """`draws` of rows of `logits [rows, vocab]`."""
    return executor(kernels, logits.shape[1]).draw(torch.from_numpy(logits), list(draws))


def test_philox_gives_the_published_vectors() -> None:
    def run(counter: list[int], key: tuple[int, int]) -> list[int]:
        words = [np.array([word], dtype=np.uint64) for word in counter]
        return [int(word[0]) for word in philox((words[0], words[1], words[2], words[3]), key)]

    assert run([0] * 4, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert run([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF)) == [
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    ]
    assert run([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0)) == [
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    ]


def test_the_noise_matches_its_golden_vectors() -> None:
    for vector in VECTORS["words"]:
        words = noise_words(
            derive_key(bytes.fromhex(vector["seed"])), vector["position"], np.array(vector["ids"])
        )
        assert words.tolist() == vector["words"]
        assert gumbel(words) == pytest.approx(vector["noise"], abs=1e-12)


@BOTH
def test_the_choices_match_their_golden_vectors(kernels: str) -> None:
    for vector in VECTORS["choices"]:
        fields = {
            name: value
            for name, value in vector.items()
            if name not in ("position", "token", "prompt", "answer", "allowed")
        }
        fields["logit_bias"] = [tuple(each) for each in vector.get("logit_bias", [])]
        chooser = Chooser(Sampling(SEED, Choosing(**fields)), vector.get("prompt", []))
        for token in vector.get("answer", []):
            chooser.accept(token)
        [drawn] = run(
            kernels, LOGITS[None], chooser.draw(LOGITS[chooser.changed_ids], 0, vector["position"])
        )
        assert drawn.winner == vector["token"], vector


DRAWS = st.fixed_dictionaries(
    {
        "position": st.integers(1, 10**6),
        "temperature": st.sampled_from([0.0, 0.01, 0.7, 1.0, 5.0]),
        "top_k": st.sampled_from([0, 1, 5, 6000]),
        "top_p": st.sampled_from([1e-9, 0.3, 0.95, 1.0]),
        "min_p": st.sampled_from([0.0, 0.0, 0.05, 1.0]),
        "changes": st.sampled_from([0, 0, 3]),
        "share": st.sampled_from([1.0, 1.0, 0.5, 0.01]),
    }
)


def make_draw(
    rng: np.random.Generator,
    row: int,
    vocab: int,
    seed: bytes,
    changes: int,
    share: float,
    **fields: Any,
) -> Draw:
    changed = np.sort(rng.choice(vocab, min(changes, vocab), replace=False)).astype(np.int32)
    bits = rng.random(vocab) < share
    bits[rng.integers(vocab)] = True
    packed = np.packbits(np.pad(bits, (0, -vocab % 32)), bitorder="little").view(np.int32)
    allowed = None if share == 1.0 else packed
    return Draw(
        row=row,
        key=derive_key(seed),
        changed=changed,
        values=rng.normal(0, 5, len(changed)),
        allowed=allowed,
        **fields,
    )


@BOTH
@settings(max_examples=60, deadline=None)
@given(
    seed=st.binary(min_size=32, max_size=32),
    vocab=st.sampled_from([1, 7, 300, 5000]),
    spread=st.sampled_from([0.0, 0.5, 3.0, 40.0]),
    draws=st.lists(DRAWS, min_size=1, max_size=4),
)
def test_the_fast_search_finds_what_the_full_sum_finds(
    kernels: str, seed: bytes, vocab: int, spread: float, draws: list[dict[str, Any]]
) -> None:
    rng = np.random.default_rng(seed[0])
    logits = np.round(rng.normal(0, spread, (len(draws), vocab)), 1).astype(np.float32)
    made = [make_draw(rng, row, vocab, seed, **fields) for row, fields in enumerate(draws)]
    drawn = run(kernels, logits, *made)
    assert [each.winner for each in drawn] == [
        naive(row, draw) for row, draw in zip(logits, made, strict=True)
    ]


@BOTH
@settings(max_examples=40, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), vocab=st.sampled_from([2, 300, 5000]), draw=DRAWS)
def test_the_winner_s_margin_is_zero_and_everybody_else_s_is_the_plain_form_s(
    kernels: str, seed: bytes, vocab: int, draw: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed[0])
    logits = rng.normal(0, 3, (1, vocab)).astype(np.float32)
    plain = make_draw(rng, 0, vocab, seed, **draw)
    winner = draw_one(logits[0], plain).winner
    asked = [
        Draw(**{**vars(plain), "token": token})
        for token in (winner, (winner + 1) % vocab, int(logits.argmin()))
    ]
    margins = [each.margin for each in run(kernels, logits, *asked)]
    assert margins[0] == 0
    assert all(
        0 < margin <= MAX_MARGIN
        for margin, each in zip(margins, asked, strict=True)
        if each.token != winner
    )
    assert margins == pytest.approx([draw_one(logits[0], each).margin for each in asked], abs=1e-9)


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits = torch.zeros(3, 49152)
    logits[1, [17, 40000, 300]] = 2.0
    logits[2, 49151] = 2.0
    best, finite = find_best(logits)
    assert best.tolist() == [0, 17, 49151]
    assert finite.all()


@BOTH
def test_choices_follow_the_model_s_probabilities(kernels: str) -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32))
    key = derive_key(b"d" * 32)
    drawn = run(kernels, logits, *(Draw(0, position, 1.0, key) for position in range(4000)))
    assert np.bincount([each.winner for each in drawn], minlength=4) / 4000 == pytest.approx(
        [0.5, 0.3, 0.15, 0.05], abs=0.03
    )


def test_no_noise_exceeds_the_bound_that_the_search_uses() -> None:
    assert gumbel(np.array([0xFFFFFFFF], dtype=np.uint64))[0] <= GUMBEL_LIMIT
    assert np.isfinite(gumbel(np.array([0], dtype=np.uint64))[0])


@given(
    prompt=st.lists(st.integers(0, 19), max_size=8),
    answer=st.lists(st.integers(0, 19), max_size=12),
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
    presence=st.sampled_from([0.0, 0.7]),
    frequency=st.sampled_from([0.0, -0.25]),
    bias=st.dictionaries(st.integers(0, 19), st.sampled_from([-5.0, 2.0]), max_size=4),
)
def test_penalties_and_biases_change_logits_as_the_specification_says(
    prompt: list[int],
    answer: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    logits = np.linspace(-2, 2, 20).astype(np.float32)
    chooser = Chooser(
        Sampling(
            SEED,
            Choosing(
                1.0,
                repetition_penalty=repetition,
                presence_penalty=presence,
                frequency_penalty=frequency,
                logit_bias=sorted(bias.items()),
            ),
        ),
        prompt,
    )
    for token in answer:
        chooser.accept(token)
    draw = chooser.draw(logits[chooser.changed_ids], 0, 5)
    row = logits.astype(np.float64)
    row[draw.changed] = draw.values
    for token in range(20):
        expected = float(logits[token]) + bias.get(token, 0.0)
        if token in prompt + answer:
            expected = expected / repetition if expected > 0 else expected * repetition
        expected -= (presence if token in answer else 0.0) + frequency * answer.count(token)
        assert row[token] == pytest.approx(expected, abs=1e-12)


def test_log_probabilities_are_the_model_s_own_and_ranked() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(1)) * 4
    expected = logits.double().log_softmax(-1)
    report = report_logprobs(logits.numpy(), 7, 5)
    assert report.logprob == pytest.approx(float(expected[7]), abs=1e-5)
    best = expected.topk(5)
    assert [token for token, _ in report.top] == best.indices.tolist()
    assert [logprob for _, logprob in report.top] == pytest.approx(best.values.tolist(), abs=1e-5)
