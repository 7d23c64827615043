"""Converts an adapter whose training began by changing the base's weights (PiSSA, OLoRA, or any
whose first state lies beside it) to plain LoRA, with the base at hand.

Such training takes a pair (A0, B0) out of each weight W and goes on from there, so that
W - s B0 A0 + s B A is served; as plain LoRA that is the pair ([A; A0], [B, -B0]) of twice the rank.
LoftQ rounds W to few bits, too, and no pair makes up for that: its adapters are plain LoRA on the
rounded base alone. Decides which starts can be found again. Serves nothing.
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
UNKNOWN = {
    "corda": " (how inputs varied, which its preprocessing measured)",
    "lora_ga": " (gradients of the first batches)",
}
LOFTQ_BITS = (2, 4)
"""Of LoftQ's numbers of bits those whose traces a base shows."""
LOFTQ_BLOCK = 64
"""Numbers that LoftQ rounds together, as PEFT's does."""
Start = Callable[[str, int, float], tuple[torch.Tensor, torch.Tensor]]
"""Of a module, its rank and its scale: the pair (A0, B0)."""


def convert_adapter(base: Weights, folder: Path, out: Path) -> int:
    """Write an adapter as plain LoRA into the folder `out`; return how many modules changed.

    Raises BadAdapter for one whose start cannot be found again.
    """
    try:
        raw = json.loads((folder / CONFIG).read_bytes())
        tensors = load_file(folder / WEIGHTS)
        is_loftq = str(raw.get("init_lora_weights", True)).lower().startswith("loftq")
        find_start = None if is_loftq else _choose_start(raw, base, folder)
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
            if find_start is None:
                _check_rounded(raw, base, place.module)
                changed.add(place.module)
                continue
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
        written = plain if find_start is None else _doubled(plain)
        (out / CONFIG).write_text(json.dumps(written, indent=2))
        save_file(converted, out / WEIGHTS, metadata={"format": "pt"})
        return len(changed)
    except (OSError, LookupError, ValueError, SafetensorError, RuntimeError) as error:
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
    if (folder / INITIAL).is_dir():
        return _start_beside(folder / INITIAL)
    if kind not in ("pissa", "olora"):
        unknown = UNKNOWN.get(kind, "")
        raise BadAdapter(
            f"init_lora_weights={kind!r} began from what the base alone does not tell{unknown}; put"
            f" the adapter as it was before its first step into {folder / INITIAL} ({CONFIG} and"
            f" {WEIGHTS}, as save_pretrained writes them right after get_peft_model)"
        )
    decompose = _pissa if kind == "pissa" else _olora

    def start(module: str, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        if module == "lm_head" and base.config.tied_head:
            raise BadAdapter("lm_head is tied to the embedding, which such training changes too")
        return decompose(base.stored(f"{module}.weight").float(), rank, scale)

    return start


def _check_rounded(raw: dict[str, Any], base: Weights, module: str) -> None:
    """Raise BadAdapter unless the base's weights of a module are such as LoftQ leaves behind."""
    given = raw.get("loftq_config")
    bits = given.get("loftq_bits", 4) if isinstance(given, dict) else 4
    if bits not in LOFTQ_BITS:
        raise BadAdapter(
            f"loftq_config: loftq_bits is {str(bits)[:20]}; only of 2 and 4 it can be told whether"
            " a base is the one that LoftQ rounded. Train on the base itself"
        )
    if module == "lm_head" and base.config.tied_head:
        raise BadAdapter("lm_head is tied to the embedding, which LoftQ rounds too")
    weight = base.stored(f"{module}.weight").float().flatten()
    blocks = weight[: len(weight) // LOFTQ_BLOCK * LOFTQ_BLOCK].view(-1, LOFTQ_BLOCK)
    different = 1 + (blocks.sort(1).values.diff() != 0).sum(1)
    if (different > 2**bits).any():
        raise BadAdapter(
            f"init_lora_weights={str(raw['init_lora_weights'])[:20]!r} was trained beside weights"
            f" rounded to {bits} bits, which {module} of this base is not. Save the base that the"
            " adapter was trained on (model.unload().save_pretrained), have nodes serve that, and"
            " publish for it; or train on this base without LoftQ"
        )


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
