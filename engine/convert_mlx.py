"""Writes an adapter as MLX saves it (`adapters.safetensors`) as the PEFT folder that says the same.

    MLX     y = W x + scale * (x A) B, A [in, rank], B [rank, out]; with DoRA the rows of the sum
            are given the lengths `m`
    PEFT    y = W x + alpha / rank * B (A x), A [rank, in], B [out, rank]; the same lengths

So matrices are turned, and alpha is scale * rank of each module. Norms that were trained beside are
saved whole (`modules_to_save`). Knows no base: what its tensors fit is seen when the adapter is
loaded.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import BadAdapter
from .lora.names import OfNorm, find_place
from .messages import MAX_ADAPTER_CONFIG_BYTES

CONFIG = "adapter_config.json"
MLX_WEIGHTS = "adapters.safetensors"
WEIGHTS = "adapter_model.safetensors"
NAME = re.compile(r"((?:model|lm_head)[\w.]*)\.(lora_a|lora_b|m)")
HALVES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
EMBEDDING_HALVES = {**HALVES, "lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}


def is_mlx(folder: Path) -> bool:
    """Return whether a folder holds an adapter as MLX saves it, and none of PEFT's."""
    return (folder / MLX_WEIGHTS).is_file() and not (folder / WEIGHTS).exists()


def convert_mlx(folder: Path, out: Path) -> int:
    """Write an MLX adapter as PEFT's into the folder `out`; return of how many modules it is.

    Raises BadAdapter that names the field or tensor.
    """
    try:
        raw = _read_config(folder / CONFIG)
        tensors = load_file(folder / MLX_WEIGHTS)
        parameters = raw.get("lora_parameters")
        kind = raw.get("fine_tune_type", "lora")
        if kind not in ("lora", "dora") or not isinstance(parameters, dict):
            raise BadAdapter(
                f"{CONFIG}: fine_tune_type is {str(kind)[:40]!r}; of MLX's adapters those with"
                " lora_parameters are converted, lora and dora"
            )
        plain: dict[str, torch.Tensor] = {}
        ranks: dict[str, int] = {}
        norms: list[str] = []
        for name, tensor in tensors.items():
            norm = find_place(name)
            if isinstance(norm, OfNorm):
                norms.append(norm.module)
                plain[f"base_model.model.{norm.module}.weight"] = tensor
                continue
            module, half = _place(name, tensor)
            halves = EMBEDDING_HALVES if module.endswith("embed_tokens") else HALVES
            turned = tensor if half == "m" else tensor.T
            plain[f"base_model.model.{module}.{halves[half]}"] = turned.contiguous()
            if half == "lora_a":
                ranks[module] = tensor.shape[1]
        config = _peft_config(ranks, norms, parameters, dora=kind == "dora")
        out.mkdir(parents=True, exist_ok=True)
        for beside in folder.iterdir():
            if beside.is_file() and beside.name != CONFIG and beside.suffix != ".safetensors":
                shutil.copyfile(beside, out / beside.name)
        (out / CONFIG).write_text(json.dumps(config, indent=2))
        save_file(plain, out / WEIGHTS, metadata={"format": "pt"})
        return len(ranks) + len(norms)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise BadAdapter(f"{folder} cannot be converted: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(MAX_ADAPTER_CONFIG_BYTES + 1)
    if len(data) > MAX_ADAPTER_CONFIG_BYTES:
        raise BadAdapter(f"{path.name} is larger than {MAX_ADAPTER_CONFIG_BYTES} bytes")
    raw = json.loads(data)
    if not isinstance(raw, dict):
        raise BadAdapter(f"{path.name} is not a JSON object")
    return raw


def _place(name: str, tensor: torch.Tensor) -> tuple[str, str]:
    """Return the module and the half that a tensor is of."""
    found = NAME.fullmatch(name)
    if found is None or tensor.dim() != (1 if found[2] == "m" else 2):
        raise BadAdapter(
            f"tensor {name[:200]} is none of an MLX adapter's (lora_a, lora_b, m, norms' weights)"
        )
    return found[1], found[2]


def _peft_config(
    ranks: dict[str, int], norms: list[str], parameters: dict[str, Any], *, dora: bool
) -> dict[str, Any]:
    scale = parameters.get("scale", 20.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise BadAdapter(f"lora_parameters: scale is {str(scale)[:40]!r}, not a number")
    if not ranks and not norms:
        raise BadAdapter("the adapter declares no tensor")
    rank = max(ranks.values(), default=1)
    others = {module: each for module, each in ranks.items() if each != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": others,
        "alpha_pattern": {module: scale * each for module, each in others.items()},
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
        "modules_to_save": sorted(norms),
        "use_dora": dora,
        "bias": "none",
    }
