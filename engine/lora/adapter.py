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
from ..model.weights import Weights
from .ends import Ends
from .layout import PackedAdapter, Part, PartWeights, pack, parts_of

MAX_CONFIG_BYTES = 256 << 10
MAX_WEIGHTS_BYTES = 4 << 30
MAX_HEADER_BYTES = 16 << 20
MAX_RANK = 1024
MAX_PATTERNS = 4096
SERVED_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
PREFIX = r"(?:base_model\.model\.)?"
TENSOR_NAME = re.compile(
    PREFIX + r"model\.layers\.(\d{1,4})\.([a-z_.]+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector(?:\.weight)?)"
)
END_NAME = re.compile(PREFIX + r"(?:model\.(embed_tokens)\.(lora_embedding_A|lora_embedding_B)|(lm_head)\.(lora_A|lora_B)\.weight)")
BASE_COPY = re.compile(PREFIX + r"(model\.embed_tokens|lm_head)(?:\.base_layer)?\.weight")
"""PEFT saves the base's own matrix beside an adapter of the embedding or the head; it must be the base's."""
PATTERN_KEY = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")

# Fields that change no number when an adapter is served, or that the tensors themselves already say.
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform",
    "lora_dropout", "peft_type", "peft_version", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora", "bias", "init_lora_weights", "loftq_config", "eva_config", "ensure_weight_tying",
    "qalora_group_size", "megatron_core", "fan_in_fan_out", "use_dora", "lora_bias",
}  # fmt: skip
MUTATES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """The part of adapter_config.json that changes numbers."""

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    lora_bias: bool
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


def load_adapter(config_path: Path, weights_path: Path, base: Weights, dtype: torch.dtype) -> PackedAdapter:
    """Read, check and pack one adapter. Raises AdapterError naming the field or tensor and the mend."""
    try:
        config = parse_config(_read_bounded(config_path, MAX_CONFIG_BYTES))
        header = read_header(weights_path)
        modules = match_tensors(header, config, base.config)
        with safe_open(weights_path, framework="pt") as file:
            reader = _Reader(file, dtype)
            _check_base_copies(header, reader, base)
            parts = {key: _read_part(key, tensors, reader, config, base) for key, tensors in modules.parts.items()}
            ends = _read_ends(modules.ends, reader, config)
        assert reader.num_read == len(header), "a declared tensor was not applied"
        return pack(base.config, parts, dtype, ends)
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
    rslora, dora, lora_bias = (bool(raw.get(field, False)) for field in ("use_rslora", "use_dora", "lora_bias"))
    if dora and lora_bias:
        raise AdapterError("lora_bias together with use_dora is not served; PEFT does not train it either")
    return AdapterConfig(int(rank), alpha, rslora, dora, lora_bias, ranks, _patterns(raw, "alpha_pattern"))


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


Tensors = dict[str, str]
"""What a tensor is ("lora_A.weight", …) → its name in the file."""


@dataclass(frozen=True)
class Modules:
    """Which tensors change what: `parts` by (layer, part name), `ends` by "embed_tokens" and "lm_head"."""

    parts: dict[tuple[int, str], Tensors]
    ends: dict[str, Tensors]


def match_tensors(header: dict[str, TensorHeader], config: AdapterConfig, base: ModelConfig) -> Modules:
    """Find each tensor's place in the base and check its shape; all halves of every module must be there."""
    parts = {part.name: part for part in parts_of(base)}
    modules = Modules({}, {})
    for name, tensor in header.items():
        if BASE_COPY.fullmatch(name):
            _expect(name, tensor, (base.vocab_size, base.hidden))
        elif (end := END_NAME.fullmatch(name)) is not None:
            module, half = end[1] or end[3], end[2] or end[4]
            _expect(name, tensor, _end_shape(config, module, half, base))
            _place(modules.ends.setdefault(module, {}), half, name)
        else:
            found = TENSOR_NAME.fullmatch(name)
            if found is None or found[2] not in parts or int(found[1]) >= base.layers:
                raise AdapterError(f"tensor {name[:200]} has no place in this base ({base.layers} layers; q, k, v, o, gate, up, down projections)")
            layer, part, half = int(found[1]), parts[found[2]], found[3].removesuffix(".weight")
            _expect(name, tensor, _part_shape(config, layer, part, half))
            _place(modules.parts.setdefault((layer, part.name), {}), half, name)
    if not modules.parts and not modules.ends:
        raise AdapterError("the adapter declares no tensor")
    for tensors in (*modules.parts.values(), *modules.ends.values()):
        _check_whole(tensors, config, is_end=tensors in modules.ends.values())
    return modules


def _expect(name: str, tensor: TensorHeader, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise AdapterError(f"tensor {name} has shape {list(tensor.shape)}, this base and its rank need {list(expected)}: made for another base?")


def _place(tensors: Tensors, half: str, name: str) -> None:
    if tensors.setdefault(half, name) != name:
        raise AdapterError(f"tensor {name} is declared twice, also as {tensors[half]}")


def _check_whole(tensors: Tensors, config: AdapterConfig, is_end: bool) -> None:
    if is_end:
        needed = {"lora_embedding_A", "lora_embedding_B"} if "lora_embedding_A" in tensors or "lora_embedding_B" in tensors else {"lora_A", "lora_B"}
        if config.dora or config.lora_bias:
            raise AdapterError(
                f"{'use_dora' if config.dora else 'lora_bias'} is not served for the embedding or the head ({next(iter(tensors.values()))})"
            )
    else:
        needed = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.dora else set()) | ({"lora_B.bias"} if config.lora_bias else set())
    if tensors.keys() != needed:
        wrong = sorted(tensors.keys() ^ needed)
        verdict = "has no place here" if set(wrong) <= tensors.keys() else "is missing: it lacks its other half"
        field = " (use_dora)" if config.dora else " (lora_bias)" if config.lora_bias else ""
        raise AdapterError(f"beside tensor {next(iter(tensors.values()))} {', '.join(wrong)}{field} {verdict}")


def _part_shape(config: AdapterConfig, layer: int, part: Part, half: str) -> tuple[int, ...]:
    rank = _checked_rank(config, f"model.layers.{layer}.{part.name}")
    shapes = {"lora_A": (rank, part.width_in), "lora_B": (part.width_out, rank)}
    return shapes.get(half, (part.width_out,))


def _end_shape(config: AdapterConfig, module: str, half: str, base: ModelConfig) -> tuple[int, ...]:
    rank = _checked_rank(config, "model.embed_tokens" if module == "embed_tokens" else module)
    return {
        "lora_embedding_A": (rank, base.vocab_size),
        "lora_embedding_B": (base.hidden, rank),
        "lora_A": (rank, base.hidden),
        "lora_B": (base.vocab_size, rank),
    }[half]


def _checked_rank(config: AdapterConfig, module: str) -> int:
    rank = config.rank_of(module)
    if not 1 <= rank <= MAX_RANK:
        raise AdapterError(f"rank_pattern gives rank {rank} to {module}; it must be 1 to {MAX_RANK}")
    return rank


class _Reader:
    """Reads tensors as float32, each checked to be finite in `dtype` once multiplied by `scale`."""

    def __init__(self, file: Any, dtype: torch.dtype) -> None:
        self._file, self._dtype = file, dtype
        self.num_read = 0

    def read(self, name: str, scale: float = 1.0) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name).float()
        tensor = tensor if scale == 1.0 else tensor * scale
        self.num_read += 1
        if not math.isfinite(float((tensor.to(self._dtype) * 0.0).sum())):
            raise AdapterError(f"tensor {name} holds numbers that are not finite in {str(self._dtype).removeprefix('torch.')}")
        return tensor


def _read_part(key: tuple[int, str], tensors: Tensors, reader: _Reader, config: AdapterConfig, base: Weights) -> PartWeights:
    module = f"model.layers.{key[0]}.{key[1]}"
    a = reader.read(tensors["lora_A"])
    scale = config.scale(module, len(a))
    b = reader.read(tensors["lora_B"], scale)
    shift = reader.read(tensors["lora_B.bias"], scale) if config.lora_bias else None
    if not config.dora:
        return PartWeights(a, b, shift=shift)
    # DoRA (Liu et al., 2024): the rows of W + s B A are given the trained lengths.
    magnitude = reader.read(tensors["lora_magnitude_vector"])
    length = torch.linalg.vector_norm(base.read(f"{module}.weight").float() + b @ a, dim=1)
    gain = magnitude / length
    if not torch.isfinite(gain).all():
        raise AdapterError(f"tensor {tensors['lora_magnitude_vector']} scales rows of length 0; the adapter is damaged")
    return PartWeights(a, b * gain[:, None], gain=gain)


def _read_ends(ends: dict[str, Tensors], reader: _Reader, config: AdapterConfig) -> Ends | None:
    if not ends:
        return None
    embedding, head = ends.get("embed_tokens"), ends.get("lm_head")
    pairs: list[torch.Tensor | None] = [None, None, None, None]
    if embedding is not None:
        a = reader.read(embedding["lora_embedding_A"])
        pairs[:2] = a.T.contiguous(), reader.read(embedding["lora_embedding_B"], config.scale("model.embed_tokens", len(a))).T.contiguous()
    if head is not None:
        a = reader.read(head["lora_A"])
        pairs[2:] = a.T.contiguous(), reader.read(head["lora_B"], config.scale("lm_head", len(a))).T.contiguous()
    return Ends(*pairs)


def _check_base_copies(header: dict[str, TensorHeader], reader: _Reader, base: Weights) -> None:
    for name in header:
        copy = BASE_COPY.fullmatch(name)
        if copy is None:
            continue
        module = "model.embed_tokens" if base.config.tied_head else copy[1]
        if not torch.allclose(reader.read(name), base.read(f"{module}.weight").float(), rtol=1e-2, atol=1e-5):
            raise AdapterError(f"tensor {name} replaces the base's own matrix, which is not served; train with LoRA on it (target_modules)")
