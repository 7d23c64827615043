"""Keeps the slots' memory on a device: one region for all blobs, and the table by which kernels
find them.

Copies run on a thread and a stream of their own.

    load ──▶ copier: blob, ends and the slot's entries into the room, in the order of loads ──▶
    event ──▶ done(CopyDone)

An adapter that leaves while its copy is under way does no harm: the bytes land where nobody looks,
a later copy into the same place follows on the same stream, and the host's blob is kept until its
copy is over. Decides neither which adapter gets a slot (slots.py) nor where its bytes lie
(arena.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from ..errors import DeviceLost
from ..lora.arena import rounded
from ..lora.bank import CopyDone, address_table
from ..lora.ends import Ends
from ..lora.layout import PackedAdapter, Placed
from .device import Device, fault_of

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class _Resident:
    """What steps ask about the adapter in a slot."""

    rank: int
    ends: Ends | None
    changes_norms: bool


@dataclass(frozen=True)
class _Job:
    """One placement's copies. `packed` is held only because its memory is being read."""

    generation: int
    pairs: Pairs
    packed: PackedAdapter


class DeviceBank:
    """The bank of a device; `load` begins a copy.

    `entries`, [num_slots, parts, 5] int64 on the device, is what kernels read:
    lora/bank.address_table of each slot's adapter.
    """

    def __init__(
        self,
        device: Device,
        room_bytes: int,
        num_slots: int,
        num_parts: int,
        done: Callable[[CopyDone | DeviceLost], None],
    ) -> None:
        self.entries = torch.zeros(num_slots, num_parts, 5, dtype=torch.int64, device=device.where)
        self._room = torch.empty(room_bytes, dtype=torch.uint8, device=device.where)
        self._slots: dict[int, _Resident] = {}
        # Copies run on a stream of their own: without this wait they could overtake the zeros, or
        # the work of whoever had this memory before.
        device.mark().wait()
        self._copier = Copier(device, done)

    def size_of(self, packed: PackedAdapter) -> int:
        """Return the bytes of the arena that an adapter takes: its blob and its ends, each rounded
        up.
        """
        ends = () if packed.ends is None else packed.ends.tensors()
        return rounded(packed.layout.size_bytes) + sum(
            rounded(each.nbytes) for each in ends if each is not None
        )

    def load(self, slot: int, generation: int, packed: PackedAdapter, offset: int = 0) -> bool:
        """Begin to copy an adapter into a slot, to byte `offset` of the room.

        Always returns False; `done` announces its generation when it has arrived.
        """
        pairs: Pairs = []

        def place(source: torch.Tensor) -> torch.Tensor:
            nonlocal offset
            target = (
                self._room[offset : offset + source.nbytes].view(source.dtype).view(source.shape)
            )
            offset += rounded(source.nbytes)
            pairs.append((source, target))
            return target

        address = place(packed.blob).data_ptr()
        ends = (
            None
            if packed.ends is None
            else Ends(*(None if each is None else place(each) for each in packed.ends.tensors()))
        )
        pairs.append((torch.from_numpy(address_table(packed, address).entries), self.entries[slot]))
        self._slots[slot] = _Resident(
            max((_rank(placed) for placed in packed.layout.parts), default=0),
            ends,
            any(placed.gain_at is not None for placed in packed.layout.norms),
        )
        self._copier.submit(_Job(generation, pairs, packed))
        return False

    def clear(self, slot: int) -> None:
        """Forget who sat in a slot; its bytes stay until they are written over."""
        self._slots.pop(slot, None)

    def layout_number(self, slot: int) -> int:
        """Return 0 for every slot: kernels take any layouts side by side, so there is nothing to
        sort by.
        """
        return 0

    def ends(self, slot: int) -> Ends | None:
        """Return what the slot's adapter changes outside the layers, on the device."""
        return self._slots[slot].ends

    def rank(self, slot: int) -> int:
        """Return the largest rank among the parts of the slot's adapter."""
        return self._slots[slot].rank

    def changes_norms(self, slot: int) -> bool:
        """Return whether the slot's adapter changes a norm."""
        return self._slots[slot].changes_norms

    def close(self) -> None:
        """End the copier after the copies that were begun."""
        self._copier.close()


def _rank(placed: Placed) -> int:
    """Return a part's rank, and at least 1 where it has a gain or a shift."""
    return max(placed.rank, int(placed.gain_at is not None or placed.shift_at is not None))


class Copier:
    """Begins copies on one thread and waits for each there; `done` is called on that thread."""

    def __init__(self, device: Device, done: Callable[[CopyDone | DeviceLost], None]) -> None:
        self._device = device
        self._done = done
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._run, name="adapter-copier", daemon=True).start()

    def submit(self, job: _Job) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def close(self) -> None:
        """End after the jobs that are queued."""
        self._jobs.put(None)

    # the room may be made in inference mode, and such a tensor refuses to be written outside it
    @torch.inference_mode()
    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            started = time.perf_counter()
            try:
                self._device.copy(job.pairs).wait()
            except Exception as error:  # the last word of this thread, whatever ended it
                self._done(
                    DeviceLost(f"an adapter could not be copied: {fault_of(error) or error}")
                )
                return
            self._done(CopyDone(job.generation, (time.perf_counter() - started) * 1e3))
            del job  # or this thread would keep the bank's memory while it waits for the next one
