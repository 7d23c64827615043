"""Builds an engine from its configuration: the only place that constructs the parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from .choose import choose_machine
from .config import Choice, EngineConfig
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
from .lora.adapter import load_adapter
from .lora.arena import Arena
from .lora.bank import Bank, CopyDone, SlotBank
from .lora.held import HeldAdapters
from .lora.host_cache import HostCache
from .lora.layout import PackedAdapter
from .lora.loader import AdapterLoader, Load, LoadDone
from .lora.slots import SlotTable
from .lora.spill import Spill
from .memory import Free, free_memory, lies_in_memory
from .messages import Ready
from .model.weights import Weights, open_weights
from .runner import Runner
from .scheduler import Budget, Scheduler

if TYPE_CHECKING:
    from .cuda.accelerator import Accelerator
    from .cuda.memory import Split

Done = LoadDone | CopyDone | GrammarDone | DeviceLost
"""What other threads tell the engine's."""


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
    """An engine over weights that are open already, on the device that is given or found, in the
    memory that is `free`. Raises ModelError.

    `load` gives adapters where they are no files (a benchmark's); on a device they had better be
    pinned. `free` None: what the system says.
    """
    started = time.perf_counter()
    torch.set_num_threads(config.threads)
    base = weights.config
    chosen = choose_machine(config, base, accelerator)
    accelerator = chosen.accelerator
    config = chosen.config
    choice = chosen.dtype
    division = divide_host(
        base, config, choice, accelerator is not None, free=free or free_memory()
    )
    config = division.settle(config)
    split = None if accelerator is None else accelerator.divide(base, choice.dtype, config)
    num_pages = max(1, config.kv_tokens // config.page_tokens) if split is None else split.num_pages
    context = min(base.context, num_pages * config.page_tokens)
    with torch.inference_mode():
        decoder = Decoder(
            weights,
            choice.dtype,
            context,
            config.kernels,
            threads=config.threads,
            weights_int8=choice.weights_int8,
            accelerator=accelerator,
        )
        torch.set_num_threads(config.threads if decoder.wants_torch_threads else 1)
        cache = _make_cache(decoder, num_pages, config.page_tokens, accelerator is not None)

    def parse(config_path: Path, weights_path: Path) -> PackedAdapter:
        with torch.inference_mode():
            return load_adapter(
                config_path, weights_path, weights, choice.dtype, room_bytes=division.reading_bytes
            )

    spill = Spill(parse, cache_folder(), config.spill_bytes, lies_in_memory)
    loader = AdapterLoader(
        load or (spill.load if accelerator is None else accelerator.pinning(spill.load)),
        on_done,
        division.untaken_bytes,
    )
    slots, bank, end_bank = _make_slots(config, weights, accelerator, split, on_done=on_done)
    pages = PrefixCache(PagePool(num_pages))
    recall = (
        spill.recall if load is None and accelerator is None else _recall_nothing
    )  # beside a device the loader's thread holds nobody up
    adapters = HeldAdapters(slots, bank, HostCache(config.host_cache_bytes), loader.submit, recall)
    budget = Budget(
        step_tokens=config.step_tokens,
        max_running=config.max_running,
        page_tokens=config.page_tokens,
        age_bound_s=config.age_bound_s,
        draft_tokens=config.draft_tokens,
        prompt_step_tokens=config.prompt_step_tokens,
        beside_tokens=config.beside_tokens,
        seat_steps=config.seat_steps,
    )
    scheduler = Scheduler(budget, pages, adapters)
    grammars = Grammars(base.vocab_size, on_done)
    engine = Engine(
        Limits.of(config, base.vocab_size, context),
        scheduler,
        Runner(decoder, cache, slots, bank),
        adapters,
        pages=pages,
        grammars=grammars,
    )
    with torch.inference_mode():
        warmed = decoder.warm_up(cache.pool, bank)
    ready = Ready(
        base=weights.base_id,
        dtype=choice.name,
        vocab_size=base.vocab_size,
        max_context_tokens=context,
        kv_pages=num_pages,
        page_tokens=config.page_tokens,
        threads=config.threads,
        load_ms=(time.perf_counter() - started) * 1e3,
    )
    notes = (
        (describe_division(division),)
        if split is None
        else (describe_split(split, config.page_tokens), warmed)
    )
    return Built(
        engine,
        ready,
        loader,
        grammars,
        dtype=choice,
        kernels=decoder.name,
        ends=(loader.close, grammars.close, end_bank, decoder.close),
        notes=notes,
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


def _make_cache(decoder: Decoder, num_pages: int, page_tokens: int, masked: bool) -> KvCache:
    try:
        return KvCache(decoder.make_pool(1 + num_pages, page_tokens), page_tokens, masked)
    except OutOfDeviceMemory as error:
        raise ModelError(
            f"no memory for keys and values of {num_pages * page_tokens} tokens: {error}; choose"
            " fewer --kv-tokens"
        ) from error


def _recall_nothing(_config_path: Path, _weights_path: Path, _most_bytes: int) -> None:
    return None


def _make_slots(
    config: EngineConfig,
    weights: Weights,
    accelerator: Accelerator | None,
    split: Split | None,
    on_done: Callable[[Done], None],
) -> tuple[SlotTable, Bank, Callable[[], None]]:
    """Slots, their memory, and what ends the threads of it."""
    if accelerator is None or split is None:
        return SlotTable(config.max_adapters, Arena(config.slot_bytes)), SlotBank(), lambda: None
    bank = accelerator.make_bank(weights.config, split, on_done)
    return SlotTable(split.num_slots, Arena(split.adapter_bytes)), bank, bank.close
