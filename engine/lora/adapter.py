"""Turns untrusted bytes into tensors: one PEFT adapter (its config and its safetensors file) is
read whole or refused by name.

Order: sizes of the files → the JSON header, without allocating → names and shapes against the base
→ the tensors → every number finite.
Every declared tensor is applied, or an error names it. Nothing is executed or pickled, and regular
expressions run in linear time (patterns.py). Knows no slot and no network.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import BadAdapter
from ..messages import MAX_ADAPTER_CONFIG_BYTES, MAX_ADAPTER_WEIGHTS_BYTES
from ..model.parts import EXPERT_KINDS
from ..model.rows import cut_for, in_order
from ..model.weights import Weights
from .adapter_config import AdapterConfig, parse_config
from .ends import Ends
from .layout import PackedAdapter, PartWeights, pack
from .matching import Modules, TensorHeader, match_tensors
from .names import OfEnd, OfNorm, find_place
from .read_ends import check_base_copy, read_ends
from .read_experts import bytes_of_experts, read_experts
from .whole import ratio_of, replace_linear

MAX_HEADER_BYTES = 16 << 20
SERVED_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}


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
    read = read_adapter(config_path, weights_path, base, dtype, room_bytes)
    return pack(base.config, read.parts, dtype, read.ends)


@dataclass(frozen=True)
class Unpacked:
    """A checked adapter before it is packed.

    `whole` names what of the layers it replaces as a whole; `size_bytes` bounds what reading took.
    """

    config: AdapterConfig
    parts: dict[tuple[int, str], PartWeights]
    ends: Ends | None
    whole: tuple[str, ...]
    size_bytes: int


def read_adapter(
    config_path: Path,
    weights_path: Path,
    base: Weights,
    dtype: torch.dtype,
    room_bytes: int | None = None,
) -> Unpacked:
    """Read and check one adapter, as `load_adapter` does."""
    try:
        config = parse_config(_read_bounded(config_path, MAX_ADAPTER_CONFIG_BYTES))
        header = read_header(weights_path)
        modules = match_tensors(header, config, base.config)
        needed = bytes_to_read(header, dtype) + _bytes_of_whole(modules)
        needed += bytes_of_experts(modules, config, base.config, dtype)
        if room_bytes is not None and needed > room_bytes:
            raise BadAdapter(
                f"reading the adapter takes {needed} bytes of memory, of which {room_bytes} are"
                " kept for that; allow the engine more"
            )
        with safe_open(weights_path, framework="pt") as file:
            reader = Reader(file, dtype)
            parts = _read_parts(modules, reader, config, base)
            parts |= read_experts(modules, reader, config, base.config)
            norms = _read_norms(modules.norms, reader, base)
            parts |= {
                (base.config.layers if layer is None else layer, name): PartWeights(gain=ratio)
                for (layer, name), ratio in norms.items()
            }
            ends = read_ends(modules.ends, reader, config, base)
        assert len(reader.names) == modules.num_tensors, "a declared tensor was not applied"
        return Unpacked(config, parts, ends, _whole_of(modules, config), needed)
    except (OSError, SafetensorError) as error:
        raise BadAdapter(f"{weights_path.name} cannot be read: {error}") from error


def _whole_of(modules: Modules, config: AdapterConfig) -> tuple[str, ...]:
    return (
        *(OfNorm(*key).module for key in modules.norms),
        *(module for module in modules.names.values() if config.saves(module)),
    )


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
        count * (4 + (8 if isinstance(find_place(name), OfEnd) else 0) + dtype.itemsize)
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


class Reader:
    """Reads tensors as float32, each checked to be finite in `dtype` once multiplied by `scale`."""

    def __init__(self, file: Any, dtype: torch.dtype) -> None:
        self._file = file
        self.dtype = dtype
        self.names: set[str] = set()

    def read(self, name: str, scale: float = 1.0) -> torch.Tensor:
        """Return a tensor. Raises BadAdapter where a number is not finite."""
        tensor: torch.Tensor = self._file.get_tensor(name).float()
        tensor = tensor if scale == 1.0 else tensor * scale
        self.names.add(name)
        if not math.isfinite(float((tensor.to(self.dtype) * 0.0).sum())):
            raise BadAdapter(
                f"tensor {name} holds numbers that are not finite in"
                f" {str(self.dtype).removeprefix('torch.')}"
            )
        return tensor


def _read_parts(
    modules: Modules, reader: Reader, config: AdapterConfig, base: Weights
) -> dict[tuple[int, str], PartWeights]:
    """Return the change to each part but those of experts; what changes a module of several is cut
    among them.
    """
    parts = {}
    for (layer, name), module in modules.linears.items():
        if module.kind in EXPERT_KINDS:
            continue
        whole = _read_part((layer, name), modules, reader, config, base=base)
        for part in module.parts:
            cut = partial(cut_for, base.config, module, part)
            parts[layer, part.name] = replace(
                whole,
                **{
                    field: cut(rows)
                    for field, rows in (
                        ("b", whole.b),
                        ("gain", whole.gain),
                        ("shift", whole.shift),
                    )
                    if rows is not None
                },
            )
    return parts


def _read_part(
    key: tuple[int, str], modules: Modules, reader: Reader, config: AdapterConfig, base: Weights
) -> PartWeights:
    module = f"model.layers.{key[0]}.{key[1]}"
    tensors, told = modules.parts[key], modules.names[key]
    shift = None
    if "bias" in tensors:  # the trained one takes the place of the base's
        shift = reader.read(tensors["bias"]) - base.stored(f"{module}.bias").float()
    if "weight" in tensors:
        own = reader.read(tensors["weight"])
        if config.saves(told):
            a, b = replace_linear(own, base.stored(f"{module}.weight").float())
            return PartWeights(a, b, shift=shift)
        check_base_copy(tensors["weight"], own, module, base)
    if "lora_A" not in tensors:
        return PartWeights(shift=shift)
    a = reader.read(tensors["lora_A"])
    scale = config.scale(told, len(a))
    b = reader.read(tensors["lora_B"], scale)
    if config.lora_bias:
        own = reader.read(tensors["lora_B.bias"], scale)
        shift = own if shift is None else shift + own
    if not config.dora:
        return PartWeights(a, b, shift=shift)
    # DoRA (Liu et al., 2024): the rows of W + s B A are given the trained lengths.
    magnitude = reader.read(tensors["lora_magnitude_vector"])
    length = torch.linalg.vector_norm(base.stored(f"{module}.weight").float() + b @ a, dim=1)
    gain = magnitude / length
    if not torch.isfinite(gain).all():
        raise BadAdapter(
            f"tensor {tensors['lora_magnitude_vector']} scales rows of length 0; the adapter is"
            " damaged"
        )
    return PartWeights(a, b * gain[:, None], gain=gain, shift=shift)


def _read_norms(
    norms: dict[tuple[int | None, str], str], reader: Reader, base: Weights
) -> dict[tuple[int | None, str], torch.Tensor]:
    """Return by what each norm's own weight multiplies the base's, in the program's order."""
    offset = base.config.norm_offset
    ratios = {}
    for key, name in norms.items():
        module = OfNorm(*key).module
        own = reader.read(name) + offset
        ratio = ratio_of(module, own, base.stored(f"{module}.weight").float() + offset)
        ratios[key] = in_order(base.config, key[1], ratio)
    return ratios


def _bytes_of_whole(modules: Modules) -> int:
    """Return an upper bound of the bytes that pairs of full rank take beside their tensors."""
    numbers = 0
    for key, tensors in modules.parts.items():
        if "weight" in tensors:
            wide, high = modules.linears[key].width_in, modules.linears[key].width_out
            numbers += 2 * wide * high + max(wide, high) ** 2
    return 4 * numbers
