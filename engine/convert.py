"""Converts an adapter whose training began by changing the base's weights (PiSSA, OLoRA, or any
whose first state lies beside it) to plain LoRA, with the base at hand.

Such training takes a pair (A0, B0) out of each weight W and goes on from there, so that
W - s B0 A0 + s B A is served; as plain LoRA that is the pair ([A; A0], [B, -B0]) of twice the rank.
Decides which starts can be found again. Serves nothing.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import BadAdapter
from .lora.adapter_config import parse_config
from .lora.names import OfEnd, OfNorm, OfPart, find_place
from .model.weights import Weights

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
INITIAL = "initial"
"""A folder beside the adapter's files with the adapter as it was before its first step."""
Start = Callable[[str, int, float], tuple[torch.Tensor, torch.Tensor]]
"""Of a module, its rank and its scale: the pair (A0, B0)."""


def convert_adapter(base: Weights, folder: Path, out: Path) -> int:
    """Write an adapter as plain LoRA into the folder `out`; return how many modules changed.

    Raises BadAdapter for one whose start cannot be found again.
    """
    try:
        raw = json.loads((folder / CONFIG).read_bytes())
        tensors = load_file(folder / WEIGHTS)
        find_start = _choose_start(raw, base, folder)
        plain = raw | {"init_lora_weights": True}
        config = parse_config(json.dumps(plain).encode())
        converted = dict(tensors)
        changed: set[str] = set()
        for name, a in tensors.items():
            place = find_place(name)
            if not isinstance(place, OfPart | OfEnd) or place.half != "lora_A":
                continue
            other = name.replace("lora_A", "lora_B")
            if other not in tensors:
                raise BadAdapter(f"tensor {name} lacks its other half")
            start = find_start(place.module, len(a), config.scale(place.module, len(a)))
            converted[name] = torch.cat([a.float(), start[0]]).contiguous()
            converted[other] = torch.cat([tensors[other].float(), -start[1]], 1).contiguous()
            changed.add(place.module)
        for name in tensors:  # what PEFT saves beside a pair of the head: the changed base
            place = find_place(name)
            if place is None or isinstance(place, OfNorm) or place.half != "weight":
                continue
            if place.module in changed:
                del converted[name]
        out.mkdir(parents=True, exist_ok=True)
        for beside in folder.iterdir():
            if beside.is_file() and beside.name not in (CONFIG, WEIGHTS):
                shutil.copyfile(beside, out / beside.name)
        (out / CONFIG).write_text(json.dumps(_doubled(plain), indent=2))
        save_file(converted, out / WEIGHTS, metadata={"format": "pt"})
        return len(changed)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise BadAdapter(f"{folder} cannot be converted: {error}") from error


def _doubled(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with all ranks twice as large and all scales as they were."""
    more = math.sqrt(2) if raw.get("use_rslora") else 2
    return raw | {
        "r": 2 * raw.get("r", 8),
        "lora_alpha": more * raw.get("lora_alpha", 8),
        "rank_pattern": {key: 2 * each for key, each in (raw.get("rank_pattern") or {}).items()},
        "alpha_pattern": {
            key: more * each for key, each in (raw.get("alpha_pattern") or {}).items()
        },
    }


def _choose_start(raw: dict[str, Any], base: Weights, folder: Path) -> Start:
    kind = str(raw.get("init_lora_weights", True)).lower()
    if kind.startswith("loftq"):
        raise BadAdapter(
            "init_lora_weights='loftq' was trained on a quantised base, which is not this one;"
            " train on the base itself"
        )
    if (folder / INITIAL).is_dir():
        return _start_beside(folder / INITIAL)
    if kind not in ("pissa", "olora"):
        raise BadAdapter(
            f"init_lora_weights={kind!r} began from what the base alone does not tell; put the"
            f" adapter as it was before its first step into {folder / INITIAL}"
        )
    decompose = _pissa if kind == "pissa" else _olora

    def start(module: str, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        if module == "lm_head" and base.config.tied_head:
            raise BadAdapter("lm_head is tied to the embedding, which such training changes too")
        return decompose(base.stored(f"{module}.weight").float(), rank, scale)

    return start


def _start_beside(folder: Path) -> Start:
    """Read the first state that training saved."""
    pairs: dict[tuple[str, str], torch.Tensor] = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        place = find_place(name)
        if isinstance(place, OfPart | OfEnd):
            pairs[place.module, place.half] = tensor.float()

    def start(module: str, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        if (module, "lora_A") not in pairs or (module, "lora_B") not in pairs:
            raise BadAdapter(f"{folder} lacks {module}")
        return pairs[module, "lora_A"], pairs[module, "lora_B"]

    return start


def _pissa(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest part of a weight (Meng et al., 2024), as PEFT divides it."""
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    root = torch.sqrt(sizes[:rank] / scale)
    return root[:, None] * right[:rank], left[:, :rank] * root


def _olora(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first columns of a weight's QR decomposition (Büyükakyüz, 2024)."""
    del scale  # PEFT divides nothing by it
    left, right = torch.linalg.qr(weight)
    return right[:rank], left[:, :rank]
