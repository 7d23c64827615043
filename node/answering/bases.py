"""Reads what a daemon must know about the base without loading it: its identity and its tokenizer.

Reads files; imports no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.base_files import base_id
from engine.errors import ModelError

from ..catalogue.packaging import BaseIdentity
from ..errors import ConfigError
from .tokenizer import BaseTokenizer, load_tokenizer


@dataclass(frozen=True)
class Base:
    """One base model: its identity, and the tokenizer that turns text into its token ids."""

    identity: BaseIdentity
    tokenizer: BaseTokenizer


def load_base(path: Path) -> Base:
    """Read a GGUF file or a Hugging Face folder.

    Hashing the weights takes a few tenths of a second per 100 MB. Raises ConfigError.
    """
    tokenizer = load_tokenizer(path)
    try:
        identity = base_id(path)
    except ModelError as error:
        raise ConfigError(f"{error}; set base_path") from error
    return Base(
        BaseIdentity(identity, tokenizer.tokenizer_hash, tokenizer.template_hash), tokenizer
    )
