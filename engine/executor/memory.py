"""Divides a processor's memory. Pure: bytes in, bytes out; measures and allocates nothing.

    free    [ reserve | base | work | keys and values | adapters                                   ]
    adapters                          host 2/10 · slots 2/10 · read but not yet taken 2/10 · being
                                      read 4/10

Keys and values get what they want, but no more than half of what is left where that is not enough
for both. Nothing of it is taken before it is used; each number is what will never be exceeded. An
adapter that needs more than its part, in a slot or while it is read, is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config import (
    HOST_CACHE_SHARE,
    MAX_HOST_CACHE_BYTES,
    WANTED_KV_TOKENS,
    Choice,
    EngineConfig,
    Stored,
)
from ..count import ceil_div
from ..errors import ModelError
from ..lora.layout import adapter_numbers
from ..memory import Free
from ..model.config import ModelConfig
from ..model.experts import Experts

RESERVE_BYTES = 88 << 20
"""Python's own objects, the code of libraries, holes between allocations, 24 MiB for adapters that
are recalled and for what those leave behind.
"""
MARGIN = 0.05
"""Share of what is free that nobody plans with."""
MIN_KV_TOKENS = 512
PLANNED_RANK = 16
TENTHS = {"host": 2, "slots": 2, "untaken": 2, "reading": 4}
PAGE_TOKENS = 16
UNKNOWN_BYTES = 1 << 44
"""Divided where nobody says how much there is: what is wanted, for all that is known."""
Q4_EIGHTHS = 6
"""Of a byte, for each number of a layer's linears: Q4_K takes five once laid out, and a file may
have some of its linears in more bits, which lie in int8.
"""
TOKEN_OBJECT_BYTES = 40
"""A token that waits is an object of Python in a list."""


@dataclass(frozen=True)
class Demand:
    """Bytes of a model: its weights, what loading them takes for a while, a step's work space, keys
    and values of a token, an adapter.

    adapter_bytes: of PLANNED_RANK on all linears; reading_bytes: what reading that one takes for
    a while, itself included.
    """

    base_bytes: int
    loading_bytes: int
    work_bytes: int
    token_bytes: int
    adapter_bytes: int
    reading_bytes: int


@dataclass(frozen=True)
class Division:
    """The part of each purpose in bytes, and `reason` in words."""

    kv_tokens: int
    host_cache_bytes: int
    slot_bytes: int
    untaken_bytes: int
    reading_bytes: int
    reason: str

    def settle(self, config: EngineConfig) -> EngineConfig:
        """Return the configuration with all of it filled in."""
        return replace(
            config,
            kv_tokens=self.kv_tokens,
            host_cache_bytes=self.host_cache_bytes,
            slot_bytes=self.slot_bytes,
        )


def divide_host(
    base: ModelConfig, config: EngineConfig, choice: Choice, on_device: bool, free: Free
) -> Division:
    """Divide the host's memory for a settled configuration; beside a device it is for adapters
    alone.

    Bytes that a caller chose for adapters are kept.
    """
    if not on_device:
        demand = demand_of(
            base,
            choice,
            max(config.step_tokens, config.prompt_step_tokens),
            config.max_waiting_tokens,
        )
        division = divide(demand, free, config.kv_tokens)
        host = config.host_cache_bytes or division.host_cache_bytes
        slots = config.slot_bytes or division.slot_bytes
        return replace(division, host_cache_bytes=host, slot_bytes=slots)
    part = (UNKNOWN_BYTES if free.free_bytes is None else free.free_bytes) // HOST_CACHE_SHARE
    return Division(
        config.kv_tokens,
        config.host_cache_bytes or part,
        config.slot_bytes,
        part // 2,
        reading_bytes=part,
        reason=free.reason,
    )


def demand_of(config: ModelConfig, choice: Choice, rows: int, waiting_tokens: int) -> Demand:
    """Compute the bytes of a model on a processor: steps of up to `rows` rows, so many tokens in
    the queue.
    """
    size = choice.dtype.itemsize
    linears = linear_numbers(config)
    experts = config.experts
    largest = max(
        config.vocab_size * config.hidden,
        2 * config.hidden * config.intermediate,
        0 if experts is None else _experts_at_once(config, experts, choice.stored),
    )
    widths = (
        6 * config.hidden
        + 2 * (config.heads + config.kv_heads) * config.head_dim
        + 3 * config.intermediate
        + config.vocab_size
        + (0 if experts is None else _expert_widths(config, experts))
    )
    adapted = adapter_numbers(config, PLANNED_RANK)
    table = config.vocab_size * config.hidden
    match choice.stored:
        case Stored.PLAIN:
            base_bytes = (linears + table) * size
        case Stored.INT8:
            base_bytes = linears + table * size
        case Stored.Q4:
            # Five bits of a number's eight, a head in int8 (more bits than most files have), and
            # a table of its own, unless it is the head.
            in_layers = (linears - table) * Q4_EIGHTHS // 8
            base_bytes = in_layers + table * (1 if config.tied_head else 2)
    return Demand(
        base_bytes=base_bytes,
        # At the peak so many float32 copies of the largest tensor live at once, measured while a
        # GGUF base was loaded; what int8 is made of needs one more.
        loading_bytes=largest * 4 * (3 if choice.stored is Stored.PLAIN else 4),
        work_bytes=rows * widths * 4 + waiting_tokens * TOKEN_OBJECT_BYTES,
        token_bytes=config.kv_numbers * size,
        adapter_bytes=adapted * size,
        reading_bytes=adapted * (4 + size),
    )


def _experts_at_once(config: ModelConfig, experts: Experts, stored: Stored) -> int:
    """Return how many numbers of a layer's experts are in memory for a while when a base is loaded:
    one expert's, but all of those that lie in 4 bits, which are a fraction of float32 there.
    """
    one = 2 * config.hidden * experts.width
    return one if stored is not Stored.Q4 else max(one, one * experts.count * Q4_EIGHTHS // 32)


def _expert_widths(config: ModelConfig, experts: Experts) -> int:
    """Return how many numbers a row leaves on its way through experts."""
    return experts.chosen * (2 * config.hidden + experts.width) + experts.shared + experts.count


def linear_numbers(config: ModelConfig, passed: int | None = None) -> int:
    """Return how many numbers the linears of a step hold, the head among them.

    passed: how many of each layer's experts count at most; None: all.
    """
    attention = 2 * config.hidden * config.head_dim * (config.heads + config.kv_heads)
    mlps = sum(_mlp_numbers(config, layer, passed) for layer in range(config.layers))
    return config.layers * attention + mlps + config.hidden * config.vocab_size


def _mlp_numbers(config: ModelConfig, layer: int, passed: int | None) -> int:
    experts = config.experts_of(layer)
    if experts is None:
        return 3 * config.hidden * config.intermediate
    count = experts.count if passed is None else min(passed, experts.count)
    router = experts.count + bool(experts.shared)
    return config.hidden * (3 * (count * experts.width + experts.shared) + router)


def divide(demand: Demand, free: Free, kv_tokens: int = 0) -> Division:
    """Divide what is free before the base is loaded.

    `kv_tokens` that an operator has chosen (not 0) are kept, or a ModelError says why not.
    """
    if free.free_bytes is None:
        return _division(demand, UNKNOWN_BYTES, kv_tokens, free.reason)
    usable = int(free.free_bytes * (1 - MARGIN)) - RESERVE_BYTES
    min_adapter_bytes = _min_adapter_bytes(demand)
    rest = usable - demand.base_bytes - demand.work_bytes - min_adapter_bytes
    min_kv_bytes = min(kv_tokens or MIN_KV_TOKENS, MIN_KV_TOKENS) * demand.token_bytes
    if usable < demand.base_bytes + demand.loading_bytes or rest < min_kv_bytes:
        needed = demand.base_bytes + max(
            demand.loading_bytes, demand.work_bytes + min_adapter_bytes + min_kv_bytes
        )
        raise ModelError(
            f"the base and the least to serve it take {_mib(needed)} of memory, and {_mib(usable)}"
            f" can be had ({free.reason}): allow this process more, choose a smaller --base, or"
            " --dtype int8"
        )
    if kv_tokens * demand.token_bytes > rest:
        raise ModelError(
            f"--kv-tokens {kv_tokens} takes {_mib(kv_tokens * demand.token_bytes)} of memory when"
            f" full, and {_mib(rest)} can be had beside the base ({free.reason}): choose at most"
            f" --kv-tokens {rest // demand.token_bytes}, or leave it open"
        )
    return _division(
        demand,
        rest + min_adapter_bytes,
        kv_tokens,
        f"of {_mib(usable)} that can be had: {free.reason}",
    )


def _division(demand: Demand, rest: int, kv_tokens: int, reason: str) -> Division:
    if not kv_tokens:
        room = min(rest // 2, rest - _min_adapter_bytes(demand))
        kv_tokens = (
            min(WANTED_KV_TOKENS, max(MIN_KV_TOKENS, room // demand.token_bytes))
            // PAGE_TOKENS
            * PAGE_TOKENS
        )
    tenth = (rest - kv_tokens * demand.token_bytes) // sum(TENTHS.values())
    host, slots, untaken, reading = (
        tenth * TENTHS[name] for name in ("host", "slots", "untaken", "reading")
    )
    return Division(
        kv_tokens,
        min(host, MAX_HOST_CACHE_BYTES),
        slots,
        min(untaken, MAX_HOST_CACHE_BYTES),
        reading_bytes=reading,
        reason=reason,
    )


def _min_adapter_bytes(demand: Demand) -> int:
    """Return the bytes with which an adapter of rank PLANNED_RANK fits into each part."""
    parts = {
        "host": demand.adapter_bytes,
        "slots": demand.adapter_bytes,
        "untaken": demand.adapter_bytes,
        "reading": demand.reading_bytes,
    }
    return max(ceil_div(needed, TENTHS[name]) for name, needed in parts.items()) * sum(
        TENTHS.values()
    ) + sum(TENTHS.values())


def _mib(size_bytes: int) -> str:
    return f"{max(0, size_bytes) >> 20} MiB"
