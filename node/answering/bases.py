"""What a daemon must know about the base without loading it: its identity and its tokenizer.

Reads files; imports no tensors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..catalogue.packaging import BaseIdentity
from ..errors import ConfigError
from .tokenizer import BaseTokenizer, load_tokenizer


@dataclass(frozen=True)
class Base:
    """One base model: who it is, and how text becomes its token ids."""

    identity: BaseIdentity
    tokenizer: BaseTokenizer


def load_base(path: Path) -> Base:
    """Read a GGUF file or a Hugging Face folder; hashing the weights takes some tenths of a second
    for 100 MB.
    """
    tokenizer = load_tokenizer(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} has no *.safetensors file; set base_path")
    return Base(
        BaseIdentity(_base_id(files), tokenizer.tokenizer_hash, tokenizer.template_hash), tokenizer
    )


def _base_id(files: list[Path]) -> bytes:
    """SHA-256 of the weights file; of several, of their names and digests in order (as the engine
    does).
    """
    if len(files) == 1:
        return _digest(files[0])
    return hashlib.sha256(
        b"".join(file.name.encode() + b"\0" + _digest(file) for file in files)
    ).digest()


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ConfigError(
            f"cannot read the base's weights at {path}: {error}; set base_path"
        ) from error
