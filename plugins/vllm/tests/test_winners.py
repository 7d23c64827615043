"""The plug-in's draws are the engine's: its vectors, and random rows against its plain form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import messages as m
from engine.executor.draw import draw_one
from engine.sampler import Chooser
from lorikeet_vllm.terms import Probe, Terms, derive_key, read_terms
from lorikeet_vllm.winners import Counters, Draw, choose, gumbel, words

VECTORS = json.loads((Path(__file__).parents[3] / "tests/engine/sampling_vectors.json").read_text())
LOGITS = torch.tensor((((np.arange(2000) * 7919) % 1009) / 100).astype(np.float32))
SEED = bytes(range(32)).hex()


def draw_of(choice: dict[str, Any]) -> Draw:
    names = {"prompt", "answer", "position", "token"}
    terms = read_terms({"lorikeet": {"seed": SEED} | {k: choice[k] for k in choice.keys() - names}})
    assert isinstance(terms, Terms)
    counts = {token: choice["answer"].count(token) for token in choice.get("answer", [])}
    return Draw(
        terms, derive_key(SEED), choice["position"], counts, frozenset(choice.get("prompt", []))
    )


def test_the_words_are_those_of_the_vectors() -> None:
    for row in VECTORS["words"]:
        draw = Draw(Terms(row["seed"]), derive_key(row["seed"]), row["position"])
        ids = torch.tensor([row["ids"]])
        drawn = words(Counters.of([draw], ids.device), ids)
        assert drawn[0].tolist() == row["words"]
        assert gumbel(drawn)[0].tolist() == pytest.approx(row["noise"])


def test_the_winners_are_those_of_the_vectors_in_one_batch() -> None:
    draws = [draw_of(choice) for choice in VECTORS["choices"]]
    won = choose(LOGITS.expand(len(draws), -1), draws).tolist()
    assert won == [choice["token"] for choice in VECTORS["choices"]]


def test_random_rows_are_won_as_in_the_engine() -> None:
    random = np.random.default_rng(7)
    logits = random.normal(0, 3, (64, 300)).astype(np.float32)
    logits[32:] *= 8  # here few are contenders
    draws = []
    expected = []
    for row in logits:
        named = {
            "temperature": float(random.choice([0.0, 0.3, 1.0, 2.5])),
            "top_k": int(random.choice([0, 1, 7, 299])),
            "top_p": float(random.choice([1.0, 0.9, 0.1])),
            "min_p": float(random.choice([0.0, 0.1])),
            "repetition_penalty": float(random.choice([1.0, 1.4])),
            "presence_penalty": float(random.choice([0.0, 0.7])),
            "frequency_penalty": float(random.choice([0.0, -0.4])),
            "logit_bias": [(3, 4.0), (11, -9.0)] if random.integers(2) else [],
        }
        prompt = random.integers(0, 300, 9).tolist()
        answer = random.integers(0, 300, 12).tolist()
        chooser = Chooser(m.Sampling(bytes.fromhex(SEED), m.choosing_from(named)), prompt)
        for token in answer:
            chooser.accept(token)
        position = len(prompt) + len(answer)
        changed = row[chooser.changed_ids]
        expected.append(draw_one(row, chooser.draw(changed, 0, position)).winner)
        counts = {token: answer.count(token) for token in answer}
        terms = read_terms({"lorikeet": {"seed": SEED, **named}})
        assert isinstance(terms, Terms)
        draws.append(Draw(terms, derive_key(SEED), position, counts, frozenset(prompt)))
    assert choose(torch.tensor(logits), draws).tolist() == expected


def test_the_highest_of_equals_is_the_lowest_id() -> None:
    draws = [draw_of({"temperature": 0.0, "logit_bias": [[9, 1.0]], "position": 1})]
    assert choose(torch.zeros(1, 64).index_fill_(1, torch.tensor([5]), 1.0), draws).tolist() == [5]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"seed": "ab"}, r"lorikeet: .*\$\.seed"),
        ({"seed": SEED, "top_p": 0.0}, "top_p"),
        ({"seed": SEED, "temprature": 1.0}, "temprature"),
        ({"probe": -1}, "probe"),
        ([], "lorikeet"),
    ],
)
def test_terms_that_make_no_sense_are_refused_by_name(given: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_terms({"lorikeet": given})


def test_other_requests_have_no_terms() -> None:
    assert read_terms(None) is None
    assert read_terms({"other": 1}) is None
    assert read_terms({"lorikeet": {"probe": 7}}) == Probe(7)
