"""Base models as strangers bring them: every GGUF number format, sharded folders, and files that
lie.
"""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.errors import ModelError
from engine.model import families
from engine.model.config import ModelConfig, from_huggingface
from engine.model.gguf_file import SERVED, GgufFile, huggingface_names
from engine.model.tensors import expected_tensors
from engine.model.weights import open_weights

from .worlds import Bench, make_base, some_tokens

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k."""
    rows = weight.shape[0]
    return (
        weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def write_gguf(
    folder: Path, path: Path, kind: str, quant: str = "F32", **fields: Any
) -> dict[str, torch.Tensor]:
    """The model of a Hugging Face folder as a GGUF file, matrices in `quant`; returns the weights
    that its bytes stand for.
    """
    config = open_weights(folder).config
    tensors = load_file(folder / "model.safetensors")
    names = {ours: theirs for ours, theirs in huggingface_names(config) if ours in tensors}
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.rotated)
    if config.window is not None:
        writer.add_sliding_window(config.window)
    if config.score_cap is not None:
        writer.add_attn_logit_softcapping(config.score_cap)
    if config.logit_cap is not None:
        writer.add_final_logit_softcapping(config.logit_cap)
    if config.experts is not None:
        writer.add_expert_count(config.experts.count)
        writer.add_expert_used_count(config.experts.chosen)
        writer.add_expert_feed_forward_length(config.experts.width)
        if config.experts.shared:
            writer.add_expert_shared_feed_forward_length(config.experts.shared)
    for name, value in fields.items():
        (
            writer.add_tensor(name, value)
            if isinstance(value, np.ndarray)
            else writer.add_uint32(name, value)
            if isinstance(value, int)
            else writer.add_string(name, value)
            if isinstance(value, str)
            else writer.add_float32(name, value)
        )
    meant = {}
    together: dict[str, list[np.ndarray]] = {}
    for ours, place in names.items():
        # such files hold what is added to a norm's weights, too
        offset = config.norm_offset if "norm" in ours else 0.0
        weight = (tensors[ours].float() + offset).numpy()
        heads = (
            {"q_proj": config.heads, "k_proj": config.kv_heads}.get(ours.split(".")[-2])
            if kind in ("llama", "smollm3")
            else None
        )
        stored = permute(weight, heads) if heads else weight[0] if place.is_row else weight
        wanted = gguf.GGMLQuantizationType[quant if stored.ndim > 1 else "F32"]
        packed = (
            random_blocks(stored.shape, wanted)
            if wanted.name.endswith("_K") or wanted.name.startswith("IQ")
            else gguf.quants.quantize(stored, wanted)
        )
        if place.number is None:
            writer.add_tensor(place.name, packed, raw_dtype=wanted)
        else:
            together.setdefault(place.name, []).append(packed)
        plain = gguf.quants.dequantize(packed, wanted).reshape(weight.shape).astype(np.float32)
        plain = plain - offset if offset else plain
        meant[ours] = torch.from_numpy(plain.copy() if not heads else unpermuted(plain, heads))
    for name, experts in together.items():
        writer.add_tensor(name, np.stack(experts), raw_dtype=gguf.GGMLQuantizationType[quant])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    rows = weight.shape[0]
    return (
        weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
        .copy()
    )


def random_blocks(shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Blocks of a format that only llama.cpp writes: random bytes whose float16 scales are small.

    Two formats multiply theirs by another scale of up to 127: without a smaller one weights would
    spread so far that transformers itself is 9e-5 from float64.
    """
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(shape[0] + shape[-1])
    data = rng.integers(0, 256, (int(np.prod(shape)) // block, size), dtype=np.uint8)
    places = {
        "Q2_K": (size - 4, size - 2),
        "Q3_K": (size - 2,),
        "Q4_K": (0, 2),
        "Q5_K": (0, 2),
        "Q6_K": (size - 2,),
        "IQ4_NL": (0,),
        "IQ4_XS": (0,),
    }
    most = 5e-5 if kind.name in ("Q6_K", "IQ4_XS") else 4e-4
    for at in places[kind.name]:
        data[:, at : at + 2] = (
            rng.uniform(most / 4, most, (len(data), 1)).astype(np.float16).view(np.uint8)
        )
    return data.reshape(*shape[:-1], -1)


def expect(model: Any, meant: dict[str, torch.Tensor], tokens: list[int]) -> torch.Tensor:
    model.load_state_dict(meant, strict=False)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def logits_of(path: Path, tokens: list[int]) -> torch.Tensor:
    bench = Bench(path)
    sequence = bench.sequence(tokens)
    return bench.forward((sequence, 0, len(tokens)))[id(sequence)]


@pytest.mark.parametrize("quant", SERVED)
def test_every_number_format_of_a_gguf_file_gives_the_logits_of_its_dequantised_weights(
    tmp_path: Path, quant: str
) -> None:
    model = make_base(tmp_path / "base", spread=0.05, **SHAPE)
    meant = write_gguf(tmp_path / "base", tmp_path / "base.gguf", "llama", quant)
    tokens = some_tokens(20, 3)
    assert (
        logits_of(tmp_path / "base.gguf", tokens) - expect(model, meant, tokens)
    ).abs().max() < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_is_read_from_a_gguf_file(tmp_path: Path, kind: str) -> None:
    changes = {
        "smollm3": {"num_hidden_layers": 5},
        "gemma2": {"query_pre_attn_scalar": 64},
        "gemma3_text": {
            "query_pre_attn_scalar": 64,
            "num_hidden_layers": 7,
            "sliding_window_pattern": 6,
        },
        "phi3": {"partial_rotary_factor": 0.75, "sliding_window": 24},
        "qwen3_moe": {"norm_topk_prob": True},
    }.get(kind, {})
    model = make_base(tmp_path / "base", kind, spread=0.05, **{**SHAPE, **changes})
    meant = write_gguf(tmp_path / "base", tmp_path / "base.gguf", FAMILIES[kind])
    tokens = some_tokens(40, 3)
    assert (
        logits_of(tmp_path / "base.gguf", tokens) - expect(model, meant, tokens)
    ).abs().max() < 1e-4


def test_llama_3_s_frequencies_are_read_from_a_gguf_file(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    model = make_base(tmp_path / "base", spread=0.05, **SHAPE, rope_parameters=rope)
    scaled = open_weights(tmp_path / "base").config.inverse_frequencies()
    plain = 1.0 / (500.0 ** (torch.arange(0, 64, 2).float() / 64))
    divisors = {"rope_freqs.weight": (plain / scaled).numpy()}
    meant = write_gguf(tmp_path / "base", tmp_path / "base.gguf", "llama", **divisors)
    tokens = some_tokens(200, 3)
    assert (
        logits_of(tmp_path / "base.gguf", tokens) - expect(model, meant, tokens)
    ).abs().max() < 1e-4


@pytest.mark.parametrize("length", [20, 90])
def test_longrope_s_factors_are_read_from_a_gguf_file(tmp_path: Path, length: int) -> None:
    short, long = ([first + at / 8 for at in range(32)] for first in (1.0, 3.0))
    rope = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    model = make_base(
        tmp_path / "base",
        "phi3",
        spread=0.05,
        **SHAPE,
        rope_parameters={**rope, "rope_theta": 1e4},
        original_max_position_embeddings=24,
    )
    fields: dict[str, Any] = {
        "rope_factors_short.weight": np.array(short, np.float32),
        "rope_factors_long.weight": np.array(long, np.float32),
        "phi3.rope.scaling.original_context_length": 24,
    }
    meant = write_gguf(tmp_path / "base", tmp_path / "base.gguf", "phi3", **fields)
    tokens = some_tokens(length, 3)
    assert (
        logits_of(tmp_path / "base.gguf", tokens) - expect(model, meant, tokens)
    ).abs().max() < 1e-4


def test_yarn_is_read_from_a_gguf_file(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    model = make_base(
        tmp_path / "base",
        "qwen2",
        spread=0.05,
        **SHAPE,
        rope_parameters={**rope, "rope_theta": 1e6},
    )
    fields: dict[str, Any] = {
        "qwen2.rope.scaling.type": "yarn",
        "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 256,
    }
    meant = write_gguf(tmp_path / "base", tmp_path / "base.gguf", "qwen2", **fields)
    tokens = some_tokens(200, 3)
    assert (
        logits_of(tmp_path / "base.gguf", tokens) - expect(model, meant, tokens)
    ).abs().max() < 1e-4


@pytest.mark.parametrize("before", ["language_model.model.", "model.language_model."])
def test_of_a_base_that_sees_pictures_the_text_part_is_served(tmp_path: Path, before: str) -> None:
    model = make_base(tmp_path, "gemma3_text", spread=0.1, num_hidden_layers=2)
    path = tmp_path / "config.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": {}}))
    tensors = load_file(tmp_path / "model.safetensors")
    named = {name.replace("model.", before, 1): x for name, x in tensors.items()}
    named |= {"vision_tower.vision_model.embeddings.weight": torch.ones(3, 3)}
    save_file(named, tmp_path / "model.safetensors")
    tokens = some_tokens(60, 3)
    assert (logits_of(tmp_path, tokens) - expect(model, {}, tokens)).abs().max() < 1e-4


def test_a_folder_in_shards_is_one_base(tmp_path: Path) -> None:
    model = make_base(tmp_path / "whole", spread=0.2)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    tokens = some_tokens(20, 3)
    assert torch.equal(
        logits_of(tmp_path / "whole", tokens), logits_of(tmp_path / "shards", tokens)
    )


def resident_bytes_of(path: Path) -> int:
    """How much of a mapped file is in this process's memory."""
    found = 0
    mine = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            mine = line.endswith(str(path))
        elif mine and word == "Rss:":
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_base_is_in_memory_once(tmp_path: Path, kind: str) -> None:
    make_base(tmp_path / "base", spread=0.05, **{**SHAPE, "intermediate_size": 4096})
    path = file = tmp_path / "base.gguf"
    if kind == "folder":
        path = tmp_path / "base"
        file = tmp_path / "base" / "model.safetensors"
    else:
        write_gguf(tmp_path / "base", path, "llama", "F16")
    weights = open_weights(path)
    sums = [
        weights.read(f"model.layers.{layer}.mlp.{part}_proj.weight").sum()
        for layer in range(2)
        for part in ("gate", "up", "down")
    ]
    assert all(map(torch.isfinite, sums))
    assert resident_bytes_of(file) < file.stat().st_size // 4


def test_a_base_that_changes_under_a_running_engine_is_not_read_on(tmp_path: Path) -> None:
    make_base(tmp_path, spread=0.05)
    weights = open_weights(tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    before = weights.read(name)
    other = {**load_file(tmp_path / "model.safetensors"), name: before + 1}
    save_file(other, tmp_path / "other")
    (tmp_path / "other").replace(tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"model\.safetensors of the base has changed .* restart the engine"
    ):
        weights.read(name)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read any more"):
        weights.read(name)


def test_a_sliding_window_bounds_what_a_token_sees_and_not_the_context(tmp_path: Path) -> None:
    make_base(tmp_path, "mistral", sliding_window=64)
    config = open_weights(tmp_path).config
    assert config.context == 1024
    assert [config.window_of(layer) for layer in range(config.layers)] == [64] * config.layers


# --- files that lie ---


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"hidden_size": "72"}, "hidden_size"),
        ({"hidden_size": 1 << 40}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 4}, "model.layers.3"),
        ({"num_hidden_layers": 2}, "model.layers.2"),
        ({"intermediate_size": 96}, "mlp.gate_proj"),
        ({"vocab_size": 319}, "embed_tokens"),
        ({"attention_bias": True}, "q_proj.bias"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "proportional", "factor": 2.0}}, "proportional"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": -2.0}}, "factor"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}},
            "rope_theta",
        ),
        ({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}}, "short_factor"),
        ({"model_type": "gemma3_text", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "hidden_activation": "silu"}, "hidden_activation"),
        ({"model_type": "phi3", "partial_rotary_factor": 0.2}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_window"),
    ],
)
def test_a_configuration_that_is_not_served_or_contradicts_the_tensors_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    make_base(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=word):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"model_type": null}', "\udce9"]
)
def test_a_config_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    make_base(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json"):
        open_weights(tmp_path)


def test_a_configuration_of_another_size_than_the_tensors_is_refused(tmp_path: Path) -> None:
    make_base(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"embed_tokens.weight has shape \[320, 72\]; .*4096"):
        open_weights(tmp_path)


def test_broken_safetensors_files_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    make_base(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    header = b'{"x":{"dtype":"F32","shape":[50000,50000],"data_offsets":[0,10000000000]}}'
    for broken in (
        whole[:-9],
        whole[:50],
        b"",
        struct.pack("<Q", 1 << 60) + whole[8:],
        struct.pack("<Q", len(header)) + header,
    ):
        file.write_bytes(broken)
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            open_weights(tmp_path)
    file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="safetensors"):
        open_weights(tmp_path)


def test_weights_that_are_not_finite_or_of_another_format_are_refused_by_name(
    tmp_path: Path,
) -> None:
    make_base(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for value in (float("nan"), float("inf")):
        spoilt = tensors["model.layers.1.mlp.up_proj.weight"].clone()
        spoilt[3, 4] = value
        save_file(
            tensors | {"model.layers.1.mlp.up_proj.weight": spoilt}, file, metadata={"format": "pt"}
        )
        with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
            Bench(tmp_path)
    save_file(
        tensors | {"model.norm.weight": tensors["model.norm.weight"].to(torch.float8_e4m3fn)},
        file,
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match="F8_E4M3"):
        open_weights(tmp_path)


def test_a_gguf_file_that_lacks_a_tensor_or_has_a_foreign_format_is_refused_by_name(
    tmp_path: Path,
) -> None:
    make_base(tmp_path / "base", **SHAPE)
    path = tmp_path / "base.gguf"
    write_gguf(tmp_path / "base", path, "llama")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        open_weights(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="leaves the file"):
        open_weights(path)


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("fuzz")
    make_base(folder / "base", num_hidden_layers=1)
    write_gguf(folder / "base", folder / "base.gguf", "llama")
    return (folder / "base.gguf").read_bytes()


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 2600), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 3000),
)
def test_only_a_model_error_comes_out_of_a_spoilt_gguf_header(
    small_gguf: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int]],
    cut: int | None,
) -> None:
    data = bytearray(small_gguf[:cut])
    for at, value in changes:
        if at < len(data):
            data[at] = value
    path = tmp_path_factory.getbasetemp() / "spoilt.gguf"
    path.write_bytes(data)
    with contextlib.suppress(ModelError):
        open_weights(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
    "no_rope_layers",
    "attention_bias",
    "mlp_bias",
    "hidden_act",
    "hidden_activation",
    "layer_types",
    "query_pre_attn_scalar",
    "final_logit_softcapping",
    "partial_rotary_factor",
    "sliding_window_pattern",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(families.FAMILIES)),
    changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
)
def test_only_a_model_error_comes_out_of_a_spoilt_configuration(
    kind: str, changes: dict[str, Any]
) -> None:
    sound = {
        "vocab_size": 320,
        "hidden_size": 72,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    }
    try:
        config = from_huggingface({"model_type": kind, **sound, **changes})
    except ModelError:
        return
    assert isinstance(config, ModelConfig)
    assert all(min(shape) > 0 for _, shape in expected_tensors(config))


def test_a_gguf_file_s_tensors_lie_inside_it(small_gguf: bytes, tmp_path: Path) -> None:
    (tmp_path / "base.gguf").write_bytes(small_gguf)
    for info in GgufFile(tmp_path / "base.gguf").tensors.values():
        assert info.offset + info.size_bytes <= len(small_gguf)
