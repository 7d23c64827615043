"""What a family does otherwise than Llama holds with adapters too: fused linears, norms of its own,
a scaled embedding, heads of which a part rotates, sequences that begin long.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import BadAdapter
from engine.messages import Finished
from engine.model.weights import open_weights

from .test_equals_peft import randomised
from .worlds import BOTH, Bench, Lab, make_adapter, make_base, some_tokens, submit

TOLERANCE = 1e-4
GEMMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PHI = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
PARTLY = {"hidden_size": 96, "partial_rotary_factor": 0.75, "num_hidden_layers": 2}
FACTORS = [1.0 + i / 4 for i in range(8)]
LONG_ROPE = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "max_position_embeddings": 96,
    "original_max_position_embeddings": 24,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": FACTORS,
        "long_factor": [3 * each for each in FACTORS],
    },
}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("phi3", PARTLY, {"target_modules": PHI, "rank_pattern": {"qkv_proj": 7}}),
    ("phi3", PARTLY, {"target_modules": PHI, "use_dora": True}),
    ("phi3", PARTLY, {"target_modules": ["o_proj"], "modules_to_save": ["qkv_proj", "norm"]}),
    (
        "qwen2_moe",
        {"num_hidden_layers": 2, "decoder_sparse_step": 2, "norm_topk_prob": True},
        {
            "target_modules": ["q_proj", "v_proj", "o_proj", "layers.0.mlp.down_proj"],
            "modules_to_save": ["post_attention_layernorm"],
        },
    ),
    ("gpt_oss", {"num_hidden_layers": 2}, {"target_modules": GEMMA[:4], "bias": "lora_only"}),
    ("qwen3_moe", {"num_hidden_layers": 2}, {"target_modules": GEMMA[:4], "use_dora": True}),
    (
        "gemma2",
        {"num_hidden_layers": 2, "tie_word_embeddings": False},
        {"target_modules": [*GEMMA, "embed_tokens"]},
    ),
    (
        "gemma3_text",
        {"num_hidden_layers": 2},
        {
            "target_modules": GEMMA,
            "modules_to_save": [
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
                "model.norm",
            ],
        },
    ),
    (
        "gemma3_text",
        {"num_hidden_layers": 2},
        {"target_modules": GEMMA, "modules_to_save": ["norm"], "use_rslora": True},
    ),
    (
        "qwen3",
        {"num_hidden_layers": 2},
        {"target_modules": GEMMA, "modules_to_save": ["q_norm", "k_norm"], "use_dora": True},
    ),
    (
        "qwen3_moe",
        {"num_hidden_layers": 2},
        {"target_modules": GEMMA[:2], "modules_to_save": ["layers.1.self_attn.k_norm"]},
    ),
    (
        "qwen3",
        {"num_hidden_layers": 2},
        {"target_modules": ["down_proj"], "modules_to_save": ["layers.1.self_attn"]},
    ),
]


def expect(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0].float()
    return logits


def forward(bench: Bench, tokens: list[int], adapter: bytes | None = None) -> torch.Tensor:
    sequence = bench.sequence(tokens, adapter)
    half = len(tokens) // 2
    parts = [
        bench.forward((sequence, *part))[id(sequence)] for part in ((0, half), (half, len(tokens)))
    ]
    return torch.cat(parts)


@BOTH
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "changes", "settings"), CASES)
def test_adapters_of_every_family_give_the_logits_of_peft(
    tmp_path: Path, kernels: str, kind: str, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    model = make_base(tmp_path / "base", kind, spread=0.1, **changes)
    tokens = some_tokens(60, 5)
    plain = expect(model, tokens)
    wrapped = make_adapter(model, tmp_path / "adapter", 3, **settings)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    wrapped.save_pretrained(tmp_path / "adapter")
    bench = Bench(tmp_path / "base", kernels=kernels)
    bench.load(b"one", tmp_path / "adapter" / "a3")
    expected = expect(wrapped, tokens)
    assert (expected - plain).abs().max() > 0.1, "an adapter that changes nothing proves nothing"
    beside = bench.sequence(tokens)
    sequence = bench.sequence(tokens, b"one")
    got = bench.forward((beside, 0, 60), (sequence, 0, 60))
    assert (got[id(sequence)] - expected).abs().max() < TOLERANCE
    assert (got[id(beside)] - plain).abs().max() < TOLERANCE


@BOTH
@pytest.mark.filterwarnings("ignore")
def test_norms_of_heads_are_each_sequence_s_own_in_a_prompt_and_behind_it(
    tmp_path: Path, kernels: str
) -> None:
    """Two adapters change them, one does not, and the bare base is among them."""
    base = tmp_path / "base"
    settings: dict[bytes | None, dict[str, Any]] = {
        b"both": {"modules_to_save": ["q_norm", "k_norm"]},
        None: {},
        b"none": {"target_modules": ["q_proj", "k_proj"]},
        b"keys": {"modules_to_save": ["k_norm"], "target_modules": ["v_proj"]},
    }
    make_base(base, "qwen3", spread=0.1, num_hidden_layers=2)
    bench = Bench(base, kernels=kernels)
    tokens = {name: some_tokens(24 + seed, seed) for seed, name in enumerate(settings)}
    expected = {}
    for seed, (name, changes) in enumerate(settings.items()):
        model = make_base(tmp_path / "again", "qwen3", spread=0.1, num_hidden_layers=2)
        if name is not None:
            model = randomised(model, tmp_path / f"a{seed}", seed, **changes)
            bench.load(name, tmp_path / f"a{seed}")
        expected[name] = expect(model, tokens[name])
    sequences = {name: bench.sequence(tokens[name], name) for name in settings}
    prompt = bench.forward(*((each, 0, 20) for each in sequences.values()))
    behind = [
        bench.forward(*((each, at, at + 1) for each in sequences.values())) for at in range(20, 24)
    ]
    for name, sequence in sequences.items():
        got = torch.cat([each[id(sequence)] for each in (prompt, *behind)])
        assert (got - expected[name][:24]).abs().max() < TOLERANCE, name


def test_an_adapter_of_single_linears_has_no_place_on_a_base_that_fuses_them(
    tmp_path: Path,
) -> None:
    make_base(tmp_path / "base", "phi3", **PARTLY)
    model = make_base(tmp_path / "other", **{**PARTLY, "partial_rotary_factor": 1.0})
    make_adapter(model, tmp_path / "adapter", 1)
    bench = Bench(tmp_path / "base")
    with pytest.raises(BadAdapter, match=r"no place in this base \(2 layers of qkv_proj, o_proj"):
        bench.load(b"one", tmp_path / "adapter" / "a1")


@BOTH
def test_a_longer_sequence_than_the_base_was_trained_on_rotates_by_other_factors(
    tmp_path: Path, kernels: str
) -> None:
    model = make_base(tmp_path, "phi3", spread=0.15, **LONG_ROPE)
    bench = Bench(tmp_path, kernels=kernels)
    for length in (10, 24, 25, 90):
        tokens = some_tokens(length, length)
        assert (forward(bench, tokens) - expect(model, tokens)).abs().max() < TOLERANCE, length


def test_an_answer_goes_on_with_the_factors_that_its_prompt_began_with(tmp_path: Path) -> None:
    """So no token of it rotates otherwise than those before it; a short one ends where they do, and
    pages are shared by neither with the other.
    """
    model = make_base(tmp_path, "phi3", spread=0.15, **LONG_ROPE)
    lab = Lab(tmp_path)
    short, long = some_tokens(20, 1), some_tokens(40, 1)
    assert long[:20] == short
    lab.run(submit(1, short, tokens=100))
    lab.run(submit(2, long, tokens=10))
    lab.run(submit(3, short, tokens=2))
    for request, prompt, count in ((1, short, 4), (2, long, 10), (3, short, 2)):
        tokens = lab.tokens(request)
        assert len(tokens) == count
        whole = expect(model, [*prompt, *tokens])[len(prompt) - 1 : -1]
        assert whole.argmax(-1).tolist() == tokens, request
    end = lab.end(1)
    assert isinstance(end, Finished)
    assert end.reason == "length"
    lab.close()


def test_what_gemma_adds_to_its_norms_is_added_when_they_are_read(tmp_path: Path) -> None:
    make_base(tmp_path, "gemma2", num_hidden_layers=1)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({name: x.bfloat16() for name, x in tensors.items()}, path)
    weights = open_weights(tmp_path)
    name = "model.layers.0.input_layernorm.weight"
    stored = weights.stored(name)
    assert stored.dtype == torch.bfloat16
    assert torch.equal(weights.read(name), stored.float() + 1)
