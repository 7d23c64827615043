"""Opens a base's tensors, from a GGUF file or a Hugging Face folder, both under Hugging Face names.

Decides no compute layout and keeps no tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..base_files import base_id, read_index, weight_files
from ..errors import ModelError
from .config import ModelConfig, from_gguf, from_huggingface
from .families import GGUF_FAMILIES
from .gguf_file import ROPE_FREQS, GgufFile, huggingface_names, unpermute
from .quantised import Quantised, check_finite
from .tensors import check_tensors

MAX_CONFIG_BYTES = 1 << 20
MAX_CONFIG_BRACKETS = 2000
"""Deep nesting can overflow the parser's stack where a process has raised Python's recursion limit.
"""
SERVED_DTYPES = ("F32", "F16", "BF16")
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Weights:
    """A base ready to be laid out: its id, shape, and a reader by Hugging Face name (float32 or as
    stored).

    read_quantised: reads a matrix as it lies in 4 bits; None for a tensor that does not.
    """

    base_id: bytes
    config: ModelConfig
    read: Callable[[str], torch.Tensor]
    read_quantised: Callable[[str], Quantised | None] = lambda name: None


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
    divisors = tuple(file.read(ROPE_FREQS).flatten().tolist()) if ROPE_FREQS in file.tensors else ()
    config = from_gguf(file.fields, frozenset(file.tensors), divisors)
    names = dict(huggingface_names(config.layers))
    check_tensors(
        config,
        {
            name: file.tensors[theirs].shape
            for name, theirs in names.items()
            if theirs in file.tensors
        },
    )
    permuted = GGUF_FAMILIES[file.fields["general.architecture"]].gguf_pairs

    def heads_of(name: str) -> int | None:
        """Return by how many heads a tensor's rows were reordered, if they were."""
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        return heads if permuted else None

    def read(name: str) -> torch.Tensor:
        tensor = _check_finite(name, file.read(names[name]))
        heads = heads_of(name)
        return unpermute(tensor, heads) if heads else tensor

    def read_quantised(name: str) -> Quantised | None:
        weight = file.read_quantised(names[name])
        if weight is None:
            return None
        heads = heads_of(name)
        rows = torch.arange(len(weight.codes))
        return check_finite(name, weight.take(unpermute(rows, heads)) if heads else weight)

    return Weights(base_id(path), config, read, read_quantised)


def _open_folder(path: Path) -> Weights:
    config_path = path / "config.json"
    if not config_path.is_file() or config_path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{path} has no config.json of at most {MAX_CONFIG_BYTES} bytes")
    config = from_huggingface(_read_json(config_path))
    tensors = _find_tensors(path)
    config = _settle_head(config, tensors)
    check_tensors(config, {name: tensor.shape for name, tensor in tensors.items()})
    return Weights(base_id(path), config, lambda name: _check_finite(name, tensors[name].read()))


def _find_tensors(path: Path) -> dict[str, _Tensor]:
    """Return where a folder's tensors lie, by the names that a model with a head gives them.

    The index says which of several files a tensor is read from. Raises ModelError.
    """
    index = read_index(path)
    tensors: dict[str, _Tensor] = {}
    for shard in map(_Shard.of, weight_files(path)):
        with _open_safetensors(shard.path) as handle:
            for name in handle.keys():  # noqa: SIM118 (a handle is no mapping)
                if index.get(name, shard.path.name) != shard.path.name:
                    continue
                part = handle.get_slice(name)
                if part.get_dtype() not in SERVED_DTYPES:
                    raise ModelError(
                        f"tensor {name[:200]} is {part.get_dtype()}; we read"
                        f" {', '.join(SERVED_DTYPES)}"
                    )
                tensors[name] = _Tensor(shard, name, tuple(part.get_shape()))
    if "embed_tokens.weight" in tensors:  # saved from a model without a head
        return {
            name if name.startswith("lm_head.") else f"model.{name}": tensor
            for name, tensor in tensors.items()
        }
    return tensors


def _settle_head(config: ModelConfig, tensors: dict[str, _Tensor]) -> ModelConfig:
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
    """One safetensors file, mapped only while a tensor of it lives.

    What was laid out for an executor would be in memory twice otherwise.

    identity: adapters that are read with the base's own weights must meet those that run.
    """

    path: Path
    identity: Identity

    @classmethod
    def of(cls, path: Path) -> _Shard:
        """Describe the file as it is now."""
        return cls(path, identify(path))

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor as stored. Raises ModelError when the file is another one by now."""
        try:
            changed = _Shard.of(self.path) != self
        except OSError as error:
            raise ModelError(
                f"{self.path.name} of the base cannot be read any more: {error}"
            ) from error
        if changed:
            raise ModelError(
                f"{self.path.name} of the base has changed since it was loaded; restart the engine"
            )
        with _open_safetensors(self.path) as handle:
            tensor: torch.Tensor = handle.get_tensor(name)
        return tensor


@dataclass(frozen=True)
class _Tensor:
    """The place of one tensor: its shard, and its name there."""

    shard: _Shard
    name: str
    shape: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """Read it as stored. Raises ModelError when the file is another one by now."""
        return self.shard.read(self.name)


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


def _open_safetensors(path: Path) -> Any:
    """Open a safetensors file; the library checks its header against its size before it
    allocates.
    """
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} is truncated or no safetensors file: {error}") from error
