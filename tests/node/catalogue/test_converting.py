"""What began by changing the base is published as plain LoRA, by a real daemon and its engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from engine.messages import Choosing
from node.errors import AdapterError
from tests.node.networks import ask, open_lab
from tests.node.tiny import make_adapter


def began_as(folder: Path, start: str) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": start}))
    return folder


def as_mlx(folder: Path) -> Path:
    """Write a folder's adapter as MLX saves it."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    turned = {
        name.removeprefix("base_model.model.")
        .replace("lora_A.weight", "lora_a")
        .replace("lora_B.weight", "lora_b"): tensor.T.contiguous()
        for name, tensor in tensors.items()
    }
    scale = config["lora_alpha"] / config["r"]
    said = {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": config["r"], "scale": scale, "dropout": 0.0},
    }
    (folder / "adapter_config.json").write_text(json.dumps(said))
    (folder / "adapter_model.safetensors").unlink()
    save_file(turned, folder / "adapters.safetensors")
    return folder


async def test_a_push_converts_with_the_base_at_hand_and_says_so(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("volunteer") as daemon:
            plain = await daemon.push(make_adapter(tmp_path / "law", "law", 1))
            assert plain.note == ""
            folder = began_as(make_adapter(tmp_path / "verse", "verse", 1), "olora")
            info = await daemon.push(folder)
            assert info.note == "converted from olora to plain LoRA of twice the rank"
            assert info.name == "verse"
            assert info.size_bytes > plain.size_bytes + 4000  # as many numbers again
            texts = [
                (await ask(daemon, model=name, max_tokens=8, choosing=Choosing(0.0))).text
                for name in ("law", "verse")
            ]
            assert texts[0] != texts[1]
            assert not list((tmp_path / "volunteer").glob("converting-*"))
            kept = json.loads((folder / "adapter_config.json").read_text())
            assert kept["init_lora_weights"] == "olora"


async def test_a_push_takes_what_mlx_saves(tmp_path: Path) -> None:
    """The same adapter in both formats answers alike; no base is needed to turn its matrices."""
    with open_lab(tmp_path) as lab:
        async with lab.daemon("volunteer") as daemon:
            await daemon.push(make_adapter(tmp_path / "law", "law", 1))
            info = await daemon.push(as_mlx(make_adapter(tmp_path / "verse", "verse", 1)))
            assert info.note == "converted from MLX's format to PEFT's"
            texts = [
                (await ask(daemon, model=name, max_tokens=8, choosing=Choosing(0.0))).text
                for name in ("law", "verse")
            ]
            assert texts[0] == texts[1]


async def test_a_push_that_cannot_be_converted_says_why(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("volunteer") as daemon:
            folder = began_as(make_adapter(tmp_path / "law", "law", 1), "corda")
            with pytest.raises(AdapterError, match=r"init_lora_weights='corda' .*initial"):
                await daemon.push(folder)
            assert not list((tmp_path / "volunteer").glob("converting-*"))
