"""All that the rest of the engine asks of a device when it is built: whether a model can run there,
its memory's split, its executor and bank.

Decides what a device refuses, and hands the device and its kernels to what works there. Does not
know how memory is best divided (memory.py), nor anything of a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch

from ..config import Choice, EngineConfig, Stored, choose_dtype
from ..errors import DeviceLost, ModelError, OutOfDeviceMemory
from ..lora.bank import CopyDone
from ..lora.layout import Loaded
from ..lora.loader import Load, Sources
from ..model.config import ModelConfig
from ..model.entries import num_entries
from ..model.weights import Weights
from .bank import DeviceBank
from .device import Device, fault_of
from .executor import CudaExecutor
from .kernels import TRITON, Kernels
from .memory import Demand, Split, check_fits, demand_of, divide
from .memory import Load as ExpectedLoad
from .space import PAGE_TOKENS, work_bytes
from .watchdog import STEP_DEADLINE_S

MAX_HEAD_DIM = 256
MAX_HEAD_DIM_FLOAT32 = 128
"""Wider heads need more shared memory than a card has; those of float32 earlier."""


class Accelerator:
    """One device with the kernels that run on it; a step that takes longer than `step_deadline_s`
    ends the process.
    """

    def __init__(
        self, device: Device, kernels: Kernels = TRITON, step_deadline_s: float = STEP_DEADLINE_S
    ) -> None:
        self.device = device
        self._kernels = kernels
        self._step_deadline_s = step_deadline_s

    def why_not(self, config: ModelConfig, dtype: str) -> str | None:
        """Say why a model cannot run here in a number format; None when it can, memory aside."""
        choice = choose_dtype(dtype, frozenset(), self.device.capability)
        most = MAX_HEAD_DIM_FLOAT32 if choice.dtype == torch.float32 else MAX_HEAD_DIM
        if config.experts is not None:
            return "layers with experts are computed on a processor only"
        if config.head_dim % 16 or config.head_dim > most:
            return (
                f"head_dim {config.head_dim} is not a multiple of 16 up to {most}, the most in"
                f" {choice.name} there"
            )
        return None

    def holds(self, base: ModelConfig, choice: Choice, config: EngineConfig) -> bool:
        """Return whether a base fits with what it needs beside it; `config` is settled."""
        try:
            self.divide(base, choice, config)
        except ModelError:
            return False
        return True

    def divide(self, base: ModelConfig, choice: Choice, config: EngineConfig) -> Split:
        """Divide its free memory before the base is loaded; `config` is settled.

        Raises ModelError when the base does not fit.
        """
        memory = self.device.memory()
        demand = self._demand(base, choice, config)
        check_fits(demand, memory.free_bytes, self.device.name)
        num_pages = config.kv_tokens // config.page_tokens if config.kv_tokens else None
        return divide(
            demand,
            memory.free_bytes,
            memory.total_bytes,
            ExpectedLoad(config.max_running),
            num_pages=num_pages,
            num_slots=config.max_adapters or None,
        )

    def used_bytes(self) -> int:
        """Measure what is taken of the device's memory, by whomever."""
        memory = self.device.memory()
        return memory.total_bytes - memory.free_bytes

    def make_executor(
        self, weights: Weights, dtype: torch.dtype, context: int, stored: Stored = Stored.PLAIN
    ) -> CudaExecutor:
        """Load the base. Raises ModelError."""
        return CudaExecutor(
            weights,
            dtype,
            context,
            self.device,
            kernels=self._kernels,
            step_deadline_s=self._step_deadline_s,
            stored=stored,
        )

    def make_bank(
        self, base: ModelConfig, split: Split, done: Callable[[CopyDone | DeviceLost], None]
    ) -> DeviceBank:
        """Make the room for adapters; `done` is called on the copying thread. Raises ModelError."""
        try:
            return DeviceBank(
                self.device, split.adapter_bytes, split.num_slots, num_entries(base), done=done
            )
        except RuntimeError as error:
            if not isinstance(fault_of(error), OutOfDeviceMemory):
                raise
            raise ModelError(
                f"{self.device.name} has no {split.adapter_bytes} bytes for adapters; choose fewer"
                " --kv-tokens or --max-adapters"
            ) from error

    def pinning(self, load: Load) -> Load:
        """Give a loader whose blobs the device copies by itself, as long as they live.

        A blob is pinned once, when it is loaded, however often it is copied. Where memory cannot be
        pinned, copies are only slower.
        """

        def load_pinned(sources: Sources) -> Loaded:
            loaded = load(sources)
            undo = self.device.pin(loaded.packed.blob)
            if undo is not None:
                # not at the process's end: what it had pinned ends with it
                weakref.finalize(loaded.packed, undo).atexit = False
            return loaded

        return load_pinned

    @staticmethod
    def _demand(base: ModelConfig, choice: Choice, config: EngineConfig) -> Demand:
        dtype = choice.dtype
        work = work_bytes(base, dtype, base.context, config.prompt_step_tokens)
        return demand_of(base, dtype.itemsize, PAGE_TOKENS, work, stored=choice.stored)
