"""Layers whose MLP is a router and experts: what is chosen, how files name it, and that a row's
bits do not depend on which rows share its experts.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.choose import find_accelerator
from engine.config import Choice, Stored
from engine.cuda.accelerator import Accelerator
from engine.cuda.device import HostDevice
from engine.errors import ModelError
from engine.executor.memory import demand_of, linear_numbers
from engine.model import weights as folders
from engine.model.config import ModelConfig, from_huggingface
from engine.model.expert_tensors import MX_NUMBERS
from engine.model.experts import Experts
from engine.model.families import FAMILIES
from engine.model.program import Kind, make_program
from engine.model.routing import choose, deal, gather
from engine.model.tensors import expected_tensors
from engine.model.weights import Weights, open_weights

from .four_bits import in_4_bits
from .worlds import BOTH, KERNELS, Bench, make_base, some_tokens, write_adapter

OF_EXPERTS = {Kind.CHOOSE, Kind.DEAL, Kind.EXPERTS, Kind.GATHER}
MX_SHAPE = {"hidden_size": 96, "intermediate_size": 64, "num_local_experts": 3}
EVEN = {"moe_intermediate_size": 64, "hidden_size": 96, "shared_expert_intermediate_size": 32}


def logits_of(base: Path | Weights, tokens: list[int], **settings: Any) -> torch.Tensor:
    bench = Bench(base, **settings)
    sequence = bench.sequence(tokens)
    return bench.forward((sequence, 0, len(tokens)))[id(sequence)]


# --- what is chosen ---


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    rows=st.integers(1, 20),
    count=st.integers(1, 12),
    normalised=st.booleans(),
    seed=st.integers(0, 1 << 30),
    data=st.data(),
)
def test_each_row_passes_the_experts_with_its_highest_scores_and_gets_their_weighed_sum(
    rows: int, count: int, normalised: bool, seed: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(1, count))
    experts = Experts(count, chosen, 1, frozenset({0}), normalised)
    torch.manual_seed(seed)
    scores = torch.randn(rows, count).round(decimals=1)  # so that some are equal
    routes = choose(scores, experts)
    x = torch.randn(rows, 4)
    dealt = deal(x, routes)
    factors = torch.arange(1.0, count + 1)
    made = torch.empty_like(dealt)
    for expert, first, end in routes.runs():
        made[first:end] = dealt[first:end] * factors[expert]
    probabilities = torch.softmax(scores, 1)
    top = torch.topk(probabilities, chosen, dim=1).values
    for row in range(rows):
        best = sorted(range(count), key=lambda e, row=row: (-scores[row, e].item(), e))[:chosen]
        weights = probabilities[row, best]
        weights = weights / weights.sum() if normalised else weights
        assert torch.allclose(routes.weights[row], weights, atol=1e-6)
        expected = x[row] * (weights * factors[best]).sum()
        assert torch.allclose(gather(made, routes, None)[row], expected, atol=1e-4)
    total = torch.ones(rows) if normalised else top.sum(1)
    assert torch.allclose(routes.weights.sum(1), total, atol=1e-5)


# --- how files name it ---


def fuse(folder: Path) -> None:
    """Write the experts of each layer as one tensor, as transformers holds them."""
    tensors = load_file(folder / "model.safetensors")
    fused = {name: x for name, x in tensors.items() if ".experts." not in name}
    for layer in range(3):
        stem = f"model.layers.{layer}.mlp.experts"
        count = len([name for name in tensors if name.startswith(stem)]) // 3
        gate, up, down = (
            torch.stack([tensors[f"{stem}.{e}.{part}_proj.weight"] for e in range(count)])
            for part in ("gate", "up", "down")
        )
        fused[f"{stem}.gate_up_proj"] = torch.cat([gate, up], 1)
        fused[f"{stem}.down_proj"] = down.contiguous()
    save_file(fused, folder / "model.safetensors")


def test_experts_in_one_tensor_are_those_that_stand_one_by_one(tmp_path: Path) -> None:
    make_base(tmp_path, "qwen2_moe", spread=0.2)
    tokens = some_tokens(20, 1)
    one_by_one = logits_of(tmp_path, tokens)
    fuse(tmp_path)
    assert torch.equal(logits_of(tmp_path, tokens), one_by_one)


def in_mx_fp4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round `weight [experts, in, out]` to MXFP4: blocks [experts, out, in / 32, 16] and scales."""
    groups = weight.transpose(1, 2).reshape(len(weight), weight.shape[2], -1, 32)
    powers = groups.abs().amax(-1, keepdim=True).clamp(min=1e-9).log2().floor() - 2
    codes = (groups[..., None] / 2 ** powers[..., None] - MX_NUMBERS).abs().argmin(-1)
    pairs = codes.to(torch.uint8).view(*groups.shape[:3], 16, 2)
    scales = (powers[..., 0] + 127).to(torch.uint8)
    return pairs[..., 0] | pairs[..., 1] << 4, scales


def test_gpt_oss_s_experts_in_4_bits_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    make_base(tmp_path, "gpt_oss", spread=0.2, num_hidden_layers=1, **MX_SHAPE)
    tensors = load_file(tmp_path / "model.safetensors")
    meant = dict(tensors)
    for name in ("gate_up_proj", "down_proj"):
        whole = f"model.layers.0.mlp.experts.{name}"
        blocks, scales = in_mx_fp4(tensors.pop(whole))
        tensors |= {f"{whole}_blocks": blocks, f"{whole}_scales": scales}
        meant[whole] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
    save_file(meant, tmp_path / "model.safetensors")
    tokens = some_tokens(20, 1)
    expected = logits_of(tmp_path, tokens)
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ModelError, match="is U8; we read F32"):
        open_weights(tmp_path)
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits_of(tmp_path, tokens), expected)


def test_a_base_that_lacks_an_expert_is_refused_by_its_name(tmp_path: Path) -> None:
    make_base(tmp_path, "qwen3_moe")
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.experts.4.up_proj.weight"
    save_file({each: x for each, x in tensors.items() if each != name}, tmp_path / "whole")
    (tmp_path / "whole").replace(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks the tensor model\.layers\.1\.mlp\.experts\.4\.up"):
        open_weights(tmp_path)


def test_a_shard_s_header_is_read_once_however_many_tensors_its_experts_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that tells of 18,000 experts' tensors takes longer to read than they do."""
    model = make_base(tmp_path / "whole", "qwen3_moe", spread=0.2)
    model.save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    opened = []
    really = folders.safe_open

    def spy(path: Path, **rest: Any) -> Any:
        opened.append(path)
        return really(path, **rest)

    monkeypatch.setattr(folders, "safe_open", spy)
    tokens = some_tokens(20, 1)
    in_shards = logits_of(tmp_path / "shards", tokens)
    assert sorted(opened) == shards
    assert torch.equal(in_shards, logits_of(tmp_path / "whole", tokens))


@pytest.mark.slow
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_loading_many_experts_takes_no_more_than_is_planned_for_it(
    tmp_path: Path, kernels: str, dtype: str
) -> None:
    """Measured: the most that the process ever had, counted anew by the system."""
    make_base(
        tmp_path,
        "qwen3_moe",
        **{
            "num_experts": 96,
            "moe_intermediate_size": 256,
            "hidden_size": 512,
            "num_hidden_layers": 1,
        },
    )
    base = open_weights(tmp_path)
    stored = Stored.INT8 if dtype == "int8" else Stored.PLAIN
    demand = demand_of(base.config, Choice(torch.bfloat16, "", stored), 64, 64)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = most_resident_bytes()
    bench = Bench(base, torch.bfloat16, kernels, stored=stored)
    taken = most_resident_bytes() - before
    del bench
    layer = 3 * 512 * 256 * 96
    assert demand.loading_bytes < 4 * layer, "as if all experts of a layer lay there in float32"
    # keys and values of a bench, code that is run for the first time
    assert taken < demand.base_bytes + demand.loading_bytes + (48 << 20)


def most_resident_bytes() -> int:
    """The most memory that this process had at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_experts_per_tok": 9, "num_experts": 8}, "pass 9 experts of 8"),
        ({"mlp_only_layers": ["1"]}, "mlp_only_layers must be a list of layers"),
        ({"num_experts": 1 << 20}, "num_experts is 1048576"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
    ],
)
def test_experts_that_cannot_be_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        from_huggingface({"model_type": "qwen3_moe", **changes})


# --- who is untouched ---


@pytest.mark.parametrize("family", [each for each in FAMILIES.values() if each.routing is None])
def test_a_base_without_experts_runs_no_operation_of_theirs(family: Any) -> None:
    config = from_huggingface({"model_type": family.name, "num_hidden_layers": 3})
    program = make_program(config)
    assert not OF_EXPERTS & {operation.kind for operation in program}
    assert all(
        bool(operation.widths) == (operation.target.name == "LOGITS") for operation in program
    )


# --- executors ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    make_base(folder, "qwen2_moe", num_hidden_layers=2)
    return folder


@BOTH
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@settings(
    max_examples=3,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 1 << 20)), min_size=2, max_size=4)
)
def test_a_row_has_the_same_bits_whoever_passes_its_experts_beside_it(
    folder: Path, kernels: str, dtype: str, lengths: list[tuple[int, int]]
) -> None:
    bench = Bench(
        folder,
        torch.bfloat16,
        kernels,
        stored=Stored.INT8 if dtype == "int8" else Stored.PLAIN,
    )
    together = [bench.sequence(some_tokens(count, seed)) for count, seed in lengths]
    mixed = bench.forward(*((each, 0, len(each.tokens)) for each in together))
    for sequence in together[:2]:
        again = bench.sequence(sequence.tokens)
        alone = bench.forward((again, 0, len(again.tokens)))[id(again)]
        assert torch.equal(mixed[id(sequence)], alone)
    stepped = bench.sequence(together[0].tokens)
    steps = [
        bench.forward((stepped, at, at + 1))[id(stepped)]
        for at in range(min(5, len(stepped.tokens)))
    ]
    assert torch.equal(torch.cat(steps), mixed[id(together[0])][: len(steps)])


@pytest.mark.skipif("native" not in KERNELS, reason="no compiler")
@pytest.mark.parametrize("with_offsets", [False, True])
@pytest.mark.parametrize("rows", [3, 150])
def test_experts_in_4_bits_are_multiplied_as_they_lie(
    tmp_path: Path, rows: int, with_offsets: bool
) -> None:
    make_base(tmp_path, "qwen2_moe", spread=0.1, intermediate_size=128, **EVEN)
    weights = in_4_bits(open_weights(tmp_path), with_offsets=with_offsets, but=("mlp.gate.",))
    tokens = some_tokens(rows, 2)
    native, torch_ = (
        logits_of(weights, tokens, kernels=kernels, stored=Stored.Q4)
        for kernels in ("native", "torch")
    )
    assert (native - torch_).norm() < 0.01 * torch_.norm()
    exact = logits_of(weights, tokens, kernels="torch")
    assert (native - exact).norm() < 0.1 * exact.norm()


@BOTH
def test_a_score_that_is_no_number_spoils_its_own_row_alone(tmp_path: Path, kernels: str) -> None:
    make_base(tmp_path / "base", "mixtral", num_hidden_layers=1)
    stem = "base_model.model.model.layers.0.self_attn.o_proj"
    shapes = {f"{stem}.lora_A.weight": (4, 96), f"{stem}.lora_B.weight": (72, 4)}
    pair = {name: torch.full(shape, 1e19) for name, shape in shapes.items()}
    write_adapter(tmp_path / "huge", 1, modules=(), extra=pair)
    bench = Bench(tmp_path / "base", kernels=kernels)
    bench.load(b"huge", tmp_path / "huge")
    tokens = some_tokens(40, 3)
    good, again, spoilt = (bench.sequence(tokens, each) for each in (None, None, b"huge"))
    mixed = bench.forward((good, 0, 40), (spoilt, 0, 40))
    assert torch.equal(mixed[id(good)], bench.forward((again, 0, 40))[id(again)])
    assert mixed[id(spoilt)].isnan().any()


# --- what is refused, and what it takes ---


def test_a_card_leaves_layers_with_experts_to_the_processor(folder: Path) -> None:
    accelerator = Accelerator(HostDevice())
    reason = accelerator.why_not(open_weights(folder).config, "float32")
    assert reason == "layers with experts are computed on a processor only"
    assert find_accelerator("native") is None


def test_a_step_reads_no_more_experts_than_its_rows_can_pass() -> None:
    config: ModelConfig = from_huggingface({"model_type": "qwen2_moe", "num_hidden_layers": 2})
    matrices = {name: shape for name, shape in expected_tensors(config) if len(shape) == 2}
    del matrices["model.embed_tokens.weight"]
    whole = sum(rows * columns for rows, columns in matrices.values())
    assert linear_numbers(config) == whole
    experts = config.experts
    assert experts is not None
    idle = 2 * 3 * config.hidden * experts.width * (experts.count - 4)
    assert linear_numbers(config, 4) == whole - idle
