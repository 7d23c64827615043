"""Verdicts on replayed answers: honest ones pass as often as was promised, cheats are told from
them, and the command that calibrates works.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.calibrate import rounded
from engine.model.weights import open_weights
from engine.verdict import (
    MILLION,
    Calibration,
    Pairing,
    Thresholds,
    calibrate,
    judge,
    limit_of,
    score_of,
)
from tests.node.forked import forked_python

from .four_bits import in_4_bits
from .worlds import make_adapter, make_base

SOUND = Thresholds(cap=100_000, mean=300, variance=30, one_in=10_000)
MARGINS = st.lists(st.floats(0, 1000), max_size=200)


def honest(rng: random.Random, count: int) -> list[float]:
    """Kernel noise: a token in fifty misses, mostly by little."""
    return [rng.expovariate(40) if rng.random() < 0.02 else 0.0 for _ in range(count)]


def test_honest_answers_pass_and_dishonest_ones_do_not() -> None:
    rng = random.Random(5)
    thresholds = calibrate([[honest(rng, 96) for _ in range(100)]], 0.1, 10_000)
    alarms = sum(
        judge(honest(rng, rng.randint(10, 300)), thresholds).outcome == "suspicious"
        for _ in range(5000)
    )
    assert alarms <= 3
    cheating = [rng.expovariate(1) if rng.random() < 0.4 else 0.0 for _ in range(64)]
    assert judge(cheating, thresholds).outcome == "suspicious"


@given(margins=MARGINS)
def test_no_misses_are_never_suspicious_and_a_few_tokens_get_no_verdict(
    margins: list[float],
) -> None:
    assert judge([0.0] * len(margins), SOUND).outcome in ("honest", "too short")
    verdict = judge(margins[:1], SOUND)
    assert verdict.outcome == "too short"
    assert verdict.limit >= SOUND.cap / MILLION


@pytest.mark.parametrize("nonsense", [float("nan"), -1.0, float("inf")])
def test_numbers_that_are_no_margins_are_suspicious(nonsense: float) -> None:
    assert judge([nonsense] * 100, SOUND).outcome == "suspicious"


@given(margins=MARGINS, worse=st.integers(0, 199))
def test_a_larger_miss_never_makes_an_answer_better(margins: list[float], worse: int) -> None:
    if worse >= len(margins):
        return
    spoilt = [*margins[:worse], margins[worse] + 1.0, *margins[worse + 1 :]]
    assert judge(spoilt, SOUND).score >= judge(margins, SOUND).score - 1e-12


@given(count=st.integers(1, 5000))
def test_longer_answers_are_judged_more_sharply(count: int) -> None:
    assert limit_of(count + 1, SOUND) < limit_of(count, SOUND)
    assert limit_of(count, SOUND) > SOUND.mean / MILLION


@given(
    groups=st.lists(
        st.lists(st.lists(st.floats(0, 50), min_size=2, max_size=40), min_size=1, max_size=10),
        min_size=1,
        max_size=3,
    ),
    cap=st.sampled_from([0.05, 1.0, 2.0]),
)
def test_thresholds_bound_each_group_that_they_were_made_from_and_survive_the_file(
    groups: list[list[list[float]]], cap: float
) -> None:
    thresholds = calibrate(groups, cap, 1000)
    for answers in groups:
        score = score_of([each for answer in answers for each in answer], cap)
        assert thresholds.mean / MILLION >= score - 1e-9
    found = Calibration(("amx",), (Pairing("q4", "q4", thresholds, "amx vnni 0.0"),))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Calibration) == found


def test_the_more_was_seen_the_less_is_allowed() -> None:
    few, many = (calibrate([[[0.0] * 64] * count], 0.1, 1000) for count in (10, 100))
    assert many.mean < few.mean < 0.02 * MILLION


@given(count=st.integers(1, 300), share=st.floats(0.0, 0.05))
@settings(max_examples=40, deadline=None)
def test_honest_answers_exceed_their_limit_more_seldom_than_promised(
    count: int, share: float
) -> None:
    """Tokens that count whole or nothing, of which the chance is known exactly."""
    one_in = 1000
    thresholds = Thresholds(MILLION, math.ceil(share * MILLION), math.ceil(share * MILLION), one_in)
    most = math.floor(limit_of(count, thresholds) * count + 1e-9)
    exceeds = 1.0 - sum(
        math.comb(count, hits) * share**hits * (1 - share) ** (count - hits)
        for hits in range(min(most, count) + 1)
    )
    assert exceeds <= 1 / one_in + 1e-9


def test_the_command_writes_thresholds_and_says_what_they_catch(tmp_path: Path) -> None:
    model = make_base(tmp_path / "base", spread=0.2)
    make_adapter(model, tmp_path / "adapter", 1)
    folder = tmp_path / "adapter" / "a1"
    command = [
        forked_python(),
        "-m",
        "engine",
        "calibrate",
        "--base",
        str(tmp_path / "base"),
        "--adapter",
        str(folder),
        "--threads",
        "1",
        "--answers",
        "6",
        "--tokens",
        "48",
        "--kinds",
        "float32/auto,bfloat16/auto",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    rows = {
        line[:55].strip(): line[55:].split()
        for line in done.stdout.splitlines()
        if line[55:].count(" of ") == 1
    }
    assert all(row[0] == "0" for who, row in rows.items() if who.endswith("honest"))
    bare = rows["same      same      without the adapter, float32"]
    assert bare[0] == bare[2] == "3"
    dice = rows["bfloat16  float32   with other dice"]
    assert dice[0] == dice[2] == "2"
    found = msgspec.json.decode((folder / "verification.json").read_bytes(), type=Calibration)
    assert len(found.kernels) == 1
    assert {(each.made, each.replayed) for each in found.across} == {
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
    }


def test_a_base_in_4_bits_is_rounded_in_whatever_form_it_is_read(tmp_path: Path) -> None:
    make_base(tmp_path, num_hidden_layers=1, hidden_size=96)
    weights = in_4_bits(open_weights(tmp_path))
    name = "model.layers.0.self_attn.q_proj.weight"
    coarse = rounded(weights)
    before, after = weights.read_quantised(name), coarse.read_quantised(name)
    assert before is not None
    assert after is not None
    codes = torch.cat((after.codes & 15, after.codes >> 4)).unique()
    assert set(codes.tolist()) == set(range(2, 16, 2))
    assert not torch.equal(before.codes, after.codes)
    assert torch.equal(coarse.read(name), after.dequantise())
    steps = before.scales.float().repeat_interleave(before.group, 1)
    assert ((coarse.read(name) - weights.read(name)).abs() <= 1.001 * steps).all()


@pytest.mark.parametrize(
    "change", [{"cap": 0}, {"mean": -1}, {"one_in": 1}, {"variance": "much"}, {"extra": 1}]
)
def test_a_file_of_senseless_thresholds_is_not_read(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(
            json.dumps(msgspec.to_builtins(SOUND) | change).encode(), type=Thresholds
        )
