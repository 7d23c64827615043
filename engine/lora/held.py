"""Keeps the adapters that the engine holds, from HoldAdapter until ReleaseAdapter.

Decides where the bytes of each one should be next, and tells the daemon what became of it. Runs on
the engine's thread; reading (loader.py) and copying (a device's bank) run on others. Knows no
request, only how many use an adapter.

    files ──loader's thread──▶ host memory ──pin: a slot──▶ the bank: there at once, or announced by
          ──or recalled by this one──▶                      CopyDone when the copy is over
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BadAdapter, UnknownAdapter
from ..messages import AdapterHeld, AdapterRefused, Residency
from .bank import Bank, CopyDone
from .host_cache import HostCache
from .layout import Loaded, PackedAdapter
from .loader import LoadDone, LoadJob, Sources
from .slots import NoFreeSlot, Placement, SlotTable, State
from .worth import reload_cost

Recall = Callable[[Sources, int], Loaded | None]
"""Gives an adapter of at most so many bytes, if it can be had without waiting."""

MAX_REFUSALS = 1024
RECALL_BYTES = 8 << 20
"""That are recalled between two steps, at some 8 GB/s: a millisecond of everybody's time."""


@dataclass(frozen=True)
class Read:
    """What an adapter was read from, and the digest of what came out: the same name may come to
    mean other weights.
    """

    sources: Sources
    digest: bytes


@dataclass(slots=True, eq=False)
class Held:
    """One adapter, from the first that is heard of it until nothing of it is worth remembering.

    read: what its bytes came from, once they have come. job: what it waits for; `announces`: the
    daemon waits for the outcome as well. uses: the requests that need it. refusal: why the engine
    does not serve it. releasing: it is forgotten once nobody needs it.
    """

    read: Read | None = None
    job: LoadJob | None = None
    announces: bool = False
    uses: int = 0
    refusal: BadAdapter | None = None
    releasing: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it and nothing is on its way."""
        return self.uses == 0 and self.job is None

    def has_changed(self, loaded: Loaded) -> bool:
        """Whether these are other weights than were read before."""
        return self.read is not None and self.read.digest != loaded.digest

    def next_job(self, adapter: bytes) -> LoadJob | None:
        """Give the job that reads it again; None where it has never been read."""
        read = self.read
        return None if read is None else LoadJob(adapter, read.sources)


class HeldAdapters:
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
        self._held: dict[bytes, Held] = {}
        self._refused: dict[bytes, None] = {}  # in the order of their refusals
        # by generation, because an adapter may be placed anew, or forgotten, before a copy is over
        self._copying: dict[int, bytes] = {}

    @property
    def num_copying(self) -> int:
        """Copies whose end was not announced yet."""
        return len(self._copying)

    # --- what the daemon asks ---

    def hold(self, adapter: bytes, sources: Sources) -> AdapterHeld | None:
        """Start to make an adapter servable; the answer comes at once if it is already.

        Other files than before are read anew.
        """
        held = self._held.setdefault(adapter, Held())
        held.releasing = False
        held.refusal = None
        self._refused.pop(adapter, None)
        job = LoadJob(adapter, sources)
        packed = self._host.find(adapter)
        if packed is not None and held.job is None and held.next_job(adapter) == job:
            return AdapterHeld(adapter, packed.size_bytes, packed.rank, 0.0)
        held.announces = True
        self._send_for(held, job)
        return None

    def release(self, adapter: bytes) -> None:
        """Forget an adapter, once nobody uses it."""
        held = self._held.get(adapter)
        if held is not None:
            held.releasing = True
            self._forget_if_idle(adapter, held)

    def receive(self, done: LoadDone) -> AdapterHeld | AdapterRefused | None:
        """Take a finished load; None where the daemon did not ask.

        A refused adapter is remembered until it is held again, so that its requests learn why.
        """
        done.taken()
        adapter = done.job.adapter
        held = self._held.get(adapter)
        if held is None or held.job != done.job:
            return None  # held again from other files while these were read
        announces = held.announces
        held.job = None
        held.announces = False
        if isinstance(done.outcome, BadAdapter):
            return self._refuse(adapter, held, done.outcome)
        if held.has_changed(done.outcome):
            if not announces:
                return self._refuse(
                    adapter,
                    held,
                    BadAdapter("its files are not what they were when it was held; hold it again"),
                )
            if held.uses:
                return AdapterRefused(
                    adapter,
                    "requests are running with other weights of this adapter; hold it again when"
                    " they have ended",
                )
        packed = done.outcome.packed
        if not self.slots.can_ever_place(size_bytes := self.bank.size_of(packed)):
            reason = (
                f"the adapter takes {size_bytes} bytes of a slot's memory, of which"
                f" {self.slots.room_bytes} are kept for all adapters"
            )
            return self._refuse(adapter, held, BadAdapter(reason))
        self._keep(held, done.job, done.outcome, done.load_ms)
        self._forget_if_idle(adapter, held)
        return (
            AdapterHeld(adapter, packed.size_bytes, packed.rank, done.load_ms)
            if announces
            else None
        )

    # --- what requests ask ---

    def check_known(self, adapter: bytes) -> None:
        """Raise UnknownAdapter unless the adapter is held or on its way."""
        held = self._held.get(adapter)
        if held is not None and held.refusal is not None:
            raise UnknownAdapter(f"adapter {adapter.hex()} was refused: {held.refusal}")
        if held is None or held.releasing or (held.job is None and not self.slots.knows(adapter)):
            raise UnknownAdapter(f"adapter {adapter.hex()} is not held; send HoldAdapter first")

    def use(self, adapter: bytes) -> None:
        """A request came that needs the adapter; it is not forgotten before `leave`.

        The caller asked `check_known` first.
        """
        self._held[adapter].uses += 1

    def leave(self, adapter: bytes) -> None:
        """A request that needed the adapter ended."""
        held = self._held[adapter]
        held.uses -= 1
        self._forget_if_idle(adapter, held)

    # --- what the scheduler asks, see AdapterGate ---

    def is_here(self, adapter: bytes) -> bool:
        """Whether its bytes are in memory, or on their way into a slot from there."""
        return self.slots.knows(adapter) and (
            self.slots.state(adapter) in (State.LOADING, State.READY)
            or self._host.find(adapter) is not None
        )

    def prepare(self, adapter: bytes) -> bool:
        """Whether its bytes are in memory, or could be recalled; if not, they are sent for."""
        if self.is_here(adapter):
            return True
        held = self._held.get(adapter)
        job = None if held is None else held.next_job(adapter)
        if held is None or job is None:
            return False
        if held.job is None and self._is_recalled(held, job):
            return True
        self._send_for(held, job)
        return False

    def residency(self, adapter: bytes) -> Residency:
        """Return where its bytes are now."""
        if not self.slots.knows(adapter):
            return "absent"
        if self.slots.state(adapter) in (State.LOADING, State.READY):
            return "slot"
        return "disk" if self._host.find(adapter) is None else "memory"

    def renew_recalls(self) -> None:
        """A step has been scheduled: before the next one RECALL_BYTES may be recalled again."""
        self._recall_bytes = RECALL_BYTES

    def digest(self, adapter: bytes) -> bytes:
        """Of the content of a prepared adapter: other weights under the same name have another."""
        read = self._held[adapter].read
        assert read is not None, "asked for before it was prepared"
        return read.digest

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
        held = self._held.get(adapter)
        if held is not None:
            self._forget_if_idle(adapter, held)

    def is_ready(self, adapter: bytes) -> bool:
        """Whether a batch may use the adapter now."""
        return self.slots.knows(adapter) and self.slots.state(adapter) is State.READY

    def copied(self, done: CopyDone) -> None:
        """Take a finished copy; one whose adapter has left its slot meanwhile changes nothing."""
        self.slots.loaded(self._copying.pop(done.generation), done.generation)

    def check(self) -> None:
        """The slots, the host cache and the records agree."""
        self.slots.check()
        self._host.check()
        assert all(self._held[adapter].refusal is not None for adapter in self._refused), (
            "a refusal is counted that is not remembered"
        )
        for adapter, held in self._held.items():
            assert held.uses >= 0, "a use was ended twice"
            assert (held.refusal is None) == (adapter not in self._refused), (
                "a refusal is remembered that is not counted"
            )
            assert held.uses == 0 or held.job or held.refusal or self.slots.knows(adapter), (
                "a used adapter is unknown"
            )
            assert not (held.releasing and held.is_idle), "a released adapter is kept for nobody"

    # --- how it moves ---

    def _send_for(self, held: Held, job: LoadJob) -> None:
        if held.job != job:
            held.job = job
            self._submit(job)

    def _is_recalled(self, held: Held, job: LoadJob) -> bool:
        started = time.perf_counter()
        loaded = self._recall(job.sources, self._recall_bytes)
        if loaded is None or held.has_changed(loaded):
            return False
        self._recall_bytes -= loaded.packed.size_bytes
        self._keep(held, job, loaded, (time.perf_counter() - started) * 1e3)
        return True

    def _keep(self, held: Held, job: LoadJob, loaded: Loaded, load_ms: float) -> None:
        adapter = job.adapter
        packed = loaded.packed
        has_changed = held.has_changed(loaded)
        held.read = Read(job.sources, loaded.digest)
        for dropped in self._host.put(adapter, packed, load_ms):
            self.slots.drop_from_host(dropped)
        if has_changed and self.slots.knows(adapter):
            # what lies there is other weights; nobody uses them (see receive)
            self._empty(self.slots.evict(adapter))
        self.slots.know(adapter, reload_cost(load_ms, packed.size_bytes), self.bank.size_of(packed))

    def _place(self, placement: Placement, packed: PackedAdapter) -> None:
        if self.bank.load(placement.slot, placement.generation, packed, placement.offset):
            self.slots.loaded(placement.adapter, placement.generation)
        else:
            self._copying[placement.generation] = placement.adapter

    def _refuse(self, adapter: bytes, held: Held, error: BadAdapter) -> AdapterRefused:
        held.refusal = error
        self._refused[adapter] = None
        if len(self._refused) > MAX_REFUSALS:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            self._held[oldest].refusal = None
            self._drop_if_empty(oldest, self._held[oldest])
        held.releasing = True
        self._forget_if_idle(adapter, held)
        return AdapterRefused(adapter, str(error))

    def _forget_if_idle(self, adapter: bytes, held: Held) -> None:
        if not held.releasing or not held.is_idle:
            return
        held.releasing = False
        held.read = None
        self._host.remove(adapter)
        if self.slots.can_forget(adapter):
            self._empty(self.slots.forget(adapter))
        self._drop_if_empty(adapter, held)

    def _drop_if_empty(self, adapter: bytes, held: Held) -> None:
        """Drop a record that says nothing any more; that of a refused adapter says why."""
        if held.refusal is None and held.read is None and held.is_idle:
            del self._held[adapter]

    def _empty(self, slot: int | None) -> None:
        if slot is not None:
            self.bank.clear(slot)
