"""Opens a base's tensors, from a GGUF file or a Hugging Face folder, both under Hugging Face names.

Decides no compute layout and keeps no tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..base_files import base_id, read_index, weight_files
from ..errors import ModelError
from .config import ModelConfig, from_huggingface
from .expert_names import name_in_mlp
from .expert_tensors import one_by_one
from .families import GGUF_FAMILIES
from .gguf_config import ROPE_TENSORS, Tensors, from_gguf
from .gguf_file import GgufFile, Place, huggingface_names, unpermute
from .quantised import Quantised, check_finite
from .quantised_folder import (
    PackedLinear,
    Readable,
    describe_linears,
    find_linears,
    part_names,
    read_packing,
)
from .rows import Read, computed, source_of
from .tensors import check_tensors, expected_tensors

MAX_CONFIG_BYTES = 1 << 20
MAX_CONFIG_BRACKETS = 2000
"""Deep nesting can overflow the parser's stack where a process has raised Python's recursion limit.
"""
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
}
SERVED_DTYPES = ("F32", "F16", "BF16")
PACKED_DTYPES = ("I32", "I64")
"""Of what a quantised linear consists of besides."""
OF_EXPERTS = "mxfp4"
"""The `quant_method` by which experts alone lie in 4 bits; they are widened as they are read."""
EXPERT_DTYPES = ("U8",)
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Weights:
    """A base ready to be laid out: its id, shape, and a reader of its tensors by the names and in
    the order that transformers has (float32 or as stored).

    stored_quantised: reads a matrix as it lies in 4 bits; None for a tensor that does not. notes:
    what an operator should know of how it is read, a sentence each. in_4_bits: most of the layers'
    linears lie so.
    """

    base_id: bytes
    config: ModelConfig
    stored: Read
    stored_quantised: Callable[[str], Quantised | None] = lambda name: None
    notes: tuple[str, ...] = ()
    in_4_bits: bool = False

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as the program computes with it, by the name that program.py gives it."""
        return self._computed(name)

    def read_quantised(self, name: str) -> Quantised | None:
        """Return a matrix as it lies in 4 bits, by such a name; None where it does not."""
        source = source_of(self.config, name)
        weight = self.stored_quantised(source.name)
        for rows in (source.rows, source.order):
            weight = weight if weight is None or rows is None else weight.take(rows)
        return weight

    @cached_property
    def _computed(self) -> Read:
        return computed(self.config, self.stored)


def open_weights(path: Path) -> Weights:
    """Open a GGUF file or a Hugging Face folder. Raises ModelError.

    Every tensor that will be read has been found with its right shape.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_gguf(path)
    raise ModelError(f"no base at {path}; give a GGUF file or a Hugging Face folder")


def _check_finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Raise ModelError when a tensor holds a NaN or an infinity, which would make every answer
    fail.
    """
    least, most = torch.aminmax(tensor)  # either is NaN where any number is
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ModelError(f"tensor {name} of the base holds numbers that are not finite")
    return tensor


def _open_gguf(path: Path) -> Weights:
    file = GgufFile(path)
    divisors = {
        name: tuple(file.read(Place(name)).flatten().tolist())
        for name in ROPE_TENSORS
        if name in file.tensors
    }
    config = from_gguf(file.fields, Tensors(frozenset(file.tensors), divisors))
    names = {ours: place for ours, place in huggingface_names(config) if file.has(place)}
    check_tensors(config, {name: file.shape_of(place) for name, place in names.items()})
    permuted = GGUF_FAMILIES[file.fields["general.architecture"]].gguf_pairs

    def heads_of(name: str) -> int | None:
        """Return by how many heads a tensor's rows were reordered, if they were."""
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        return heads if permuted else None

    def stored(name: str) -> torch.Tensor:
        tensor = _check_finite(name, file.read(names[name]))
        if config.norm_offset and "norm" in name:
            return tensor - config.norm_offset  # such files hold the sum
        heads = heads_of(name)
        return unpermute(tensor, heads) if heads else tensor

    def stored_quantised(name: str) -> Quantised | None:
        weight = file.read_quantised(names[name])
        if weight is None:
            return None
        heads = heads_of(name)
        rows = torch.arange(len(weight.codes))
        return check_finite(name, weight.take(unpermute(rows, heads)) if heads else weight)

    in_4_bits = {name: file.is_quantised(place) for name, place in names.items()}
    return Weights(base_id(path), config, stored, stored_quantised, in_4_bits=_most(in_4_bits))


def _open_folder(path: Path) -> Weights:
    raw = _read_config(path / "config.json")
    config = from_huggingface(raw)
    given = raw.get("quantization_config") or _old_quantisation(path)
    experts_alone = isinstance(given, dict) and given.get("quant_method") == OF_EXPERTS
    given = None if experts_alone else given
    more = EXPERT_DTYPES if experts_alone else () if given is None else PACKED_DTYPES
    tensors = _find_tensors(path, SERVED_DTYPES + more)
    found = dict(one_by_one(tensors, config.experts is not None and config.experts.in_turn))
    sources: dict[str, Readable | PackedLinear] = dict(found)
    if given is not None:
        sources = _fold_quantised(given, found, {name for name, _ in expected_tensors(config)})
    config = _settle_head(config, sources)
    check_tensors(config, {name: source.shape for name, source in sources.items()})

    def read_quantised(name: str) -> Quantised | None:
        source = sources[name]
        weight = source.read_quantised() if isinstance(source, PackedLinear) else None
        return weight and check_finite(name, weight)

    return Weights(
        base_id(path),
        config,
        lambda name: _check_finite(name, sources[name].read()),
        read_quantised,
        describe_linears(
            {name: each for name, each in sources.items() if isinstance(each, PackedLinear)}
        ),
        in_4_bits=_most(
            {
                name: isinstance(each, PackedLinear) and each.in_order
                for name, each in sources.items()
            }
        ),
    )


def _most(in_4_bits: Mapping[str, bool]) -> bool:
    """Return whether most of the layers' linears lie in 4 bits."""
    linears = [each for name, each in in_4_bits.items() if name.endswith("_proj.weight")]
    return 2 * sum(linears) > len(linears)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{path.parent} has no {path.name} of at most {MAX_CONFIG_BYTES} bytes")
    return _read_json(path)


def _old_quantisation(folder: Path) -> dict[str, Any] | None:
    """Return what AutoGPTQ wrote into a file of its own before config.json had a place for it."""
    path = folder / "quantize_config.json"
    return {"quant_method": "gptq", **_read_config(path)} if path.is_file() else None


def _fold_quantised(
    given: Any, tensors: dict[str, Readable], expected: set[str]
) -> dict[str, Readable | PackedLinear]:
    """Return a folder's tensors, each linear that lies in 4 bits as one. Raises ModelError.

    AutoGPTQ writes a bias of zeros beside a linear that has none; so it is left out.
    """
    if not isinstance(given, dict):
        raise ModelError("config.json: quantization_config must be an object")
    packing = read_packing(given)
    sources: dict[str, Readable | PackedLinear] = dict(tensors)
    for stem, linear in find_linears(packing, tensors).items():
        for name in part_names(packing, stem):
            sources.pop(name, None)
        sources[f"{stem}.weight"] = linear
        bias = f"{stem}.bias"
        if bias in tensors and bias not in expected and not tensors[bias].read().any():
            del sources[bias]
    return sources


def _find_tensors(path: Path, served: tuple[str, ...]) -> dict[str, _Tensor]:
    """Return where a folder's tensors lie, by the names that a model with a head gives them.

    The index says which of several files a tensor is read from. Raises ModelError.
    """
    index = read_index(path)
    tensors: dict[str, _Tensor] = {}
    for shard in map(_Shard.of, weight_files(path)):
        with _open_safetensors(shard.path) as handle:
            begins = _begins(shard.path)
            for name in handle.keys():  # noqa: SIM118 (a handle is no mapping)
                if index.get(name, shard.path.name) != shard.path.name:
                    continue
                part = handle.get_slice(name)
                kind = part.get_dtype()
                if kind not in served:
                    raise ModelError(f"tensor {name[:200]} is {kind}; we read {', '.join(served)}")
                tensors[name] = _Tensor(shard, begins[name], tuple(part.get_shape()), kind)
    tensors = {_name_in_text_part(name): tensor for name, tensor in tensors.items()}
    if "embed_tokens.weight" in tensors:  # saved from a model without a head
        tensors = {
            name if name.startswith("lm_head.") else f"model.{name}": tensor
            for name, tensor in tensors.items()
        }
    return {name_in_mlp(name): tensor for name, tensor in tensors.items()}


def _name_in_text_part(name: str) -> str:
    """Return a tensor's name without what a base that sees pictures puts before it."""
    for before, after in (("language_model.", ""), ("model.language_model.", "model.")):
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _settle_head(config: ModelConfig, tensors: dict[str, Readable | PackedLinear]) -> ModelConfig:
    """Return the configuration with `tied_head` as transformers takes it.

    A tied head and embedding that lie in the files with different numbers are not tied; where one
    of the two lies there, it is both.
    """
    if not config.tied_head or HEAD not in tensors:
        return config
    if EMBEDDING not in tensors:
        tensors[EMBEDDING] = tensors[HEAD]
    elif tensors[EMBEDDING].shape != tensors[HEAD].shape or not torch.equal(
        tensors[EMBEDDING].read(), tensors[HEAD].read()
    ):
        return replace(config, tied_head=False)
    return config


Identity = tuple[int, int, int]
"""Inode, size and time of change of a file."""


def identify(path: Path) -> Identity:
    """Return the identity of the file as it is now; another file, or another content, has
    another.
    """
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _Shard:
    """One safetensors file, from which tensors are read into memory of their own.

    Mapped, what was laid out for an executor would be in memory twice.

    identity: adapters that are read with the base's own weights must meet those that run.
    """

    path: Path
    identity: Identity

    @classmethod
    def of(cls, path: Path) -> _Shard:
        """Describe the file as it is now."""
        return cls(path, identify(path))

    def read(self, begin: int, size_bytes: int) -> torch.Tensor:
        """Read some bytes, [size_bytes] uint8. Raises ModelError when the file is another one by
        now.
        """
        try:
            if _Shard.of(self.path) != self:
                raise ModelError(
                    f"{self.path.name} of the base has changed since it was loaded; restart the"
                    " engine"
                )
            data = torch.empty(size_bytes, dtype=torch.uint8)
            room = data.numpy().data
            with self.path.open("rb", buffering=0) as file:
                file.seek(begin)
                while room:  # the system gives at most 2 GiB at a time
                    count = file.readinto(room)
                    if not count:
                        raise OSError("it ends too soon")
                    room = room[count:]
        except OSError as error:
            raise ModelError(
                f"{self.path.name} of the base cannot be read any more: {error}"
            ) from error
        return data


@dataclass(frozen=True)
class _Tensor:
    """The place of one tensor: its shard, the byte there with which it begins, its shape and number
    format.
    """

    shard: _Shard
    begin: int
    shape: tuple[int, ...]
    kind: str

    def read(self) -> torch.Tensor:
        """Read it as stored. Raises ModelError when the file is another one by now."""
        return self._read(self.begin, self.shape)

    def read_part(self, number: int) -> torch.Tensor:
        """Read what has that number in its first dimension, as `read` does."""
        shape = self.shape[1:]
        return self._read(self.begin + number * self._size_bytes(shape), shape)

    def _size_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * DTYPES[self.kind].itemsize

    def _read(self, begin: int, shape: tuple[int, ...]) -> torch.Tensor:
        return self.shard.read(begin, self._size_bytes(shape)).view(DTYPES[self.kind]).view(shape)


def _read_json(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    if data.count(b"[") + data.count(b"{") > MAX_CONFIG_BRACKETS:
        raise ModelError(f"{path.name} holds more than {MAX_CONFIG_BRACKETS} lists and objects")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path.name} must hold one JSON object")
    return raw


def _begins(path: Path) -> dict[str, int]:
    """Return the byte with which each tensor of a safetensors file begins. The library, which does
    not tell, has checked the header already; reading it for each tensor anew would take minutes for
    a base with many experts.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in entries.items()}


def _open_safetensors(path: Path) -> Any:
    """Open a safetensors file; the library checks its header against its size before it
    allocates.
    """
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} is truncated or no safetensors file: {error}") from error
