"""Adapters of experts, of what chooses them and of the one that every token passes: PEFT's logits,
beside the bare base and other adapters, or a refusal by name.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import Stored
from engine.errors import BadAdapter
from engine.lora.adapter import load_adapter
from engine.lora.loader import Source
from engine.lora.mixing import load_sources
from engine.model.weights import open_weights

from .four_bits import in_4_bits
from .test_equals_peft import randomised
from .worlds import BOTH, KERNELS, Bench, make_base, some_tokens, write_adapter

TOLERANCE = 1e-4
BOTH_TENSORS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SMALL = {"num_hidden_layers": 2}
TOGETHER: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "all of all experts": (
        "qwen2_moe",
        SMALL,
        {"target_modules": ["q_proj"], "target_parameters": BOTH_TENSORS},
    ),
    "down alone, of some layers": (
        "qwen3_moe",
        {"num_hidden_layers": 3, "decoder_sparse_step": 2},
        {
            "target_modules": ["v_proj"],
            "target_parameters": ["experts.down_proj"],
            "r": 3,
            "use_rslora": True,
        },
    ),
    "gate and up, and what chooses": (
        "mixtral",
        SMALL,
        {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "gate.weight"]},
    ),
    "gate and up in turn, patterns, what chooses as a whole": (
        "gpt_oss",
        SMALL,
        {
            "target_modules": ["o_proj"],
            "target_parameters": BOTH_TENSORS,
            "modules_to_save": ["router"],
            "rank_pattern": {"experts.down_proj": 6},
            "alpha_pattern": {r".*gate_up_proj": 3},
        },
    ),
    "what chooses as a whole, and norms": (
        "qwen3_moe",
        SMALL,
        {"target_modules": ["k_proj"], "modules_to_save": ["mlp.gate", "q_norm"]},
    ),
    "the shared one, with DoRA": (
        "qwen2_moe",
        SMALL,
        {
            "target_modules": ["shared_expert.gate_proj", "shared_expert_gate", "o_proj"],
            "use_dora": True,
        },
    ),
    "whatever is linear": ("qwen2_moe", SMALL, {"target_modules": "all-linear"}),
}


def logits_of(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0].float()
    return logits


def check_against_peft(folder: Path, wrapped: Any, plain: torch.Tensor) -> None:
    """Both executors, a prompt and some steps, beside the bare base and an adapter of attention."""
    tokens = some_tokens(44, 5)
    expected = logits_of(wrapped, tokens)
    assert (expected - plain).abs().max() > 0.05, "an adapter that changes nothing proves nothing"
    for kernels in KERNELS:
        bench = Bench(folder / "base", kernels=kernels)
        bench.load(b"experts", folder / "experts")
        bench.load(b"other", folder / "other")
        names = (b"experts", None, b"other", b"experts")
        sequences = [bench.sequence(tokens, name) for name in names]
        got: list[list[torch.Tensor]] = [[] for _ in sequences]
        for first, end in ((0, 40), *((at, at + 1) for at in range(40, 44))):
            step = bench.forward(*((each, first, end) for each in sequences))
            for mine, each in zip(got, sequences, strict=True):
                mine.append(step[id(each)])
        rows = [torch.cat(each) for each in got]
        assert (rows[0] - expected).abs().max() < TOLERANCE, kernels
        assert (rows[1] - plain).abs().max() < TOLERANCE, kernels
        assert (rows[2] - plain).abs().max() > 0.05, kernels
        assert (rows[3] - expected).abs().max() < TOLERANCE, kernels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", TOGETHER)
def test_adapters_of_all_experts_together_give_the_logits_of_peft(
    tmp_path: Path, case: str
) -> None:
    kind, changes, settings = TOGETHER[case]
    model = make_base(tmp_path / "base", kind, spread=0.1, **changes)
    plain = logits_of(model, some_tokens(44, 5))
    write_adapter(tmp_path / "other", 2, modules=("self_attn.q_proj",), layers=2)
    wrapped = randomised(model, tmp_path / "experts", 3, **settings)
    check_against_peft(tmp_path, wrapped, plain)


# --- each expert's linears by themselves, as adapters were saved before models held them together


# PEFT puts them together for these families
NAMES = {
    "qwen3_moe": ("mlp.experts", ("gate_proj", "up_proj", "down_proj"), "mlp.gate"),
    "mixtral": ("block_sparse_moe.experts", ("w1", "w3", "w2"), "block_sparse_moe.gate"),
}


def write_one_by_one(folder: Path, config: Any, kind: str, rank: int = 3) -> None:
    """An adapter of every expert's linears and of what chooses them."""
    stem, parts, router = NAMES[kind]
    count = next(
        getattr(config, name)
        for name in ("num_experts", "num_local_experts")
        if hasattr(config, name)
    )
    width = config.intermediate_size if kind == "mixtral" else config.moe_intermediate_size
    hidden = config.hidden_size
    torch.manual_seed(4)
    pairs = {}
    for layer in range(config.num_hidden_layers):
        where = f"base_model.model.model.layers.{layer}"
        shapes = {f"{where}.{router}": (hidden, count)}
        for expert in range(count):
            for part in parts:
                is_down = part == parts[2]
                shapes[f"{where}.{stem}.{expert}.{part}"] = (
                    (width, hidden) if is_down else (hidden, width)
                )
        for name, (width_in, width_out) in shapes.items():
            pairs[f"{name}.lora_A.weight"] = 0.1 * torch.randn(rank, width_in)
            pairs[f"{name}.lora_B.weight"] = 0.1 * torch.randn(width_out, rank)
    folder.mkdir()
    save_file(pairs, folder / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 9,
        "bias": "none",
        "target_modules": [*parts, "gate"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NAMES)
def test_adapters_of_each_expert_give_the_logits_that_peft_gives_when_it_has_put_them_together(
    tmp_path: Path, kind: str
) -> None:
    import peft

    model = make_base(tmp_path / "base", kind, spread=0.1, **SMALL)
    plain = logits_of(model, some_tokens(44, 5))
    write_one_by_one(tmp_path / "experts", model.config, kind)
    write_adapter(tmp_path / "other", 2, modules=("self_attn.q_proj",), layers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "experts").eval()
    check_against_peft(tmp_path, wrapped, plain)


# --- bases and adapters that are made once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    config = make_base(folder / "base", "qwen3_moe", spread=0.1, **SMALL).config
    write_one_by_one(folder / "each", config, "qwen3_moe")
    return folder


def rewrite(
    source: Path, folder: Path, change: dict[str, torch.Tensor | None], **fields: Any
) -> Path:
    """A copy of an adapter with other tensors (None: without them) and fields."""
    tensors = load_file(source / "adapter_model.safetensors") | change
    folder.mkdir(exist_ok=True)
    save_file(
        {name: x for name, x in tensors.items() if x is not None},
        folder / "adapter_model.safetensors",
    )
    config = json.loads((source / "adapter_config.json").read_text()) | fields
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@BOTH
@pytest.mark.parametrize("stored", [Stored.PLAIN, Stored.INT8])
def test_a_row_has_the_same_bits_whichever_adapters_pass_its_experts_beside_it(
    folder: Path, kernels: str, stored: Stored
) -> None:
    bench = Bench(folder / "base", torch.bfloat16, kernels, stored=stored)
    wide = Bench(folder / "base", torch.bfloat16, kernels, threads=2, stored=stored)
    write_adapter(folder / "other", 2, modules=("self_attn.q_proj",), layers=2)
    for name in (b"each", b"other", b"again", b"once more", b"fifth"):
        for one in (bench, wide):
            one.load(name, folder / ("other" if name == b"other" else "each"))
    names = (b"each", None, b"other", b"again", b"each", None, b"once more", b"fifth")
    lengths = (7, 30, 5, 1, 65, 2, 3, 4)
    together = [
        bench.sequence(some_tokens(length, length), name)
        for length, name in zip(lengths, names, strict=True)
    ]
    mixed = bench.forward(*((each, 0, len(each.tokens)) for each in together))
    for sequence, name in zip(together, names, strict=True):
        again = bench.sequence(sequence.tokens, name)
        alone = bench.forward((again, 0, len(again.tokens)))[id(again)]
        assert torch.equal(mixed[id(sequence)], alone), (name, len(again.tokens))
    others = [wide.sequence(each.tokens, name) for each, name in zip(together, names, strict=True)]
    by_two = wide.forward(*((each, 0, len(each.tokens)) for each in others))
    for one, other in zip(together, others, strict=True):
        assert torch.equal(mixed[id(one)], by_two[id(other)])


@pytest.mark.skipif("native" not in KERNELS, reason="no compiler")
@pytest.mark.parametrize("rows", [3, 90])
def test_experts_in_4_bits_are_changed_by_their_adapters(tmp_path: Path, rows: int) -> None:
    shape = {**SMALL, "hidden_size": 96, "intermediate_size": 64}
    config = make_base(tmp_path / "base", "mixtral", spread=0.1, **shape).config
    write_one_by_one(tmp_path / "each", config, "mixtral")
    weights = in_4_bits(open_weights(tmp_path / "base"), with_offsets=True, but=("mlp.gate.",))
    tokens = some_tokens(rows, 2)
    logits = []
    for kernels, stored in (("native", Stored.Q4), ("torch", Stored.Q4), ("torch", Stored.PLAIN)):
        bench = Bench(weights, kernels=kernels, stored=stored)
        bench.load(b"each", tmp_path / "each")
        sequences = [bench.sequence(tokens, name) for name in (b"each", None)]
        made = bench.forward(*((each, 0, rows) for each in sequences))
        logits.append([made[id(each)] for each in sequences])
    (native, bare), (torch_, _), (exact, _) = logits
    assert (native - torch_).norm() < 0.01 * torch_.norm()
    assert (native - exact).norm() < 0.2 * exact.norm() < (bare - exact).norm()


def test_what_an_adapter_of_experts_takes_is_what_its_blob_says(folder: Path) -> None:
    """7 experts of two layers: gate and up are 72 by 40, down is 40 by 72, all of rank 3, of which
    two numbers share a word; rows of A are padded to 32, B to 16 columns.
    """
    weights = open_weights(folder / "base")
    files = folder / "each" / "adapter_config.json", folder / "each" / "adapter_model.safetensors"
    packed = load_adapter(*files, weights, torch.bfloat16)
    a = 3 * (2 * 96 + 64) * 2
    b = 4 * (2 * 48 + 80) * 2
    experts = 2 * 7 * (a + b)
    router = 2 * (3 * 96 * 2 + 4 * 16 * 2)
    assert experts + router <= packed.size_bytes <= experts + router + 64 * 40
    with pytest.raises(BadAdapter, match="reading the adapter takes"):
        load_adapter(*files, weights, torch.bfloat16, room_bytes=experts)


def test_one_expert_of_a_large_rank_is_weighed_as_if_all_had_it(
    folder: Path, tmp_path: Path
) -> None:
    """All of a layer have one rank in memory; what that takes is known before any is read."""
    name = "base_model.model.model.layers.1.mlp.experts.5.up_proj"
    wide = {
        f"{name}.lora_A.weight": torch.ones(900, 72),
        f"{name}.lora_B.weight": torch.ones(40, 900),
    }
    odd = rewrite(
        folder / "each", tmp_path / "odd", dict(wide), rank_pattern={"1.mlp.experts.5.up_proj": 900}
    )
    files = odd / "adapter_config.json", odd / "adapter_model.safetensors"
    size = files[1].stat().st_size
    weights = open_weights(folder / "base")
    with pytest.raises(BadAdapter, match="reading the adapter takes"):
        load_adapter(*files, weights, torch.float32, room_bytes=5 * size)
    packed = load_adapter(*files, weights, torch.float32, room_bytes=20 * size)
    assert packed.rank == 900
    assert packed.size_bytes > 7 * 900 * (72 + 40) * 4


def test_a_mix_of_adapters_of_experts_adds_them_up(folder: Path) -> None:
    weights = open_weights(folder / "base")

    def source(weight: float) -> Source:
        each = folder / "each"
        return Source(
            each / "adapter_config.json", each / "adapter_model.safetensors", weight, "each"
        )

    bench = Bench(weights)
    bench.put(b"one", load_sources((source(1.0),), weights, torch.float32))
    bench.put(b"mix", load_sources((source(1.5), source(-0.5)), weights, torch.float32))
    tokens = some_tokens(30, 1)
    one, mix, bare = (bench.sequence(tokens, name) for name in (b"one", b"mix", None))
    logits = bench.forward((one, 0, 30), (mix, 0, 30), (bare, 0, 30))
    assert (logits[id(one)] - logits[id(mix)]).abs().max() < TOLERANCE
    assert (logits[id(one)] - logits[id(bare)]).abs().max() > 0.05


LAYER = "base_model.model.model.layers.0.mlp"
PAIR_OF_ALL = {"lora_A.weight": torch.ones(21, 72), "lora_B.weight": torch.ones(80, 21)}
REFUSED: dict[str, tuple[dict[str, torch.Tensor | None], dict[str, Any], str]] = {
    "an expert that is not there": (
        {
            f"{LAYER}.experts.7.up_proj.lora_A.weight": torch.ones(3, 72),
            f"{LAYER}.experts.7.up_proj.lora_B.weight": torch.ones(40, 3),
        },
        {},
        r"experts\.7\.up_proj\.lora_A\.weight changes experts",
    ),
    "a number with a zero before it": (
        {
            f"{LAYER}.experts.01.up_proj.lora_A.weight": torch.ones(3, 72),
            f"{LAYER}.experts.01.up_proj.lora_B.weight": torch.ones(40, 3),
        },
        {},
        r"experts\.01\.up_proj\.lora_A\.weight changes experts",
    ),
    "half of a pair": (
        {f"{LAYER}.experts.2.up_proj.lora_B.weight": None},
        {},
        r"lora_B is missing",
    ),
    "another shape": (
        {f"{LAYER}.experts.2.up_proj.lora_B.weight": torch.ones(41, 3)},
        {},
        r"experts\.2\.up_proj\.lora_B\.weight has shape \[41, 3\]",
    ),
    "DoRA": ({}, {"use_dora": True}, r"use_dora is not served for experts"),
    "lora_bias": ({}, {"lora_bias": True}, r"lora_bias is not served for experts"),
    "one as a whole": (
        {f"{LAYER}.experts.2.up_proj.weight": torch.ones(40, 72)},
        {"modules_to_save": ["experts.2.up_proj"]},
        r"experts\.2\.up_proj\.weight replaces an expert's linear as a whole",
    ),
    "all together, which no field says": (
        {f"{LAYER}.experts.{half}": x for half, x in PAIR_OF_ALL.items()},
        {},
        r"mlp\.experts\.lora_A\.weight changes experts",
    ),
    "all together under a name that PEFT does not write": (
        {f"{LAYER}.experts.gate_up_proj.{half}": x for half, x in PAIR_OF_ALL.items()},
        {"target_parameters": ["experts.gate_up_proj"]},
        r"experts\.gate_up_proj\.lora_A\.weight changes experts",
    ),
    "together and by themselves": (
        {f"{LAYER}.experts.{half}": x for half, x in PAIR_OF_ALL.items()},
        {"target_parameters": ["experts.gate_up_proj"]},
        r"experts\.0\.(gate|up)_proj is changed in two ways at once",
    ),
    "not a list": ({}, {"target_parameters": "experts.down_proj"}, "target_parameters is experts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_an_adapter_of_experts_is_named(
    folder: Path, tmp_path: Path, case: str
) -> None:
    change, fields, told = REFUSED[case]
    odd = rewrite(folder / "each", tmp_path / "odd", change, **fields)
    with pytest.raises(BadAdapter, match=told):
        Bench(folder / "base").load(b"odd", odd)
