"""What a daemon must know about the base without loading it: its identity and its tokenizer. Reads files; imports no tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError
from .packaging import BaseIdentity
from .tokenizer import BaseTokenizer, load_tokenizer

HASHED_BYTES = 1 << 20
FOLDER_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Base:
    """One base model: who it is, and how text becomes its token ids."""

    identity: BaseIdentity
    tokenizer: BaseTokenizer


def load_base(path: Path) -> Base:
    """Read a GGUF file or a Hugging Face folder; hashing the weights takes some tenths of a second for 100 MB."""
    tokenizer = load_tokenizer(path)
    weights = path / FOLDER_WEIGHTS if path.is_dir() else path
    return Base(BaseIdentity(_digest(weights), tokenizer.tokenizer_hash, tokenizer.template_hash), tokenizer)


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(HASHED_BYTES):
                digest.update(piece)
    except OSError as error:
        raise ConfigError(f"cannot read the base's weights at {path}: {error}; set base_path") from error
    return digest.digest()
