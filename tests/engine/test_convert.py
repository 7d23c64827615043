"""An adapter that began by changing the base gives, converted to plain LoRA, the logits that PEFT
had in training.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.__main__ import main
from engine.convert import convert_adapter
from engine.errors import BadAdapter
from engine.model.weights import open_weights

from .worlds import ALL_LINEAR, Bench, make_base, some_tokens


def trained(model: Any, folder: Path, **settings: Any) -> Any:
    """An adapter that training took a step from its start, with its start beside it if it says."""
    import peft

    has_start = settings.pop("has_start", False)
    fields = {"r": 4, "lora_alpha": 6, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**(fields | settings)))
        if has_start:
            wrapped.save_pretrained(folder / "initial")
        torch.manual_seed(3)
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name or "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        wrapped.save_pretrained(folder)
    return wrapped.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa", "use_rslora": True, "r": 3},
        {"init_lora_weights": "olora", "target_modules": ["q_proj", "lm_head"]},
        {
            "init_lora_weights": "pissa",
            "rank_pattern": {"q_proj": 6},
            "alpha_pattern": {r".*\.1\..*down_proj": 9},
        },
        {"init_lora_weights": "pissa_niter_4", "has_start": True},
    ],
)
def test_a_converted_adapter_gives_the_logits_of_training(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_base(tmp_path / "base", spread=0.2)
    tokens = some_tokens(30, 4)
    with torch.no_grad():
        bare = model(torch.tensor([tokens])).logits[0]
        wrapped = trained(model, tmp_path / "adapter", **settings)
        expected = wrapped(torch.tensor([tokens])).logits[0]
    bench = Bench(tmp_path / "base")
    with pytest.raises(BadAdapter, match="init_lora_weights"):
        bench.load(b"a", tmp_path / "adapter")
    command = ["convert", "--base", str(tmp_path / "base"), "--adapter", str(tmp_path / "adapter")]
    assert main([*command, "--out", str(tmp_path / "plain")]) == 0
    assert "plain LoRA" in capsys.readouterr().out
    bench.load(b"a", tmp_path / "plain")
    sequence = bench.sequence(tokens, b"a")
    logits = bench.forward((sequence, 0, 30))[id(sequence)]
    assert (logits - expected).abs().max() < 2e-4
    assert (expected - bare).abs().max() > 0.05


@pytest.mark.parametrize("dora", [False, True])
def test_what_mlx_saves_is_the_same_adapter_in_other_words(tmp_path: Path, dora: bool) -> None:
    """Two ranks in it, an embedding that is no linear, norms of two widths, and DoRA's lengths."""
    model = make_base(tmp_path / "base", "qwen3", spread=0.2)
    tokens = some_tokens(30, 4)
    ranks = {"model.layers.1.mlp.up_proj": 2}
    targets = [*ALL_LINEAR] if dora else [*ALL_LINEAR, "embed_tokens"]
    settings = {
        "rank_pattern": ranks,
        "alpha_pattern": dict.fromkeys(ranks, 3.0),
        "modules_to_save": ["input_layernorm", "k_norm"],
    }
    wrapped = trained(model, tmp_path / "peft", target_modules=targets, use_dora=dora, **settings)
    with torch.no_grad():
        expected = wrapped(torch.tensor([tokens])).logits[0]
    saved = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    words = {
        "lora_A.weight": "lora_a",
        "lora_B.weight": "lora_b",
        "lora_embedding_A": "lora_a",
        "lora_embedding_B": "lora_b",
        "lora_magnitude_vector": "m",
        "norm.weight": "norm.weight",
    }
    mlx = {
        name.removeprefix("base_model.model.").replace(theirs, ours): tensor.t().contiguous()
        for name, tensor in saved.items()
        for theirs, ours in words.items()
        if name.endswith(theirs)
    }
    (tmp_path / "mlx").mkdir()
    save_file(mlx, tmp_path / "mlx" / "adapters.safetensors")
    config = {
        "fine_tune_type": "dora" if dora else "lora",
        "lora_parameters": {"rank": 4, "scale": 1.5},
    }
    (tmp_path / "mlx" / "adapter_config.json").write_text(json.dumps(config))
    command = ["convert", "--adapter", str(tmp_path / "mlx"), "--out", str(tmp_path / "plain")]
    assert main(command) == 0
    bench = Bench(tmp_path / "base")
    bench.load(b"a", tmp_path / "plain")
    sequence = bench.sequence(tokens, b"a")
    logits = bench.forward((sequence, 0, 30))[id(sequence)]
    assert (logits - expected).abs().max() < 2e-4


@pytest.mark.parametrize(
    ("config", "name", "told"),
    [
        ({"fine_tune_type": "full", "lora_parameters": {}}, "lora_a", "fine_tune_type is 'full'"),
        ({"fine_tune_type": "lora"}, "lora_a", "fine_tune_type"),
        ({"lora_parameters": {"scale": "much"}}, "lora_a", "scale is 'much'"),
        ({"lora_parameters": {"scale": 2}}, "weight", "q_proj.weight is none of"),
        ([], "lora_a", "not a JSON object"),
    ],
)
def test_what_mlx_saves_and_peft_has_no_words_for_is_refused_by_name(
    tmp_path: Path, config: object, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {f"model.layers.0.self_attn.q_proj.{name}": torch.ones(72, 4)}
    save_file(tensors, tmp_path / "adapters.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    command = ["convert", "--adapter", str(tmp_path), "--out", str(tmp_path / "plain")]
    assert main(command) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pissa_niter_4", "corda", "lora_ga", "loftq", "loftq again"])
def test_a_start_that_nobody_can_find_again_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    model = make_base(tmp_path / "base")
    trained(model, tmp_path / "adapter", has_start="again" in kind)
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text()) | {"init_lora_weights": kind.split()[0]}
    path.write_text(json.dumps(config))
    with pytest.raises(BadAdapter, match=kind.split()[0]):
        convert_adapter(open_weights(tmp_path / "base"), tmp_path / "adapter", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def round_as_loftq(model: Any, bits: int) -> None:
    """Round the linears of a model to so many bits, 64 numbers a scale."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("_proj.weight"):
                blocks = weight.view(-1, 64)
                scale = blocks.abs().amax(1, keepdim=True) / 2 ** (bits - 1)
                levels = (blocks / scale).round().clamp(max=2 ** (bits - 1) - 1)
                weight.copy_((levels * scale).view_as(weight))


@pytest.mark.parametrize("bits", [2, 4])
def test_an_adapter_of_loftq_is_plain_on_the_base_that_loftq_rounded(
    tmp_path: Path, bits: int
) -> None:
    shape = {"hidden_size": 192, "num_hidden_layers": 1}
    model = make_base(tmp_path / "base", spread=0.2, **shape)
    round_as_loftq(model, bits)
    model.save_pretrained(tmp_path / "rounded")
    wrapped = trained(model, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    loftq = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": bits}}
    path.write_text(json.dumps(json.loads(path.read_text()) | loftq))
    with pytest.raises(BadAdapter, match=rf"rounded to {bits} bits, which model"):
        convert_adapter(open_weights(tmp_path / "base"), tmp_path / "adapter", tmp_path / "no")
    count = convert_adapter(
        open_weights(tmp_path / "rounded"), tmp_path / "adapter", tmp_path / "plain"
    )
    assert count == len(ALL_LINEAR)
    bench = Bench(tmp_path / "rounded")
    bench.load(b"one", tmp_path / "plain")
    tokens = some_tokens(20, 1)
    sequence = bench.sequence(tokens, b"one")
    with torch.no_grad():
        expected = wrapped(torch.tensor([tokens])).logits[0]
    assert (bench.forward((sequence, 0, 20))[id(sequence)] - expected).abs().max() < 1e-4


def test_what_lies_beside_an_adapter_comes_along(tmp_path: Path) -> None:
    model = make_base(tmp_path / "base")
    trained(model, tmp_path / "adapter", init_lora_weights="olora")
    (tmp_path / "adapter" / "lorikeet.toml").write_text('name = "law"')
    convert_adapter(open_weights(tmp_path / "base"), tmp_path / "adapter", tmp_path / "plain")
    assert (tmp_path / "plain" / "lorikeet.toml").read_text() == 'name = "law"'
    shutil.rmtree(tmp_path / "plain")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(BadAdapter, match="cannot be converted"):
        convert_adapter(open_weights(tmp_path / "base"), tmp_path / "adapter", tmp_path / "plain")
