"""What `scripts/gpu` serves: a random base made tensor by tensor where it is needed, and thousands
of random adapters in little memory.

The base is never on disk and never whole in host memory: `read` makes a tensor on the device each
time it is asked, the same one each time.

Adapters are overlapping windows of one room of random numbers, already in the layout that the
engine packs an adapter into:

    room      [ r0 r1 r2 … ]                     random numbers in the model's dtype, pinned where
              there is a GPU
    adapter 0 [───────────)
    adapter 1     [───────────)                  each begins some pages after the one before, so no
                  two are alike anywhere
    adapter n                 [───────────)

So 2,000 adapters of 84 MB, which would fill 168 GB, take as much host memory as the room has. A
copy to the device reads what lies in host memory either way, and on the device nothing is shared:
there each occupies its own bytes.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine.gpu.model import SHAPES
from engine.lora.layout import (
    ALIGN_BYTES,
    PAGE_BYTES,
    Layout,
    Loaded,
    PackedAdapter,
    PartWeights,
    make_layout,
    pack,
)
from engine.lora.loader import Sources
from engine.model.config import ModelConfig
from engine.model.parts import Part, parts_of
from engine.model.quantised import Quantised
from engine.model.tensors import expected_tensors
from engine.model.weights import Weights

ADAPTER_SPREAD = 0.02
"""The standard deviation of an adapter's numbers: what it adds to a linear is then a tenth of what
the base gives.
"""
PIECE_BYTES = 256 << 20
GROUP = 32
CODES_MEAN = 7.5
CODES_SPREAD = 4.61
"""Of random codes of 4 bits: their mean and standard deviation."""


def random_weights(shape: str, dtype: torch.dtype, device: torch.device, seed: int = 11) -> Weights:
    """A base of SHAPES[shape] whose tensors are made on `device` as they are read."""
    shapes = dict(expected_tensors(SHAPES[shape]))

    def read(name: str) -> torch.Tensor:
        size = shapes[name]
        if len(size) == 1:
            return torch.ones(size, dtype=dtype, device=device)
        draw = torch.Generator(device).manual_seed(seed + zlib.crc32(name.encode()))
        return torch.randn(size, generator=draw, dtype=dtype, device=device).mul_(
            _spread(name, size, SHAPES[shape].tied_head)
        )

    def read_quantised(name: str) -> Quantised | None:
        size = shapes[name]
        if len(size) == 1 or size[1] % GROUP:
            return None
        draw = torch.Generator(device).manual_seed(seed + zlib.crc32(name.encode()))
        codes = torch.randint(
            256, (size[0], size[1] // 2), generator=draw, dtype=torch.uint8, device=device
        )
        step = _spread(name, size, SHAPES[shape].tied_head) / CODES_SPREAD
        scales = torch.full((size[0], size[1] // GROUP), step, dtype=torch.float16, device=device)
        return Quantised(codes, scales, -CODES_MEAN * scales)

    return Weights(
        hashlib.sha256(f"random {shape} {seed}".encode()).digest(),
        SHAPES[shape],
        read,
        read_quantised,
        in_4_bits=True,
    )


def _spread(name: str, size: tuple[int, ...], tied_head: bool) -> float:
    """Linears keep the size of what they are given; the head's logits are spread enough that
    answers are not one token for ever.
    """
    if name.startswith("lm_head"):
        return 0.1
    if name.startswith("model.embed_tokens"):
        return 0.1 if tied_head else 1.0
    return float(size[1]) ** -0.5


class Adapters:
    """`count` distinct adapters of one rank on all linears; a *number* is which."""

    def __init__(
        self,
        config: ModelConfig,
        rank: int,
        dtype: torch.dtype,
        count: int,
        room_bytes: int,
        device: torch.device,
    ) -> None:
        self.rank = rank
        self.count = count
        self.layout = all_linear_layout(config, rank, dtype)
        size = self.layout.size_bytes
        self._step = max(
            PAGE_BYTES, (room_bytes - size) // max(1, count) // PAGE_BYTES * PAGE_BYTES
        )
        self.room = _random_room(max(room_bytes, size + count * self._step), dtype, device)

    @property
    def size_bytes(self) -> int:
        """Of one adapter."""
        return self.layout.size_bytes

    def packed(self, number: int) -> PackedAdapter:
        """Adapter `number` as the engine's packer would have left it; a view, not a copy."""
        assert 0 <= number < self.count
        return PackedAdapter(
            self.layout, self.room[number * self._step :][: self.size_bytes], self.rank
        )

    def load(self, sources: Sources) -> Loaded:
        """In the place of the engine's loader of files: the number is the file's name, see
        `path`.
        """
        number = int(sources[0].weights_path.name)
        return Loaded(self.packed(number), hashlib.sha256(b"random adapter %d" % number).digest())


class MixedAdapters:
    """Small adapters of all kinds, the same in every number format: another rank for each, some
    with a gain and a shift.
    """

    RANKS = (8, 16, 3, 40)

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self._config = config
        self._dtype = dtype

    def load(self, sources: Sources) -> Loaded:
        """In the place of the engine's loader of files, as `Adapters.load`."""
        number = int(sources[0].weights_path.name)
        draw = torch.Generator().manual_seed(1000 + number)
        rank = self.RANKS[number % len(self.RANKS)]
        parts = {
            (layer, part.name): self._part(part, rank, number, draw)
            for layer in range(self._config.layers)
            for part in parts_of(self._config)
        }
        packed = pack(self._config, parts, self._dtype)
        return Loaded(packed, packed.digest())

    def _part(self, part: Part, rank: int, number: int, draw: torch.Generator) -> PartWeights:
        a = torch.randn(rank, part.width_in, generator=draw) * part.width_in**-0.5
        b = torch.randn(part.width_out, rank, generator=draw) * 0.3 * rank**-0.5
        if number % 2 == 0:
            return PartWeights(a, b)
        return PartWeights(
            a,
            b,
            1.0 + 0.1 * torch.randn(part.width_out, generator=draw),
            0.1 * torch.randn(part.width_out, generator=draw),
        )


def path(number: int) -> str:
    """What to hold adapter `number` by."""
    return str(Path("random") / str(number))


def all_linear_layout(config: ModelConfig, rank: int, dtype: torch.dtype) -> Layout:
    """Where everything lies in an adapter of one rank on all linears."""
    pair = PartWeights(a=torch.empty(rank, 0))
    return make_layout(
        config,
        {(layer, part.name): pair for layer in range(config.layers) for part in parts_of(config)},
        dtype,
    )


def _random_room(size_bytes: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[size_bytes] uint8 that hold normal numbers of `dtype`, made on the device and brought to
    host memory piece by piece.
    """
    room = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    assert room.data_ptr() % ALIGN_BYTES == 0
    draw = torch.Generator(device).manual_seed(7)
    for first in range(0, size_bytes, PIECE_BYTES):
        piece = room[first : first + PIECE_BYTES].view(dtype)
        piece.copy_(
            torch.randn(len(piece), generator=draw, dtype=dtype, device=device).mul_(ADAPTER_SPREAD)
        )
    return room


def zipf(count: int, requests: int, seed: int) -> list[int]:
    """Adapter numbers drawn with probability proportional to 1 / rank."""
    weights = 1.0 / np.arange(1, count + 1)
    numbers: list[int] = (
        np.random.default_rng(seed).choice(count, requests, p=weights / weights.sum()).tolist()
    )
    return numbers


def make_prompts(batch: int, length: int, vocab_size: int, seed: int) -> list[list[int]]:
    """Random ids, another set for every seed, so that no prefix cache answers."""
    prompts: list[list[int]] = (
        np.random.default_rng(seed).integers(3, vocab_size, (batch, length)).tolist()
    )
    return prompts
