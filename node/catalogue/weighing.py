"""Reads what an adapter's files add to a base, as parts that have a digest (proofs/weights.py).

Of a PEFT folder: names, halves and scales, as the engine reads them, without base and engine.
One module's tensors are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from engine.errors import BadAdapter
from engine.lora.adapter_config import AdapterConfig, parse_config
from engine.lora.names import OfNorm, find_place, find_unused, plain_name
from proofs.weights import (
    Floats,
    Likeness,
    NoWeights,
    Pair,
    Part,
    Plain,
    WeightsDigest,
    compare_weights,
    digest_weights,
)

from ..errors import AdapterError
from .packaging import CONFIG_FILE, MAX_FILE_BYTES, WEIGHTS_FILE

MAX_HEADER_BYTES = 16 << 20
RUN_NUMBERS = 1 << 20
"""How many numbers of a tensor are in memory at once where it is taken as it is."""
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
FIRST = ("lora_A.weight", "lora_embedding_A")
BIAS = "lora_B.bias"
MATES = {
    "lora_A.weight": "lora_B.weight",
    "lora_B.weight": "lora_A.weight",
    "lora_embedding_A": "lora_embedding_B",
    "lora_embedding_B": "lora_embedding_A",
    BIAS: "lora_A.weight",
}
"""What must be there beside each half of a change."""


@dataclass(frozen=True)
class Tensor:
    """One tensor in a file, from byte `start` on."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> Floats:
        """Return all of it. Raises BadAdapter, OSError."""
        return self._read(0, math.prod(self.shape)).reshape(self.shape)

    def runs(self) -> Iterator[Floats]:
        """Yield it in runs of numbers, in order. Raises as `read` does."""
        count = math.prod(self.shape)
        for first in range(0, count, RUN_NUMBERS):
            yield self._read(first, min(RUN_NUMBERS, count - first))

    def _read(self, first: int, count: int) -> Floats:
        kind = np.dtype(DTYPES[self.dtype])
        # Not mapped: a file that somebody cuts short meanwhile would end the process.
        stored = np.fromfile(self.path, kind, count, offset=self.start + first * kind.itemsize)
        if len(stored) < count:
            raise BadAdapter(f"{self.path.name} became shorter while it was read")
        if self.dtype == "BF16":
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return stored.astype(np.float32)


def weigh(config_path: Path, weights_path: Path) -> WeightsDigest:
    """Digest the adapter in these files. Raises AdapterError, OSError."""
    try:
        config = _read_config(config_path)
        return digest_weights(_read_parts(config, weights_path), _settings(config))
    except (BadAdapter, NoWeights) as error:
        raise AdapterError(f"{weights_path.parent.name} has no weights digest: {error}") from error


def compare(one: tuple[Path, Path], other: tuple[Path, Path]) -> Likeness:
    """Compare what two adapters add, each by configuration and weights.

    Raises AdapterError, OSError.
    """
    try:
        return compare_weights(*(_read_pairs(*files) for files in (one, other)))
    except (BadAdapter, NoWeights) as error:
        names = f"{one[1].parent.name} and {other[1].parent.name}"
        raise AdapterError(f"{names} cannot be compared: {error}") from error


def _read_pairs(config_path: Path, weights_path: Path) -> dict[str, Pair]:
    parts = _read_parts(_read_config(config_path), weights_path)
    return {name: part for name, part in parts if isinstance(part, Pair)}


def _read_config(path: Path) -> AdapterConfig:
    with path.open("rb") as file:
        return parse_config(file.read(MAX_FILE_BYTES[CONFIG_FILE] + 1))


def _settings(config: AdapterConfig) -> bytes:
    """Write what decides how tensors are applied, beside names and scales; usually nothing."""
    said = [config.dora, config.ties, sorted(config.tokens.items())]
    return msgspec.msgpack.encode(said) if any(said) else b""


def _read_parts(config: AdapterConfig, weights_path: Path) -> Iterator[tuple[str, Part]]:
    """Yield an adapter's parts, by the names that PEFT gives. Raises BadAdapter, OSError."""
    tensors = _plain_names(open_tensors(weights_path))
    for name, tensor in tensors.items():
        module, half = _split(name)
        mate = tensors.get(f"{module}.{MATES[half]}") if half in MATES else None
        if half in MATES and mate is None:
            raise BadAdapter(f"tensor {name[:200]} has no other half")
        label = _label(name)
        if mate is None:
            yield label, Plain(tensor.shape, tensor.runs())
        elif half in FIRST:
            yield label, _pair(config, module, tensor, mate)
        elif half == BIAS:
            yield label, Plain(tensor.shape, tensor.runs(), config.scale(module, mate.shape[0]))


def _pair(config: AdapterConfig, module: str, first: Tensor, second: Tensor) -> Pair:
    if module.removesuffix(".base_layer").endswith(".experts"):
        raise BadAdapter(f"{module[:200]} has all experts' pairs in one tensor")
    shapes = (first.shape, second.shape)
    if len(first.shape) != 2 or len(second.shape) != 2 or first.shape[0] != second.shape[1]:
        raise BadAdapter(f"the halves of {module[:200]} do not fit: {shapes}")
    return Pair(first.read(), second.read(), config.scale(module, first.shape[0]))


def _label(name: str) -> str:
    """Name a tensor by its place in the base, where it has one: families' own words for experts,
    and PEFT's for what it wraps, have several forms.
    """
    place = find_place(name)
    if place is None:
        return name
    return place.module if isinstance(place, OfNorm) else f"{place.module}.{place.half}"


def _split(name: str) -> tuple[str, str]:
    """Split a tensor's name into its module's and what half of a change it is; empty: none."""
    for half in MATES:
        if name.endswith(f".{half}"):
            return name.removesuffix(f".{half}"), half
    return name, ""


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    unused = find_unused(tensors)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in unused:
            continue
        plain = plain_name(name)
        if plain in found:
            raise BadAdapter(f"two tensors are called {plain[:200]}")
        found[plain] = tensor
    return found


def open_tensors(path: Path) -> dict[str, Tensor]:
    """Read the header of a safetensors file. Raises BadAdapter, OSError."""
    size_bytes = path.stat().st_size
    if not 8 < size_bytes <= MAX_FILE_BYTES[WEIGHTS_FILE]:
        raise BadAdapter(f"{path.name} has {size_bytes} bytes")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, size_bytes - 8):
            raise BadAdapter(f"{path.name} is no safetensors file")
        data = file.read(length)
    try:
        entries = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        declared = {name: msgspec.json.decode(raw, type=Declared) for name, raw in entries.items()}
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadAdapter(f"{path.name} has an unreadable header: {error}") from error
    room = size_bytes - 8 - length
    for name, one in declared.items():
        _check(name, one, room)
    return {
        name: Tensor(path, 8 + length + one.data_offsets[0], one.shape, one.dtype)
        for name, one in declared.items()
    }


class Declared(msgspec.Struct, frozen=True):
    """How the header declares a tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _check(name: str, one: Declared, room_bytes: int) -> None:
    begin, end = one.data_offsets
    width = np.dtype(DTYPES[one.dtype]).itemsize if one.dtype in DTYPES else 0
    if not width or not 0 <= begin < end <= room_bytes:
        raise BadAdapter(f"tensor {name[:200]} is {one.dtype[:20]}, or outside of the file")
    if min(one.shape, default=0) < 1 or math.prod(one.shape) * width != end - begin:
        raise BadAdapter(f"tensor {name[:200]} has shape {one.shape}, which is not its bytes")
