"""Untrusted bytes to tensors: one PEFT adapter (adapter_config.json, adapter_model.safetensors) is read whole or refused by name.

Order: sizes of the files → the JSON header, without allocating → names and shapes against the base → the tensors → every number finite.
Every declared tensor is applied, or an error names it. Nothing is executed, pickled or searched with a stranger's regular expression.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import AdapterError
from ..model.config import ModelConfig
from .layout import PackedAdapter, Part, PartWeights, pack, parts_of

MAX_CONFIG_BYTES = 256 << 10
MAX_WEIGHTS_BYTES = 4 << 30
MAX_HEADER_BYTES = 16 << 20
MAX_RANK = 1024
MAX_PATTERNS = 4096
SERVED_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
TENSOR_NAME = re.compile(r"(?:base_model\.model\.)?model\.layers\.(\d{1,4})\.([a-z_.]+)\.lora_(A|B)\.weight")
PATTERN_KEY = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")

# Fields that change no number when an adapter is served, or that the tensors themselves already say.
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform",
    "lora_dropout", "peft_type", "peft_version", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora", "bias", "init_lora_weights", "loftq_config", "eva_config", "ensure_weight_tying",
    "qalora_group_size", "megatron_core", "fan_in_fan_out",
}  # fmt: skip
MUTATES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """The part of adapter_config.json that changes numbers."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]

    def scale(self, module: str, rank: int) -> float:
        """What B is multiplied by in `module` (its name from `model.layers` on)."""
        alpha = float(_by_pattern(self.alpha_pattern, module, self.alpha))
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def rank_of(self, module: str) -> int:
        """The rank that `module` declares."""
        return int(_by_pattern(self.rank_pattern, module, self.rank))


@dataclass(frozen=True)
class TensorHeader:
    """What the safetensors header declares of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    size_bytes: int


def load_adapter(config_path: Path, weights_path: Path, base: ModelConfig, dtype: torch.dtype) -> PackedAdapter:
    """Read, check and pack one adapter. Raises AdapterError naming the field or tensor and the mend."""
    try:
        config = parse_config(_read_bounded(config_path, MAX_CONFIG_BYTES))
        header = read_header(weights_path)
        modules = match_tensors(header, config, base)
        pairs = _read_pairs(weights_path, modules, config, dtype)
        return pack(base, {key: PartWeights(a, b) for key, (a, b) in pairs.items()}, dtype)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{weights_path.name} cannot be read: {error}") from error


def parse_config(data: bytes) -> AdapterConfig:
    """Check adapter_config.json field by field."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"adapter_config.json is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise AdapterError("adapter_config.json is not a JSON object")
    _refuse_unserved(raw)
    rank, alpha = _number(raw, "r", 8), _number(raw, "lora_alpha", 8)
    if rank != int(rank) or not 1 <= rank <= MAX_RANK:
        raise AdapterError(f"r is {rank}; it must be a whole number from 1 to {MAX_RANK}")
    ranks = {key: int(value) for key, value in _patterns(raw, "rank_pattern").items()}
    return AdapterConfig(int(rank), alpha, bool(raw.get("use_rslora", False)), ranks, _patterns(raw, "alpha_pattern"))


def _read_bounded(path: Path, limit_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise AdapterError(f"{path.name} is larger than {limit_bytes} bytes")
    return data


def _refuse_unserved(raw: dict[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"peft_type is {raw.get('peft_type')!r}; only LORA is served")
    if raw.get("bias", "none") != "none":
        raise AdapterError(f"bias is {raw['bias']!r}; train with bias='none'")
    if raw.get("fan_in_fan_out"):
        raise AdapterError("fan_in_fan_out is not served for this base's linears")
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(MUTATES_BASE):
        raise AdapterError(f"init_lora_weights={init!r} changed the base's weights; convert the adapter to plain LoRA first")
    for field, value in raw.items():
        if field not in HARMLESS and value not in (None, False, [], {}, "", 0):
            raise AdapterError(f"the field {field} is {str(value)[:80]!r}, which is not served; train without it")


def _number(raw: dict[str, Any], field: str, default: float) -> float:
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterError(f"{field} is {str(value)[:40]!r}, not a finite number")
    return value


def _patterns(raw: dict[str, Any], field: str) -> dict[str, float]:
    patterns = raw.get(field) or {}
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise AdapterError(f"{field} must map at most {MAX_PATTERNS} module names to numbers")
    for key in patterns:
        if not PATTERN_KEY.fullmatch(key):
            raise AdapterError(f"{field} has the key {key[:80]!r}; only plain module names are served, no regular expressions")
    return {key: _number(patterns, key, 0) for key in patterns}


def _by_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first key that equals the name or its tail after a dot; `^` ties it to the start. A dot matches itself only."""
    for key, value in patterns.items():
        if key.startswith("^"):
            if module == key[1:]:
                return value
        elif module == key or module.endswith("." + key):
            return value
    return default


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The declared tensors of a safetensors file, checked against the file's size; allocates no tensor."""
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise AdapterError(f"{path.name} has {size} bytes; at most {MAX_WEIGHTS_BYTES} are served")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise AdapterError(f"{path.name} is truncated or no safetensors file: a header of {length} bytes in {size}")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        header = {name: _tensor_header(name, entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path.name} has an unreadable header: {error}") from error
    declared = sum(tensor.size_bytes for tensor in header.values())
    if declared != size - 8 - length:
        raise AdapterError(f"{path.name} declares {declared} bytes of tensors and holds {size - 8 - length}; it is truncated or padded")
    return header


def _tensor_header(name: str, entry: dict[str, Any]) -> TensorHeader:
    dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in SERVED_DTYPES:
        raise AdapterError(f"tensor {name[:200]} is {dtype[:20]}; we read {sorted(SERVED_DTYPES)}")
    if min(shape, default=0) < 1 or math.prod(shape) * SERVED_DTYPES[dtype] != end - begin:
        raise AdapterError(f"tensor {name[:200]} has shape {shape}, which is not its {end - begin} bytes")
    return TensorHeader(shape, dtype, end - begin)


Modules = dict[tuple[int, str], dict[str, str]]
"""(layer, part) → {"A": tensor name, "B": tensor name}."""


def match_tensors(header: dict[str, TensorHeader], config: AdapterConfig, base: ModelConfig) -> Modules:
    """Find each tensor's place in the base and check its shape; both halves of every pair must be there."""
    parts = {part.name: part for part in parts_of(base)}
    modules: Modules = {}
    for name, tensor in header.items():
        found = TENSOR_NAME.fullmatch(name)
        if found is None or found[2] not in parts or int(found[1]) >= base.layers:
            raise AdapterError(f"tensor {name[:200]} has no place in this base ({base.layers} layers; q, k, v, o, gate, up, down projections)")
        layer, part, half = int(found[1]), parts[found[2]], found[3]
        expected = _expected_shape(config.rank_of(f"model.layers.{layer}.{part.name}"), part, half)
        if tensor.shape != expected:
            raise AdapterError(f"tensor {name} has shape {list(tensor.shape)}, this base and its rank need {list(expected)}: made for another base?")
        if modules.setdefault((layer, part.name), {}).setdefault(half, name) != name:
            raise AdapterError(f"tensor {name} is declared twice, also as {modules[layer, part.name][half]}")
    if not modules:
        raise AdapterError("the adapter declares no tensor")
    for (layer, part_name), halves in modules.items():
        if len(halves) != 2:
            raise AdapterError(f"tensor {next(iter(halves.values()))} lacks its other half in layer {layer}, {part_name}")
    return modules


def _expected_shape(rank: int, part: Part, half: str) -> tuple[int, int]:
    if not 1 <= rank <= MAX_RANK:
        raise AdapterError(f"rank_pattern gives rank {rank} to {part.name}; it must be 1 to {MAX_RANK}")
    return (rank, part.width_in) if half == "A" else (part.width_out, rank)


def _read_pairs(path: Path, modules: Modules, config: AdapterConfig, dtype: torch.dtype) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    pairs = {}
    with safe_open(path, framework="pt") as file:
        for (layer, part), halves in modules.items():
            a, b = file.get_tensor(halves["A"]).float(), file.get_tensor(halves["B"]).float()
            scaled = b * config.scale(f"model.layers.{layer}.{part}", len(a))
            for name, tensor in ((halves["A"], a), (halves["B"], scaled)):
                if not torch.isfinite(tensor.to(dtype)).all():
                    raise AdapterError(f"tensor {name} holds numbers that are not finite in {str(dtype).removeprefix('torch.')}")
            pairs[layer, part] = a, scaled
    return pairs
