"""Several adapters in one give the logits of PEFT's own cat, alone and in company; what is no sum
of pairs is refused by name.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import BadAdapter
from engine.lora.adapter import load_adapter, read_adapter
from engine.lora.loader import Source, Sources
from engine.lora.mixing import load_sources
from engine.messages import AdapterHeld, AdapterRefused, HoldCocktail, ParentFiles, Replay, Replayed
from engine.model.weights import open_weights

from .test_batch_invariance import EVERYWHERE
from .worlds import (
    ALL_LINEAR,
    BOTH,
    VOCAB,
    Bench,
    Lab,
    greedy,
    make_base,
    some_tokens,
    submit,
    write_adapter,
)

TOLERANCE = 1e-4
MIX = b"m" * 32
LAW = b"l" * 32

MIXES: dict[str, list[tuple[float, dict[str, Any]]]] = {
    "two": [(0.7, {}), (0.3, {})],
    "one subtracted": [(1.5, {}), (-0.8, {"r": 7})],
    "other modules and scales": [
        (0.6, {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 3}),
        (2.0, {"target_modules": ["v_proj", "q_proj"], "r": 3, "use_rslora": True}),
        (-2.0, {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"up_proj": 30}}),
    ],
    "eight": [(0.1 + 0.05 * number, {"r": 1 + number}) for number in range(8)],
    "ends": [
        (0.5, {"target_modules": [*ALL_LINEAR, "embed_tokens", "lm_head"]}),
        (-0.7, {"target_modules": ["lm_head", "q_proj"], "r": 5}),
        (0.9, {"target_modules": ["embed_tokens"], "r": 2}),
    ],
}


def mixed_by_peft(model: Any, folder: Path, mix: list[tuple[float, dict[str, Any]]]) -> Any:
    """Random adapters, saved as p0, p1, …, and PEFT's mix of them."""
    import peft

    base = {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"}
    names = [f"p{number}" for number in range(len(mix))]
    configs = [peft.LoraConfig(**{**base, **settings}) for _, settings in mix]
    torch.manual_seed(11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, configs[0], adapter_name="p0")
        for name, config in zip(names[1:], configs[1:], strict=True):
            wrapped.add_adapter(name, config)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.1 * torch.randn_like(parameter))
        wrapped.save_pretrained(folder, save_embedding_layers=False)
        wrapped.add_weighted_adapter(
            names, [weight for weight, _ in mix], "mix", combination_type="cat"
        )
        wrapped.set_adapter("mix")
    return wrapped.eval()


def source(folder: Path, weight: float) -> Source:
    files = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    return Source(*files, weight, folder.name)


def sources(folder: Path, *weights: float) -> Sources:
    return tuple(source(folder / f"p{number}", weight) for number, weight in enumerate(weights))


@pytest.mark.parametrize("mix", MIXES)
@BOTH
def test_a_cocktail_gives_the_logits_of_peft(tmp_path: Path, kernels: str, mix: str) -> None:
    model = make_base(tmp_path / "base", spread=0.2, tie_word_embeddings=False)
    bench = Bench(tmp_path / "base", kernels=kernels)
    tokens = some_tokens(40, 3)
    with torch.no_grad():
        bare = model(torch.tensor([tokens])).logits[0]
        wrapped = mixed_by_peft(model, tmp_path, MIXES[mix])
        expected = wrapped(torch.tensor([tokens])).logits[0]
    weights = [weight for weight, _ in MIXES[mix]]
    bench.put(MIX, load_sources(sources(tmp_path, *weights), bench.weights, bench.dtype))
    adapted = bench.sequence(tokens, MIX)
    plain = bench.sequence(tokens)
    logits = bench.forward((adapted, 0, 40), (plain, 0, 40))
    assert (logits[id(adapted)] - expected).abs().max() < TOLERANCE
    assert (logits[id(plain)] - bare).abs().max() < TOLERANCE
    assert (expected - bare).abs().max() > 0.05, "a mix that changes nothing proves nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixing")
    make_base(folder / "base")
    for number in range(3):
        write_adapter(folder / f"p{number}", number, rank=3 + number, modules=EVERYWHERE)
    return folder


def test_one_scaled_parent_is_an_adapter_of_a_scaled_alpha(folder: Path, tmp_path: Path) -> None:
    half = write_adapter(tmp_path / "half", 0, rank=3, modules=EVERYWHERE, lora_alpha=3)
    weights = open_weights(folder / "base")
    scaled = load_sources(sources(folder, 0.5), weights, torch.float32)
    files = half / "adapter_config.json", half / "adapter_model.safetensors"
    assert scaled.digest() == load_adapter(*files, weights, torch.float32).digest()


@pytest.fixture(params=["float32", "bfloat16"])
def lab(folder: Path, request: pytest.FixtureRequest) -> Any:
    lab = Lab(folder / "base", request.param, max_adapters=3)
    lab.hold(LAW, folder / "p0")
    yield lab
    lab.close()


def hold_mix(lab: Lab, folder: Path, weights: dict[str, float], name: bytes = MIX) -> Any:
    lab.engine.handle(
        HoldCocktail(
            name,
            [
                ParentFiles(
                    str(folder / parent / "adapter_config.json"),
                    str(folder / parent / "adapter_model.safetensors"),
                    weight,
                    parent,
                )
                for parent, weight in weights.items()
            ],
        )
    )
    lab.engine.receive(lab.done.get(timeout=60))
    lab.collect()
    return lab.messages[-1]


def test_a_cocktail_answers_the_same_alone_and_in_company_and_replays(
    lab: Lab, folder: Path
) -> None:
    held = hold_mix(lab, folder, {"p0": 0.7, "p1": -0.4, "p2": 1.1})
    assert isinstance(held, AdapterHeld)
    assert held.rank == 3 + 4 + 5
    prompts = [some_tokens(9, 1), some_tokens(17, 2)]
    alone = [lab.run(submit(number, prompts[number], MIX)) for number in range(2)]
    company = lab.run(
        submit(10, prompts[0], MIX),
        submit(11, prompts[1], MIX),
        submit(12, some_tokens(30, 5), LAW),
        submit(13, some_tokens(5, 6)),
    )
    assert [company[10], company[11]] == [alone[0][0], alone[1][1]]
    assert lab.run(submit(20, prompts[0], LAW))[20] != company[10]
    lab.engine.handle(Replay(30, prompts[0], company[10], MIX, greedy()))
    lab.drain()
    end = lab.end(30)
    assert isinstance(end, Replayed)
    assert max(end.margins) == 0.0


def test_other_weights_are_another_adapter_and_equal_ones_the_same(lab: Lab, folder: Path) -> None:
    hold_mix(lab, folder, {"p0": 0.7, "p1": 0.3})
    hold_mix(lab, folder, {"p0": 0.3, "p1": 0.7}, b"n" * 32)
    hold_mix(lab, folder, {"p0": 0.7, "p1": 0.3}, b"o" * 32)
    prompt = some_tokens(12, 4)
    answers = lab.run(
        *(submit(number, prompt, name) for number, name in enumerate((MIX, b"n" * 32, b"o" * 32)))
    )
    assert answers[0] == answers[2] != answers[1]


MATRIX = {"base_model.model.lm_head.weight": torch.randn(VOCAB, 72)}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": (
        {
            "use_dora": True,
            "extra": {
                f"base_model.model.model.layers.{layer}.{module}.lora_magnitude_vector": torch.ones(
                    width
                )
                for layer in range(3)
                for module, width in (("self_attn.q_proj", 96), ("mlp.down_proj", 72))
            },
        },
        "use_dora",
    ),
    "lora_bias": (
        {
            "lora_bias": True,
            "extra": {
                f"base_model.model.model.layers.{layer}.{module}.lora_B.bias": torch.ones(width)
                for layer in range(3)
                for module, width in (("self_attn.q_proj", 96), ("mlp.down_proj", 72))
            },
        },
        "lora_bias",
    ),
    "a norm": (
        {
            "modules_to_save": ["model.norm"],
            "extra": {"base_model.model.model.norm.weight": torch.ones(72)},
        },
        "model.norm as a whole",
    ),
    "a linear as a whole": (
        {
            "modules_to_save": ["layers.1.self_attn.k_proj"],
            "extra": {
                "base_model.model.model.layers.1.self_attn.k_proj.weight": torch.ones(32, 72)
            },
        },
        "k_proj as a whole",
    ),
    "a head that the other has not": (
        {"modules_to_save": ["lm_head"], "extra": MATRIX},
        "another head",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_sum_of_pairs_is_refused_by_the_adapter_s_name(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    settings, why = REFUSED[kind]
    odd = write_adapter(tmp_path / "odd", 9, **settings)
    mix = (source(folder / "p0", 0.5), source(odd, 0.5))
    weights = open_weights(folder / "base")
    with pytest.raises(BadAdapter, match=f"odd cannot be mixed.*{why}"):
        load_sources(mix, weights, torch.float32)
    load_sources((source(odd, 1.0),), weights, torch.float32)


def test_a_norm_of_heads_is_refused_by_the_adapter_s_name_as_other_norms_are(
    tmp_path: Path,
) -> None:
    make_base(tmp_path / "base", "qwen3")
    own = {"base_model.model.model.layers.2.self_attn.q_norm.weight": torch.ones(16)}
    odd = write_adapter(
        tmp_path / "odd", 9, modules_to_save=["layers.2.self_attn.q_norm"], extra=own
    )
    plain = write_adapter(tmp_path / "plain", 1)
    weights = open_weights(tmp_path / "base")
    with pytest.raises(BadAdapter, match=r"odd cannot be mixed.*q_norm as a whole"):
        load_sources((source(plain, 0.5), source(odd, 0.5)), weights, torch.float32)
    load_sources((source(odd, 1.0),), weights, torch.float32)


def test_heads_that_are_the_same_are_kept(folder: Path, tmp_path: Path) -> None:
    same: dict[str, Any] = {"extra": MATRIX, "modules_to_save": ["lm_head"]}
    both = [write_adapter(tmp_path / name, seed, **same) for seed, name in enumerate("ab")]
    weights = open_weights(folder / "base")
    mixed = load_sources(tuple(source(one, 0.5) for one in both), weights, torch.float32)
    alone = load_sources((source(both[0], 1.0),), weights, torch.float32)
    assert mixed.ends is not None
    assert alone.ends is not None
    assert mixed.ends.digest() == alone.ends.digest()


def test_ranks_that_are_too_much_together_are_refused(folder: Path, tmp_path: Path) -> None:
    wide = write_adapter(tmp_path / "wide", 1, rank=1024, modules=("self_attn.q_proj",))
    with pytest.raises(BadAdapter, match=r"rank 1027 together in model.layers.0.self_attn.q_proj"):
        load_sources(
            (source(wide, 0.5), source(folder / "p0", 0.5)),
            open_weights(folder / "base"),
            torch.float32,
        )


def test_a_broken_parent_is_named_and_costs_the_cocktail_alone(
    lab: Lab, folder: Path, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "poem", 1)
    (tmp_path / "poem" / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    refused = hold_mix(lab, tmp_path, {"poem": 0.7})
    assert isinstance(refused, AdapterRefused)
    assert "poem: adapter_model.safetensors has an unreadable header" in refused.message
    assert lab.run(submit(1, some_tokens(9, 1), LAW))[1]


def test_parents_are_read_within_the_room_for_all_of_them(folder: Path) -> None:
    weights = open_weights(folder / "base")
    needed = sum(
        read_adapter(one.config_path, one.weights_path, weights, torch.float32).size_bytes
        for one in sources(folder, 0.5, 0.5)
    )
    load_sources(sources(folder, 0.5, 0.5), weights, torch.float32, needed)
    with pytest.raises(BadAdapter, match="p1: reading the adapter takes"):
        load_sources(sources(folder, 0.5, 0.5), weights, torch.float32, needed - 1)
