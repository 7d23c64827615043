"""Mixes several adapters into one that vLLM can read: a folder with their A one below the other and
their B side by side, each scaled by its weight and its own alpha.

As PEFT's `add_weighted_adapter(combination_type="cat")`, which our engine does without a file. One
linear at a time is in memory. Decides no name, and asks no server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadAdapter
from engine.lora.adapter_config import AdapterConfig, parse_config
from engine.lora.names import OfPart, find_place
from engine.messages import ParentFiles

from .adapters import CONFIG_FILE, WEIGHTS_FILE, Tensor, check_served, read_config, read_header

Matrix = NDArray[np.float32]
Key = tuple[int, str]
STEM = "base_model.model.model.layers"
PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Parent:
    """One adapter that is mixed: its configuration, and where A and B of each linear lie."""

    files: ParentFiles
    config: AdapterConfig
    pairs: dict[Key, dict[str, Tensor]]

    def read(self, key: Key) -> tuple[Matrix, Matrix] | None:
        """Read A and the scaled B of a linear, if there are any. Raises BadAdapter."""
        pair = self.pairs.get(key)
        if pair is None:
            return None
        path = Path(self.files.weights_path)
        a, b = (_read_matrix(path, pair[half]) for half in ("lora_A", "lora_B"))
        if len(a) != b.shape[1]:
            raise BadAdapter(f"{self.files.name}: A and B of {key[1]} in layer {key[0]} differ")
        scale = self.config.scale(f"model.layers.{key[0]}.{key[1]}", len(a))
        return a, b * np.float32(scale * self.files.weight)


def mix(parents: Sequence[ParentFiles], folder: Path) -> None:
    """Write the mixture into a folder. Raises BadAdapter that names the parent and the reason."""
    opened = [_open(files) for files in parents]
    keys = sorted({key for parent in opened for key in parent.pairs})
    folder.mkdir(parents=True, exist_ok=True)
    rank = _write_weights(opened, keys, folder / WEIGHTS_FILE)
    modules = sorted({part.rpartition(".")[2] for _, part in keys})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    config |= {"target_modules": modules, "task_type": "CAUSAL_LM"}
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def _open(files: ParentFiles) -> Parent:
    try:
        config = parse_config(read_config(Path(files.config_path)))
        tensors = read_header(Path(files.weights_path))
        check_served(config, tensors)
        pairs: dict[Key, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            place = find_place(name)
            if not isinstance(place, OfPart):
                raise BadAdapter(f"{name[:200]} is of no linear in a layer")
            pairs.setdefault((place.layer, place.part), {})[place.half] = tensor
        for (layer, part), pair in pairs.items():
            if pair.keys() != {"lora_A", "lora_B"}:
                raise BadAdapter(f"{part} in layer {layer} lacks one of lora_A and lora_B")
    except (BadAdapter, OSError) as error:
        raise BadAdapter(f"{files.name}: {error}") from error
    return Parent(files, config, pairs)


def _write_weights(parents: Sequence[Parent], keys: Sequence[Key], path: Path) -> int:
    """Write all linears; return the largest rank."""
    with path.with_suffix(".data").open("w+b") as data:
        header: dict[str, object] = {}
        rank = 1
        for key in keys:
            read = [pair for parent in parents if (pair := parent.read(key)) is not None]
            a = _joined([one for one, _ in read], 0, key)
            b = _joined([one for _, one in read], 1, key)
            rank = max(rank, len(a))
            for half, matrix in (("lora_A", a), ("lora_B", b)):
                begin = data.tell()
                data.write(matrix.tobytes())
                name = f"{STEM}.{key[0]}.{key[1]}.{half}.weight"
                place = {"shape": list(matrix.shape), "data_offsets": [begin, data.tell()]}
                header[name] = {"dtype": "F32", **place}
        written = json.dumps(header).encode()
        data.seek(0)
        with path.open("wb") as file:
            file.write(len(written).to_bytes(8, "little") + written)
            while part := data.read(1 << 20):
                file.write(part)
    path.with_suffix(".data").unlink()
    return rank


def _joined(matrices: Sequence[Matrix], axis: int, key: Key) -> Matrix:
    try:
        return np.ascontiguousarray(np.concatenate(matrices, axis=axis))
    except ValueError as error:
        raise BadAdapter(f"the parents' {key[1]} in layer {key[0]} differ in shape") from error


def _read_matrix(path: Path, tensor: Tensor) -> Matrix:
    """Read a matrix as float32. Raises BadAdapter."""
    if tensor.dtype not in PLAIN:
        raise BadAdapter(f"{path.name} holds {tensor.dtype}, which is not mixed; use float32")
    kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tensor.dtype]
    count = tensor.shape[0] * tensor.shape[1]
    with path.open("rb") as file:
        file.seek(tensor.at)
        raw = np.frombuffer(file.read(count * np.dtype(kind).itemsize), kind)
    if len(raw) != count:
        raise BadAdapter(f"{path.name} ends inside a tensor")
    if tensor.dtype == "BF16":
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32).reshape(tensor.shape)
