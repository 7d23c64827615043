"""What the tests of the engine's GPU side share: small bases and adapters that are no files, and
the places where they run.

    references   host memory, the kernels' plain torch references
    interpreter  host memory, the kernels themselves in Triton's interpreter
    card         a real NVIDIA GPU; marked `gpu` and skipped where there is none

Needs nothing but torch, numpy and pytest, so that it runs on a bare machine with a card.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace

import pytest
import torch

from engine.config import Choice, EngineConfig
from engine.cuda.accelerator import Accelerator
from engine.cuda.device import CudaDevice, Device, HostDevice
from engine.cuda.kernels import REFERENCES, TRITON, Kernels
from engine.cuda.memory import Split
from engine.lora.ends import Ends, head_of
from engine.lora.layout import Loaded, PackedAdapter, PartWeights, pack
from engine.lora.loader import Sources
from engine.model.config import ModelConfig
from engine.model.families import GELU_TANH
from engine.model.parts import norm_width, norms_of, parts_of
from engine.model.rope import Linear, Rope
from engine.model.tensors import expected_tensors
from engine.model.weights import Weights

CARD = pytest.param(
    "card",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
    ],
)
NEEDS_INTERPRETER = pytest.mark.skipif(
    torch.cuda.is_available(), reason="where there is a card, Triton compiles for it"
)
PLACES = ["references", CARD]
"""Where whole models run: the interpreter takes seconds for a step, so it gets tests of its own."""

LLAMA = ModelConfig(
    320,
    72,
    112,
    3,
    heads=6,
    kv_heads=2,
    head_dim=16,
    context=1024,
    norm_eps=1e-5,
    rope_base=10000.0,
)
MODELS = {
    "llama": LLAMA,
    "qwen2": replace(LLAMA, qkv_bias=True, tied_head=True),
    "qwen3": replace(LLAMA, qk_norm=True, head_dim=32),
    "smollm3": replace(LLAMA, layers=4, unrotated=frozenset({3}), tied_head=True),
    "biased": replace(LLAMA, qkv_bias=True, out_bias=True, mlp_bias=True),
    "wide": replace(LLAMA, hidden=138, intermediate=202, kv_heads=3),
    "gemma2": replace(
        LLAMA,
        tied_head=True,
        window=30,
        sliding=frozenset({0, 2}),
        activation=GELU_TANH,
        norm_offset=1.0,
        post_norms=True,
        embedding_scale=8.5,
        query_scale=0.2,
        score_cap=5.0,
        logit_cap=20.0,
    ),
    "gemma3": replace(
        LLAMA,
        qk_norm=True,
        window=30,
        sliding=frozenset({0, 2}),
        local_rope_base=500.0,
        activation=GELU_TANH,
        norm_offset=1.0,
        post_norms=True,
    ),
    "phi3": replace(
        LLAMA,
        rope=Rope(10000.0, 12, Linear(2.0, 1.1)),
        window=30,
        sliding=frozenset(range(3)),
        fused=True,
    ),
}
"""One of each family; `wide`: nothing is a multiple of 32, and an odd number of blocks."""


class Narrow(Accelerator):
    """Keeps `room_bytes` for adapters, whatever it has: several engines of a test fit beside one
    another.
    """

    def __init__(
        self, device: Device, kernels: Kernels = TRITON, room_bytes: int = 64 << 20
    ) -> None:
        super().__init__(device, kernels)
        self._room_bytes = room_bytes

    def divide(self, base: ModelConfig, choice: Choice, config: EngineConfig) -> Split:
        return replace(super().divide(base, choice, config), adapter_bytes=self._room_bytes)


def accelerator(place: str) -> Accelerator:
    """A device with the kernels that run there."""
    if place == "card":
        return Narrow(CudaDevice())
    return Narrow(HostDevice(), TRITON if place == "interpreter" else REFERENCES)


def random_weights(config: ModelConfig, spread: float = 0.3) -> Weights:
    """A base of that shape whose weights have that standard deviation; norms lie around 1."""

    def read(name: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        random = torch.randn(shapes[name], generator=generator)
        return 1 - config.norm_offset + 0.1 * random if "norm" in name else spread * random

    shapes = dict(expected_tensors(config))
    return Weights(hashlib.sha256(repr(config).encode()).digest(), config, read)


def random_adapter(
    config: ModelConfig,
    seed: int,
    rank: int,
    dtype: torch.dtype,
    everything: bool = False,
    ends: bool = False,
) -> PackedAdapter:
    """An adapter of that rank and some beyond; on every part with gains and shifts when
    `everything`, else on every other one without. With `ends` it changes norms, too: no graph holds
    either.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    parts = {}
    for layer in range(config.layers):
        for number, part in enumerate(parts_of(config)):
            if everything or number % 2:
                gain, shift = (
                    (1 + random(part.width_out), random(part.width_out))
                    if everything
                    else (None, None)
                )
                parts[layer, part.name] = PartWeights(
                    random(rank + number, part.width_in),
                    random(part.width_out, rank + number),
                    gain,
                    shift,
                )
        if ends:
            for name in norms_of(config)[1:]:
                parts[layer, name] = PartWeights(gain=1 + random(norm_width(config, name)))
    if ends:
        parts[config.layers, "norm"] = PartWeights(gain=1 + random(config.hidden))
    vocab = config.vocab_size
    hidden = config.hidden
    if not ends:
        return pack(config, parts, dtype)
    ids = torch.tensor([2, 5, vocab - 1])
    replaced = {
        "embedding_ids": ids,
        "embedding_rows": random(3, hidden).to(dtype),
        "head_ids": ids,
        "head_rows": head_of(random(3, hidden).to(dtype)),
    }
    return pack(
        config,
        parts,
        dtype,
        Ends(random(vocab, 3), random(3, hidden), random(hidden, 5), random(5, vocab), **replaced),
    )


class RandomAdapters:
    """In the place of the engine's loader of files: an adapter is the number that its file is
    called.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        self._config = config
        self._dtype = dtype

    def __call__(self, sources: Sources) -> Loaded:
        number = int(sources[0].weights_path.parent.name)
        packed = random_adapter(
            self._config,
            number,
            1 + number,
            self._dtype,
            everything=number % 3 == 0,
            ends=number % 4 == 1,
        )
        return Loaded(packed, packed.digest())
