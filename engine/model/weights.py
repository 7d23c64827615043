"""Where a base's tensors come from: a GGUF file or a Hugging Face folder, both under Hugging Face names. Decides no compute layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import ModelError
from .config import ModelConfig, from_gguf, from_huggingface
from .gguf_file import GgufFile, huggingface_names, unpermute

MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Weights:
    """A base ready to be laid out: its id, shape, and a reader by Hugging Face name (float32 or as stored)."""

    base_id: bytes
    config: ModelConfig
    read: Callable[[str], torch.Tensor]


def open_weights(path: Path) -> Weights:
    """Open a GGUF file or a Hugging Face folder. Raises ModelError."""
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_gguf(path)
    raise ModelError(f"no base at {path}; give a GGUF file or a Hugging Face folder")


def hash_files(paths: list[Path]) -> bytes:
    """SHA-256 of one file; of several, of their names and digests in order of name (there is no single weights file then)."""
    if len(paths) == 1:
        return _hash_file(paths[0])
    outer = hashlib.sha256()
    for path in sorted(paths):
        outer.update(path.name.encode() + b"\0" + _hash_file(path))
    return outer.digest()


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _open_gguf(path: Path) -> Weights:
    file = GgufFile(path)
    config = from_gguf(file.fields, frozenset(file.tensors))
    names = dict(huggingface_names(config.layers))
    permuted = file.fields["general.architecture"] == "llama"

    def read(name: str) -> torch.Tensor:
        tensor = file.read(names[name])
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        return unpermute(tensor, heads) if permuted and heads else tensor

    return Weights(hash_files([path]), config, read)


def _open_folder(path: Path) -> Weights:
    config_path = path / "config.json"
    if not config_path.is_file() or config_path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{path} has no config.json of at most {MAX_CONFIG_BYTES} bytes")
    config = from_huggingface(json.loads(config_path.read_text()))
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} has no *.safetensors file; other formats are not read")
    handles: list[Any] = [safe_open(file, framework="pt") for file in files]
    owner = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118 (a handle is no mapping)

    def read(name: str) -> torch.Tensor:
        if name not in owner:
            raise ModelError(f"{path} lacks the tensor {name}")
        tensor: torch.Tensor = owner[name].get_tensor(name)
        return tensor

    return Weights(hash_files(files), config, read)
