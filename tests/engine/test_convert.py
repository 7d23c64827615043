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
            if "lora_A" in name or "lora_B" in name:
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
