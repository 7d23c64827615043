"""The slots' memory on a device: one room for all blobs, and the table by which kernels find them.

Copies run on a thread and a stream of their own.

    load ──▶ copier: blob, ends and the slot's entries into the room, in the order of loads ──▶
    event ──▶ done(CopyDone)

An adapter that leaves while its copy is under way does no harm: the bytes go where nobody looks, a
later copy into the same place comes later on the same stream, and the host's blob is kept until its
copy is over.
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


@dataclass(frozen=True)
class _Job:
    """One placement's copies. `packed` is only kept: its memory is being read."""

    generation: int
    pairs: Pairs
    packed: PackedAdapter


class DeviceBank:
    """`load` begins a copy; `entries` is what kernels read, [num_slots, parts, 5] int64 on the
    device, as lora/bank.address_table gives it.
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
        # copies go beside the computing, and must not overtake the zeros, or whoever had this
        # memory before
        device.mark().wait()
        self._copier = Copier(device, done)

    def size_of(self, packed: PackedAdapter) -> int:
        """See lora/bank.Bank."""
        ends = () if packed.ends is None else packed.ends.tensors()
        return rounded(packed.layout.size_bytes) + sum(
            rounded(each.nbytes) for each in ends if each is not None
        )

    def load(self, slot: int, generation: int, packed: PackedAdapter, offset: int = 0) -> bool:
        """See lora/bank.Bank. The end of the copy is announced by its generation."""
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
            max((_rank(placed) for placed in packed.layout.parts), default=0), ends
        )
        self._copier.submit(_Job(generation, pairs, packed))
        return False

    def clear(self, slot: int) -> None:
        """See lora/bank.Bank."""
        self._slots.pop(slot, None)

    def layout_number(self, slot: int) -> int:
        """See lora/bank.Bank. Kernels take any layouts side by side."""
        return 0

    def ends(self, slot: int) -> Ends | None:
        """See lora/bank.Bank."""
        return self._slots[slot].ends

    def rank(self, slot: int) -> int:
        """The largest rank among the parts of the slot's adapter."""
        return self._slots[slot].rank

    def close(self) -> None:
        """End after the copies that were begun."""
        self._copier.close()


def _rank(placed: Placed) -> int:
    """At least 1 where there is anything to do."""
    return max(placed.rank, int(placed.gain_at is not None or placed.shift_at is not None))


class Copier:
    """One thread that begins copies and waits for each; `done` is called on that thread."""

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

    # the room may be a tensor of that mode, which refuses to be written in another
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
            del job  # while this thread waits for the next one, it must not keep the bank's memory
