"""Reads what an adapter changes outside the layers: the embedding and the head.

A vocabulary that was resized for training is cut to the base's, or leaves the base's other tokens
as they are. Knows names of tensors, no file's layout.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional

from ..errors import BadAdapter
from ..model.config import ModelConfig
from ..model.weights import Weights
from .adapter_config import AdapterConfig
from .ends import Ends, head_of

Made = dict[str, torch.Tensor | None]
MODULES = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}


class Reads(Protocol):
    """Reads tensors by name as float32, checked to be finite in `dtype` after the scale."""

    dtype: torch.dtype

    def read(self, name: str, scale: float = 1.0) -> torch.Tensor:
        """Return a tensor."""
        ...


def saves_end(config: AdapterConfig, base: ModelConfig, module: str) -> bool:
    """Return whether "embed_tokens" or "lm_head" is replaced as a whole, by itself or because it is
    tied to the other.
    """
    if config.ties and base.tied_head:
        return any(map(config.saves, MODULES.values()))
    return config.saves(MODULES[module])


def read_ends(
    ends: dict[str, dict[str, str]], reader: Reads, config: AdapterConfig, base: Weights
) -> Ends | None:
    """Read the tensors of both ends. Raises BadAdapter."""
    made: Made = {}
    if "lora_embedding_A" in ends.get("embed_tokens", {}):
        _read_embedding_pair(ends["embed_tokens"], reader, config, base, made)
    if "lora_A" in ends.get("lm_head", {}):
        _read_head_pair(ends["lm_head"], reader, config, base, made)
    for module, tensors in ends.items():
        if "tokens" in tensors:
            ids, order = _token_ids(config.tokens[module], base.config.vocab_size).sort()
            rows = reader.read(tensors["tokens"])[order]
            _replace(made, module, rows, ids, reader.dtype)
            if (
                module == "embed_tokens"
                and base.config.tied_head
                and "lm_head" not in config.tokens
            ):
                _replace(made, "lm_head", rows, ids, reader.dtype)
        if "weight" in tensors:
            _read_whole(module, ends, reader, config, base=base, made=made)
    return Ends(**made) if made else None


def _read_embedding_pair(
    tensors: dict[str, str], reader: Reads, config: AdapterConfig, base: Weights, made: Made
) -> None:
    a = reader.read(tensors["lora_embedding_A"])
    b = reader.read(
        tensors["lora_embedding_B"], config.scale(MODULES["embed_tokens"], len(a))
    ).T.contiguous()
    if config.dora:
        # PEFT gives the columns of the embedding their lengths, so each token has a part in them,
        # also those that training added.
        magnitude = reader.read(tensors["lora_magnitude_vector"])
        if "weight" in tensors:
            own = reader.read(tensors["weight"])
        else:
            own = base.stored("model.embed_tokens.weight").float()
        if len(own) != a.shape[1]:
            raise BadAdapter(
                f"tensor {tensors['lora_embedding_A']} has a resized vocabulary; with use_dora the"
                " file must hold the resized embedding too (save_embedding_layers)"
            )
        gain = _gain(magnitude, (own + a.T @ b).T, tensors["lora_magnitude_vector"])
        made["embedding_gain"] = gain
        b = b * gain
    a = _fit(a.T, base.config.vocab_size)
    made["embedding_a"] = a.contiguous()
    made["embedding_b"] = b


def _read_head_pair(
    tensors: dict[str, str], reader: Reads, config: AdapterConfig, base: Weights, made: Made
) -> None:
    vocab = base.config.vocab_size
    a = reader.read(tensors["lora_A"])
    scale = config.scale("lm_head", len(a))
    b = _fit(reader.read(tensors["lora_B"], scale), vocab)
    if config.lora_bias:
        made["head_shift"] = _fit(reader.read(tensors["lora_B.bias"], scale), vocab)
    if config.dora:
        magnitude = reader.read(tensors["lora_magnitude_vector"])[:vocab]
        own = base.stored(_head_module(base) + ".weight").float() + b @ a
        gain = torch.ones(vocab)
        gain[: len(magnitude)] = _gain(
            magnitude, own[: len(magnitude)], tensors["lora_magnitude_vector"]
        )
        made["head_gain"] = gain
        b = b * gain[:, None]
    made["head_a"] = a.T.contiguous()
    made["head_b"] = b.T.contiguous()


def _gain(magnitude: torch.Tensor, own: torch.Tensor, name: str) -> torch.Tensor:
    """Return DoRA's factor for each row of `own` (Liu et al., 2024)."""
    gain: torch.Tensor = magnitude / torch.linalg.vector_norm(own, dim=1)
    if not torch.isfinite(gain).all():
        raise BadAdapter(f"tensor {name} scales rows of length 0; the adapter is damaged")
    return gain


def _read_whole(
    module: str,
    ends: dict[str, dict[str, str]],
    reader: Reads,
    config: AdapterConfig,
    base: Weights,
    made: Made,
) -> None:
    """Read a whole matrix: the adapter's own, or the base's, which PEFT saves beside a pair."""
    name = ends[module]["weight"]
    rows = reader.read(name)
    own = MODULES[module] if module == "embed_tokens" else _head_module(base)
    if not saves_end(config, base.config, module):
        if len(rows) == base.config.vocab_size:
            check_base_copy(name, rows, own, base)
            return
        if _is_copy(rows, own, base):
            return
        if ends[module].keys() - {"weight"}:
            raise BadAdapter(
                f"tensor {name} has other rows than the base, and {module} has an adapter beside"
                " it; that is not served"
            )
    modules = [module]
    if base.config.tied_head and not _has_own(ends, module):
        tied = not config.saves(MODULES[module]) or config.ties
        modules += ["lm_head" if module == "embed_tokens" else "embed_tokens"] if tied else []
    for each in modules:
        vocab = base.config.vocab_size
        ids = torch.arange(len(rows)) if len(rows) < vocab else None
        _replace(made, each, rows[:vocab], ids, reader.dtype)


def _has_own(ends: dict[str, dict[str, str]], module: str) -> bool:
    """Return whether the other end has tensors too."""
    return ("lm_head" if module == "embed_tokens" else "embed_tokens") in ends


def _replace(
    made: Made, module: str, rows: torch.Tensor, ids: torch.Tensor | None, dtype: torch.dtype
) -> None:
    if module == "embed_tokens":
        made["embedding_ids"], made["embedding_rows"] = ids, rows.to(dtype)
    else:
        made["head_ids"], made["head_rows"] = ids, head_of(rows.to(dtype))


def _fit(rows: torch.Tensor, vocab: int) -> torch.Tensor:
    """Cut or fill the first dimension to the base's vocabulary."""
    missing = max(0, vocab - len(rows))
    fill = (0, missing) if rows.dim() == 1 else (0, 0, 0, missing)
    return functional.pad(rows[:vocab], fill)


def _head_module(base: Weights) -> str:
    return MODULES["embed_tokens" if base.config.tied_head else "lm_head"]


def _token_ids(ids: tuple[int, ...], vocab_size: int) -> torch.Tensor:
    if not all(0 <= each < vocab_size for each in ids):
        raise BadAdapter(
            f"trainable_token_indices names a token that this base, with {vocab_size}, has not"
        )
    return torch.tensor(ids)


def check_base_copy(name: str, rows: torch.Tensor, module: str, base: Weights) -> None:
    """Raise BadAdapter unless `rows` are the base's own matrix.

    PEFT saves that matrix beside an adapter of the embedding or the head, though nobody trained it.
    """
    if not _is_copy(rows, module, base):
        raise BadAdapter(
            f"tensor {name} is not the base's own matrix, and modules_to_save does not name it"
        )


def _is_copy(rows: torch.Tensor, module: str, base: Weights) -> bool:
    """Return whether `rows` are the base's, as far as both have them."""
    own = base.stored(f"{module}.weight").float()
    shared = min(len(rows), len(own))
    return torch.allclose(rows[:shared], own[:shared], rtol=1e-2, atol=1e-5)
