"""The oracle: transformers and peft on the same weights, float32, 1e-4 on logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from .worlds import BOTH, KERNELS, Bench, make_adapter, make_base, smollm2, some_tokens

TOLERANCE = 1e-4


def expect(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0].float()
    return logits


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500.0,
                    "factor": 4.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        ),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {}),
        ("mistral", {"sliding_window": 20}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
        ("gemma2", {"num_hidden_layers": 2}),
        (
            "gemma3_text",
            {
                "num_hidden_layers": 2,
                "final_logit_softcapping": 20.0,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                },
            },
        ),
        ("phi3", {"hidden_size": 96, "sliding_window": 20, "partial_rotary_factor": 0.75}),
        ("qwen2", {}),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}),
        ("qwen3_moe", {"norm_topk_prob": True, "mlp_only_layers": [1]}),
        ("mixtral", {"sliding_window": 20}),
        ("gpt_oss", {"num_hidden_layers": 2}),
        ("qwen3", {}),
        ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
        ("smollm3", {"num_hidden_layers": 5}),
        (
            "smollm3",
            {"num_hidden_layers": 4, "no_rope_layers": [0, 1, 0, 1], "tie_word_embeddings": True},
        ),
    ],
)
@BOTH
def test_every_family_gives_the_logits_of_transformers(
    tmp_path: Path, kernels: str, kind: str, changes: dict[str, Any]
) -> None:
    model = make_base(
        tmp_path, kind, spread=0.2, **changes
    )  # on hotter weights float32 itself is 1e-4 off float64
    bench = Bench(tmp_path, kernels=kernels)
    tokens = some_tokens(300, 1)
    sequence = bench.sequence(tokens)
    logits = torch.cat(
        [
            bench.forward((sequence, 0, 130))[id(sequence)],
            bench.forward((sequence, 130, 300))[id(sequence)],
        ]
    )
    assert (logits - expect(model, tokens)).abs().max() < TOLERANCE


@BOTH
def test_one_mixed_batch_gives_the_logits_of_peft_for_every_row(
    tmp_path: Path, kernels: str
) -> None:
    make_base(tmp_path / "base", spread=0.2)
    import transformers

    settings: dict[bytes, dict[str, Any]] = {
        b"four": {"r": 4},
        b"nine": {"r": 9, "lora_alpha": 5, "use_rslora": True},
        b"patterns": {
            "r": 3,
            "rank_pattern": {"q_proj": 7, "layers.1.mlp.up_proj": 2},
            "alpha_pattern": {"v_proj": 30, "^model.layers.2.mlp.down_proj": 3},
        },
        b"attention": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        b"one layer": {"r": 2, "layers_to_transform": [1]},
    }
    bench = Bench(tmp_path / "base", kernels=kernels)
    models: dict[bytes | None, Any] = {
        None: transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", dtype=torch.float32
        )
    }
    for seed, (name, fields) in enumerate(settings.items()):
        fresh = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", dtype=torch.float32
        )
        models[name] = make_adapter(fresh, tmp_path / name.decode(), seed, **fields)
        bench.load(name, tmp_path / name.decode() / f"a{seed}")
    rows = [
        bench.sequence(some_tokens(20 + 3 * i, i), name)
        for i, name in enumerate([None, *settings, b"four", None])
    ]
    prefilled = bench.forward(*((s, 0, len(s.tokens) - 2) for s in rows))
    mixed = bench.forward(
        *((s, len(s.tokens) - 2, len(s.tokens) - (i % 2)) for i, s in enumerate(rows))
    )
    for index, sequence in enumerate(rows):
        expected = expect(models[sequence.adapter], sequence.tokens)
        got = torch.cat([prefilled[id(sequence)], mixed[id(sequence)]])
        assert (got - expected[: len(got)]).abs().max() < TOLERANCE, (index, sequence.adapter)
        if sequence.adapter is not None:
            assert (expected - expect(models[None], sequence.tokens)).abs().max() > 0.1, (
                "an adapter that changes nothing proves nothing"
            )


@pytest.mark.usefixtures("gguf_read_once")
def test_the_gguf_base_gives_the_logits_of_transformers() -> None:
    import transformers

    path = smollm2()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    tokens = some_tokens(24, 3, 49152)
    expected = expect(model, tokens)
    for kernels in KERNELS:
        bench = Bench(path, kernels=kernels)
        sequence = bench.sequence(tokens)
        logits = torch.cat(
            [
                bench.forward((sequence, 0, 20))[id(sequence)],
                bench.forward((sequence, 20, 24))[id(sequence)],
            ]
        )
        assert (logits - expected).abs().max() < TOLERANCE, kernels
