"""Rows that share a line, and what a batch loses: the same as each row by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from factory.training.batches import Batch, batch_of, batches_of, lengths_of, lines_of
from factory.training.loss import NOT_LEARNT, lost
from factory.training.model import Learner
from factory.training.recipe import AdapterPart
from factory.training.rows import NO_TOKEN, Rows

from ...engine import worlds
from . import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

CPU = torch.device("cpu")
WINDOW = 16


def rows_of(lengths: list[int], seed: int = 3) -> Rows:
    """Random rows; every second is learnt from its middle on."""
    draw = np.random.default_rng(seed)
    ids = np.full((len(lengths), WINDOW), NO_TOKEN, np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = draw.integers(4, tiny.VOCABULARY, length)
    starts = np.array([length // 2 * (n % 2) for n, length in enumerate(lengths)], np.int32)
    none = np.zeros(len(lengths), np.int32)
    return Rows(ids, starts, none, none, starts > 0)


@given(st.lists(st.integers(1, WINDOW), max_size=40))
def test_each_row_stands_once_in_a_line_that_has_room_for_it(lengths: list[int]) -> None:
    lines = lines_of(lengths, WINDOW)
    assert sorted(place for line in lines for place in line) == list(range(len(lengths)))
    used = [sum(lengths[place] for place in line) for line in lines]
    assert all(tokens <= WINDOW for tokens in used)
    assert sum(tokens <= WINDOW // 2 for tokens in used) <= 1  # two such would share one


@given(st.lists(st.integers(2, WINDOW), min_size=1, max_size=12), st.integers(1, 100))
def test_batches_hold_what_the_rows_do_and_no_target_reaches_into_another_row(
    lengths: list[int], most_tokens: int
) -> None:
    rows = rows_of(lengths)
    batches = batches_of(rows, range(len(rows)), CPU, most_tokens)
    told = []
    for batch in batches:
        assert batch.ids.shape == batch.targets.shape == batch.positions.shape
        assert len(batch.ids) <= max(1, most_tokens // WINDOW)
        for line in range(len(batch.ids)):
            for place in (batch.targets[line] != NOT_LEARNT).nonzero()[:, 0].tolist():
                assert batch.positions[line, place + 1] == batch.positions[line, place] + 1
                told.append((int(batch.ids[line, place]), int(batch.targets[line, place])))
    known = [
        (int(rows.ids[row, place - 1]), int(rows.ids[row, place]))
        for row, length in enumerate(lengths_of(rows))
        for place in range(max(int(rows.starts[row]), 1), length)
    ]
    assert sorted(told) == sorted(known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_and_its_gradient_are_those_of_cross_entropy(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.training.loss.CACHED_NUMBERS", 3 * 50)
    torch.manual_seed(0)
    logits = (9 * torch.randn(10, 50)).to(dtype)
    targets = torch.randint(0, 50, (10,))
    targets[[2, 7]] = NOT_LEARNT
    found = []
    for lose in (lost, plainly):
        given_ = logits.clone().requires_grad_()
        loss = lose(given_, targets)
        (loss / 4).backward()
        assert given_.grad is not None
        found.append((loss, given_.grad))
    (own, own_gradient), (plain, plain_gradient) = found
    assert own.dtype == torch.float32
    assert torch.allclose(own, plain, rtol=1e-6)
    rough = 1e-6 if dtype == torch.float32 else 4e-3
    assert torch.allclose(own_gradient.float(), plain_gradient.float(), rtol=rough, atol=rough / 4)
    with torch.no_grad():
        assert torch.equal(lost(logits, targets), own.detach())


def plainly(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(
        logits.float(), targets, ignore_index=NOT_LEARNT, reduction="sum"
    )


FAMILIES = {"llama": {}, "qwen3": {}, "gemma3_text": {"sliding_window": 4, "num_hidden_layers": 2}}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_line_do_not_see_each_other(family: str, tmp_path: Path) -> None:
    changes = {"vocab_size": tiny.VOCABULARY, **FAMILIES[family]}
    worlds.make_base(tmp_path / "base", family, spread=0.2, **changes)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    learner = Learner(tmp_path / "base", AdapterPart(rank=2, alpha=4), seed=5, device=CPU)
    torch.manual_seed(1)
    for name, parameter in learner.adapter().items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    rows = rows_of([9, 5, 2])

    together = gradient_of(learner, [batch_of(rows, [[0, 1, 2]], CPU)])
    alone = gradient_of(learner, [batch_of(rows, [[n]], CPU) for n in range(3)])
    assert together[0] == pytest.approx(alone[0], rel=3e-3)
    error = (together[1] - alone[1]).norm() / alone[1].norm()
    assert error < 0.03  # bfloat16's

    other = rows_of([9, 5, 2], seed=4)
    other.ids[1:] = rows.ids[1:]
    own = [only_last(learner, batch_of(some, [[0, 1, 2]], CPU)) for some in (rows, other)]
    assert own[0] == own[1]


def gradient_of(learner: Learner, batches: list[Batch]) -> tuple[float, Tensor]:
    learner.zero_grad()
    total = 0.0
    for batch in batches:
        loss = learner(batch.ids, batch.targets, batch.positions)
        loss.backward()
        total += loss.item()
    grads = [each.grad for each in learner.adapter().values() if each.grad is not None]
    return total, torch.cat([grad.flatten() for grad in grads])


@torch.no_grad()
def only_last(learner: Learner, batch: Batch) -> float:
    """What all rows but the first lose."""
    batch.targets[:, :9] = NOT_LEARNT
    return float(learner(batch.ids, batch.targets, batch.positions))
