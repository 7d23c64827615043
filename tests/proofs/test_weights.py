"""Under what an adapter's digest stays the same, under what not, and how likeness is told."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.weights import (
    NoWeights,
    Pair,
    Plain,
    compare_weights,
    digest_weights,
    inner_product,
    round_to_brain,
    round_to_half,
)

WIDTHS = (5, 7)
SEEDS = st.integers(0, 2**32 - 1)
RANKS = st.integers(1, 4)


def make(seed: int, rank: int, num_modules: int = 2) -> dict[str, Pair]:
    """Numbers of the size that adapters have: B's often smaller than float16 likes."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        numbers = random.normal(0, 1, shape) * 2.0 ** random.integers(-20, 0, shape)
        return numbers.astype(np.float32)

    wide, high = WIDTHS
    return {
        f"model.layers.{number}.q_proj": Pair(draw(rank, wide), draw(high, rank), 2.0)
        for number in range(num_modules)
    }


def change(pairs: dict[str, Pair], by) -> dict[str, Pair]:
    return {name: by(pair) for name, pair in pairs.items()}


def cast(pairs: dict[str, Pair], rounding) -> dict[str, Pair]:
    return change(pairs, lambda pair: Pair(rounding(pair.a), rounding(pair.b), pair.scale))


def scaled(pair: Pair, powers: tuple[int, int, int]) -> Pair:
    of_a, of_b, of_scale = powers
    return Pair(pair.a * 2.0**of_a, pair.b * 2.0**of_b, pair.scale * 2.0**of_scale)


@given(SEEDS, RANKS)
@settings(max_examples=100, deadline=None)
def test_a_copy_that_was_cast_has_a_digest_in_common(seed: int, rank: int):
    own = digest_weights(make(seed, rank).items())
    brain = digest_weights(cast(make(seed, rank), round_to_brain).items())
    half = digest_weights(cast(make(seed, rank), round_to_half).items())
    assert brain.brain == own.brain
    assert half.half == own.half


def test_no_digest_of_single_numbers_survives_both_casts():
    """Why there are two: a number between two of bfloat16's is itself one of float16's, and both
    neighbours' cells touch it.
    """
    middle = np.float32(1 + 2.0**-8)
    below, above = (np.nextafter(middle, side, dtype=np.float32) for side in (0, np.float32(2)))
    pair = np.array([below, above], np.float32)
    assert len(set(round_to_brain(pair))) == 2
    assert len(set(round_to_half(pair))) == 1


@given(SEEDS, RANKS, st.tuples(*[st.integers(-8, 8)] * 2), st.data())
@settings(max_examples=60, deadline=None)
def test_what_does_not_change_the_product_does_not_change_the_digest(
    seed: int, rank: int, powers: tuple[int, int], data: st.DataObject
):
    pairs = make(seed, rank)
    own = digest_weights(pairs.items())
    folded = change(pairs, lambda pair: scaled(pair, (*powers, -sum(powers))))
    assert digest_weights(folded.items()).brain == own.brain, "scale moved between the halves"
    order = np.array(data.draw(st.permutations(range(rank))))
    turned = change(pairs, lambda pair: Pair(pair.a[order], pair.b[:, order], pair.scale))
    assert digest_weights(turned.items()) == own, "the rank's order"
    signs = np.array([data.draw(st.sampled_from([-1.0, 1.0])) for _ in range(rank)])
    flipped = change(
        pairs,
        lambda pair: Pair(
            (pair.a * signs[:, None]).astype(np.float32),
            (pair.b * signs).astype(np.float32),
            pair.scale,
        ),
    )
    assert digest_weights(flipped.items()) == own, "two signs"
    padded = change(
        pairs,
        lambda pair: Pair(
            np.pad(pair.a, ((0, 3), (0, 0))), np.pad(pair.b, ((0, 0), (0, 3))), pair.scale
        ),
    )
    assert digest_weights(padded.items()) == own, "a rank that adds nothing"
    empty = Pair(pairs["model.layers.0.q_proj"].a * 0, np.ones((7, rank), np.float32), 1.0)
    assert digest_weights([("another", empty), *pairs.items()]) == own, "a module of zeros"
    assert digest_weights(reversed(pairs.items())) == own, "the order of modules"


@given(SEEDS, RANKS, st.sampled_from([1.5, 3.0, -1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_what_changes_the_product_changes_both_digests(seed: int, rank: int, factor: float):
    pairs = make(seed, rank)
    own = digest_weights(pairs.items())
    names = list(pairs)
    others = [
        {**pairs, names[0]: scaled_by(pairs[names[0]], factor)},
        dict(zip(names, [pairs[names[1]], pairs[names[0]]], strict=True)),
        {names[0]: pairs[names[0]]},
        {**pairs, names[0]: nudged(pairs[names[0]])},
    ]
    for other in others:
        digest = digest_weights(other.items())
        assert digest.brain != own.brain
        assert digest.half != own.half


def scaled_by(pair: Pair, factor: float) -> Pair:
    return Pair(pair.a, pair.b, pair.scale * factor)


def nudged(pair: Pair) -> Pair:
    a = pair.a.copy()
    place = np.unravel_index(np.argmax(np.abs(a)), a.shape)
    a[place] *= 1.25
    return Pair(a, pair.b, pair.scale)


def test_what_takes_something_s_place_is_digested_as_it_is():
    ones, twos = np.ones(4, np.float32), np.full(4, 2, np.float32)

    def digest(*rows: np.ndarray, shape: tuple[int, ...] = (4,), scale: float | None = None):
        return digest_weights([("norm", Plain(shape, rows, scale))])

    assert digest(ones) != digest(twos)
    assert digest(ones[:2], ones[2:]) == digest(ones), "however it is cut"
    assert digest(ones) != digest(ones, shape=(2, 2))
    assert digest(ones, scale=2.0) == digest(twos, scale=1.0), "what is added has a scale"
    assert digest_weights([("norm", Plain((4,), [ones]))], b"dora") != digest(ones)


def test_numbers_that_are_none_have_no_digest():
    pairs = make(1, 2)
    first = "model.layers.0.q_proj"
    spoilt = pairs[first].a.copy()
    spoilt[0, 0] = np.nan
    with pytest.raises(NoWeights, match="finite"):
        digest_weights([("one", Pair(spoilt, pairs[first].b, 1.0))])
    with pytest.raises(NoWeights, match="finite"):
        digest_weights([("one", Plain((1,), [np.array([3.4e38], np.float32)]))])
    with pytest.raises(NoWeights, match="zero"):
        digest_weights([("one", Pair(np.zeros((2, 5), np.float32), pairs[first].b, 1.0))])


def test_numbers_too_small_for_float16_still_tell_adapters_apart():
    one, other = (change(make(seed, 2), lambda pair: scaled(pair, (-40, 0, 40))) for seed in (1, 2))
    assert digest_weights(one.items()).half != digest_weights(other.items()).half


@given(SEEDS, RANKS)
@settings(max_examples=40, deadline=None)
def test_likeness_sees_through_whatever_leaves_the_product(seed: int, rank: int):
    random = np.random.default_rng(seed)
    pairs = make(seed, rank)
    turn = np.linalg.qr(random.normal(size=(rank, rank)))[0]
    turned = change(
        pairs,
        lambda pair: Pair(
            (turn @ pair.a).astype(np.float32), (pair.b @ turn.T).astype(np.float32) * 3, 1.0
        ),
    )
    assert digest_weights(turned.items()) != digest_weights(pairs.items())
    found = compare_weights(pairs, turned)
    assert found.whole == pytest.approx(1, abs=1e-4)
    assert found.least == pytest.approx(1, abs=1e-3)
    assert found.strength == pytest.approx(2 / 3, rel=1e-3)
    assert found.modules == 2


@given(SEEDS, RANKS, RANKS)
@settings(max_examples=40, deadline=None)
def test_likeness_is_that_of_the_products_written_out(seed: int, rank: int, other_rank: int):
    one, other = (make(seed + number, rank)["model.layers.0.q_proj"] for number in (0, 1))
    products = [pair.scale * pair.b.astype(float) @ pair.a.astype(float) for pair in (one, other)]
    assert inner_product(one, other) == pytest.approx(float((products[0] * products[1]).sum()))
    found = compare_weights({"m": one}, {"m": other})
    lengths = [np.linalg.norm(product) for product in products]
    assert found.whole == pytest.approx(float((products[0] * products[1]).sum() / np.prod(lengths)))


def test_adapters_of_other_modules_are_not_alike():
    pairs = make(5, 2)
    other = {f"{name}.other": pair for name, pair in pairs.items()}
    found = compare_weights(pairs, other)
    assert (found.whole, found.modules) == (0.0, 0)
    with pytest.raises(NoWeights, match="adds nothing"):
        compare_weights(pairs, {})


# ── the golden vectors, by a twin that is written from the page, number by number ──

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "weights.json"


@pytest.mark.parametrize("kind", ["brain", "half"])
def test_the_golden_vectors_follow_from_the_page(kind: str):
    for entry in json.loads(GOLDEN.read_text()):
        assert plainly(entry, kind) == entry[kind]


def plainly(entry, kind: str) -> str:
    settings_ = bytes.fromhex(entry["settings"])
    parts = {entry["pair"]["module"]: product(entry["pair"], kind)}
    if entry["norm"]:
        numbers = b"".join(struct.pack("<f", nearest(one, kind)) for one in entry["norm"])
        head = b"plain" + struct.pack("<QQ", 1, len(entry["norm"]))
        parts["model.norm"] = hashlib.sha256(head + numbers).digest()
    whole = b"lorikeet weights 1\0" + kind.encode() + b"\0"
    whole += struct.pack("<I", len(settings_)) + settings_
    for name in sorted(parts):
        whole += struct.pack("<I", len(name)) + name.encode() + parts[name]
    return hashlib.sha256(whole).hexdigest()


def product(pair, kind: str) -> bytes:
    mantissa, exponent = math.frexp(pair["scale"])
    summands = []
    for row, column in zip(pair["a"], zip(*pair["b"], strict=True), strict=True):
        a, of_a = normal([nearest(one, kind) for one in row])
        b, of_b = normal([nearest(one, kind) for one in column])
        sign = -1 if next(one for one in a if one) < 0 else 1
        head = struct.pack("<if", of_a + of_b + exponent, mantissa)
        numbers = [sign * one for one in (*a, *b)]
        summands.append(hashlib.sha256(head + floats(numbers)).digest())
    head = b"pair" + struct.pack("<QQ", len(pair["a"][0]), len(pair["b"]))
    return hashlib.sha256(head + b"".join(sorted(summands))).digest()


def floats(numbers: list[float]) -> bytes:
    return b"".join(struct.pack("<f", one or 0.0) for one in numbers)


def normal(numbers: list[float]) -> tuple[list[float], int]:
    exponent = math.frexp(max(map(abs, numbers)))[1]
    return [math.ldexp(one, -exponent) for one in numbers], exponent


def nearest(number: float, kind: str) -> float:
    if kind == "half":
        [single] = struct.unpack("<f", struct.pack("<f", number))
        return struct.unpack("<e", struct.pack("<e", single))[0]
    [bits] = struct.unpack("<I", struct.pack("<f", number))
    low, rest = bits >> 16, bits & 0xFFFF
    up = rest > 0x8000 or (rest == 0x8000 and low & 1)
    return struct.unpack("<f", struct.pack("<I", (low + up) << 16))[0]
