"""The adapters of one engine: files, host memory and slots held together. Runs on the engine's thread; only parsing runs on another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from ..errors import AdapterError, UnknownAdapter
from ..messages import AdapterHeld, AdapterRefused
from .bank import SlotBank
from .host_cache import HostCache
from .layout import PackedAdapter
from .slots import NoFreeSlot, SlotTable, State

Load = Callable[[Path, Path], PackedAdapter]


@dataclass(frozen=True)
class LoadJob:
    """Files to parse; `generation` of the slot they are for, or None when they are only to be held."""

    adapter: bytes
    config_path: Path
    weights_path: Path
    generation: int | None


@dataclass(frozen=True)
class LoadDone:
    """What became of a job."""

    job: LoadJob
    outcome: PackedAdapter | AdapterError
    load_ms: float


class AdapterLoader:
    """One thread that parses and packs; `done` is called on that thread."""

    def __init__(self, load: Load, done: Callable[[LoadDone], None]) -> None:
        self._load, self._done = load, done
        self._jobs: SimpleQueue[LoadJob | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="adapter-loader", daemon=True)
        self._thread.start()

    def submit(self, job: LoadJob) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def close(self) -> None:
        """End after the current job."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            started = time.perf_counter()
            outcome = self._attempt(job)
            self._done(LoadDone(job, outcome, (time.perf_counter() - started) * 1e3))

    def _attempt(self, job: LoadJob) -> PackedAdapter | AdapterError:
        try:
            return self._load(job.config_path, job.weights_path)
        except AdapterError as error:
            return error
        except Exception as error:  # a stranger's file found a bug of ours: this adapter is lost, not the engine
            return AdapterError(f"the adapter could not be read ({type(error).__name__}: {error})")


class Adapters:
    """Hold, pin, unpin, release. `receive` takes finished loads and says what to tell the daemon."""

    def __init__(self, slots: SlotTable, bank: SlotBank, host: HostCache, submit: Callable[[LoadJob], None]) -> None:
        self.slots, self.bank = slots, bank
        self._host, self._submit = host, submit
        self._paths: dict[bytes, tuple[Path, Path]] = {}
        self._arriving: set[bytes] = set()
        self._refusals: dict[bytes, AdapterError] = {}
        self._releasing: set[bytes] = set()

    def hold(self, adapter: bytes, config_path: Path, weights_path: Path) -> AdapterHeld | None:
        """Start to make an adapter servable; the answer comes at once if it is already."""
        self._releasing.discard(adapter)
        self._refusals.pop(adapter, None)
        packed = self._host.find(adapter)
        if packed is not None and self.slots.holds(adapter):
            return AdapterHeld(adapter, packed.size_bytes, packed.rank, 0.0)
        if adapter not in self._arriving:
            self._arriving.add(adapter)
            self._paths[adapter] = config_path, weights_path
            self._submit(LoadJob(adapter, config_path, weights_path, None))
        return None

    def release(self, adapter: bytes) -> None:
        """Forget an adapter, once nobody uses it."""
        self._releasing.add(adapter)
        self._forget_if_idle(adapter)

    def check_known(self, adapter: bytes) -> None:
        """Raise UnknownAdapter unless the adapter is held or on its way."""
        if adapter in self._refusals:
            raise UnknownAdapter(f"adapter {adapter.hex()} was refused: {self._refusals[adapter]}")
        if adapter in self._releasing or not (adapter in self._arriving or self.slots.holds(adapter)):
            raise UnknownAdapter(f"adapter {adapter.hex()} is not held; send HoldAdapter first")

    def try_pin(self, adapter: bytes) -> bool:
        """Pin the adapter if it is held and a slot can be had; its bytes may still be loading (`is_ready`)."""
        if not self.slots.holds(adapter):
            return False
        placement = self.slots.pin(adapter)
        if isinstance(placement, NoFreeSlot):
            return False
        if placement is not None:
            packed = self._host.find(adapter)
            if packed is not None:
                self._place(adapter, placement.generation, packed)
            else:
                self._submit(LoadJob(adapter, *self._paths[adapter], placement.generation))
        return True

    def unpin(self, adapter: bytes) -> None:
        """End a use."""
        self.slots.unpin(adapter)
        self._forget_if_idle(adapter)

    def is_ready(self, adapter: bytes) -> bool:
        """Whether a batch may use the adapter now."""
        return self.slots.holds(adapter) and self.slots.state(adapter) is State.READY

    def receive(self, done: LoadDone) -> AdapterHeld | AdapterRefused | None:
        """Take a finished load. A refused adapter is remembered until it is held again, so that its requests learn why."""
        adapter = done.job.adapter
        if isinstance(done.outcome, AdapterError):
            self._arriving.discard(adapter)
            self._releasing.discard(adapter)
            self._refusals[adapter] = done.outcome
            if len(self._refusals) > 1024:
                del self._refusals[next(iter(self._refusals))]
            return AdapterRefused(adapter, str(done.outcome))
        self._keep(adapter, done.outcome, done.load_ms)
        if self.slots.state(adapter) is State.LOADING:  # whichever job brings the bytes: an adapter is its content
            self._place(adapter, self.slots.generation(adapter), done.outcome)
        if done.job.generation is not None:
            return None
        self._arriving.discard(adapter)
        self._forget_if_idle(adapter)
        return AdapterHeld(adapter, done.outcome.size_bytes, done.outcome.rank, done.load_ms)

    def _keep(self, adapter: bytes, packed: PackedAdapter, load_ms: float) -> None:
        for dropped in self._host.put(adapter, packed):
            self.slots.drop_from_host(dropped)
        self.slots.hold(adapter, in_host=True, reload_cost=load_ms / max(1, packed.size_bytes))

    def _place(self, adapter: bytes, generation: int, packed: PackedAdapter) -> None:
        if self.slots.loaded(adapter, generation):
            self.bank.load(self.slots.slot(adapter), generation, packed)

    def _forget_if_idle(self, adapter: bytes) -> None:
        if adapter in self._releasing and adapter not in self._arriving and self.slots.can_forget(adapter):
            slot = self.slots.forget(adapter)
            if slot is not None:
                self.bank.clear(slot)
            self._host.remove(adapter)
            self._paths.pop(adapter, None)
            self._releasing.discard(adapter)
