"""Each feature of PEFT's LoRA gives PEFT's own logits, on both executors, or is refused with an
error that names the field.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import BadAdapter

from .worlds import ALL_LINEAR, BOTH, Bench, make_base, some_tokens

TOLERANCE = 1e-4

SERVED: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank 128": {"r": 128},
    "rslora": {"use_rslora": True, "r": 5},
    "patterns": {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"v_proj": 30}},
    "all-linear": {"target_modules": "all-linear"},
    "regex": {"target_modules": r".*\.(q_proj|down_proj)"},
    "some layers": {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "dora": {"use_dora": True},
    "dora and rslora on attention": {
        "use_dora": True,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj", "o_proj"],
    },
    "lora_bias": {"lora_bias": True},
    "biases that the base has not": {"bias": "all"},
    "embedding": {"target_modules": [*ALL_LINEAR, "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding and head alone": {
        "target_modules": ["embed_tokens", "lm_head"],
        "rank_pattern": {"lm_head": 9},
    },
    "embedding and head replaced": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding replaced": {"modules_to_save": ["model.embed_tokens"], "use_dora": True},
    "head replaced": {
        "modules_to_save": ["lm_head"],
        "target_modules": [*ALL_LINEAR, "embed_tokens"],
    },
    "trainable tokens": {"trainable_token_indices": [40, 5, 17]},
    "dora on both ends": {
        "use_dora": True,
        "target_modules": [*ALL_LINEAR, "embed_tokens", "lm_head"],
    },
    "lora_bias on the head": {"lora_bias": True, "target_modules": ["q_proj", "lm_head"]},
    "expressions": {
        "rank_pattern": {
            r".*\.layers\.[01]\..*(q_proj|v_proj)": 6,
            r"layers\.\d+\.mlp\.(?:up|gate)_proj": 3,
            r"^model\.layers\.2\.self_attn\.[^kv]_proj": 9,
        },
        "alpha_pattern": {r"(q|k)_proj": 30, r".*down.*": 5, "self.attn.o_proj": 3},
    },
    "norms of layers": {"modules_to_save": ["input_layernorm", "post_attention_layernorm"]},
    "norms, dora and lora_bias apart": {"modules_to_save": ["norm"], "use_dora": True},
    "norms and bias": {"modules_to_save": ["model.norm", "input_layernorm"], "lora_bias": True},
    "the last norm and the head": {
        "modules_to_save": ["model.norm", "lm_head"],
        "target_modules": ["v_proj", "embed_tokens"],
    },
    "the last norm and tokens": {
        "modules_to_save": ["model.norm"],
        "trainable_token_indices": [4, 9],
    },
    "the last norm and a pair at the head": {
        "modules_to_save": ["model.norm"],
        "target_modules": ["v_proj", "lm_head"],
        "use_dora": True,
    },
    "linears as a whole": {
        "modules_to_save": ["gate_proj", "layers.1.mlp.down_proj", "k_proj"],
        "target_modules": ["q_proj"],
    },
    "a block as a whole": {"modules_to_save": ["layers.1.mlp"], "target_modules": ["q_proj"]},
    "a norm and the linears behind it": {
        "modules_to_save": ["layers.0.input_layernorm", "k_proj"],
        "target_modules": ["q_proj"],
    },
    "fan_in_fan_out, which linears do not have": {"fan_in_fan_out": True},
    "kept tied, replaced": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "kept tied, the head replaced": {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    "kept tied, by LoRA": {
        "target_modules": ["q_proj", "embed_tokens"],
        "ensure_weight_tying": True,
    },
    "kept tied, tokens": {"trainable_token_indices": [3, 8], "ensure_weight_tying": True},
    "trainable tokens of both": {
        "trainable_token_indices": {"embed_tokens": [3, 2], "lm_head": [7]}
    },
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights"),
    "a layer replicated": ({"layer_replication": [[0, 2], [2, 3]]}, "layer_replication"),
    "layer replication": ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
}


def randomised(model: Any, folder: Path, seed: int, **settings: Any) -> Any:
    """A saved adapter none of whose numbers is trivial; returns the PEFT model."""
    import peft

    config = peft.LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ALL_LINEAR,
            "task_type": "CAUSAL_LM",
            **settings,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "magnitude" in name:
                    parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
                elif "lora_" in name:
                    parameter.copy_(0.1 * torch.randn_like(parameter))
                elif parameter.requires_grad:  # biases, and what replaces the base's own
                    parameter.add_(0.1 * torch.randn_like(parameter))
        wrapped.save_pretrained(folder)
    return wrapped.eval()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("feature", SERVED)
@BOTH
def test_a_served_feature_gives_the_logits_of_peft(
    tmp_path: Path, kernels: str, feature: str, tied: bool
) -> None:
    model = make_base(tmp_path / "base", spread=0.2, tie_word_embeddings=tied)
    bench = Bench(tmp_path / "base", kernels=kernels)
    tokens = some_tokens(40, 3)
    with torch.no_grad():
        bare = model(torch.tensor([tokens])).logits[0]
        wrapped = randomised(model, tmp_path / "adapter", 5, **SERVED[feature])
        expected = wrapped(torch.tensor([tokens])).logits[0]
    bench.load(b"a", tmp_path / "adapter")
    adapted = bench.sequence(tokens, b"a")
    plain = bench.sequence(tokens)
    logits = bench.forward((adapted, 0, 40), (plain, 0, 40))
    assert (logits[id(adapted)] - expected).abs().max() < TOLERANCE
    assert (logits[id(plain)] - bare).abs().max() < TOLERANCE
    assert (expected - bare).abs().max() > 0.05, "an adapter that changes nothing proves nothing"


BIASED: dict[str, dict[str, Any]] = {
    **{feature: SERVED[feature] for feature in ("plain", "dora", "lora_bias")},
    "bias all": {"bias": "all", "target_modules": ["q_proj", "o_proj"]},
    "bias lora_only": {"bias": "lora_only", "target_modules": ["q_proj", "o_proj"]},
    "bias all and dora": {"bias": "all", "use_dora": True},
    "bias all and lora_bias": {"bias": "all", "lora_bias": True},
}


@pytest.mark.parametrize("feature", BIASED)
@BOTH
def test_a_base_with_biases_keeps_them_under_an_adapter_or_takes_its(
    tmp_path: Path, kernels: str, feature: str
) -> None:
    model = make_base(tmp_path / "base", "qwen2", spread=0.2)
    bench = Bench(tmp_path / "base", kernels=kernels)
    tokens = some_tokens(30, 4)
    with torch.no_grad():
        expected = randomised(model, tmp_path / "adapter", 6, **BIASED[feature])(
            torch.tensor([tokens])
        ).logits[0]
    bench.load(b"a", tmp_path / "adapter")
    sequence = bench.sequence(tokens, b"a")
    assert (bench.forward((sequence, 0, 30))[id(sequence)] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("feature", REFUSED)
def test_what_is_not_served_is_refused_by_name(tmp_path: Path, feature: str) -> None:
    settings, field = REFUSED[feature]
    model = make_base(tmp_path / "base")
    bench = Bench(tmp_path / "base")
    randomised(model, tmp_path / "adapter", 5, **settings)
    with pytest.raises(BadAdapter, match=field):
        bench.load(b"a", tmp_path / "adapter")


def test_every_field_of_peft_s_configuration_is_served_harmless_or_refused(tmp_path: Path) -> None:
    import peft

    make_base(tmp_path / "base")
    model = make_base(tmp_path / "base")
    bench = Bench(tmp_path / "base")
    randomised(model, tmp_path / "adapter", 5)
    path = tmp_path / "adapter" / "adapter_config.json"
    saved = json.loads(path.read_text())
    from engine.lora.adapter_config import KNOWN

    for field in set(peft.LoraConfig.__dataclass_fields__) - KNOWN | {
        "bias",
        "modules_to_save",
        "trainable_token_indices",
    }:
        path.write_text(json.dumps({**saved, field: "surprising"}))
        with pytest.raises(BadAdapter, match=field):
            bench.load(b"a", tmp_path / "adapter")
    path.write_text(json.dumps({**saved, "use_dora": True}))
    with pytest.raises(BadAdapter, match="lora_magnitude_vector"):
        bench.load(b"a", tmp_path / "adapter")
    path.write_text(json.dumps({**saved, "lora_bias": True}))
    with pytest.raises(BadAdapter, match=r"lora_B\.bias"):
        bench.load(b"a", tmp_path / "adapter")
