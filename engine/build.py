"""Builds an engine from its configuration: the only place that constructs the parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import torch

from .choose import choose_machine
from .config import Choice, EngineConfig, Stored
from .decoder import Decoder
from .engine import Engine
from .errors import DeviceLost, ModelError, OutOfDeviceMemory
from .executor.library import cache_folder
from .executor.memory import Division, divide_host
from .grammar import GrammarDone, Grammars
from .intake import Limits
from .kv.cache import KvCache
from .kv.pages import PagePool
from .kv.prefix import PrefixCache
from .lora.arena import Arena
from .lora.bank import Bank, CopyDone, SlotBank
from .lora.held import HeldAdapters, Recall
from .lora.host_cache import HostCache
from .lora.layout import PackedAdapter
from .lora.loader import AdapterLoader, Load, LoadDone, Sources
from .lora.mixing import load_sources
from .lora.slots import SlotTable
from .lora.spill import Spill
from .memory import Free, free_memory, lies_in_memory
from .messages import Ready
from .model.config import ModelConfig
from .model.weights import Weights, open_weights
from .runner import Runner
from .schedule import Budget
from .scheduler import Scheduler
from .usage import Usage

if TYPE_CHECKING:
    from .cuda.accelerator import Accelerator
    from .cuda.memory import Split

Done = LoadDone | CopyDone | GrammarDone | DeviceLost
"""What other threads tell the engine's."""


@dataclass(frozen=True)
class _Plan:
    """What is decided before anything large is made: the machine, the number format, and who has
    how much memory. `split` is of a device's memory, where there is one.
    """

    accelerator: Accelerator | None
    config: EngineConfig
    dtype: Choice
    division: Division
    split: Split | None
    num_pages: int
    context: int


@dataclass(frozen=True)
class Built:
    """A ready engine, its greeting, and what was chosen and why."""

    engine: Engine
    ready: Ready
    loader: AdapterLoader
    grammars: Grammars
    dtype: Choice
    kernels: str
    ends: tuple[Callable[[], None], ...]
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """End the engine's threads."""
        for end in self.ends:
            end()


def build_engine(config: EngineConfig, on_done: Callable[[Done], None]) -> Built:
    """Load the base and make an engine.

    `on_done` is called on the threads that load and copy adapters and compile grammars. Raises
    ModelError.
    """
    started = time.perf_counter()
    built = assemble(open_weights(config.base_path), config, on_done)
    return replace(
        built,
        ready=msgspec.structs.replace(built.ready, load_ms=(time.perf_counter() - started) * 1e3),
    )


def assemble(
    weights: Weights,
    config: EngineConfig,
    on_done: Callable[[Done], None],
    accelerator: Accelerator | None = None,
    load: Load | None = None,
    free: Free | None = None,
) -> Built:
    """Make an engine over weights that are open already, on the device that is given or found, in
    the memory that is `free`. Raises ModelError.

    `load` gives adapters where they are no files (a benchmark's); on a device they had better be
    pinned. `free` None: what the system says.
    """
    started = time.perf_counter()
    torch.set_num_threads(config.threads)
    plan = _plan(weights, config, accelerator, free)
    usage = Usage(None if plan.accelerator is None else plan.accelerator.used_bytes)
    decoder = _make_decoder(weights, plan)
    usage.base_loaded()
    cache = _make_cache(decoder, plan)
    loader, recall = _make_loader(weights, plan, load, on_done)
    slots, bank, end_bank = _make_slots(weights.config, plan, on_done)
    host = HostCache(plan.config.host_cache_bytes)
    adapters = HeldAdapters(slots, bank, host, loader.submit, recall)
    pages = PrefixCache(PagePool(plan.num_pages))
    usage.room_made(cache, pages.pool, host, bank)
    grammars = Grammars(weights.config.vocab_size, on_done)
    engine = Engine(
        Limits.of(
            plan.config,
            weights.config.vocab_size,
            plan.context,
            weights.config.short_context,
        ),
        Scheduler(_budget_of(plan.config, weights.config.widest_window), pages, adapters),
        Runner(decoder, cache, slots, bank),
        adapters,
        pages=pages,
        grammars=grammars,
        memory=usage.now,
    )
    with torch.inference_mode():
        warmed = decoder.warm_up(cache.pool, bank)
    return Built(
        engine,
        _greet(weights, plan, decoder.name, (time.perf_counter() - started) * 1e3),
        loader,
        grammars,
        dtype=plan.dtype,
        kernels=decoder.name,
        ends=(loader.close, grammars.close, end_bank, decoder.close),
        notes=(*weights.notes, *_describe(plan, warmed)),
    )


def describe_split(split: Split, page_tokens: int) -> str:
    """How a device's memory is divided, in words."""
    tokens = split.num_pages * page_tokens
    adapters = f"{split.adapter_bytes >> 20} MiB for adapters in {split.num_slots} slots"
    return f"room for keys and values of {tokens} tokens, {adapters}: {split.reason}"


def describe_division(division: Division) -> str:
    """How a processor's memory is divided, in words."""
    host, slots, reading = (
        size >> 20
        for size in (division.host_cache_bytes, division.slot_bytes, division.reading_bytes)
    )
    adapters = f"for adapters {host} MiB packed, {slots} MiB in slots, {reading} MiB to read one"
    return f"room for keys and values of {division.kv_tokens} tokens, {adapters}; {division.reason}"


def _plan(
    weights: Weights, asked: EngineConfig, accelerator: Accelerator | None, free: Free | None
) -> _Plan:
    chosen = choose_machine(asked, weights, accelerator)
    base = weights.config
    accelerator = chosen.accelerator
    division = divide_host(
        base, chosen.config, chosen.dtype, accelerator is not None, free=free or free_memory()
    )
    config = division.settle(chosen.config)
    split = None if accelerator is None else accelerator.divide(base, chosen.dtype, config)
    num_pages = max(1, config.kv_tokens // config.page_tokens) if split is None else split.num_pages
    return _Plan(
        accelerator,
        config,
        chosen.dtype,
        division,
        split,
        num_pages=num_pages,
        context=min(base.context, num_pages * config.page_tokens),
    )


@torch.inference_mode()
def _make_decoder(weights: Weights, plan: _Plan) -> Decoder:
    config = plan.config
    decoder = Decoder(
        weights,
        plan.dtype.dtype,
        plan.context,
        config.kernels,
        threads=config.threads,
        stored=plan.dtype.stored,
        accelerator=plan.accelerator,
    )
    torch.set_num_threads(config.threads if decoder.wants_torch_threads else 1)
    return decoder


@torch.inference_mode()
def _make_cache(decoder: Decoder, plan: _Plan) -> KvCache:
    page_tokens = plan.config.page_tokens
    try:
        pool = decoder.make_pool(1 + plan.num_pages, page_tokens)
        return KvCache(pool, page_tokens, plan.accelerator is not None)
    except OutOfDeviceMemory as error:
        raise ModelError(
            f"no memory for keys and values of {plan.num_pages * page_tokens} tokens: {error};"
            " choose fewer --kv-tokens"
        ) from error


def _make_loader(
    weights: Weights, plan: _Plan, load: Load | None, on_done: Callable[[Done], None]
) -> tuple[AdapterLoader, Recall]:
    """What reads adapters, on a thread of its own, and what gives those back that were read before
    and need not be waited for.
    """

    def parse(sources: Sources) -> PackedAdapter:
        with torch.inference_mode():
            return load_sources(
                sources, weights, plan.dtype.dtype, room_bytes=plan.division.reading_bytes
            )

    accelerator = plan.accelerator
    spill = Spill(parse, cache_folder(), plan.config.spill_bytes, lies_in_memory)
    loads = load or (spill.load if accelerator is None else accelerator.pinning(spill.load))
    # beside a device the loader's thread holds nobody up
    recalls = load is None and accelerator is None
    return (
        AdapterLoader(loads, on_done, plan.division.untaken_bytes),
        spill.recall if recalls else _recall_nothing,
    )


def _recall_nothing(_sources: Sources, _max_bytes: int) -> None:
    return None


def _make_slots(
    base: ModelConfig, plan: _Plan, on_done: Callable[[Done], None]
) -> tuple[SlotTable, Bank, Callable[[], None]]:
    """Slots, their memory, and what ends the threads of it."""
    config = plan.config
    split = plan.split
    if plan.accelerator is None or split is None:
        return SlotTable(config.max_adapters, Arena(config.slot_bytes)), SlotBank(), lambda: None
    bank = plan.accelerator.make_bank(base, split, on_done)
    return SlotTable(split.num_slots, Arena(split.adapter_bytes)), bank, bank.close


def _budget_of(config: EngineConfig, window: int | None) -> Budget:
    return Budget(
        step_tokens=config.step_tokens,
        max_running=config.max_running,
        page_tokens=config.page_tokens,
        age_bound_s=config.age_bound_s,
        draft_tokens=config.draft_tokens,
        prompt_step_tokens=config.prompt_step_tokens,
        beside_tokens=config.beside_tokens,
        seat_steps=config.seat_steps,
        window=window,
    )


def _greet(weights: Weights, plan: _Plan, kernels: str, load_ms: float) -> Ready:
    return Ready(
        base=weights.base_id,
        dtype=name_format(plan.dtype, kernels),
        vocab_size=weights.config.vocab_size,
        max_context_tokens=plan.context,
        kv_pages=plan.num_pages,
        page_tokens=plan.config.page_tokens,
        threads=plan.config.threads,
        load_ms=load_ms,
    )


def _describe(plan: _Plan, warmed: str) -> tuple[str, ...]:
    if plan.split is None:
        return (describe_division(plan.division),)
    return describe_split(plan.split, plan.config.page_tokens), warmed


def name_format(choice: Choice, kernels: str) -> str:
    """Name the number format as receipts carry it, and before it who computes; `kernels` as an
    executor calls itself.

    Sums are rounded in another order, or products to other widths, by another instruction set: an
    honest answer of one misses in a replay by another, and agrees to the bit in one by the same.
    Where 4 bits are multiplied by activations rounded to 8 bits out of float32, "-f32" follows.
    """
    first, _, rest = kernels.replace(",", "").partition(" ")
    who = rest.partition(" ")[0] if first == "native" else first
    wide = "-f32" if choice.stored is Stored.Q4 and choice.dtype is not torch.bfloat16 else ""
    return f"{short_name(who)}/{choice.name}{wide}"


def short_name(kernels: str) -> str:
    """Return what kernels are called in a receipt, where a format's name and theirs have 16
    bytes.
    """
    return "vnni" if kernels == "avx512_bf16" else kernels
