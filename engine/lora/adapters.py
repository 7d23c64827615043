"""The adapters of one engine: files, host memory and slots held together.

Runs on the engine's thread; parsing and copying run on others.

files ──loader's thread──▶ host memory ──pin: a slot──▶ the bank: there at once, or announced by
CopyDone when the copy is over
      ──or recalled by this one──▶
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from ..errors import AdapterError, UnknownAdapter
from ..messages import AdapterHeld, AdapterRefused
from .bank import Bank
from .host_cache import HostCache
from .layout import Loaded, PackedAdapter
from .slots import NoFreeSlot, Placement, SlotTable, State

Load = Callable[[Path, Path], Loaded]
Recall = Callable[[Path, Path, int], Loaded | None]
"""Gives an adapter of at most so many bytes, if it can be had without waiting."""

MAX_REFUSALS = 1024
RECALL_BYTES = 8 << 20
"""That are recalled between two steps, at some 8 GB/s: a millisecond of everybody's time."""


@dataclass(frozen=True)
class LoadJob:
    """Files to parse."""

    adapter: bytes
    config_path: Path
    weights_path: Path


@dataclass(frozen=True)
class LoadDone:
    """What became of a job. `taken` is called by whoever keeps the outcome, or lets go of it."""

    job: LoadJob
    outcome: Loaded | AdapterError
    load_ms: float
    taken: Callable[[], None] = field(default=lambda: None, compare=False)


@dataclass(frozen=True)
class CopyDone:
    """The bytes of a placement are in their slot, unless another has taken it meanwhile."""

    generation: int
    copy_ms: float


class AdapterLoader:
    """One thread that parses and packs; `done` is called on that thread.

    It waits while outcomes of `untaken_bytes` are not taken yet.
    """

    def __init__(self, load: Load, done: Callable[[LoadDone], None], untaken_bytes: int) -> None:
        self._load = load
        self._done = done
        self._room_bytes = untaken_bytes
        self._untaken = threading.Condition()
        self._untaken_bytes = 0
        self._is_closing = False
        self._jobs: SimpleQueue[LoadJob | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="adapter-loader", daemon=True)
        self._thread.start()

    def submit(self, job: LoadJob) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def close(self) -> None:
        """End after the jobs that are queued, whose outcomes nobody need take any more."""
        self._jobs.put(None)
        with self._untaken:
            self._is_closing = True
            self._untaken.notify()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._untaken:
                self._untaken.wait_for(
                    lambda: self._untaken_bytes < self._room_bytes or self._is_closing
                )
            started = time.perf_counter()
            outcome = self._attempt(job)
            size_bytes = 0 if isinstance(outcome, AdapterError) else outcome.packed.size_bytes
            self._count(size_bytes)
            self._done(
                LoadDone(
                    job,
                    outcome,
                    (time.perf_counter() - started) * 1e3,
                    partial(self._count, -size_bytes),
                )
            )
            del outcome  # or it would live beside the next one

    def _count(self, size_bytes: int) -> None:
        with self._untaken:
            self._untaken_bytes += size_bytes
            self._untaken.notify()

    def _attempt(self, job: LoadJob) -> Loaded | AdapterError:
        try:
            return self._load(job.config_path, job.weights_path)
        except AdapterError as error:
            return error
        except (
            Exception
        ) as error:  # a stranger's file found a bug of ours: this adapter is lost, not the engine
            return AdapterError(f"the adapter could not be read ({type(error).__name__}: {error})")


class Adapters:
    """Hold, use, pin, release. `receive` takes finished loads and says what to tell the daemon.

    A load goes to host memory first, on the loader's thread, one after the other in the order in
    which they were asked for; only then is a slot taken, so a slow disk keeps nobody's slot busy.
    What `recall` gives at once is not sent for.
    """

    def __init__(
        self,
        slots: SlotTable,
        bank: Bank,
        host: HostCache,
        submit: Callable[[LoadJob], None],
        recall: Recall,
    ) -> None:
        self.slots = slots
        self.bank = bank
        self._host = host
        self._submit = submit
        self._recall = recall
        self._recall_bytes = RECALL_BYTES
        self._paths: dict[bytes, tuple[Path, Path]] = {}
        self._digests: dict[bytes, bytes] = {}
        self._uses: dict[bytes, int] = {}
        self._jobs: dict[bytes, LoadJob] = {}
        self._announced: set[bytes] = set()
        self._refusals: dict[bytes, AdapterError] = {}
        self._releasing: set[bytes] = set()
        self._copying: dict[int, bytes] = {}

    @property
    def num_copying(self) -> int:
        """Copies whose end was not announced yet."""
        return len(self._copying)

    def hold(self, adapter: bytes, config_path: Path, weights_path: Path) -> AdapterHeld | None:
        """Start to make an adapter servable; the answer comes at once if it is already.

        Other files than before are read anew.
        """
        self._releasing.discard(adapter)
        self._refusals.pop(adapter, None)
        packed = self._host.find(adapter)
        if (
            packed is not None
            and adapter not in self._jobs
            and self._paths.get(adapter) == (config_path, weights_path)
        ):
            return AdapterHeld(adapter, packed.size_bytes, packed.rank, 0.0)
        self._announced.add(adapter)
        self._send_for(LoadJob(adapter, config_path, weights_path))
        return None

    def release(self, adapter: bytes) -> None:
        """Forget an adapter, once nobody uses it."""
        self._releasing.add(adapter)
        self._forget_if_idle(adapter)

    def check_known(self, adapter: bytes) -> None:
        """Raise UnknownAdapter unless the adapter is held or on its way."""
        if adapter in self._refusals:
            raise UnknownAdapter(f"adapter {adapter.hex()} was refused: {self._refusals[adapter]}")
        if adapter in self._releasing or not (adapter in self._jobs or self.slots.holds(adapter)):
            raise UnknownAdapter(f"adapter {adapter.hex()} is not held; send HoldAdapter first")

    def use(self, adapter: bytes) -> None:
        """A request came that needs the adapter; it is not forgotten before `leave`."""
        self._uses[adapter] = self._uses.get(adapter, 0) + 1

    def leave(self, adapter: bytes) -> None:
        """A request that needed the adapter ended."""
        self._uses[adapter] -= 1
        if self._uses[adapter] == 0:
            del self._uses[adapter]
            self._forget_if_idle(adapter)

    def is_here(self, adapter: bytes) -> bool:
        """Whether its bytes are in memory, or on their way into a slot from there."""
        return self.slots.holds(adapter) and (
            self.slots.state(adapter) in (State.LOADING, State.READY)
            or self._host.find(adapter) is not None
        )

    def prepare(self, adapter: bytes) -> bool:
        """Whether its bytes are in memory, or could be recalled; if not, they are sent for."""
        if self.is_here(adapter):
            return True
        if adapter not in self._paths:
            return False
        if adapter not in self._jobs and self._is_recalled(adapter):
            return True
        self._send_for(LoadJob(adapter, *self._paths[adapter]))
        return False

    def renew_recalls(self) -> None:
        """A step has been scheduled: before the next one RECALL_BYTES may be recalled again."""
        self._recall_bytes = RECALL_BYTES

    def digest(self, adapter: bytes) -> bytes:
        """Of the content of a prepared adapter: other weights under the same name have another."""
        return self._digests[adapter]

    def try_pin(self, adapter: bytes) -> bool:
        """Pin a prepared adapter into a slot, if one can be had."""
        placement = self.slots.pin(adapter)
        if isinstance(placement, NoFreeSlot):
            return False
        if placement is not None:
            packed = self._host.find(adapter)
            assert packed is not None, "pinned before it was prepared"
            self._host.touch(adapter)
            for slot in placement.emptied:
                self.bank.clear(slot)
            for evicted in placement.evicted:
                if self._host.find(evicted) is None:
                    self.slots.drop_from_host(evicted)
            self._place(placement, packed)
        return True

    def unpin(self, adapter: bytes) -> None:
        """End a pin."""
        self.slots.unpin(adapter)
        self._forget_if_idle(adapter)

    def is_ready(self, adapter: bytes) -> bool:
        """Whether a batch may use the adapter now."""
        return self.slots.holds(adapter) and self.slots.state(adapter) is State.READY

    def receive(self, done: LoadDone) -> AdapterHeld | AdapterRefused | None:
        """Take a finished load.

        A refused adapter is remembered until it is held again, so that its requests learn why.
        """
        done.taken()
        adapter = done.job.adapter
        if self._jobs.get(adapter) != done.job:
            return None  # held again from other files while these were read
        del self._jobs[adapter]
        announced = adapter in self._announced
        self._announced.discard(adapter)
        if isinstance(done.outcome, AdapterError):
            return self._refuse(adapter, done.outcome)
        if self._digests.get(adapter) not in (None, done.outcome.digest):
            if not announced:
                return self._refuse(
                    adapter,
                    AdapterError(
                        "its files are not what they were when it was held; hold it again"
                    ),
                )
            if adapter in self._uses:
                return AdapterRefused(
                    adapter,
                    "requests are running with other weights of this adapter; hold it again when"
                    " they have ended",
                )
        packed = done.outcome.packed
        if not self.slots.can_ever_hold(size_bytes := self.bank.size_of(packed)):
            reason = (
                f"the adapter takes {size_bytes} bytes of a slot's memory, of which"
                f" {self.slots.room_bytes} are kept for all adapters"
            )
            return self._refuse(adapter, AdapterError(reason))
        self._paths[adapter] = done.job.config_path, done.job.weights_path
        self._keep(adapter, done.outcome, done.load_ms)
        self._forget_if_idle(adapter)
        return (
            AdapterHeld(adapter, packed.size_bytes, packed.rank, done.load_ms)
            if announced
            else None
        )

    def copied(self, done: CopyDone) -> None:
        """Take a finished copy; one whose adapter has left its slot meanwhile changes nothing."""
        self.slots.loaded(self._copying.pop(done.generation), done.generation)

    def check(self) -> None:
        """The slots, the host cache and the uses agree."""
        self.slots.check()
        self._host.check()
        assert all(count > 0 for count in self._uses.values()), "a use was ended twice"
        assert all(
            self.slots.holds(adapter) or adapter in self._jobs or adapter in self._refusals
            for adapter in self._uses
        ), "a used adapter is unknown"

    def _is_recalled(self, adapter: bytes) -> bool:
        started = time.perf_counter()
        loaded = self._recall(*self._paths[adapter], self._recall_bytes)
        if loaded is None or loaded.digest != self._digests[adapter]:
            return False
        self._recall_bytes -= loaded.packed.size_bytes
        self._keep(adapter, loaded, (time.perf_counter() - started) * 1e3)
        return True

    def _send_for(self, job: LoadJob) -> None:
        if self._jobs.get(job.adapter) != job:
            self._jobs[job.adapter] = job
            self._submit(job)

    def _refuse(self, adapter: bytes, error: AdapterError) -> AdapterRefused:
        self._refusals[adapter] = error
        if len(self._refusals) > MAX_REFUSALS:
            del self._refusals[next(iter(self._refusals))]
        self._releasing.add(adapter)
        self._forget_if_idle(adapter)
        return AdapterRefused(adapter, str(error))

    def _keep(self, adapter: bytes, loaded: Loaded, load_ms: float) -> None:
        packed = loaded.packed
        digest = loaded.digest
        changed = self._digests.get(adapter) not in (None, digest)
        self._digests[adapter] = digest
        for dropped in self._host.put(adapter, packed, load_ms):
            self.slots.drop_from_host(dropped)
        if changed and self.slots.holds(adapter):
            self._leave_slot(
                self.slots.evict(adapter)
            )  # what lies there is other weights; nobody uses them (see receive)
        self.slots.hold(
            adapter, True, load_ms / max(1, packed.size_bytes), self.bank.size_of(packed)
        )

    def _place(self, placement: Placement, packed: PackedAdapter) -> None:
        if self.bank.load(placement.slot, placement.generation, packed, placement.offset):
            self.slots.loaded(placement.adapter, placement.generation)
        else:
            self._copying[placement.generation] = placement.adapter

    def _leave_slot(self, slot: int | None) -> None:
        if slot is not None:
            self.bank.clear(slot)

    def _forget_if_idle(self, adapter: bytes) -> None:
        if adapter not in self._releasing or adapter in self._jobs or adapter in self._uses:
            return
        self._releasing.discard(adapter)
        self._paths.pop(adapter, None)
        self._digests.pop(adapter, None)
        self._host.remove(adapter)
        if self.slots.can_forget(adapter):
            self._leave_slot(self.slots.forget(adapter))
