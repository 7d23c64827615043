"""Packed adapters on disk, so that what left host memory comes back as one read instead of a parse: 1 ms for 2.5 MB, not 14.

One file without a name: it takes its space with it when the engine ends, however it ends. Nothing in it is trusted longer than the files
it came from stay as they are (path, inode, size, time of change).
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..model.weights import Identity, identify
from .layout import ROOM_BYTES, Layout, Loaded, PackedAdapter, on_own_pages

Signature = tuple[tuple[Path, Identity], ...]


@dataclass(frozen=True)
class _Place:
    offset: int
    layout: Layout
    rank: int
    digest: bytes


class Spill:
    """A loader of adapters that remembers up to `budget_bytes` of what `load` gave, nothing where files are memory. Used by one thread."""

    def __init__(
        self,
        load: Callable[[Path, Path], PackedAdapter],
        folder: Path,
        budget_bytes: int,
        lies_in_memory: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        self._file, name = _open(folder)
        self._load, self._budget_bytes = load, 0 if lies_in_memory(Path(name)) else budget_bytes
        os.unlink(name)
        weakref.finalize(self, os.close, self._file)
        self._places: dict[Signature, _Place] = {}
        self._end = 0

    def load(self, config_path: Path, weights_path: Path) -> Loaded:
        """The packed adapter of these files; raises what the loader raises."""
        signature = (_signature(config_path), _signature(weights_path))
        place = self._places.get(signature)
        if place is not None:
            return Loaded(PackedAdapter(place.layout, self._read(place), place.rank), place.digest)
        packed = self._load(config_path, weights_path)
        loaded = Loaded(packed, packed.digest())
        if packed.ends is None and packed.layout.size_bytes <= self._budget_bytes:
            self._write(signature, loaded)
        return loaded

    def _read(self, place: _Place) -> torch.Tensor:
        blob = on_own_pages(torch.empty(place.layout.size_bytes + ROOM_BYTES, dtype=torch.uint8))
        count = os.preadv(self._file, [blob.numpy().data], place.offset)
        if count != len(blob):
            raise OSError(f"the spill file gave {count} bytes of {len(blob)}")
        return blob

    def _write(self, signature: Signature, loaded: Loaded) -> None:
        packed = loaded.packed
        if self._end + packed.layout.size_bytes > self._budget_bytes:
            self._places.clear()  # full: begin again rather than keep books of holes
            self._end = 0
        try:
            written = os.pwrite(self._file, packed.blob.numpy().data, self._end)
        except OSError:
            written = 0
        if written < packed.layout.size_bytes:
            return  # a full disk costs speed, not the adapter
        self._places[signature] = _Place(self._end, packed.layout, packed.rank, loaded.digest)
        self._end += packed.layout.size_bytes


def _open(folder: Path) -> tuple[int, str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.mkstemp(dir=folder)
    except OSError:  # a read-only home: the system's place for such files will do
        return tempfile.mkstemp()


def _signature(path: Path) -> tuple[Path, Identity]:
    return path, identify(path)
