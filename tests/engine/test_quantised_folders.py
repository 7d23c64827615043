"""Folders of GPTQ, AWQ and compressed-tensors give the logits of the weights that their bytes stand
for, or are refused by name.

The folders are written here, code by code, as the formats' own packers do; transformers over the
weights that were packed is the oracle.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.base_files import base_id
from engine.errors import ModelError
from engine.model.quantised_folder import find_linears, read_packing
from engine.model.weights import open_weights

from .test_bases import SHAPE, expect, logits_of
from .worlds import make_base, some_tokens

AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
KINDS = {torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16"}
Tensors = dict[str, torch.Tensor]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}


def compressed(**weights: Any) -> dict[str, Any]:
    scheme = {"num_bits": 4, "type": "int", "strategy": "group", "symmetric": True} | weights
    group = {"targets": ["Linear"], "weights": {"group_size": 64, "actorder": None} | scheme}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def packed(
    numbers: np.ndarray, axis: int, places: tuple[int, ...] = tuple(range(8))
) -> torch.Tensor:
    """Eight numbers along an axis in one word of 32 bits; `places[i]` is which of them has bits
    4 * i and on.
    """
    numbers = np.moveaxis(numbers.astype(np.uint64), axis, -1)
    words = np.zeros((*numbers.shape[:-1], numbers.shape[-1] // 8), np.uint64)
    for word in range(words.shape[-1]):
        for bits, place in enumerate(places):
            words[..., word] |= numbers[..., 8 * word + place] << np.uint64(4 * bits)
    words = np.moveaxis(words, -1, axis).astype(np.uint32)
    return torch.from_numpy(np.ascontiguousarray(words).view(np.int32))


def less_one(words: torch.Tensor) -> torch.Tensor:
    """What checkpoint_format "gptq" does to packed zeros: 1 less in each, borrowing if need be."""
    less = words.numpy().view(np.uint32) - np.uint32(0x11111111)
    return torch.from_numpy(less.view(np.int32))


def write_linear(
    stem: str, shape: torch.Size, how: dict[str, Any], seed: int
) -> tuple[Tensors, Any]:
    """A linear's tensors in that format, and the weight that they stand for."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    method = how["quant_method"]
    group = how.get("group_size") or how["config_groups"]["group_0"]["weights"]["group_size"]
    codes = rng.integers(0, 16, (rows, columns))
    zeros = rng.integers(0, 16, (rows, columns // group))
    is_compressed = method == "compressed-tensors"
    is_symmetric = is_compressed and how["config_groups"]["group_0"]["weights"]["symmetric"]
    if is_symmetric or how.get("sym"):
        zeros[:] = 8
    scales = rng.uniform(0.002, 0.02, zeros.shape).astype(np.float16)
    groups = np.arange(columns) // group
    if how.get("desc_act"):
        groups = rng.permutation(groups)
    weight = scales.astype(np.float32)[:, groups] * (codes - zeros[:, groups])
    tensors = {}
    if is_compressed:
        tensors["weight_packed"] = packed(codes, 1)
        tensors["weight_scale"] = torch.from_numpy(scales).bfloat16()
        tensors["weight_shape"] = torch.tensor([rows, columns])
        if not is_symmetric:
            tensors["weight_zero_point"] = packed(zeros, 0)
        scale = tensors["weight_scale"].float().numpy()
        weight = scale[:, groups] * (codes - zeros[:, groups])
    elif method == "awq":
        tensors["qweight"] = packed(codes.T, 1, AWQ_PLACES)
        tensors["qzeros"] = packed(zeros.T, 1, AWQ_PLACES)
        tensors["scales"] = torch.from_numpy(scales.T.copy())
    else:
        tensors["qweight"] = packed(codes.T, 0)
        tensors["qzeros"] = packed(zeros.T, 1)
        if how.get("checkpoint_format", "gptq") == "gptq":
            tensors["qzeros"] = less_one(tensors["qzeros"])
        tensors["scales"] = torch.from_numpy(scales.T.copy())
        tensors["g_idx"] = torch.from_numpy(groups.astype(np.int32))
        tensors["bias"] = torch.zeros(rows, dtype=torch.float16)
    named = {f"{stem}.{name}": tensor for name, tensor in tensors.items()}
    return named, torch.from_numpy(weight.astype(np.float32))


def write_folder(folder: Path, how: dict[str, Any]) -> tuple[Any, Tensors]:
    """A random model whose linears are in that format; returns it and what they stand for."""
    model = make_base(folder, spread=0.05, **SHAPE)
    tensors = load_file(folder / "model.safetensors")
    meant = {}
    for number, name in enumerate(sorted(tensors)):
        if name.endswith("_proj.weight"):
            shape = tensors.pop(name).shape
            parts, meant[name] = write_linear(name.removesuffix(".weight"), shape, how, number)
            tensors |= parts
    save_file(tensors, folder / "model.safetensors")
    change_config(folder, quantization_config=how)
    return model, meant


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FORMATS = {
    "gptq": GPTQ,
    "gptq, groups of 32": {**GPTQ, "group_size": 32, "checkpoint_format": "gptq"},
    "gptq, symmetric": {**GPTQ, "sym": True, "group_size": 128},
    "gptq_v2": {
        **GPTQ,
        "checkpoint_format": "gptq_v2",
        "pack_dtype": "int32",
        "dynamic": {"-:lm_head": {}},
    },
    "gptq, desc_act": {**GPTQ, "desc_act": True},
    "awq": AWQ,
    "awq, groups of 128": {**AWQ, "group_size": 128},
    "compressed-tensors": compressed(),
    "compressed-tensors with zeros": compressed(symmetric=False),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_in_4_bits_gives_the_logits_of_its_dequantised_weights(
    tmp_path: Path, name: str
) -> None:
    model, meant = write_folder(tmp_path, FORMATS[name])
    tokens = some_tokens(20, 3)
    assert (logits_of(tmp_path, tokens) - expect(model, meant, tokens)).abs().max() < 1e-4
    weights = open_weights(tmp_path)
    if FORMATS[name].get("desc_act"):
        assert "14 linears" in weights.notes[0]
        assert not weights.in_4_bits
        assert all(weights.read_quantised(each) is None for each in meant)
        return
    assert weights.notes == ()
    assert weights.in_4_bits
    for each, plain in meant.items():
        kept = weights.read_quantised(each)
        assert kept is not None
        # scale * zero is rounded to float16: by 2 ** -11 of up to 15 scales of up to 0.02
        assert (kept.dequantise() - plain).abs().max() <= 15 * 0.02 * 2**-11
        assert torch.equal(weights.read(each), plain)
    assert weights.read_quantised("lm_head.weight") is None


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    method=st.sampled_from(sorted(FORMATS)),
    rows=st.integers(1, 4),
    groups=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_linear_is_taken_apart_to_the_numbers_that_were_packed(
    method: str, rows: int, groups: int, seed: int
) -> None:
    packing = read_packing(FORMATS[method])
    shape = torch.Size((8 * rows, packing.group * groups))
    parts, weight = write_linear("a.b", shape, FORMATS[method], seed)
    linear = find_linears(packing, {name: InMemory(part) for name, part in parts.items()})["a.b"]
    assert linear.shape == shape
    assert torch.equal(linear.read(), weight)


class InMemory:
    """A tensor as a file would give it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.shape = tuple(tensor.shape)
        self.kind = KINDS[tensor.dtype]

    def read(self) -> torch.Tensor:
        return self._tensor


def test_a_folder_s_identity_is_that_of_its_weights_file(tmp_path: Path) -> None:
    ids = set()
    for number, how in enumerate((GPTQ, AWQ)):
        write_folder(tmp_path / str(number), how)
        weights = open_weights(tmp_path / str(number))
        assert weights.base_id == base_id(tmp_path / str(number))
        ids.add(weights.base_id)
    assert len(ids) == 2


def test_what_autogptq_wrote_before_config_json_had_a_place_for_it_is_read(tmp_path: Path) -> None:
    model, meant = write_folder(tmp_path, GPTQ)
    change_config(tmp_path, quantization_config=None)
    fields = {name: value for name, value in GPTQ.items() if name != "quant_method"}
    (tmp_path / "quantize_config.json").write_text(json.dumps(fields))
    (tmp_path / "model.safetensors").rename(tmp_path / "gptq_model-4bit-64g.safetensors")
    tokens = some_tokens(20, 3)
    assert (logits_of(tmp_path, tokens) - expect(model, meant, tokens)).abs().max() < 1e-4


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'.* gptq, awq"),
    ({"quant_method": "fp8"}, "'fp8'"),
    ({"bits": 4}, "quant_method 'None'"),
    ({"quant_method": ["gptq"]}, "quant_method"),
    ({**GPTQ, "bits": 8}, "bits '8' is not served; we serve 4"),
    ({**GPTQ, "bits": 3}, "bits '3'"),
    ({**GPTQ, "bits": True}, "bits 'True'"),
    ({**GPTQ, "group_size": -1}, "group_size '-1' is not served; we serve 32, 64, 128"),
    ({**GPTQ, "group_size": "64"}, "group_size"),
    ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
    ({**GPTQ, "checkpoint_format": {}, "format": "bitblas"}, "checkpoint_format 'bitblas'"),
    ({**GPTQ, "pack_dtype": "int64"}, "pack_dtype"),
    ({**GPTQ, "dynamic": {"-:lm_head": {}, "+:.*down.*": {"bits": 8}}}, "dynamic"),
    ({**GPTQ, "dynamic": []}, "dynamic"),
    ({**AWQ, "version": "gemv"}, "version 'gemv' is not served; we serve gemm"),
    ({**AWQ, "zero_point": False}, "zero_point"),
    ({**AWQ, "bits": 8}, "bits"),
    (compressed(num_bits=8), "num_bits '8'"),
    (compressed(symmetric=None), "symmetric"),
    (compressed(strategy="channel"), "strategy 'channel'"),
    (compressed(actorder="group"), "actorder 'group'"),
    ({**compressed(), "format": "float-quantized"}, "format 'float-quantized'"),
    ({**compressed(), "config_groups": {}}, "config_groups"),
    ({**compressed(), "config_groups": {"a": 3}}, "config_groups"),
]


@pytest.mark.parametrize(("how", "words"), REFUSED, ids=str)
def test_what_is_not_served_is_refused_by_name(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=rf"quantization_config: .*{words}"):
        read_packing(how)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_folder(folder, GPTQ)
    return folder


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("qzeros", None, r"lacks the tensor .*q_proj\.qzeros"),
        ("scales", lambda it: it[:1], r"q_proj\.scales has shape \[1, 256\]"),
        ("scales", lambda it: it.int(), "scales .* I32"),
        ("qweight", lambda it: it.half(), "qweight .* F16"),
        ("qweight", lambda it: it[:-1], "no whole groups of 64"),
        ("qweight", lambda it: it[:0], "has shape"),
        ("g_idx", lambda it: it - 1, "g_idx .* not there"),
        ("g_idx", lambda it: it + 4, "g_idx .* not there"),
        ("scales", lambda it: it * float("nan"), "not finite"),
        ("bias", lambda it: it + 1, r"q_proj\.bias .* leave it out"),
    ],
)
def test_a_folder_whose_tensors_lie_is_refused_by_name(
    tmp_path: Path, sound: Path, name: str, change: Any, words: str
) -> None:
    shutil.copy(sound / "config.json", tmp_path)
    tensors = load_file(sound / "model.safetensors")
    full = f"model.layers.1.self_attn.q_proj.{name}"
    tensor = tensors.pop(full)
    if change is not None:
        tensors[full] = change(tensor).contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        open_weights(tmp_path).read("model.layers.1.self_attn.q_proj.weight")
