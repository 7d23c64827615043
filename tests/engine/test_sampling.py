"""docs/protocols/sampling.md, held: golden vectors, a naive twin, and the noise's distribution."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.executor.step import find_best
from engine.messages import Sampling
from engine.noise import GUMBEL_LIMIT, derive_key, gumbel, noise_words, philox
from engine.sampler import choose_token, choose_tokens, miss_margin

VECTORS = json.loads((Path(__file__).parent / "sampling_vectors.json").read_text())


def naive(logits: np.ndarray, sampling: Sampling, position: int) -> int:
    """The specification, word by word, over all ids."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[: sampling.top_k] if sampling.top_k else order
    scaled = [float(logits[i]) / sampling.temperature for i in order]
    weights = np.exp(np.array(scaled) - max(scaled))
    kept = next((n + 1 for n, total in enumerate(np.cumsum(weights)) if total >= sampling.top_p * weights.sum()), len(order))
    kept = len(order) if sampling.top_p == 1 else kept
    noise = gumbel(noise_words(derive_key(sampling.seed), position, np.array(order[:kept])))
    scores = {i: s + n for i, s, n in zip(order[:kept], scaled, noise, strict=False)}
    return min(scores, key=lambda i: (-scores[i], i))


def test_philox_gives_the_published_vectors() -> None:
    def run(counter: list[int], key: tuple[int, int]) -> list[int]:
        words = [np.array([word], dtype=np.uint64) for word in counter]
        return [int(word[0]) for word in philox((words[0], words[1], words[2], words[3]), key)]

    assert run([0] * 4, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert run([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert run([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_the_noise_matches_its_golden_vectors() -> None:
    for vector in VECTORS["words"]:
        words = noise_words(derive_key(bytes.fromhex(vector["seed"])), vector["position"], np.array(vector["ids"]))
        assert words.tolist() == vector["words"]
        assert gumbel(words) == pytest.approx(vector["noise"], abs=1e-12)


def test_the_choices_match_their_golden_vectors() -> None:
    logits = torch.from_numpy((((np.arange(2000) * 7919) % 1009) / 100).astype(np.float32))
    for vector in VECTORS["choices"]:
        sampling = Sampling(bytes(range(32)), vector["temperature"], vector["top_k"], vector["top_p"])
        assert choose_tokens(logits[None], [0], [int(logits.argmax())], [sampling], [vector["position"]]) == [vector["token"]]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.binary(min_size=32, max_size=32), position=st.integers(1, 10**6),
    vocab=st.sampled_from([1, 7, 300, 5000]), spread=st.sampled_from([0.0, 0.5, 3.0, 40.0]),
    temperature=st.sampled_from([0.01, 0.7, 1.0, 5.0]), top_k=st.sampled_from([0, 1, 5, 6000]), top_p=st.sampled_from([1e-9, 0.3, 0.95, 1.0]),
)  # fmt: skip
def test_the_bounded_search_finds_what_the_full_sum_finds(
    seed: bytes, position: int, vocab: int, spread: float, temperature: float, top_k: int, top_p: float
) -> None:
    rng = np.random.default_rng(position)
    logits = np.round(rng.normal(0, spread, vocab), 1).astype(np.float32)
    sampling = Sampling(seed, temperature, top_k, top_p)
    winner = choose_token(logits, sampling, position)
    assert winner == naive(logits, sampling, position)
    assert miss_margin(logits, winner, sampling, position) == 0
    loser = (winner + 1) % vocab
    assert vocab == 1 or miss_margin(logits, loser, sampling, position) > 0


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits = torch.zeros(3, 49152)
    logits[1, [17, 40000, 300]] = 2.0
    logits[2, 49151] = 2.0
    best, finite = find_best(logits)
    assert choose_tokens(logits, [0, 1, 2], best.tolist(), [Sampling(bytes(32))] * 3, [1, 1, 1]) == [0, 17, 49151]
    assert finite.all()


def test_choices_follow_the_model_s_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    counts = np.bincount([choose_token(logits, Sampling(b"d" * 32, 1.0), position) for position in range(4000)], minlength=4)
    assert counts / 4000 == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_no_noise_exceeds_the_bound_that_the_search_uses() -> None:
    assert gumbel(np.array([0xFFFFFFFF], dtype=np.uint64))[0] <= GUMBEL_LIMIT
    assert np.isfinite(gumbel(np.array([0], dtype=np.uint64))[0])
