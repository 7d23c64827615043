"""Keeps packed adapters on disk, so that one that left host memory comes back as one read instead
of a parse: 0.4 ms for 2.5 MB, not 14.

One file without a name: it takes its space with it when the engine ends, however it ends. Nothing
in it is trusted longer than the files it came from stay as they are (path, inode, size, time of
change).

`load` runs on the loader's thread and may wait for a disk. `recall` runs on the engine's, between
two steps, and waits for nothing: it gives what the system still has in its page cache. A third
thread beside the executor's costs a step six times what it takes itself. Decides no eviction.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..model.weights import Identity, identify
from .layout import ROOM_BYTES, Layout, Loaded, PackedAdapter, on_own_pages
from .loader import Sources

Signature = tuple[tuple[Path, Identity, Path, Identity, float], ...]
ROOMS_BYTES = 16 << 20
"""Kept of what recalled adapters have left behind."""


@dataclass(frozen=True)
class _Place:
    offset: int
    layout: Layout
    rank: int
    digest: bytes

    def lay_out(self, memory: torch.Tensor) -> PackedAdapter:
        """Lay the adapter out in memory that has room for it, before its bytes are read."""
        return PackedAdapter(self.layout, on_own_pages(memory), self.rank)


class _Rooms:
    """Memory of recalled adapters, kept for the next ones.

    New pages cost 1 to 7 ms for 2.5 MB, the reading a quarter of one.
    """

    def __init__(self) -> None:
        self._left: dict[int, torch.Tensor] = {}  # by address, the oldest first
        self._left_bytes = 0

    def take(self, size_bytes: int) -> torch.Tensor:
        """Return memory for a blob of that size, [size_bytes + ROOM_BYTES] uint8."""
        for address, memory in list(
            self._left.items()
        ):  # a list: collecting garbage may bring one back meanwhile
            if len(memory) == size_bytes + ROOM_BYTES:
                del self._left[address]
                self._left_bytes -= len(memory)
                return memory
        return _new_memory(size_bytes)

    def lend(self, memory: torch.Tensor, packed: PackedAdapter) -> None:
        """Lend `memory` to `packed`, which lies in it, and take it back when nobody holds `packed`
        any more.
        """
        weakref.finalize(packed, self._keep, memory).atexit = False

    def _keep(self, memory: torch.Tensor) -> None:
        self._left[memory.data_ptr()] = memory
        self._left_bytes += len(memory)
        while self._left_bytes > ROOMS_BYTES:
            self._left_bytes -= len(self._left.pop(next(iter(self._left))))


class Spill:
    """A loader of adapters that remembers up to `budget_bytes` of what `load` gave, nothing where
    files are memory.

    `load` is for one thread, `recall` for another.
    """

    def __init__(
        self,
        load: Callable[[Sources], PackedAdapter],
        folder: Path,
        budget_bytes: int,
        lies_in_memory: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        self._file, name = _open(folder)
        self._load, self._budget_bytes = load, 0 if lies_in_memory(Path(name)) else budget_bytes
        os.unlink(name)
        weakref.finalize(self, os.close, self._file)
        self._changing = threading.Lock()  # of the places and of what lies there
        self._places: dict[Signature, _Place] = {}
        self._layouts: dict[Layout, Layout] = {}
        self._end = 0
        self._rooms = _Rooms()

    def load(self, sources: Sources) -> Loaded:
        """Return the packed adapter of these files; raises what the loader raises."""
        signature = _signature(sources)
        place = self._places.get(signature)
        if place is not None:
            packed = place.lay_out(_new_memory(place.layout.size_bytes))
            count = self._read(place, packed)
            if count != place.layout.size_bytes:
                raise OSError(f"the spill file gave {count} bytes of {place.layout.size_bytes}")
            return Loaded(packed, place.digest)
        packed = self._load(sources)
        loaded = Loaded(packed, packed.digest())
        if packed.ends is None and packed.layout.size_bytes <= self._budget_bytes:
            return self._remember(signature, loaded)
        return loaded

    def recall(self, sources: Sources, max_bytes: int) -> Loaded | None:
        """Return what `load` would give, or None where that would have to wait.

        It must be at most `max_bytes`, in the page cache, and not held by the other thread.
        """
        if not self._changing.acquire(blocking=False):
            return None
        try:
            place = self._places.get(_signature(sources))
            if place is None or place.layout.size_bytes > max_bytes:
                return None
            memory = self._rooms.take(place.layout.size_bytes)
            packed = place.lay_out(memory)
            self._rooms.lend(memory, packed)
            return (
                Loaded(packed, place.digest)
                if self._read(place, packed, os.RWF_NOWAIT) == place.layout.size_bytes
                else None
            )
        # not in the page cache, files that have gone, a file system that always waits: `load` will
        # see to it
        except OSError:
            return None
        finally:
            self._changing.release()

    def _read(self, place: _Place, packed: PackedAdapter, flags: int = 0) -> int:
        """Read the bytes of a place; return how many came."""
        return os.preadv(self._file, [packed.blob.numpy().data], place.offset, flags)

    def _remember(self, signature: Signature, loaded: Loaded) -> Loaded:
        """Remember an adapter and return it; all of one layout share it, since its parts are
        hundreds of objects.
        """
        packed = loaded.packed
        with self._changing:
            if self._end + packed.layout.size_bytes > self._budget_bytes:
                self._places.clear()  # full: begin again rather than keep books of holes
                self._layouts.clear()
                self._end = 0
            try:
                written = os.pwrite(self._file, packed.blob.numpy().data, self._end)
            except OSError:
                written = 0
            if written < packed.layout.size_bytes:
                return loaded  # a full disk costs speed, not the adapter
            layout = self._layouts.setdefault(packed.layout, packed.layout)
            self._places[signature] = _Place(self._end, layout, packed.rank, loaded.digest)
            self._end += layout.size_bytes
        return Loaded(replace(packed, layout=layout), loaded.digest)


def _new_memory(size_bytes: int) -> torch.Tensor:
    return torch.empty(size_bytes + ROOM_BYTES, dtype=torch.uint8)


def _open(folder: Path) -> tuple[int, str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.mkstemp(dir=folder)
    except OSError:  # a read-only home: the system's place for such files will do
        return tempfile.mkstemp()


def _signature(sources: Sources) -> Signature:
    return tuple(
        (
            one.config_path,
            identify(one.config_path),
            one.weights_path,
            identify(one.weights_path),
            one.weight,
        )
        for one in sources
    )
