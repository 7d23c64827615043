"""The logits processor in a batch whose requests come, go and move, in both of vLLM's interfaces.

Both are stand-ins, written after vLLM 0.32; tests/bridge/test_with_vllm.py runs the first one in
vLLM itself.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from engine import messages as m
from engine.executor.draw import draw_one
from engine.sampler import Chooser

SEED = bytes(range(32))
VOCAB = 300
TERMS = {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.3, "frequency_penalty": 0.2}


@dataclass
class Params:
    extra_args: dict[str, Any] | None


@dataclass
class Update:
    removed: list[int]
    added: list[tuple[int, Params, list[int] | None, list[int]]]
    moved: list[tuple[int, int, str]]


def process_dict_updates(
    held: dict[int, Any], update: Update | None, new: Callable[..., Any]
) -> bool:
    """As vllm/v1/sample/logits_processor/builtin.py does, at one-way moves."""
    if update is None:
        return False
    for index, params, prompt, output in update.added:
        held.pop(index, None)
        if (state := new(params, prompt, output)) is not None:
            held[index] = state
    for index in update.removed:
        held.pop(index, None)
    for old, fresh, _ in update.moved:
        held.pop(fresh, None)
        if old in held:
            held[fresh] = held.pop(old)
    return True


def bgmv_expand(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    indices: torch.Tensor,
    add_inputs: bool = True,
) -> None:
    """As vllm/lora/ops/torch_ops/lora_ops.py has it: index -1 is the last adapter."""
    found = torch.einsum("bi,boi->bo", inputs, weights[indices])
    out[:] = out + found if add_inputs else found


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, on stand-ins for what it imports of vLLM."""
    operations = types.SimpleNamespace(bgmv_expand=bgmv_expand, bgmv_expand_slice=bgmv_expand)
    first = "vllm.v1.sample.logits_processor"
    second = "vllm.v1.worker.gpu.sample.logits_processor.interface"
    contents: dict[str, dict[str, Any]] = {
        first: {"LogitsProcessor": type("First", (), {})},
        f"{first}.builtin": {"process_dict_updates": process_dict_updates},
        second: {"LogitsProcessor": type("Second", (), {})},
        "vllm.lora.ops.torch_ops": {"lora_ops": operations},
        "vllm.lora.punica_wrapper": {"punica_cpu": operations},
    }
    for name, members in contents.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            if path not in contents or path == name:
                monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
        vars(sys.modules[name]).update(members)
    monkeypatch.delitem(sys.modules, "lorikeet_vllm.draws", raising=False)
    import lorikeet_vllm.draws

    lorikeet_vllm.draws.operations = operations
    yield lorikeet_vllm.draws
    sys.modules.pop("lorikeet_vllm.draws", None)


def config(quantization: str | None = None) -> Any:
    model = types.SimpleNamespace(quantization=quantization, dtype=torch.bfloat16)
    device = types.SimpleNamespace(device_type="cpu")
    return types.SimpleNamespace(model_config=model, device_config=device)


def ours(answered: int = 0, **terms: Any) -> Params:
    return Params({"lorikeet": {"seed": SEED.hex(), "answered": answered, **terms}})


def expected(row: torch.Tensor, prompt: list[int], answer: list[int], **terms: Any) -> int:
    """What our engine draws."""
    chooser = Chooser(m.Sampling(SEED, m.choosing_from(terms)), prompt)
    for token in answer:
        chooser.accept(token)
    logits = row.numpy()
    draw = chooser.draw(logits[chooser.changed_ids], 0, len(prompt) + len(answer))
    return draw_one(logits, draw).winner


def rows(count: int, seed: int = 1) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.tensor(random.normal(0, 3, (count, VOCAB)).astype(np.float32))


def won(row: torch.Tensor) -> int:
    assert int((row > -torch.inf).sum()) == 1
    return int(row.argmax())


def test_rows_are_drawn_as_our_engine_draws_them_wherever_they_move(draws: Any) -> None:
    processor = draws.Draws(config(), torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    output: list[int] = []
    plain = Params(None)
    processor.update_state(
        Update([], [(0, plain, [1], []), (1, ours(**TERMS), [4, 5], output)], [])
    )
    place, answer = 1, list[int]()
    for step in range(6):
        logits = rows(2, step)
        drawn = processor.apply(logits.clone())
        assert torch.equal(drawn[1 - place], logits[1 - place])
        token = expected(logits[place], [4, 5], answer, **TERMS)
        assert won(drawn[place]) == token
        answer.append(token)
        output.append(token)
        if step == 2:  # the other leaves, and ours is moved into its row
            processor.update_state(Update([0], [], [(1, 0, "one-way")]))
            place = 0
    processor.update_state(Update([0], [], []))
    logits = rows(1)
    assert torch.equal(processor.apply(logits.clone()), logits)


def test_an_answer_that_goes_on_counts_its_beginning_as_answer(draws: Any) -> None:
    processor = draws.Draws(config(), torch.device("cpu"), False)
    processor.update_state(Update([], [(0, ours(2, **TERMS), [4, 5, 77, 78], [79])], []))
    logits = rows(1)
    token = expected(logits[0], [4, 5], [77, 78, 79], **TERMS)
    assert won(processor.apply(logits.clone())[0]) == token


def test_the_best_of_a_plain_greedy_row_is_left_to_vllm(draws: Any) -> None:
    processor = draws.Draws(config(), torch.device("cpu"), False)
    processor.update_state(Update([], [(0, ours(), [1], [])], []))
    logits = rows(1)
    assert torch.equal(processor.apply(logits.clone()), logits)


@pytest.mark.parametrize(("quantization", "told"), [(None, "1 bfloat16"), ("fp8", "1 fp8")])
def test_a_probe_is_told_what_this_is(draws: Any, quantization: str | None, told: str) -> None:
    processor = draws.Draws(config(quantization), torch.device("cpu"), False)
    output: list[int] = []
    processor.update_state(Update([], [(0, Params({"lorikeet": {"probe": 9}}), [0], output)], []))
    for _ in range(len(told) + 3):
        output.append(won(processor.apply(rows(1))[0]))
    assert output == [9, *told.encode(), 0, 0]


def test_terms_without_sense_are_refused_before_the_request_runs(draws: Any) -> None:
    draws.Draws.validate_params(Params(None))
    with pytest.raises(ValueError, match="top_p"):
        draws.Draws.validate_params(ours(top_p=2.0))


def test_the_second_runners_slots_are_drawn_alike(draws: Any) -> None:
    tokens = torch.zeros((4, 16), dtype=torch.int32)
    tokens[3, :5] = torch.tensor([4, 5, 77, 78, 79])
    prompt_len = types.SimpleNamespace(np=np.array([0, 0, 0, 2], np.int32))
    state = types.SimpleNamespace(
        all_token_ids=types.SimpleNamespace(gpu=tokens), prompt_len=prompt_len
    )
    processor = draws.Draws(config(), state)
    assert processor.add_request(3, ours(**TERMS))
    assert not processor.add_request(1, ours())
    assert not processor.add_request(2, Params(None))
    step = types.SimpleNamespace(
        idx_mapping_np=np.array([2, 3, 1]), seq_lens_upper_bound_np=np.array([1, 5, 1])
    )
    logits = rows(3)
    drawn = processor.apply(logits.clone(), step)
    assert torch.equal(drawn[[0, 2]], logits[[0, 2]])
    assert won(drawn[1]) == expected(logits[1], [4, 5], [77, 78, 79], **TERMS)
    assert not processor.add_request(3, Params(None))  # the slot is another's now
    assert torch.equal(processor.apply(logits.clone(), step), logits)


def test_rows_without_an_adapter_are_left_as_they_are_on_a_processor(draws: Any) -> None:
    draws.Draws(config(), torch.device("cpu"), False)
    draws.Draws(config(), torch.device("cpu"), False)  # once is enough
    out = torch.zeros(3, 2)
    weights = torch.stack([torch.full((2, 4), 1.0), torch.full((2, 4), 5.0)])
    draws.operations.bgmv_expand(torch.ones(3, 4), weights, out, torch.tensor([0, -1, 1]), True)
    assert out.tolist() == [[4.0, 4.0], [0.0, 0.0], [20.0, 20.0]]
