"""A stranger's adapter is served whole or refused by the name of what is wrong."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.errors import BadAdapter
from engine.lora.adapter import MAX_HEADER_BYTES, load_adapter
from engine.messages import Failed
from engine.model.config import ModelConfig
from engine.model.weights import Weights

from .worlds import BOTH, SHAPE, VOCAB, Lab, make_base, some_tokens, submit, write_adapter

BASE = ModelConfig(
    VOCAB,
    72,
    112,
    SHAPE["num_hidden_layers"],
    heads=6,
    kv_heads=2,
    head_dim=16,
    context=1024,
    norm_eps=1e-5,
    rope_base=10000.0,
)
STEM = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


WEIGHTS = Weights(bytes(32), BASE, lambda name: torch.ones(1))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_adapter(
        folder / "adapter_config.json", folder / "adapter_model.safetensors", WEIGHTS, dtype
    )


def edit(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Replace or remove tensors."""
    path = folder / "adapter_model.safetensors"
    tensors = {**load_file(path), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 72)}, "lm_head"),
        (
            {"base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight": torch.ones(4, 72)},
            r"layers\.3",
        ),
        (
            {
                "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": (
                    torch.ones(96)
                )
            },
            "magnitude",
        ),
        ({"base_model.model.model.layers.0.self_attn.q_proj.bias": torch.ones(96)}, "q_proj.bias"),
        ({STEM + "A.weight": torch.ones(4, 576)}, r"lora_A.*made for another base"),
        ({STEM + "B.weight": torch.ones(96, 5)}, r"lora_B.*made for another base"),
        ({STEM + "B.weight": None}, "lacks its other half"),
        ({STEM + "A.weight": torch.full((4, 72), float("nan"))}, "not finite"),
        ({STEM + "A.weight": torch.ones(4, 72, dtype=torch.float64)}, "F64"),
        ({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 72)}, "declared twice"),
        (
            {"base_model.model.lm_head.weight": torch.zeros(VOCAB, 72)},
            r"lm_head\.weight is not the base's own",
        ),
        (
            {
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (
                    torch.ones(1, 72)
                )
            },
            "trainable_token_indices does not name",
        ),
        (
            {"base_model.model.model.embed_tokens.lora_A.weight": torch.ones(4, 72)},
            "no kind of adapter",
        ),
    ],
)
def test_a_tensor_that_cannot_be_applied_is_named(
    tmp_path: Path, change: dict[str, torch.Tensor | None], words: str
) -> None:
    write_adapter(tmp_path, 1)
    edit(tmp_path, change)
    with pytest.raises(BadAdapter, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "some"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head"),
        ({"modules_to_save": ["model.norm"]}, "modules_to_save"),
        ({"modules_to_save": [["lm_head"]]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices names embed_tokens"),
        ({"trainable_token_indices": [1, 1]}, "different token ids"),
        ({"trainable_token_indices": [True]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"norm": [1]}}, "trainable_token_indices"),
        ({"trainable_token_indices": 7}, "trainable_token_indices"),
        ({"modules_to_save": ["lm_head"], "trainable_token_indices": {"lm_head": [1]}}, "two ways"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"some_future_switch": True}, "some_future_switch"),
        ({"some_future_list": ["q_proj"]}, "some_future_list"),
        ({"modules_to_save": ["model.layers.0.input_layernorm"]}, "names model.layers.0.input"),
        ({"modules_to_save": ["up_proj"]}, "modules_to_save names up_proj"),
        ({"modules_to_save": [""]}, "modules_to_save"),
        ({"some_future_field": {"x": 1}}, "some_future_field"),
        ({"r": 0}, "r is 0"),
        ({"r": 1e999}, "r is"),
        ({"lora_alpha": "many"}, "lora_alpha"),
        ({"alpha_pattern": {"(?=q)q_proj": 1}}, "alpha_pattern: assert is not served"),
        ({"alpha_pattern": {"(q)_proj\\1": 1}}, "alpha_pattern: .*not served"),
        ({"rank_pattern": {"(?i)Q_PROJ": 1}}, "rank_pattern: "),
        ({"rank_pattern": {"(q_proj": 1}}, "rank_pattern: it is no regular expression"),
        ({"rank_pattern": {"((a{99}){99}){99}": 1}}, "rank_pattern: it is too long"),
        ({"rank_pattern": {"(((){999}){999}){999}": 1}}, "rank_pattern: it is too long"),
        ({"rank_pattern": {"(" * 300 + ")" * 300: 1}}, "rank_pattern: it is longer than 400"),
        ({"rank_pattern": {f"({at})_proj": 1 for at in range(65)}}, "65 regular expressions"),
        ({"rank_pattern": {"q_proj": 100000}}, "rank"),
    ],
)
def test_a_field_that_we_do_not_serve_is_named(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    write_adapter(tmp_path, 1, **{"lora_alpha": 8, **fields})
    if "r" in fields:
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(BadAdapter, match=words):
        load(tmp_path)


@pytest.mark.parametrize("value", ["auto", 1e-6, 3, "rank_stabilised"])
def test_an_option_of_a_switch_that_no_version_we_know_has_is_left_out_as_peft_does(
    tmp_path: Path, value: object
) -> None:
    write_adapter(tmp_path / "plain", 1)
    write_adapter(tmp_path / "newer", 1, some_future_option=value)
    assert torch.equal(load(tmp_path / "plain").blob, load(tmp_path / "newer").blob)


def test_tokens_that_the_base_has_not_and_biases_that_it_has_not_are_named(tmp_path: Path) -> None:
    write_adapter(tmp_path, 1, trainable_token_indices=[1, VOCAB], bias="all")
    edit(
        tmp_path,
        {
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(
                2, 72
            )
        },
    )
    with pytest.raises(BadAdapter, match=f"with {VOCAB}, has not"):
        load(tmp_path)
    edit(
        tmp_path,
        {"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias": torch.ones(96)},
    )
    with pytest.raises(BadAdapter, match="this base has no bias there"):
        load(tmp_path)


def test_a_hostile_header_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    write_adapter(tmp_path, 1)
    path = tmp_path / "adapter_model.safetensors"
    whole = path.read_bytes()
    huge = json.dumps(
        {
            STEM + "A.weight": {
                "dtype": "F32",
                "shape": [1 << 40, 1 << 20],
                "data_offsets": [0, 1 << 62],
            }
        }
    ).encode()
    for data, words in (
        (whole[:-7], "truncated"),
        (whole[:100], "truncated"),
        (b"", "truncated"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + whole[8:], "truncated"),
        (struct.pack("<Q", len(huge)) + huge, "declares"),
        (struct.pack("<Q", 40000) + b"[" * 40000, "unreadable header"),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "truncated"),
    ):
        path.write_bytes(data)
        with pytest.raises(BadAdapter, match=words):
            load(tmp_path)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 2200), byte=st.integers(0, 255), keep=st.integers(0, 60000))
def test_no_damage_ends_in_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, keep: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        write_adapter(folder, 1)
        (folder / "whole").write_bytes((folder / "adapter_model.safetensors").read_bytes())
    data = bytearray((folder / "whole").read_bytes())
    data[at] = byte
    (folder / "adapter_model.safetensors").write_bytes(data[: keep + 4000] if keep % 2 else data)
    with contextlib.suppress(BadAdapter):
        load(folder)


def test_a_half_precision_adapter_is_served_like_its_wide_twin(tmp_path: Path) -> None:
    write_adapter(tmp_path, 1)
    path = tmp_path / "adapter_model.safetensors"
    half = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(half, path)
    narrow = load(tmp_path).blob
    save_file({name: tensor.float() for name, tensor in half.items()}, path)
    assert torch.equal(load(tmp_path).blob, narrow)


@BOTH
def test_what_an_overflowing_adapter_left_in_the_pages_reaches_nobody(
    tmp_path: Path, kernels: str
) -> None:
    make_base(tmp_path / "base")
    folder = write_adapter(
        tmp_path / "hot", 1, modules=("self_attn.v_proj", "self_attn.k_proj", "mlp.down_proj")
    )
    tensors = {
        name: tensor * 1e25
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    requests = [
        submit(number, some_tokens(length, number), tokens=20)
        for number, length in enumerate((3, 16, 17, 40), 10)
    ]
    clean = Lab(tmp_path / "base", kernels=kernels, kv_tokens=256)
    expected = [clean.run(request)[request.request_id] for request in requests]
    spoilt = Lab(tmp_path / "base", kernels=kernels, kv_tokens=256)
    spoilt.hold(b"h" * 32, folder)
    for number, request in enumerate(requests):
        spoilt.run(submit(100 + number, some_tokens(250, number), adapter=b"h" * 32))
        assert isinstance(spoilt.end(100 + number), Failed)
        assert spoilt.run(request)[request.request_id] == expected[number]
    clean.close()
    spoilt.close()
