"""Reads a GGUF file's tensors, dequantised with `gguf`.

engine/base_files.py reads the header. Of arrays only the length is kept: the tokenizer's are large
and not ours.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

from ..base_files import GgufHeader, parse_header
from ..count import round_up
from ..errors import ModelError
from .config import ModelConfig
from .parts import (
    DOWN_PARTS,
    GATE_UP_PARTS,
    GATE_UP_TENSOR,
    QKV_TENSOR,
    ROUTER,
    SHARED,
    SHARED_GATE,
    expert_names,
)
from .quantised import READERS, Quantised, from_blocks

MAX_ALIGNMENT = 1 << 16
SERVED = (
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
)
AT_ONCE = 1 << 18
"""Numbers that are dequantised together; a multiple of every block's."""


@dataclass(frozen=True)
class Place:
    """Where a tensor of the base is: the file's `name`, and the expert's number in one that holds
    all experts of a layer. is_row: the file has a matrix of one row as a vector.
    """

    name: str
    number: int | None = None
    is_row: bool = False


@dataclass(frozen=True)
class TensorInfo:
    """The place of one tensor: `shape` in torch order, `offset` from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size_bytes: int


class GgufFile:
    """An open GGUF file: `fields`, `tensors`, and `read` for one tensor as float32, or
    `read_quantised` for one that lies there in 4 bits.
    """

    def __init__(self, path: Path) -> None:
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            header = parse_header(self._data, path.name)
            lengths = {name: array.count for name, array in header.arrays.items()}
            self.fields.update(header.fields | lengths)
            self._place(header)
        except (OSError, KeyError, OverflowError, ValueError) as error:
            raise ModelError(f"{path.name} is not a whole GGUF file: {error}") from error

    def has(self, place: Place) -> bool:
        """Return whether the file has it."""
        info = self.tensors.get(place.name)
        return info is not None and (
            place.number is None or (len(info.shape) == 3 and place.number < info.shape[0])
        )

    def shape_of(self, place: Place) -> tuple[int, ...]:
        """Return its shape. Raises ModelError."""
        return self._info(place).shape

    def read(self, place: Place) -> torch.Tensor:
        """Return a tensor in float32, in torch's shape order. Raises ModelError."""
        info = self._info(place)
        raw = np.frombuffer(self._data, np.uint8, info.size_bytes, info.offset)
        if info.kind.name in ("F32", "F16"):
            plain = raw.view(np.float32 if info.kind.name == "F32" else np.float16).astype(
                np.float32
            )
        else:
            plain = _dequantise(raw, info.kind)
        self._let_go(info)
        return torch.from_numpy(plain).reshape(info.shape)

    def read_quantised(self, place: Place) -> Quantised | None:
        """Return a matrix as it lies; None where its number format is not one of 4 bits.

        Raises ModelError.
        """
        if not self.is_quantised(place):
            return None
        info = self._info(place)
        raw = np.frombuffer(self._data, np.uint8, info.size_bytes, info.offset)
        weight = from_blocks(raw, info.kind.name, (info.shape[0], info.shape[1]))
        self._let_go(info)
        return weight

    def is_quantised(self, place: Place) -> bool:
        """Return whether a tensor is a matrix in 4 bits. Raises ModelError."""
        info = self._info(place)
        return info.kind.name in READERS and len(info.shape) == 2

    def _info(self, place: Place) -> TensorInfo:
        if not self.has(place):
            raise ModelError(f"the GGUF file lacks the tensor {place.name}")
        info = self.tensors[place.name]
        if place.is_row and len(info.shape) == 1:
            return replace(info, shape=(1, *info.shape))
        if place.number is None:
            return info
        # blocks of numbers never reach from one row into the next
        size_bytes = info.size_bytes // info.shape[0]
        at = info.offset + place.number * size_bytes
        return replace(info, shape=info.shape[1:], offset=at, size_bytes=size_bytes)

    def _let_go(self, info: TensorInfo) -> None:
        """Let the system drop a tensor's pages once they are read; they are read again if need be.

        Otherwise they would stay in this process's memory beside what was made of them.
        """
        first = info.offset // mmap.PAGESIZE * mmap.PAGESIZE
        self._data.madvise(mmap.MADV_DONTNEED, first, info.offset + info.size_bytes - first)

    def _place(self, header: GgufHeader) -> None:
        align = self.fields.get("general.alignment", 32)
        if type(align) is not int or not 1 <= align <= MAX_ALIGNMENT:
            raise ValueError(f"general.alignment {align}")
        start = round_up(header.end, align)
        for entry in header.tensors:
            name = entry.name
            shape = entry.shape
            quant = GGMLQuantizationType(entry.kind)
            if quant.name not in SERVED:
                raise ModelError(
                    f"tensor {name[:200]} is {quant.name}; we read {', '.join(SERVED)}"
                )
            block, block_bytes = GGML_QUANT_SIZES[quant]
            size_bytes = math.prod(shape) // block * block_bytes
            if (
                min(shape) < 1
                or shape[-1] % block
                or start + entry.offset + size_bytes > len(self._data)
            ):
                raise ValueError(f"tensor {name[:200]} of shape {list(shape)} leaves the file")
            self.tensors[name] = TensorInfo(
                name, shape, quant, start + entry.offset, size_bytes=size_bytes
            )


def _dequantise(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> NDArray[np.float32]:
    """Return the numbers of these whole quantisation blocks [bytes].

    A block knows nothing of its row, so they go to `gguf` a cache's fill at a time: by rows it
    would take sixteen of them at once, and half of the time to walk from one to the next.
    """
    block, block_bytes = GGML_QUANT_SIZES[kind]
    step_bytes = AT_ONCE // block * block_bytes
    plain = np.empty(len(raw) // block_bytes * block, np.float32)
    for at, first in enumerate(range(0, len(raw), step_bytes)):
        part = quants.dequantize(raw[first : first + step_bytes].reshape(1, -1), kind)
        plain[at * AT_ONCE : at * AT_ONCE + part.size] = part.reshape(-1)
    return plain


def huggingface_names(config: ModelConfig) -> Iterator[tuple[str, Place]]:
    """Yield the Hugging Face name of every tensor that a model of that shape may have, and where a
    GGUF file has it.
    """
    yield from (
        ("model.embed_tokens.weight", Place("token_embd.weight")),
        ("model.norm.weight", Place("output_norm.weight")),
        ("lm_head.weight", Place("output.weight")),
    )
    before_mlp = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"
    parts = {
        "input_layernorm": "attn_norm",
        before_mlp: "ffn_norm",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.down_proj": "ffn_down",
    }
    parts |= FUSED if config.fused else SINGLE
    parts |= POST_NORMS if config.post_norms else {}
    for layer in range(config.layers):
        for ours, theirs in parts.items():
            yield f"model.layers.{layer}.{ours}.weight", Place(f"blk.{layer}.{theirs}.weight")
            yield f"model.layers.{layer}.{ours}.bias", Place(f"blk.{layer}.{theirs}.bias")
        for ours, place in _experts(config, layer):
            yield f"model.layers.{layer}.{ours}.weight", place


def _experts(config: ModelConfig, layer: int) -> Iterator[tuple[str, Place]]:
    experts = config.experts_of(layer)
    if experts is None:
        return
    stem = f"blk.{layer}."
    yield ROUTER, Place(f"{stem}ffn_gate_inp.weight")
    yield SHARED_GATE, Place(f"{stem}ffn_gate_inp_shexp.weight", is_row=True)
    for part in (*GATE_UP_PARTS, *DOWN_PARTS):
        theirs = f"{stem}ffn_{part.removesuffix('_proj')}"
        yield f"{SHARED}.{part}", Place(f"{theirs}_shexp.weight")
        for number, ours in enumerate(expert_names(experts.count, (part,))):
            yield ours, Place(f"{theirs}_exps.weight", number)


SINGLE = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
}
FUSED = {QKV_TENSOR: "attn_qkv", GATE_UP_TENSOR: "ffn_up"}
POST_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's reordering of q and k rows (pairs interleaved), giving Hugging Face's
    halves.

    Works on weights and biases.
    """
    rows = weight.shape[0]
    return (
        weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )
