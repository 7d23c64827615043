"""Adapters are found whatever training wrapped around their modules, their patterns match as PEFT's
do in linear time, and a resized vocabulary gives the base's own tokens PEFT's logits.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.errors import BadAdapter
from engine.lora.names import OfEnd, OfNorm, OfPart, find_place
from engine.lora.patterns import Expression, PatternError, Patterns

from .test_equals_peft import randomised
from .worlds import ALL_LINEAR, VOCAB, Bench, make_base, some_tokens

NAMES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 10, 11)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
] + ["lm_head", "model.embed_tokens"]

PIECES = st.sampled_from(
    [
        *(r"\d", r"\d+", "[0-9]", "[^k]", ".", ".*", r"\.", "layers", "mlp", "q_proj", "up", "_"),
        *("_proj", "self_attn", "(q|o)_proj", "(?:up|down)", "model", "^", "$", "1", "1{2}", "o?"),
        *("(a|)", "[a-z_]+", r"\w*", "x{0,2}", "(.*?)", "lm_head|embed_tokens"),
    ]
)


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(PIECES, max_size=6))
def test_a_key_matches_what_it_matches_in_peft(pieces: list[str]) -> None:
    from peft.utils.other import get_pattern_key

    key = "".join(pieces)
    try:
        expression = Expression(key)
    except PatternError:
        return
    for name in NAMES:
        expected = re.match(rf"(.*\.)?({key})$", name) is not None
        assert expression.matches(name) == expected
        assert expected == (get_pattern_key([key], name) == key) or key == name


@settings(max_examples=300, deadline=None)
@given(keys=st.lists(st.lists(PIECES, min_size=1, max_size=4).map("".join), max_size=4))
def test_of_several_keys_the_first_one_counts(keys: list[str]) -> None:
    from peft.utils.other import get_pattern_key

    given = {key: float(at) for at, key in enumerate(keys) if key}
    try:
        patterns = Patterns(given)
    except PatternError:
        return
    for name in NAMES:
        assert patterns.find(name) == given.get(get_pattern_key(list(given), name))


@pytest.mark.parametrize("key", ["(a+)+b", "(a|a)*b", "(.*)*x", "(a?){40}a{40}", "(.*a){12}"])
def test_no_expression_takes_more_than_linear_time(key: str) -> None:
    began = time.process_time()
    assert not Expression(key + "c").matches("a" * 300)
    assert time.process_time() - began < 5


WRAPS: dict[str, Callable[[str], str]] = {
    "the adapter's name": lambda name: re.sub(
        r"(lora_[AB]|lora_magnitude_vector)(\.weight)?$", r"\1.default\2", name
    ),
    "torch.compile": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "torch.compile, outside": lambda name: "_orig_mod." + name,
    "compiled layers": lambda name: re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", name),
    "FSDP": lambda name: re.sub(r"(layers\.\d+\.)", r"\1_fsdp_wrapped_module.", name),
    "DDP": lambda name: "module." + name,
    "checkpointing": lambda name: re.sub(r"(mlp\.)", r"_checkpoint_wrapped_module.\1", name),
    "no prefix": lambda name: name.removeprefix("base_model.model."),
    "a raw dump": lambda name: re.sub(
        r"(layernorm|lm_head)\.weight$", r"\1.modules_to_save.default.weight", name
    ),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_training_wraps_around_modules_changes_nothing(tmp_path: Path, wrap: str) -> None:
    model = make_base(tmp_path / "base", spread=0.2)
    bench = Bench(tmp_path / "base")
    randomised(
        model,
        tmp_path / "adapter",
        5,
        use_dora=True,
        modules_to_save=["lm_head", "input_layernorm"],
    )
    bench.load(b"a", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    wrapped = {WRAPS[wrap](name): tensor for name, tensor in tensors.items()}
    if wrap == "a raw dump":
        wrapped["base_model.model.lm_head.original_module.weight"] = torch.ones(VOCAB, 72)
    assert wrapped.keys() != tensors.keys()
    save_file(wrapped, path)
    bench.load(b"b", tmp_path / "adapter")
    tokens = some_tokens(20, 3)
    one, other = bench.sequence(tokens, b"a"), bench.sequence(tokens, b"b")
    logits = bench.forward((one, 0, 20), (other, 0, 20))
    assert torch.equal(logits[id(one)], logits[id(other)])


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    model = make_base(tmp_path / "base")
    randomised(model, tmp_path / "adapter", 5)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A"
    tensors[name + ".other.weight"] = tensors[name + ".weight"].clone()
    save_file(tensors, path)
    with pytest.raises(BadAdapter, match="declared twice"):
        Bench(tmp_path / "base").load(b"a", tmp_path / "adapter")


@given(name=st.text(max_size=80))
def test_no_name_is_a_crash(name: str) -> None:
    find_place(name)


def test_names_say_what_they_change() -> None:
    stem = "base_model.model.model."
    assert find_place(stem + "layers.3.mlp.up_proj.lora_B.weight") == OfPart(
        3, "mlp.up_proj", "lora_B"
    )
    assert find_place(stem + "norm.weight") == OfNorm(None, "norm")
    assert find_place("base_model.model.lm_head.base_layer.weight") == OfEnd("lm_head", "weight")
    assert find_place(stem + "layers.0.self_attn.q_norm.weight") == OfNorm(0, "self_attn.q_norm")


# --- vocabularies that training resized ---

RESIZED: dict[str, dict[str, Any]] = {
    "untrained": {},
    "replaced": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "by LoRA": {"target_modules": [*ALL_LINEAR, "embed_tokens", "lm_head"]},
    "by DoRA": {"target_modules": [*ALL_LINEAR, "embed_tokens", "lm_head"], "use_dora": True},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("size", [VOCAB + 3, VOCAB + 64, VOCAB - 20])
@pytest.mark.parametrize("kind", RESIZED)
@pytest.mark.filterwarnings("ignore")
def test_a_resized_vocabulary_gives_the_base_s_own_tokens_peft_s_logits(
    tmp_path: Path, kind: str, size: int, tied: bool
) -> None:
    model = make_base(tmp_path / "base", spread=0.2, tie_word_embeddings=tied)
    bench = Bench(tmp_path / "base")
    tokens = some_tokens(30, 3, VOCAB - 20)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        bare = model(torch.tensor([tokens])).logits[0]
        model.resize_token_embeddings(size, mean_resizing=False)
        wrapped = randomised(model, tmp_path / "adapter", 5, **RESIZED[kind])
        expected = wrapped(torch.tensor([tokens])).logits[0]
        wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(size in tensor.shape for tensor in saved.values())
    bench.load(b"a", tmp_path / "adapter")
    sequence = bench.sequence(tokens, b"a")
    logits = bench.forward((sequence, 0, 30))[id(sequence)]
    shared = min(size, VOCAB)
    assert logits.shape[1] == VOCAB
    assert (logits[:, :shared] - expected[:, :shared]).abs().max() < 1e-4
    assert (expected[:, :shared] - bare[:, :shared]).abs().max() > 0.05


def test_a_vocabulary_of_quite_another_size_is_refused(tmp_path: Path) -> None:
    model = make_base(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.resize_token_embeddings(2 * VOCAB + 1, mean_resizing=False)
        randomised(model, tmp_path / "adapter", 5, modules_to_save=["embed_tokens"])
    with pytest.raises(BadAdapter, match="made for another base"):
        Bench(tmp_path / "base").load(b"a", tmp_path / "adapter")


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("llama", {}, r"layers\.0\.self_attn\.q_norm\.weight has no place in this base"),
        ("qwen3", {"head_dim": 32}, r"q_norm\.weight has shape \[16\], .* need \[32\]"),
    ],
)
def test_norms_of_heads_that_the_base_has_not_are_refused_by_name(
    tmp_path: Path, kind: str, changes: dict[str, Any], told: str
) -> None:
    model = make_base(tmp_path / "trained", "qwen3")
    randomised(
        model, tmp_path / "adapter", 5, target_modules=["down_proj"], modules_to_save=["q_norm"]
    )
    make_base(tmp_path / "base", kind, **changes)
    with pytest.raises(BadAdapter, match=told):
        Bench(tmp_path / "base").load(b"a", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["q_norm"]


def test_a_norm_of_heads_that_modules_to_save_leaves_out_is_refused_by_name(
    tmp_path: Path,
) -> None:
    model = make_base(tmp_path / "base", "qwen3")
    randomised(model, tmp_path / "adapter", 5, modules_to_save=["q_norm", "k_norm"])
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"modules_to_save": ["q_norm"]}))
    with pytest.raises(BadAdapter, match=r"k_norm\.weight has no place: modules_to_save"):
        Bench(tmp_path / "base").load(b"a", tmp_path / "adapter")
    path.write_text(json.dumps(config))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    missing = "base_model.model.model.layers.1.self_attn.k_norm.weight"
    tensors = load_file(weights)
    save_file({name: x for name, x in tensors.items() if name != missing}, weights)
    with pytest.raises(BadAdapter, match=r"layers\.1\.self_attn\.k_norm, but the file has no"):
        Bench(tmp_path / "base").load(b"a", tmp_path / "adapter")
