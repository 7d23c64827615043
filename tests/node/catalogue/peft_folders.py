"""Writes PEFT folders as others may write the same adapter: another type of number, another order,
other names around the modules.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from proofs.weights import round_to_brain

Tensors = dict[str, np.ndarray]
PREFIX = "base_model.model."
LINEARS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def make_tensors(seed: int, rank: int = 4, *, small: float = 2.0**-9) -> Tensors:
    """The halves of a small adapter, in float32."""
    random = np.random.default_rng(seed)
    found: Tensors = {}
    for layer in range(2):
        for linear in LINEARS:
            name = f"model.layers.{layer}.{linear}"
            found[f"{name}.lora_A.weight"] = random.normal(0, 0.1, (rank, 16))
            found[f"{name}.lora_B.weight"] = random.normal(0, small, (24, rank))
    return {name: tensor.astype(np.float32) for name, tensor in found.items()}


def write_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: str = "F32",
    prefix: str = PREFIX,
    suffix: str = "",
    metadata: Mapping[str, str] | None = None,
    **config: Any,
) -> tuple[Path, Path]:
    """Write configuration and weights; returns both paths. `suffix`: the adapter's own name in the
    tensors' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    paths[0].write_text(json.dumps(said))
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    body = b""
    for name, tensor in tensors.items():
        data = in_dtype(tensor, dtype)
        shown = prefix + (name.replace(".weight", f".{suffix}.weight") if suffix else name)
        offsets = [len(body), len(body) + len(data)]
        header[shown] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    told = json.dumps(header).encode()
    paths[1].write_bytes(struct.pack("<Q", len(told)) + told + body)
    return paths


def in_dtype(tensor: np.ndarray, dtype: str) -> bytes:
    """A tensor's bytes in one of the types that adapters come in."""
    if dtype == "F16":
        return tensor.astype("<f2").tobytes()
    if dtype == "BF16":
        return (round_to_brain(tensor).view(np.uint32) >> 16).astype("<u2").tobytes()
    return tensor.astype("<f4").tobytes()
