"""Keeps adapters on this disk by their content: CACHE/CID/{adapter_config.json, …}.

Nothing is there that was not hashed: a folder appears whole, by a rename, and what an earlier
process left is hashed before it is used. Decides which folders make room. Knows no vLLM.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

from .manifest import File, NotTrue, read_manifest
from .node import Node, NodeFailed

MANIFEST_FILE = "manifest"
PART = ".part-"


class NoRoom(Exception):
    """The cache is full of adapters that this vLLM uses."""


class Cache:
    """One folder, of one vLLM: adapters that were used by this process stay while it runs."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._used: set[str] = set()
        self._arriving: dict[str, int] = {}

    def have(self, cid: str, node: Node) -> Path:
        """Return the folder with an adapter, fetched from the node unless it is here, and checked.

        Raises NodeFailed, NotTrue, NoRoom, OSError.
        """
        folder = self._folder / cid
        with self._lock:
            if cid in self._used and folder.is_dir():
                return folder
        if not is_whole(folder, cid):
            self._fetch(cid, node)
        with self._lock:
            self._used.add(cid)
            os.utime(folder)
        return folder

    def is_here(self, cid: str) -> bool:
        """Say whether an adapter lies here, perhaps broken."""
        return (self._folder / cid).is_dir()

    def _fetch(self, cid: str, node: Node) -> None:
        data = node.manifest(cid)
        files = read_manifest(cid, data)
        part = self._folder / f"{PART}{os.getpid()}-{threading.get_ident()}"
        with self._lock:
            self._make_room(sum(file.size for file in files))
            self._arriving[part.name] = sum(file.size for file in files)
        try:
            part.mkdir(parents=True)
            for file in files:
                fetch_file(node, cid, file, part / file.name)
            (part / MANIFEST_FILE).write_bytes(data)
            with self._lock:
                if not (self._folder / cid).is_dir() or not is_whole(self._folder / cid, cid):
                    shutil.rmtree(self._folder / cid, ignore_errors=True)
                    part.rename(self._folder / cid)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            with self._lock:
                self._arriving.pop(part.name, None)

    def _make_room(self, num_bytes: int) -> None:
        """Delete what earlier processes left, the longest unused first, as far as is needed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folders = [path for path in self._folder.iterdir() if path.name not in self._arriving]
        sizes = {path: size_of(path) for path in folders if path.is_dir()}
        total = sum(sizes.values()) + sum(self._arriving.values()) + num_bytes
        for path in sorted(sizes, key=lambda path: path.stat().st_mtime):
            if total <= self._max_bytes:
                return
            if path.name not in self._used:
                shutil.rmtree(path, ignore_errors=True)
                total -= sizes[path]
        if total > self._max_bytes:
            raise NoRoom(
                f"{self._folder} may hold {self._max_bytes} bytes and this vLLM uses what is there;"
                " raise LORIKEET_VLLM_MAX_BYTES, or start vLLM again"
            )


def fetch_file(node: Node, cid: str, file: File, path: Path) -> None:
    """Write a file, each block once its hash is right. Raises NodeFailed, NotTrue, OSError."""
    with node.file(cid, file.name) as answer, path.open("xb") as out:
        for digest, size in file.blocks:
            data = answer.read(size)
            if len(data) < size:
                raise NodeFailed(f"{file.name} of {cid} broke off")
            if hashlib.sha256(data).digest() != digest:
                raise NotTrue(f"the node gave other bytes for {file.name} of {cid}")
            out.write(data)


def is_whole(folder: Path, cid: str) -> bool:
    """Say whether a folder has all of an adapter and nothing else of it. Reads all its bytes."""
    try:
        files = read_manifest(cid, (folder / MANIFEST_FILE).read_bytes())
        return all(_is_file(folder / file.name, file) for file in files)
    except (OSError, NotTrue):
        return False


def _is_file(path: Path, file: File) -> bool:
    with path.open("rb") as opened:
        return all(
            hashlib.sha256(opened.read(size)).digest() == digest for digest, size in file.blocks
        ) and not opened.read(1)


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
