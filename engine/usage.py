"""Says what the engine's memory is used for, in bytes: base, adapters, keys and values, work, and
the process itself.

    before the base     process           and what is read later of its libraries
    base is loaded      + base            what loading it left
    room is made        + kv + adapters   on a device at once; on a processor as they are written
    steps run           + work            all that was taken besides: scratch, requests, holes

Measures; decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .kv.cache import KvCache
from .kv.pages import PagePool
from .lora.bank import Bank, SlotBank
from .lora.host_cache import HostCache
from .messages import MemoryUse

STATM = Path("/proc/self/statm")
SMAPS = Path("/proc/self/smaps")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Measure this process's resident memory; 0 where the system does not say."""
    try:
        return int(STATM.read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def library_bytes() -> int:
    """Measure how much of the libraries is resident: they are read as their code is first used,
    which is while the base is loaded, and in as large pieces as the file system likes. 0 where the
    system does not say.
    """
    try:
        lines = SMAPS.read_text().splitlines()
    except (OSError, ValueError):
        return 0
    total = 0
    is_library = False
    for line in lines:
        name, _, rest = line.partition(":")
        if " " in name:  # a mapping's own line: its addresses, rights and file
            is_library = ".so" in line.rpartition("/")[2]
        elif is_library and name == "Rss":
            total += int(rest.split()[0]) * 1024
    return total


class Usage:
    """Measures while an engine is built, in the order of its methods, and says at any time what
    became of it.

    `used` gives the bytes that are taken now: by this process, or of the device.
    """

    def __init__(self, used: Callable[[], int] | None = None) -> None:
        self._is_device = used is not None
        self._used = used or resident_bytes
        self._process_bytes = self._used()
        self._library_bytes = 0 if self._is_device else library_bytes()
        self._base_bytes = 0
        self._kv_bytes: Callable[[], int] = lambda: 0
        self._adapter_bytes: Callable[[], int] = lambda: 0

    def base_loaded(self) -> None:
        """The base is here, and nothing else yet."""
        if not self._is_device:
            self._process_bytes += max(0, library_bytes() - self._library_bytes)
        self._base_bytes = max(0, self._used() - self._process_bytes)

    def room_made(self, cache: KvCache, pages: PagePool, host: HostCache, bank: Bank) -> None:
        """The room for keys and values and for adapters is there."""
        pool_bytes = cache.pool.nbytes
        if isinstance(bank, SlotBank):
            page_bytes = pool_bytes // cache.pool.shape[2]
            self._kv_bytes = lambda: page_bytes * (1 + pages.most_taken)
            self._adapter_bytes = lambda: held_bytes(host, bank)
        else:
            room = self._used() - self._process_bytes - self._base_bytes
            self._kv_bytes = lambda: pool_bytes
            self._adapter_bytes = lambda: max(0, room - pool_bytes)

    def now(self) -> MemoryUse:
        """Say what the memory is used for now."""
        total = self._used()
        kv = self._kv_bytes()
        adapters = self._adapter_bytes()
        known = self._process_bytes + self._base_bytes + kv + adapters
        return MemoryUse(
            place="device" if self._is_device else "processor",
            base_bytes=self._base_bytes,
            adapter_bytes=adapters,
            kv_bytes=kv,
            work_bytes=max(0, total - known),
            process_bytes=self._process_bytes,
            total_bytes=total,
        )


def held_bytes(host: HostCache, bank: SlotBank) -> int:
    """Add up the adapters in host memory and in slots, each once: a slot refers to the blob."""
    return sum({id(one): one.size_bytes for one in (*host.packed(), *bank.packed())}.values())
