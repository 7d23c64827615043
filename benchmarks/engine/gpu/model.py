"""What a device allows: the roofline of every figure of `scripts/gpu`, and what fits.

Pure: numbers in, numbers out; measures nothing.

A decode step reads the linears and the head once, each sequence's keys and values once, and each
distinct adapter of the batch once:

    bytes   = weights + batch * context * kv_bytes_a_token + distinct * adapter_bytes
    seconds = max(bytes / copy_bytes_s, operations / gemm_operations_s)

Activations and logits are left out: at most 2 % of the bytes at the largest batch here, and leaving
them out makes the limit stricter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.model.config import ModelConfig

SHAPES = {
    "llama-3.1-8b": ModelConfig(
        128256,
        4096,
        14336,
        32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        context=8192,
        norm_eps=1e-5,
        rope_base=500000.0,
    ),
    "llama-3.2-3b": ModelConfig(
        128256,
        3072,
        8192,
        28,
        heads=24,
        kv_heads=8,
        head_dim=128,
        context=8192,
        norm_eps=1e-5,
        rope_base=500000.0,
        tied_head=True,
    ),
    "llama-3.2-1b": ModelConfig(
        128256,
        2048,
        8192,
        16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        context=8192,
        norm_eps=1e-5,
        rope_base=500000.0,
        tied_head=True,
    ),
    "smollm2-135m": ModelConfig(
        49152,
        576,
        1536,
        30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        context=8192,
        norm_eps=1e-5,
        rope_base=100000.0,
        tied_head=True,
    ),
    "small": ModelConfig(
        4096,
        512,
        1408,
        4,
        heads=8,
        kv_heads=2,
        head_dim=64,
        context=2048,
        norm_eps=1e-5,
        rope_base=10000.0,
    ),
    "tiny": ModelConfig(
        512,
        64,
        160,
        2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        context=512,
        norm_eps=1e-5,
        rope_base=10000.0,
    ),
}
"""Random weights have these shapes; nothing is downloaded."""

BASES = ("llama-3.1-8b", "llama-3.2-3b", "llama-3.2-1b", "smollm2-135m")
"""What is looked through for the largest that fits."""

MARGIN = 0.95
"""The share of free memory that a plan may use: the rest is the executor's scratch and what an
allocator rounds up.
"""
WORKSPACE_BYTES = 2 << 30
PINNED_SHARE = 8
"""One part in so many of the free host memory may be pinned for adapters."""


@dataclass(frozen=True)
class Limits:
    """What was measured of one device. copy_bytes_s counts bytes read and bytes written; operations
    are multiplications and additions.
    """

    device: str
    copy_bytes_s: float
    gemm_operations_s: float
    host_to_device_bytes_s: float


@dataclass(frozen=True)
class Scale:
    """How large the measurements are; every row names its own in the result.

    Counts are rows, tokens, adapters, requests; times in seconds.

    room_bytes: of host memory for all adapters together, which are overlapping windows of it.
    """

    shape: str
    itemsize: int
    batches: tuple[int, ...]
    context: int
    rank: int
    zipf_adapters: int
    paged_adapters: int
    paged_slots: int
    seat_slots: int
    prefill: tuple[int, int]
    decode_steps: int
    rounds: int
    stream_s: float
    room_bytes: int
    left_out: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig:
        """The base's shape."""
        return SHAPES[self.shape]

    @property
    def largest_batch(self) -> int:
        """Rows of the largest step that is measured."""
        return max(self.batches)

    @property
    def zipf_batch(self) -> int:
        """Rows of the step whose adapters follow Zipf's law."""
        return max((batch for batch in self.batches if batch <= 64), default=1)

    @property
    def prompt_tokens(self) -> int:
        """A prompt's length, so that the answer's middle lies at `context`."""
        return self.context - (self.rounds * self.decode_steps) // 2

    @property
    def reserved_tokens(self) -> int:
        """Tokens that one sequence of a decode row may come to, with room for warming up."""
        return self.context + self.rounds * self.decode_steps + 32


@dataclass(frozen=True)
class Expectation:
    """What a figure may be at best (`limit`), and the goal; `unit` is "tokens/s", "of base only",
    "times", "ms" or "adapters".
    """

    row: str
    title: str
    unit: str
    limit: float
    goal: float | None
    at_least: bool
    why: str

    def reached(self, measured: float) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return measured >= self.goal if self.at_least else measured <= self.goal


# --- bytes and operations ---


def linear_numbers(config: ModelConfig) -> int:
    """Numbers in the linears of the layers, the head left out."""
    attention = 2 * config.hidden * config.head_dim * (config.heads + config.kv_heads)
    return config.layers * (attention + 3 * config.hidden * config.intermediate)


def step_weight_bytes(config: ModelConfig, itemsize: int) -> int:
    """What a decode step reads of the base."""
    return (linear_numbers(config) + config.hidden * config.vocab_size) * itemsize


def base_bytes(config: ModelConfig, itemsize: int) -> int:
    """What the base occupies: an embedding of its own comes on top where the head is not tied to
    it.
    """
    return step_weight_bytes(config, itemsize) + (
        0 if config.tied_head else config.hidden * config.vocab_size * itemsize
    )


def kv_bytes(config: ModelConfig, itemsize: int) -> int:
    """Keys and values of one token."""
    return 2 * config.layers * config.kv_heads * config.head_dim * itemsize


def adapter_bytes(config: ModelConfig, rank: int, itemsize: int) -> int:
    """An adapter on all linears."""
    query = config.heads * config.head_dim
    key = config.kv_heads * config.head_dim
    widths = (
        (config.hidden + query) * 2
        + 2 * (config.hidden + key)
        + 3 * (config.hidden + config.intermediate)
    )
    return config.layers * rank * widths * itemsize


def decode_seconds(limits: Limits, scale: Scale, batch: int, distinct: int = 0) -> float:
    """The least time of one decode step of `batch` sequences with `distinct` adapters among
    them.
    """
    config = scale.config
    read = step_weight_bytes(config, scale.itemsize) + batch * scale.context * kv_bytes(
        config, scale.itemsize
    )
    read += distinct * adapter_bytes(config, scale.rank, scale.itemsize)
    operations = 2.0 * batch * (linear_numbers(config) + config.hidden * config.vocab_size)
    return max(read / limits.copy_bytes_s, operations / limits.gemm_operations_s)


def narrow_seconds(limits: Limits, scale: Scale, batch: int, bits: int) -> float:
    """The least time of one decode step over linears and a head of so many bits a number."""
    config = scale.config
    numbers = linear_numbers(config) + config.hidden * config.vocab_size
    read = numbers * bits / 8 + batch * scale.context * kv_bytes(config, scale.itemsize)
    return max(read / limits.copy_bytes_s, 2.0 * batch * numbers / limits.gemm_operations_s)


def lora_share(limits: Limits, scale: Scale, batch: int, distinct: int) -> float:
    """What of base only's rate a batch with `distinct` adapters can have at best."""
    return decode_seconds(limits, scale, batch) / decode_seconds(limits, scale, batch, distinct)


def prefill_seconds(limits: Limits, scale: Scale) -> float:
    """The least time for the prompts of `scale.prefill`: the linears for every token, causal
    attention, the head once a sequence.
    """
    config = scale.config
    sequences, tokens = scale.prefill
    attention = 2.0 * 2.0 * config.layers * config.heads * config.head_dim * tokens * tokens / 2
    operations = (
        2.0 * linear_numbers(config) * tokens + attention + 2.0 * config.hidden * config.vocab_size
    )
    return sequences * operations / limits.gemm_operations_s


def room_for_adapters(free_bytes: int, scale: Scale, kv_tokens: int) -> int:
    """How many adapters the memory holds beside the base and `kv_tokens` of keys and values, if
    nothing else took any.
    """
    config = scale.config
    left = (
        free_bytes
        - base_bytes(config, scale.itemsize)
        - kv_tokens * kv_bytes(config, scale.itemsize)
    )
    return max(0, left // adapter_bytes(config, scale.rank, scale.itemsize))


def expected_distinct(adapters: int, batch: int) -> float:
    """How many of `adapters` are met on average when a batch draws them with probability
    proportional to 1 / rank.
    """
    total = sum(1.0 / place for place in range(1, adapters + 1))
    return sum(1.0 - (1.0 - 1.0 / (place * total)) ** batch for place in range(1, adapters + 1))


# --- what is expected, before anything is measured ---

BASE_GOALS = {1: 0.80, 64: 0.70}
NARROW_BITS = {"int8": 8, "q4": 5}
"""Of a number of a linear, scales and offsets of groups of 32 among them."""
NARROW_GOALS = {1: 0.70, 64: 0.50}
DISTINCT_GOAL = 0.90


def expectations(limits: Limits, scale: Scale, free_bytes: int) -> list[Expectation]:
    """A row for every figure that `scale` asks for, in the order in which they are shown.

    `free_bytes` of an empty device.
    """
    rows: list[Expectation] = []
    for batch in scale.batches:
        rate = batch / decode_seconds(limits, scale, batch)
        share = BASE_GOALS.get(batch)
        rows.append(
            Expectation(
                f"base-{batch}",
                f"base only, batch {batch}",
                "tokens/s",
                rate,
                goal=None if share is None else share * rate,
                at_least=True,
                why="weights" + (" + keys and values" if batch > 1 else "") + " / copy bandwidth",
            )
        )
    for batch in scale.batches:
        best = lora_share(limits, scale, batch, batch)
        goal = DISTINCT_GOAL * best if batch > 1 else None
        rows.append(
            Expectation(
                f"distinct-{batch}",
                f"{batch} distinct rank-{scale.rank} adapters, batch {batch}",
                "of base only",
                best,
                goal=goal,
                at_least=True,
                why="the same + each adapter once",
            )
        )
    batch = scale.zipf_batch
    distinct = round(expected_distinct(scale.zipf_adapters, batch))
    rows += [
        Expectation(
            "zipf",
            f"Zipf-1.0 over {scale.zipf_adapters} adapters, batch {batch}",
            "of base only",
            lora_share(limits, scale, batch, distinct),
            goal=0.80,
            at_least=True,
            why=f"about {distinct} of them meet in a batch",
        ),
        Expectation(
            "unused",
            f"LoRA on but unused, batch {batch}",
            "of base only",
            1.0,
            goal=0.99,
            at_least=True,
            why="the same work",
        ),
        Expectation(
            "sampled",
            f"base only at temperature 0.8, batch {batch}",
            "of base only",
            1.0,
            goal=None,
            at_least=True,
            why="the same work",
        ),
        Expectation(
            "paging-throughput",
            f"{scale.paged_adapters} adapters on host, {scale.paged_slots} on the device, arrivals"
            " at 80 %: throughput",
            "times",
            1.0,
            goal=0.95,
            at_least=True,
            why="all resident",
        ),
        Expectation(
            "paging-gap-p99",
            "the same: 99th percentile between two tokens",
            "times",
            1.0,
            goal=1.10,
            at_least=False,
            why="all resident",
        ),
        Expectation(
            "paging-full",
            "the same, as many requests as fit: throughput",
            "times",
            1.0,
            goal=None,
            at_least=True,
            why="all resident",
        ),
        Expectation(
            "cold",
            "cold adapter in host memory: first token later by",
            "ms",
            1e3
            * adapter_bytes(scale.config, scale.rank, scale.itemsize)
            / limits.host_to_device_bytes_s,
            goal=5.0,
            at_least=False,
            why="adapter / host-to-device rate",
        ),
        Expectation(
            "seats",
            f"{2 * scale.seat_slots} adapters over {scale.seat_slots} slots: median first token",
            "times",
            1.0,
            goal=1.2,
            at_least=False,
            why=f"{scale.seat_slots} over {scale.seat_slots}",
        ),
    ]
    rows += _narrow_expectations(limits, scale)
    sequences, tokens = scale.prefill
    rate = sequences * tokens / prefill_seconds(limits, scale)
    rows.append(
        Expectation(
            "prefill",
            f"prompts, {sequences} x {tokens} tokens",
            "tokens/s",
            rate,
            goal=0.6 * rate,
            at_least=True,
            why="GEMM rate",
        )
    )
    rows.append(
        Expectation(
            "prefill-distinct",
            "the same, an adapter each",
            "tokens/s",
            rate,
            goal=None,
            at_least=True,
            why="GEMM rate, adapters free",
        )
    )
    room = room_for_adapters(free_bytes, scale, resident_kv_tokens(scale))
    rows.append(
        Expectation(
            "resident",
            "adapters resident beside the base, all served in one run",
            "adapters",
            room,
            goal=0.95 * room,
            at_least=True,
            why="free bytes / adapter",
        )
    )
    return rows


def narrow_batches(scale: Scale) -> tuple[int, ...]:
    """The batches that are measured over linears in fewer bits."""
    return tuple(sorted({1, scale.zipf_batch}))


def _narrow_expectations(limits: Limits, scale: Scale) -> list[Expectation]:
    rows = []
    for form, bits in NARROW_BITS.items():
        for batch in narrow_batches(scale):
            rate = batch / narrow_seconds(limits, scale, batch, bits)
            share = NARROW_GOALS.get(batch)
            rows.append(
                Expectation(
                    f"{form}-{batch}",
                    f"base only in {form}, batch {batch}",
                    "tokens/s",
                    rate,
                    goal=None if share is None else share * rate,
                    at_least=True,
                    why=f"weights of {bits} bits / copy bandwidth",
                )
            )
    return rows


def resident_kv_tokens(scale: Scale) -> int:
    """Keys and values that the resident row keeps room for."""
    return 64 * scale.largest_batch


# --- what fits ---


def plan(shape: str, itemsize: int, free_bytes: int, host_bytes: int) -> Scale:
    """The measurements for a device with `free_bytes` free and a host with `host_bytes`: the
    largest shape, or the named one, cut to what fits.

    Raises ValueError when not even the smallest base fits.
    """
    if shape == "tiny":
        return Scale(
            "tiny",
            itemsize,
            (1, 2, 8),
            64,
            rank=4,
            zipf_adapters=24,
            paged_adapters=32,
            paged_slots=8,
            seat_slots=4,
            prefill=(2, 128),
            decode_steps=8,
            rounds=2,
            stream_s=0.4,
            room_bytes=4 << 20,
        )
    for name in BASES if shape == "auto" else (shape,):
        config = SHAPES[name]
        room = MARGIN * free_bytes - WORKSPACE_BYTES - base_bytes(config, itemsize)
        if room >= _decode_bytes(config, itemsize, 16):
            batches = tuple(
                batch
                for batch in (1, 16, 64, 256)
                if _decode_bytes(config, itemsize, batch) <= room
            )
            return _scale(name, itemsize, batches, free_bytes, host_bytes)
    raise ValueError(
        f"no base of {shape} fits: {free_bytes / 1e9:.1f} GB of device memory are free"
    )


def _scale(
    name: str, itemsize: int, batches: tuple[int, ...], free_bytes: int, host_bytes: int
) -> Scale:
    left_out = tuple(
        f"batch {batch}: {_decode_bytes(SHAPES[name], itemsize, batch) / 1e9:.0f} GB of keys,"
        f" values and adapters do not fit beside the base ({free_bytes / 1e9:.0f} GB free)"
        for batch in (64, 256)
        if batch not in batches
    )
    size = adapter_bytes(SHAPES[name], RANK, itemsize)
    slots = min(64, max(16, max(batches)))
    room_bytes = max(1 << 28, min(1 << 33, 1 << int(math.log2(max(host_bytes, 1) / PINNED_SHARE))))
    while room_bytes < 2 * size:
        room_bytes *= 2
    return Scale(
        name,
        itemsize,
        batches,
        CONTEXT,
        rank=RANK,
        zipf_adapters=1000,
        paged_adapters=2000,
        paged_slots=slots,
        seat_slots=8,
        prefill=(8, 2048),
        decode_steps=24,
        rounds=3,
        stream_s=8.0,
        room_bytes=room_bytes,
        left_out=left_out,
    )


CONTEXT = 1024
RANK = 16


def _decode_bytes(config: ModelConfig, itemsize: int, batch: int) -> int:
    """Keys, values and adapters of one batch of distinct adapters."""
    return batch * (
        (CONTEXT + 160) * kv_bytes(config, itemsize) + adapter_bytes(config, RANK, itemsize)
    )


def kv_tokens_for(scale: Scale, free_bytes: int) -> int:
    """Keys and values for the decode rows: for both sides of a comparison where that fits, else for
    the larger batch alone.
    """
    config = scale.config
    slots = scale.largest_batch * adapter_bytes(config, scale.rank, scale.itemsize)
    room = MARGIN * free_bytes - WORKSPACE_BYTES - base_bytes(config, scale.itemsize) - slots
    both = 2 * scale.largest_batch * scale.reserved_tokens
    one = scale.largest_batch * scale.reserved_tokens
    return both if both * kv_bytes(config, scale.itemsize) <= room else one


def fits_beside(scale: Scale, kv_tokens: int, batch: int) -> bool:
    """Whether two batches of this size have their keys and values at once."""
    return 2 * batch * scale.reserved_tokens <= kv_tokens


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, between neighbours in proportion; values are not
    empty.
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
