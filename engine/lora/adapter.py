"""Turns untrusted bytes into tensors: one PEFT adapter (its config and its safetensors file) is
read whole or refused by name.

Order: sizes of the files → the JSON header, without allocating → names and shapes against the base
→ the tensors → every number finite.
Every declared tensor is applied, or an error names it. Nothing is executed, pickled or searched
with a stranger's regular expression. Knows no slot and no network.
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

from ..errors import BadAdapter
from ..messages import MAX_ADAPTER_CONFIG_BYTES, MAX_ADAPTER_WEIGHTS_BYTES
from ..model.config import ModelConfig
from ..model.parts import Part, parts_of
from ..model.weights import Weights
from .adapter_config import MAX_RANK, AdapterConfig, parse_config
from .ends import Ends, head_of
from .layout import PackedAdapter, PartWeights, pack

MAX_HEADER_BYTES = 16 << 20
SERVED_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
PREFIX = r"(?:base_model\.model\.)?"
TENSOR_NAME = re.compile(
    PREFIX + r"model\.layers\.(\d{1,4})\.([a-z_.]+?)\."
    r"(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector(?:\.weight)?|(?:base_layer\.)?bias)"
)
END_NAME = re.compile(
    PREFIX + r"(?:model\.(embed_tokens)|(lm_head))\."
    r"(lora_embedding_A|lora_embedding_B|lora_A\.weight|lora_B\.weight|token_adapter\.trainable_tokens_delta|(?:base_layer\.)?weight)"
)
HALVES = {
    "token_adapter.trainable_tokens_delta": "tokens",
    "base_layer.weight": "weight",
    "base_layer.bias": "bias",
}
"""What some tensors are called here; all others by the end of their name, without ".weight"."""
EMBEDDING_PAIR = {"lora_embedding_A", "lora_embedding_B"}
HEAD_PAIR = {"lora_A", "lora_B"}


@dataclass(frozen=True)
class TensorHeader:
    """The declaration of one tensor in the safetensors header."""

    shape: tuple[int, ...]
    dtype: str
    size_bytes: int


def load_adapter(
    config_path: Path,
    weights_path: Path,
    base: Weights,
    dtype: torch.dtype,
    room_bytes: int | None = None,
) -> PackedAdapter:
    """Read, check and pack one adapter, in `room_bytes` of memory.

    Raises BadAdapter naming the field or tensor and the mend.
    """
    try:
        config = parse_config(_read_bounded(config_path, MAX_ADAPTER_CONFIG_BYTES))
        header = read_header(weights_path)
        modules = match_tensors(header, config, base.config)
        if room_bytes is not None and (needed := bytes_to_read(header, dtype)) > room_bytes:
            raise BadAdapter(
                f"reading the adapter takes {needed} bytes of memory, of which {room_bytes} are"
                " kept for that; allow the engine more"
            )
        with safe_open(weights_path, framework="pt") as file:
            reader = _Reader(file, dtype)
            parts = {
                key: _read_part(key, tensors, reader, config, base=base)
                for key, tensors in modules.parts.items()
            }
            ends = _read_ends(modules.ends, reader, config, base)
        assert reader.num_read == len(header), "a declared tensor was not applied"
        return pack(base.config, parts, dtype, ends)
    except (OSError, SafetensorError) as error:
        raise BadAdapter(f"{weights_path.name} cannot be read: {error}") from error


def _read_bounded(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise BadAdapter(f"{path.name} is larger than {max_bytes} bytes")
    return data


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Read the declared tensors of a safetensors file, checked against its size; allocates no
    tensor.
    """
    size = path.stat().st_size
    if size > MAX_ADAPTER_WEIGHTS_BYTES:
        raise BadAdapter(
            f"{path.name} has {size} bytes; at most {MAX_ADAPTER_WEIGHTS_BYTES} are served"
        )
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise BadAdapter(
                f"{path.name} is truncated or no safetensors file: a header of {length} bytes in"
                f" {size}"
            )
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        header = {name: _tensor_header(name, entry) for name, entry in entries.items()}
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,  # of a size that is infinite: JSON as Python reads it has such numbers
    ) as error:
        raise BadAdapter(f"{path.name} has an unreadable header: {error}") from error
    declared = sum(tensor.size_bytes for tensor in header.values())
    if declared != size - 8 - length:
        raise BadAdapter(
            f"{path.name} declares {declared} bytes of tensors and holds {size - 8 - length}; it is"
            " truncated or padded"
        )
    return header


def bytes_to_read(header: dict[str, TensorHeader], dtype: torch.dtype) -> int:
    """Return an upper bound of the bytes that reading takes.

    Every number counts as float32 and packed; outside the layers also turned, or beside the base's
    own matrix.
    """
    numbers = {name: math.prod(tensor.shape) for name, tensor in header.items()}
    return sum(
        count * (4 + (8 if END_NAME.fullmatch(name) else 0) + dtype.itemsize)
        for name, count in numbers.items()
    )


def _tensor_header(name: str, entry: dict[str, Any]) -> TensorHeader:
    dtype = str(entry["dtype"])
    shape = tuple(int(size) for size in entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in SERVED_DTYPES:
        raise BadAdapter(f"tensor {name[:200]} is {dtype[:20]}; we read {sorted(SERVED_DTYPES)}")
    if min(shape, default=0) < 1 or math.prod(shape) * SERVED_DTYPES[dtype] != end - begin:
        raise BadAdapter(
            f"tensor {name[:200]} has shape {shape}, which is not its {end - begin} bytes"
        )
    return TensorHeader(shape, dtype, end - begin)


Tensors = dict[str, str]
"""What a tensor is ("lora_A.weight", …) → its name in the file."""


@dataclass(frozen=True)
class Modules:
    """The tensors by what they change: `parts` by (layer, part name), `ends` by "embed_tokens" and
    "lm_head".
    """

    parts: dict[tuple[int, str], Tensors]
    ends: dict[str, Tensors]


def match_tensors(
    header: dict[str, TensorHeader], config: AdapterConfig, base: ModelConfig
) -> Modules:
    """Find each tensor's place in the base and check its shape.

    All halves of every module must be there. Raises BadAdapter.
    """
    parts = {part.name: part for part in parts_of(base)}
    modules = Modules({}, {})
    for name, tensor in header.items():
        if (end := END_NAME.fullmatch(name)) is not None:
            module = end[1] or end[2]
            half = HALVES.get(end[3], end[3].removesuffix(".weight"))
            if (half in EMBEDDING_PAIR and module == "lm_head") or (
                half in HEAD_PAIR and module == "embed_tokens"
            ):
                raise BadAdapter(f"tensor {name} belongs to no kind of adapter for {module}")
            if half == "tokens" and module not in config.tokens:
                raise BadAdapter(
                    f"tensor {name} has no place: trainable_token_indices does not name {module}"
                )
            _expect(name, tensor, _end_shape(config, module, half, base))
            _place(modules.ends.setdefault(module, {}), half, name)
        else:
            found = TENSOR_NAME.fullmatch(name)
            if found is None or found[2] not in parts or int(found[1]) >= base.layers:
                raise BadAdapter(
                    f"tensor {name[:200]} has no place in this base ({base.layers} layers; q, k, v,"
                    " o, gate, up, down projections)"
                )
            layer = int(found[1])
            part = parts[found[2]]
            half = HALVES.get(found[3], found[3].removesuffix(".weight"))
            if half == "bias" and not (config.bias != "none" and has_bias(base, part)):
                why = (
                    f"bias is {config.bias!r}"
                    if has_bias(base, part)
                    else "this base has no bias there"
                )
                raise BadAdapter(f"tensor {name} has no place: {why}")
            _expect(name, tensor, _part_shape(config, layer, part, half))
            _place(modules.parts.setdefault((layer, part.name), {}), half, name)
    if not modules.parts and not modules.ends:
        raise BadAdapter("the adapter declares no tensor")
    for tensors in modules.parts.values():
        _check_part(tensors, config)
    _check_ends(modules.ends, config, base)
    return modules


def has_bias(base: ModelConfig, part: Part) -> bool:
    """Return whether the base adds a bias to this linear."""
    return (base.qkv_bias, base.out_bias, base.mlp_bias, base.mlp_bias)[part.kind]


def _expect(name: str, tensor: TensorHeader, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise BadAdapter(
            f"tensor {name} has shape {list(tensor.shape)}, this base and its rank need"
            f" {list(expected)}: made for another base?"
        )


def _place(tensors: Tensors, half: str, name: str) -> None:
    if tensors.setdefault(half, name) != name:
        raise BadAdapter(f"tensor {name} is declared twice, also as {tensors[half]}")


def _check_part(tensors: Tensors, config: AdapterConfig) -> None:
    own = tensors.keys() - {"bias"}
    needed = (
        {"lora_A", "lora_B"}
        | ({"lora_magnitude_vector"} if config.dora else set())
        | ({"lora_B.bias"} if config.lora_bias else set())
    )
    if own or config.bias != "all":
        _check_whole(
            own,
            needed,
            tensors,
            " (use_dora)" if config.dora else " (lora_bias)" if config.lora_bias else "",
        )


def _check_whole(present: set[str], needed: set[str], tensors: Tensors, field: str = "") -> None:
    if present != needed:
        wrong = sorted(present ^ needed)
        verdict = (
            "has no place here" if set(wrong) <= present else "is missing: it lacks its other half"
        )
        raise BadAdapter(
            f"beside tensor {next(iter(tensors.values()))} {', '.join(wrong)}{field} {verdict}"
        )


def _check_ends(ends: dict[str, Tensors], config: AdapterConfig, base: ModelConfig) -> None:
    """Raise BadAdapter unless each end is changed in at most one way.

    The ways are a pair, some rows of its own, or the whole.
    """
    for module in ("embed_tokens", "lm_head"):
        tensors = ends.get(module, {})
        by_tokens = module in config.tokens or (base.tied_head and "embed_tokens" in config.tokens)
        pair = tensors.keys() - {"weight", "tokens"}
        if by_tokens + (module in config.saved) + bool(pair) > 1:
            ways = "target_modules, modules_to_save and trainable_token_indices"
            raise BadAdapter(
                f"{module} is changed in two ways at once (of {ways}); that is not served"
            )
        for field, half, declared in (
            ("modules_to_save", "weight", config.saved),
            ("trainable_token_indices", "tokens", config.tokens),
        ):
            if module in declared and half not in tensors:
                raise BadAdapter(f"{field} names {module}, but the file has no tensor for it")
        if pair and (config.dora or config.lora_bias):
            raise BadAdapter(
                f"{'use_dora' if config.dora else 'lora_bias'} is not served for the embedding or"
                f" the head ({tensors[min(pair)]})"
            )
        if pair:
            _check_whole(pair, EMBEDDING_PAIR if module == "embed_tokens" else HEAD_PAIR, tensors)


def _part_shape(config: AdapterConfig, layer: int, part: Part, half: str) -> tuple[int, ...]:
    rank = _checked_rank(config, f"model.layers.{layer}.{part.name}")
    shapes = {"lora_A": (rank, part.width_in), "lora_B": (part.width_out, rank)}
    return shapes.get(half, (part.width_out,))


def _end_shape(config: AdapterConfig, module: str, half: str, base: ModelConfig) -> tuple[int, ...]:
    if half in ("weight", "tokens"):
        return (base.vocab_size if half == "weight" else len(config.tokens[module]), base.hidden)
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
        raise BadAdapter(f"rank_pattern gives rank {rank} to {module}; it must be 1 to {MAX_RANK}")
    return rank


class _Reader:
    """Reads tensors as float32, each checked to be finite in `dtype` once multiplied by `scale`."""

    def __init__(self, file: Any, dtype: torch.dtype) -> None:
        self._file = file
        self.dtype = dtype
        self.num_read = 0

    def read(self, name: str, scale: float = 1.0) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name).float()
        tensor = tensor if scale == 1.0 else tensor * scale
        self.num_read += 1
        if not math.isfinite(float((tensor.to(self.dtype) * 0.0).sum())):
            raise BadAdapter(
                f"tensor {name} holds numbers that are not finite in"
                f" {str(self.dtype).removeprefix('torch.')}"
            )
        return tensor


def _read_part(
    key: tuple[int, str], tensors: Tensors, reader: _Reader, config: AdapterConfig, base: Weights
) -> PartWeights:
    module = f"model.layers.{key[0]}.{key[1]}"
    shift = None
    if "bias" in tensors:  # the trained one takes the place of the base's
        shift = reader.read(tensors["bias"]) - base.read(f"{module}.bias").float()
    if "lora_A" not in tensors:
        return PartWeights(shift=shift)
    a = reader.read(tensors["lora_A"])
    scale = config.scale(module, len(a))
    b = reader.read(tensors["lora_B"], scale)
    if config.lora_bias:
        own = reader.read(tensors["lora_B.bias"], scale)
        shift = own if shift is None else shift + own
    if not config.dora:
        return PartWeights(a, b, shift=shift)
    # DoRA (Liu et al., 2024): the rows of W + s B A are given the trained lengths.
    magnitude = reader.read(tensors["lora_magnitude_vector"])
    length = torch.linalg.vector_norm(base.read(f"{module}.weight").float() + b @ a, dim=1)
    gain = magnitude / length
    if not torch.isfinite(gain).all():
        raise BadAdapter(
            f"tensor {tensors['lora_magnitude_vector']} scales rows of length 0; the adapter is"
            " damaged"
        )
    return PartWeights(a, b * gain[:, None], gain=gain, shift=shift)


def _read_ends(
    ends: dict[str, Tensors], reader: _Reader, config: AdapterConfig, base: Weights
) -> Ends | None:
    embedding = ends.get("embed_tokens", {})
    head = ends.get("lm_head", {})
    made: dict[str, torch.Tensor | None] = {}
    if "lora_embedding_A" in embedding:
        a = reader.read(embedding["lora_embedding_A"])
        made["embedding_a"] = a.T.contiguous()
        made["embedding_b"] = reader.read(
            embedding["lora_embedding_B"], config.scale("model.embed_tokens", len(a))
        ).T.contiguous()
    if "lora_A" in head:
        a = reader.read(head["lora_A"])
        made["head_a"] = a.T.contiguous()
        made["head_b"] = reader.read(head["lora_B"], config.scale("lm_head", len(a))).T.contiguous()
    for module, tensors in ends.items():
        if "tokens" in tensors:
            ids, order = _token_ids(config.tokens[module], base.config.vocab_size).sort()
            rows = reader.read(tensors["tokens"])[order].to(reader.dtype)
            if module == "embed_tokens":
                made["embedding_ids"] = ids
                made["embedding_rows"] = rows
            if module == "lm_head" or (base.config.tied_head and "lm_head" not in config.tokens):
                made["head_ids"], made["head_rows"] = ids, head_of(rows)
        if "weight" in tensors:
            rows = reader.read(tensors["weight"])
            if module not in config.saved:
                _check_base_copy(
                    tensors["weight"],
                    rows,
                    (
                        "model.embed_tokens"
                        if module == "embed_tokens" or base.config.tied_head
                        else module
                    ),
                    base,
                )
            elif module == "embed_tokens":
                made["embedding_rows"] = rows.to(reader.dtype)
            else:
                made["head_rows"] = head_of(rows.to(reader.dtype))
    return Ends(**made) if made else None


def _token_ids(ids: tuple[int, ...], vocab_size: int) -> torch.Tensor:
    if not all(0 <= each < vocab_size for each in ids):
        raise BadAdapter(
            f"trainable_token_indices names a token that this base, with {vocab_size}, has not"
        )
    return torch.tensor(ids)


def _check_base_copy(name: str, rows: torch.Tensor, module: str, base: Weights) -> None:
    """Raise BadAdapter unless `rows` are the base's own matrix.

    PEFT saves that matrix beside an adapter of the embedding or the head, though nobody trained it.
    """
    if not torch.allclose(rows, base.read(f"{module}.weight").float(), rtol=1e-2, atol=1e-5):
        raise BadAdapter(
            f"tensor {name} is not the base's own matrix, and modules_to_save does not name it"
        )
