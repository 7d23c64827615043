"""A base is what transformers makes of the same files: which of them count, what a configuration
means where it leaves something out, which head is tied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.base_files import INDEX_FILE, WHOLE_FILE, base_id
from engine.errors import ModelError
from engine.model.config import MAX_CONTEXT_TOKENS, from_huggingface
from engine.model.experts import Experts
from engine.model.families import FAMILIES
from engine.model.weights import open_weights

from .worlds import Bench, make_base, some_tokens

TOLERANCE = 1e-4
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 9000,
    "rms_norm_eps": 3e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "sliding_window": 700,
    "use_sliding_window": False,
    "max_window_layers": 4,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [3],
    "no_rope_layer_interval": 2,
}
ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 777.0},
    {"rope_scaling": None, "rope_theta": 5e5},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_theta": 3.0},
    {
        "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        "rope_theta": 5e5,
    },
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
    },
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e6},
    {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 2.5,
            "rope_theta": 5e4,
            "original_max_position_embeddings": 1024,
            "beta_fast": 24.0,
            "beta_slow": 2.0,
            "truncate": False,
            "mscale": 0.7,
            "mscale_all_dim": 0.3,
        }
    },
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 0.9}},
]


FACTORS = [1.0 + i / 8 for i in range(8)]
PHI_ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 777.0},
    {
        "rope_scaling": {"type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS[::-1]},
        "original_max_position_embeddings": 4096,
    },
    {
        "rope_scaling": {"type": "yarn", "short_factor": FACTORS, "long_factor": FACTORS[::-1]},
        "rope_theta": 5e5,
    },
]
"""Phi-3 knows two kinds, one of them by several names."""


MANY_EXPERTS = {
    "qwen2_moe": "num_experts",
    "qwen3_moe": "num_experts",
    "mixtral": "num_local_experts",
    "gpt_oss": "num_local_experts",
}


def oracle_class(family: str) -> Any:
    from transformers import AutoConfig

    return type(AutoConfig.for_model(family))


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """A config.json from which some fields are left out."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    changes = {
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "use_sliding_window": draw(st.booleans()),
        "sliding_window": draw(st.sampled_from([None, 64, 700])),
        "max_window_layers": draw(st.sampled_from([0, 4, 8, 28])),
    }
    # sizes of a head follow from the others, so they are left out together
    together = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    left_out = draw(st.sets(st.sampled_from([*(SMALL.keys() - set(together)), "sizes", "heads"])))
    left_out |= set(together) if "sizes" in left_out else set()
    left_out |= {"num_key_value_heads", "head_dim"} if "heads" in left_out else set()
    raw = {name: value for name, value in {**SMALL, **changes}.items() if name not in left_out}
    if family == "phi3":
        sized = {"hidden_size": 512, "num_attention_heads": 32, "num_key_value_heads": 4}
        return {"model_type": family, **raw, **sized, **draw(st.sampled_from(PHI_ROPES))}
    if family in MANY_EXPERTS:
        raw |= draw(st.sampled_from([{}, {MANY_EXPERTS[family]: 9}, {"num_local_experts": 9}]))
    if family == "mixtral":
        raw.setdefault("head_dim", 128)  # transformers' ropes fail where it is left to be computed
    rope = draw(st.sampled_from(ROPES))
    if family == "gemma3_text" and "rope_parameters" in rope:
        rope = rope | {"rope_parameters": {"full_attention": rope["rope_parameters"]}}
    return {"model_type": family, **raw, **rope}


def meant(raw: dict[str, Any]) -> dict[str, Any]:
    """What transformers makes of a config.json, in our terms."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    family = str(raw["model_type"])
    config = AutoConfig.for_model(**json.loads(json.dumps(raw)))
    kind = {"layer_type": "full_attention"} if family == "gemma3_text" else {}
    rope = config.rope_parameters["full_attention"] if kind else config.rope_parameters
    magnitude = 1.0
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    if rope["rope_type"] == "default":
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        frequencies = 1.0 / (rope["rope_theta"] ** exponents)
    else:
        frequencies, magnitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", **kind)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if family in ("mistral", "mixtral", "phi3", "qwen3_moe"):
        kinds = ["sliding_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    slides = frozenset(
        at for at, each in enumerate(kinds) if each == "sliding_attention" and window
    )
    gemma = family.startswith("gemma")
    return {
        "vocab_size": config.vocab_size,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": head_dim,
        "context": min(config.max_position_embeddings, MAX_CONTEXT_TOKENS),
        "sliding": slides,
        "window": window if slides else None,
        "score_scale": (config.query_pre_attn_scalar if gemma else head_dim) ** -0.5,
        "logit_cap": config.final_logit_softcapping if gemma else None,
        "magnitude": magnitude,
        "norm_eps": config.rms_norm_eps,
        "tied_head": config.tie_word_embeddings,
        "unrotated": frozenset(
            at for at, rotates in enumerate(getattr(config, "no_rope_layers", ())) if not rotates
        ),
        "frequencies": frequencies,
        "experts": experts_meant(family, config) if family in MANY_EXPERTS else None,
    }


def experts_meant(family: str, config: Any) -> Experts:
    """What layers have experts, how many and how wide, as the model's classes take it."""
    sparse = range(config.num_hidden_layers)
    alike = family in ("gpt_oss", "mixtral")
    if not alike:
        step = config.decoder_sparse_step
        plain = config.mlp_only_layers
        sparse = [at for at in sparse if at not in plain and (at + 1) % step == 0]
    return Experts(
        count=getattr(config, MANY_EXPERTS[family]),
        chosen=config.num_experts_per_tok,
        width=config.intermediate_size if alike else config.moe_intermediate_size,
        layers=frozenset(sparse),
        normalised=alike or config.norm_topk_prob,
        shared=config.shared_expert_intermediate_size if family == "qwen2_moe" else 0,
        biased=family == "gpt_oss",
        in_turn=family == "gpt_oss",
    )


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=150)
@given(raw=configurations())
def test_a_configuration_means_what_it_means_to_transformers(raw: dict[str, Any]) -> None:
    expected = meant(raw)
    config = from_huggingface(raw)
    frequencies = expected.pop("frequencies")
    scaling = config.ropes[0].scaling
    assert (1.0 if scaling is None else scaling.magnitude) == pytest.approx(
        expected.pop("magnitude"), rel=1e-6
    )
    assert {name: getattr(config, name) for name in expected} == expected
    assert torch.allclose(config.inverse_frequencies(), frequencies, rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_empty_configuration_is_the_family_s_own_model(family: str) -> None:
    config = oracle_class(family)()
    read = from_huggingface({"model_type": family})
    assert read.hidden == config.hidden_size
    assert read.layers == config.num_hidden_layers
    assert read.kv_heads == config.num_key_value_heads
    rope = config.rope_parameters
    assert read.rope_base == rope.get("full_attention", rope)["rope_theta"]


def forward(folder: Path, tokens: list[int]) -> torch.Tensor:
    bench = Bench(folder)
    sequence = bench.sequence(tokens)
    return bench.forward((sequence, 0, len(tokens)))[id(sequence)]


def oracle(folder: Path, tokens: list[int]) -> torch.Tensor:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("family", "fields", "left_out"),
    [
        ("smollm3", {"num_hidden_layers": 4, "num_key_value_heads": 4, "num_attention_heads": 8,
                     "tie_word_embeddings": True},
         ("tie_word_embeddings", "num_key_value_heads", "rope_parameters")),
        ("qwen3", {"head_dim": 128, "num_attention_heads": 2}, ("head_dim", "rope_parameters")),
        ("mistral", {"num_attention_heads": 16, "num_key_value_heads": 8},
         ("num_key_value_heads", "sliding_window", "rope_parameters")),
        ("qwen2", {"num_attention_heads": 4, "num_key_value_heads": 4},
         ("num_key_value_heads", "rope_parameters")),
    ],
)  # fmt: skip
def test_logits_are_those_of_transformers_where_a_field_equals_its_default(
    tmp_path: Path, family: str, fields: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    if family == "qwen2":  # 32 heads of keys are its own default: say that they are as many
        left_out = ("rope_parameters",)
    make_base(tmp_path, family, spread=0.2, **fields)
    change(tmp_path / "config.json", lambda raw: [raw.pop(name, None) for name in left_out])
    tokens = some_tokens(60, 2)
    assert (forward(tmp_path, tokens) - oracle(tmp_path, tokens)).abs().max() < TOLERANCE


def shard(folder: Path, num: int = 3) -> None:
    """Cut a folder's model.safetensors into shards and their index."""
    tensors = load_file(folder / WHOLE_FILE)
    (folder / WHOLE_FILE).unlink()
    owners = {}
    for at in range(num):
        name = f"model-{at + 1:05}-of-{num:05}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[at::num]}
        save_file(part, folder / name, metadata={"format": "pt"})
        owners |= dict.fromkeys(part, name)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": owners}))


def stray(source: Path, target: Path) -> None:
    """The same names with other numbers."""
    save_file({name: x + 1 for name, x in load_file(source).items()}, target)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    "name", ["zz_old.safetensors", "adapter_model.safetensors", "a.safetensors"]
)
def test_a_stray_file_changes_neither_logits_nor_identity(
    tmp_path: Path, sharded: bool, name: str
) -> None:
    folder = tmp_path / "base"
    make_base(folder, num_hidden_layers=2)
    whole = shutil.copy(folder / WHOLE_FILE, tmp_path / "whole")
    if sharded:
        shard(folder)
    clean = base_id(folder)
    stray(Path(whole), folder / name)
    tokens = some_tokens(20, 1)
    assert base_id(folder) == open_weights(folder).base_id == clean
    assert (forward(folder, tokens) - oracle(folder, tokens)).abs().max() < TOLERANCE


def test_a_whole_file_counts_before_an_index(tmp_path: Path) -> None:
    make_base(tmp_path, num_hidden_layers=2)
    clean = base_id(tmp_path)
    whole = (tmp_path / WHOLE_FILE).read_bytes()
    stray(tmp_path / WHOLE_FILE, tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / WHOLE_FILE)
    shard(tmp_path)
    (tmp_path / WHOLE_FILE).write_bytes(whole)
    tokens = some_tokens(20, 1)
    assert base_id(tmp_path) == clean
    assert (forward(tmp_path, tokens) - oracle(tmp_path, tokens)).abs().max() < TOLERANCE


def test_the_index_says_which_of_two_shards_a_tensor_is_read_from(tmp_path: Path) -> None:
    make_base(tmp_path, num_hidden_layers=2)
    expected = load_file(tmp_path / WHOLE_FILE)["model.norm.weight"]
    shard(tmp_path)
    owner = json.loads((tmp_path / INDEX_FILE).read_text())["weight_map"]["model.norm.weight"]
    for path in tmp_path.glob("model-*.safetensors"):
        if path.name != owner:
            save_file({**load_file(path), "model.norm.weight": expected + 1}, path)
    assert torch.equal(open_weights(tmp_path).read("model.norm.weight"), expected)


def test_files_without_an_index_are_one_whole_set_or_refused(tmp_path: Path) -> None:
    make_base(tmp_path, num_hidden_layers=2)
    shard(tmp_path)
    with_index = base_id(tmp_path)
    (tmp_path / INDEX_FILE).unlink()
    assert base_id(tmp_path) == with_index
    shutil.copy(tmp_path / "model-00001-of-00003.safetensors", tmp_path / "old.safetensors")
    with pytest.raises(ModelError, match=r"no model.safetensors.index.json that says which"):
        base_id(tmp_path)
    (tmp_path / "old.safetensors").unlink()
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model.safetensors.index.json that says which"):
        base_id(tmp_path)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (b"{", "is no index of shards"),
        (b"[]", "is no index of shards"),
        (b'{"weight_map": 3}', "is no index of shards"),
        (b'{"weight_map": {"a": [1]}}', "is no index of shards"),
        (b'{"weight_map": {"a": "../x.safetensors"}}', "names '../x.safetensors'"),
        (b'{"weight_map": {"a": "/etc/x.safetensors"}}', "names '/etc/x.safetensors'"),
        (b'{"weight_map": {"a": "pytorch_model.bin"}}', "names 'pytorch_model.bin'"),
        (b'{"weight_map": {"a": "absent.safetensors"}}', "lacks absent.safetensors"),
        (b'{"weight_map": {}}', "names no file"),
    ],
)
def test_an_index_that_names_no_files_of_the_folder_is_refused(
    tmp_path: Path, index: bytes, told: str
) -> None:
    make_base(tmp_path, num_hidden_layers=2)
    (tmp_path / WHOLE_FILE).rename(tmp_path / "x.safetensors")
    (tmp_path / INDEX_FILE).write_bytes(index)
    with pytest.raises(ModelError, match=told):
        base_id(tmp_path)


@given(index=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_no_index_is_a_crash(tmp_path: Path, index: bytes) -> None:
    (tmp_path / INDEX_FILE).write_bytes(index)
    with pytest.raises(ModelError):
        base_id(tmp_path)


@pytest.mark.parametrize("present", ["both alike", "both, different", "head only"])
def test_a_tied_head_is_tied_as_transformers_ties_it(tmp_path: Path, present: str) -> None:
    make_base(tmp_path, num_hidden_layers=2, tie_word_embeddings=True)
    tensors = load_file(tmp_path / WHOLE_FILE)
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding + (0.5 if present == "both, different" else 0)
    if present == "head only":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / WHOLE_FILE, metadata={"format": "pt"})
    tokens = some_tokens(20, 1)
    assert open_weights(tmp_path).config.tied_head == (present != "both, different")
    assert (forward(tmp_path, tokens) - oracle(tmp_path, tokens)).abs().max() < TOLERANCE


def test_a_model_that_was_saved_without_its_head_is_read(tmp_path: Path) -> None:
    model = make_base(tmp_path, num_hidden_layers=2, tie_word_embeddings=True)
    bare = {f"{name}": tensor for name, tensor in model.model.state_dict().items()}
    save_file(bare, tmp_path / WHOLE_FILE, metadata={"format": "pt"})
    tokens = some_tokens(20, 1)
    assert (forward(tmp_path, tokens) - oracle(tmp_path, tokens)).abs().max() < TOLERANCE


def test_layers_slide_where_their_family_uses_the_window() -> None:
    small = {**SMALL, "sliding_window": 64}

    def sliding(family: str, **changes: Any) -> list[int]:
        config = from_huggingface({"model_type": family, **small, **changes})
        assert config.context == 9000
        assert config.window == (64 if config.sliding else None)
        return sorted(config.sliding)

    assert sliding("llama") == sliding("qwen3") == sliding("smollm3") == []
    assert sliding("mistral") == sliding("phi3", head_dim=None) == list(range(8))
    assert sliding("qwen3", use_sliding_window=True) == [4, 5, 6, 7]
    assert sliding("qwen2", use_sliding_window=True, max_window_layers=8) == []
    assert sliding("smollm3", use_sliding_window=True) == [1, 3, 5, 7]
    assert sliding("gemma2") == [0, 2, 4, 6]
    assert sliding("gemma3_text") == [0, 1, 2, 3, 4, 6, 7]
    named = ["full_attention"] * 7 + ["sliding_attention"]
    assert sliding("gemma3_text", layer_types=named) == [7]
    assert sliding("qwen2", use_sliding_window=True, layer_types=named) == [7]
