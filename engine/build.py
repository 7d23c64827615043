"""Builds an engine from its configuration: the only place that constructs the parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch

from .config import Choice, EngineConfig, choose_dtype, cpu_features
from .engine import Engine, Limits
from .executor.library import cache_folder
from .grammar import GrammarDone, Grammars
from .kv.cache import KvCache
from .kv.pages import PagePool
from .kv.prefix import PrefixCache
from .lora.adapter import load_adapter
from .lora.adapters import AdapterLoader, Adapters, Load, LoadDone
from .lora.bank import SlotBank
from .lora.host_cache import HostCache
from .lora.layout import PackedAdapter
from .lora.slots import SlotTable
from .lora.spill import Spill
from .messages import Ready
from .model.decoder import Decoder
from .model.weights import Weights, open_weights
from .runner import Runner
from .scheduler import Budget, Scheduler


@dataclass(frozen=True)
class Built:
    """A ready engine, its greeting, and what was chosen and why."""

    engine: Engine
    ready: Ready
    loader: AdapterLoader
    grammars: Grammars
    dtype: Choice
    kernels: str

    def close(self) -> None:
        """End the engine's threads."""
        self.loader.close()
        self.grammars.close()


def build_engine(config: EngineConfig, on_done: Callable[[LoadDone | GrammarDone], None]) -> Built:
    """Load the base and make an engine. `on_done` is called on the threads that load adapters and compile grammars. Raises ModelError."""
    started = time.perf_counter()
    built = assemble(open_weights(config.base_path), config, on_done)
    return replace(built, ready=msgspec.structs.replace(built.ready, load_ms=(time.perf_counter() - started) * 1e3))


def assemble(weights: Weights, config: EngineConfig, on_done: Callable[[LoadDone | GrammarDone], None], load: Load | None = None) -> Built:
    """An engine over weights that are open already; `load` reads adapters where they are no files (a benchmark's). Raises ModelError."""
    started = time.perf_counter()
    torch.set_num_threads(config.threads)
    choice = choose_dtype(config.dtype, cpu_features())
    base = weights.config
    num_pages = max(1, config.kv_tokens // config.page_tokens)
    context = min(base.context, num_pages * config.page_tokens)
    with torch.inference_mode():
        decoder = Decoder(weights, choice.dtype, context, config.kernels, config.threads, choice.weights_int8)
        cache = KvCache(decoder.make_pool(1 + num_pages, config.page_tokens), config.page_tokens)

    def parse(config_path: Path, weights_path: Path) -> PackedAdapter:
        with torch.inference_mode():
            return load_adapter(config_path, weights_path, weights, choice.dtype)

    loader = AdapterLoader(load or Spill(parse, cache_folder(), config.spill_bytes).load, on_done)
    pages, slots, bank = PrefixCache(PagePool(num_pages)), SlotTable(config.max_adapters), SlotBank()
    adapters = Adapters(slots, bank, HostCache(config.host_cache_bytes), loader.submit)
    budget = Budget(config.step_tokens, config.max_running, config.page_tokens, config.age_bound_s, config.draft_tokens, config.prompt_step_tokens)
    scheduler = Scheduler(budget, pages, adapters)
    grammars = Grammars(base.vocab_size, on_done)
    engine = Engine(Limits.of(config, base.vocab_size, context), scheduler, Runner(decoder, cache, slots, bank), adapters, pages, grammars)
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
    return Built(engine, ready, loader, grammars, choice, decoder.name)
