"""A prompt's embedding is transformers' last hidden state of its last token, alone and in a
crowd.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from engine.messages import (
    MAX_VECTOR_BYTES,
    AdapterHeld,
    Cancel,
    Embed,
    Embedded,
    Failed,
    FromEngine,
    ToEngine,
)

from .test_equals_peft import randomised
from .worlds import BOTH, SHAPE, Lab, make_base, some_tokens, submit, write_adapter

TOLERANCE = 1e-4
LAW = b"l" * 32
CONTEXT = int(SHAPE["max_position_embeddings"])

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dora on both ends": {
        "use_dora": True,
        "target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head"],
    },
    "the last norm": {"modules_to_save": ["model.norm", "embed_tokens"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    make_base(folder / "base", "qwen3", tie_word_embeddings=True)
    write_adapter(folder / "law", 1)
    return folder


@pytest.fixture
def lab(folder: Path) -> Iterator[Lab]:
    lab = Lab(folder / "base")
    assert isinstance(lab.hold(LAW, folder / "law"), AdapterHeld)
    yield lab
    lab.close()


def vectors(lab: Lab) -> dict[int, bytes]:
    return {one.request_id: one.vector for one in lab.messages if isinstance(one, Embedded)}


def last_state(model: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    return np.asarray(states[-1][0, -1])


@pytest.mark.parametrize("feature", FEATURES)
@BOTH
def test_it_is_the_last_hidden_state_of_transformers_and_of_peft(
    tmp_path: Path, kernels: str, feature: str
) -> None:
    model = make_base(tmp_path / "base", spread=0.2)
    prompts = [some_tokens(40, 1), some_tokens(1, 2), some_tokens(130, 3)]
    bare = [last_state(model, prompt) for prompt in prompts]
    wrapped = randomised(model, tmp_path / "adapter", 5, **FEATURES[feature])
    adapted = [last_state(wrapped, prompt) for prompt in prompts]
    lab = Lab(tmp_path / "base", kernels=kernels)
    assert isinstance(lab.hold(LAW, tmp_path / "adapter"), AdapterHeld)
    for number, prompt in enumerate(prompts):
        lab.engine.handle(Embed(number, prompt, None))
        lab.engine.handle(Embed(10 + number, prompt, LAW))
    lab.drain()
    given = {key: np.frombuffer(vector, "<f4") for key, vector in vectors(lab).items()}
    lab.close()
    for number in range(3):
        assert np.abs(given[number] - bare[number]).max() < TOLERANCE
        assert np.abs(given[10 + number] - adapted[number]).max() < TOLERANCE
        assert np.abs(bare[number] - adapted[number]).max() > 0.02, "the adapter changes nothing"


@BOTH
def test_its_bits_do_not_depend_on_neighbours_chunks_or_shared_pages(
    folder: Path, kernels: str
) -> None:
    prompts = {number: some_tokens(30 + 50 * number, 0) for number in range(1, 4)}

    def given(beside: bool, **settings: Any) -> dict[int, bytes]:
        lab = Lab(folder / "base", kernels=kernels, **settings)
        lab.hold(LAW, folder / "law")
        if beside:
            for number in range(100, 104):
                lab.engine.handle(submit(number, some_tokens(60, number), LAW, tokens=9))
                lab.step()
        for number, prompt in prompts.items():
            lab.engine.handle(Embed(number, prompt, None))
            lab.engine.handle(Embed(10 + number, prompt, LAW))
            if not beside:
                lab.drain()
        lab.drain()
        assert all(len(lab.tokens(number)) == 9 for number in range(100, 104) if beside)
        found = vectors(lab)
        lab.close()
        return found

    alone = given(beside=False)
    assert len(set(alone.values())) == 6
    assert given(beside=True) == alone
    assert given(beside=True, step_tokens=37, prompt_step_tokens=37, kv_tokens=1024) == alone


def test_a_prompt_may_fill_the_context_and_no_more(lab: Lab) -> None:
    lab.engine.handle(Embed(1, some_tokens(CONTEXT, 1), LAW))
    lab.engine.handle(Embed(2, some_tokens(CONTEXT + 1, 1), LAW))
    lab.drain()
    assert isinstance(lab.messages[-1], Embedded)
    refused = lab.end(2)
    assert isinstance(refused, Failed)
    assert refused.code == "bad_request"
    assert str(CONTEXT) in refused.message


@pytest.mark.parametrize(
    ("prompt", "adapter", "code"),
    [
        ([], None, "bad_request"),
        ([1, SHAPE["vocab_size"]], None, "bad_request"),
        ([-1], None, "bad_request"),
        ([1], b"?" * 32, "unknown_adapter"),
    ],
)
def test_what_cannot_be_embedded_says_why(
    lab: Lab, prompt: list[int], adapter: bytes | None, code: str
) -> None:
    lab.engine.handle(Embed(1, prompt, adapter))
    lab.drain()
    end = lab.end(1)
    assert isinstance(end, Failed)
    assert end.code == code


def test_a_cancelled_one_is_over_at_once(lab: Lab) -> None:
    lab.engine.handle(Embed(1, some_tokens(90, 1), None))
    lab.engine.handle(Cancel(1))
    lab.drain()
    assert isinstance(lab.end(1), Failed)
    assert not vectors(lab)


def test_the_messages_bytes_stand() -> None:
    asked = Embed(7, [1, 300], b"a" * 32)
    given = Embedded(7, np.array([0.5, -2.0], "<f4").tobytes())
    raw = bytes.fromhex("94a5456d626564079201cd012cc420") + b"a" * 32
    assert msgspec.msgpack.encode(asked) == raw
    assert msgspec.msgpack.decode(raw, type=ToEngine) == asked
    raw = bytes.fromhex("93a8456d62656464656407c4080000003f000000c0")
    assert msgspec.msgpack.encode(given) == raw
    assert msgspec.msgpack.decode(raw, type=FromEngine) == given
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(
            msgspec.msgpack.encode(Embedded(7, bytes(MAX_VECTOR_BYTES + 1))), type=FromEngine
        )
