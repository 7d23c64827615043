"""Keeps the indexes of adapters: has their texts fetched, sorts each once, opens it, forgets it.

    wanted → files (held here, or fetched) → sorted in another process → mapped into memory

One adapter at a time, each within a deadline; what fails is tried again when it is wanted again, a
while later. Decides how much is kept: so many open, so many on the disk. Knows no answer.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from p2p.cid import Cid
from proofs.errors import StaleIndex, TokensError
from proofs.manifest import File, Manifest
from proofs.origin import BACKGROUND_FILE, TOKENS_FILE

from ..catalogue.origins import CONTRIBUTORS_FILE
from ..errors import NodeError
from ..telemetry import Telemetry
from .texts import BACKGROUND_CACHE, INDEX_CACHE, Texts, attribution_of, open_texts

MAX_OPEN = 16
MAX_ON_DISK = 64
MAX_WANTED = 64
BUILD_DEADLINE_S = 900.0
FETCH_DEADLINE_S = 600.0
RETRY_S = 60.0
BYTES_PER_TOKEN = 4  # at most, in a token file
HEADER_BYTES = 8 << 20  # at most, before its tokens


class Source(Protocol):
    """Where an adapter's token files come from."""

    def find_files(self, cid: Cid, manifest: Manifest) -> Path | None:
        """Return the folder in which all files of a held adapter lie; None for one not held."""

    async def fetch_files(self, cid: Cid, files: list[File], folder: Path) -> None:
        """Have some of its files whole in a folder. Raises NodeError."""


@dataclass(frozen=True)
class Wanted:
    """An adapter whose index somebody needs."""

    cid: Cid
    manifest: Manifest


class Indexes:
    """The indexes of one daemon, in `folder`; none of more than `max_tokens` tokens, 0: none."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        telemetry: Telemetry,
        max_tokens: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._source = source
        self._telemetry = telemetry
        self._max_tokens = max_tokens
        self._clock = clock
        self._open: OrderedDict[Cid, Texts] = OrderedDict()
        self._failed_at: dict[Cid, float] = {}
        self._send, self._wanted = trio.open_memory_channel[Wanted](MAX_WANTED)
        self._asked: set[Cid] = set()

    def find(self, cid: Cid) -> Texts | None:
        """Return an adapter's texts where they are open."""
        found = self._open.get(cid)
        if found is not None:
            self._open.move_to_end(cid)
        return found

    def want(self, cid: Cid, manifest: Manifest) -> None:
        """Have an adapter's texts open soon; does nothing where they are, cannot be, or are under
        way.
        """
        if cid in self._open or cid in self._asked or not self._fits(manifest):
            return
        if self._clock() - self._failed_at.get(cid, -math.inf) < RETRY_S:
            return
        try:
            self._send.send_nowait(Wanted(cid, manifest))
        except trio.WouldBlock:  # others are before it; whoever wants it says so again
            return
        self._asked.add(cid)

    async def run(self) -> None:
        """Bring what is wanted, one after another, until cancelled."""
        async for wanted in self._wanted:
            try:
                await self._bring(wanted)
            except (NodeError, TokensError, StaleIndex, OSError, trio.TooSlowError) as error:
                self._note_failed(wanted, str(error) or "it took too long")
            finally:
                self._asked.discard(wanted.cid)

    def _fits(self, manifest: Manifest) -> bool:
        attribution = attribution_of(manifest)
        most_bytes = HEADER_BYTES + BYTES_PER_TOKEN * self._max_tokens
        sizes = [file.size for file in _text_files(manifest)]
        return bool(self._max_tokens and attribution) and max(sizes, default=0) <= most_bytes

    def _note_failed(self, wanted: Wanted, why: str) -> None:
        self._failed_at[wanted.cid] = self._clock()
        while len(self._failed_at) > MAX_WANTED:
            del self._failed_at[next(iter(self._failed_at))]
        self._telemetry.count("indexes_failed")
        self._telemetry.log(
            f"attributing: {wanted.manifest.name!r} ({wanted.cid}) has no index here: {why}; its"
            " answers are paid by standing weights"
        )

    async def _bring(self, wanted: Wanted) -> None:
        cid, manifest = wanted.cid, wanted.manifest
        caches = self._folder / str(cid)
        files = self._source.find_files(cid, manifest)
        if files is None:
            files = caches
            with trio.fail_after(FETCH_DEADLINE_S):
                await self._source.fetch_files(cid, _text_files(manifest), files)
        open_them = partial(open_texts, manifest, files, caches, self._max_tokens)
        try:
            texts = await trio.to_thread.run_sync(open_them)
        except (StaleIndex, FileNotFoundError):
            await self._build(files, caches)
            texts = await trio.to_thread.run_sync(open_them)
        self._open[cid] = texts
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        await trio.to_thread.run_sync(self._tidy, caches)
        self._telemetry.count("indexes_opened")
        self._telemetry.log(
            f"attributing: {manifest.name!r} ({cid}): {texts.index.tokens.num_tokens} tokens of"
            f" {texts.index.num_contributors} contributors are indexed"
            + (f"; where they were given is not told: {texts.unlisted}" if texts.unlisted else "")
        )

    async def _build(self, files: Path, caches: Path) -> None:
        """Sort both texts in a process of their own. Raises TokensError with what it says."""
        await trio.to_thread.run_sync(partial(caches.mkdir, parents=True, exist_ok=True))
        paths = (
            files / TOKENS_FILE,
            caches / INDEX_CACHE,
            files / BACKGROUND_FILE,
            caches / BACKGROUND_CACHE,
        )
        command = [sys.executable, "-m", "node.attributing", str(self._max_tokens)]
        with trio.fail_after(BUILD_DEADLINE_S):
            ended = await trio.run_process(
                [*command, *map(str, paths)],
                stdin=b"",
                stdout=subprocess.DEVNULL,
                capture_stderr=True,
                check=False,
            )
        if ended.returncode:
            said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
            raise TokensError("index", said or f"its process ended with {ended.returncode}")

    def _tidy(self, used: Path) -> None:
        """Delete what was used longest ago, beyond MAX_ON_DISK. Touches the disk."""
        used.mkdir(parents=True, exist_ok=True)
        used.touch()
        folders = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for folder in folders[: max(len(folders) - MAX_ON_DISK, 0)]:
            shutil.rmtree(folder, ignore_errors=True)


def _text_files(manifest: Manifest) -> list[File]:
    names = (TOKENS_FILE, BACKGROUND_FILE, CONTRIBUTORS_FILE)
    found = (manifest.find_file(name) for name in names)
    return [file for file in found if file is not None]
