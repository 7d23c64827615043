"""Gives spoilt messages to every decoder and sees that each is read or refused by its own errors,
in little time and memory.

A finding holds the bytes; `keep` writes it down as a vector that the suite tries for ever after.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import random
import sys
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proofs.chain.depth import MAX_DEPTH

from .decoders import DECODERS, Decoder
from .mutate import spoil

MAX_READ_S = 1.5  # of CPU time, for a mebibyte: 260,000 empty frames take 0.3 s where it is quiet
MAX_READ_BYTES = 8 << 20
BYTES_FOR_BYTE = 64  # what a decoder may allocate for each byte that it reads
TRACED = 16  # of so many inputs the memory of one is measured, which takes much longer
KEPT = Path(__file__).parent / "kept"


@dataclass(frozen=True)
class Finding:
    """An input on which a decoder did what it must not."""

    decoder: str
    data: bytes
    seed: int
    what: str

    def __str__(self) -> str:
        shown = self.data[:80].hex() + ("…" if len(self.data) > 80 else "")
        return f"{self.decoder} (seed {self.seed}): {self.what}; {len(self.data)} bytes: {shown}"


async def try_input(
    decoder: Decoder, data: bytes, seed: int, *, is_traced: bool = True
) -> Finding | None:
    """Have a decoder read one input; None when it behaved."""
    if is_traced:
        tracemalloc.start()
    began = time.thread_time()
    what = await _misbehaves(decoder, data)
    took_s = time.thread_time() - began
    peak = 0
    if is_traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    elif took_s > MAX_READ_S and what is None:
        took_s = min([took_s, *[await _time(decoder, data) for _ in range(2)]])  # else it was gc
        if took_s > MAX_READ_S:
            what = f"it took {took_s:.2f} s"
    if peak > MAX_READ_BYTES + BYTES_FOR_BYTE * len(data):
        what = what or f"it took {peak >> 20} MiB of memory"
    return None if what is None else Finding(decoder.name, data, seed, what)


async def _time(decoder: Decoder, data: bytes) -> float:
    began = time.thread_time()
    await _misbehaves(decoder, data)
    return time.thread_time() - began


async def _misbehaves(decoder: Decoder, data: bytes) -> str | None:
    try:
        value = decoder.read(data)
        if inspect.isawaitable(value):
            value = await value
    except decoder.errors:
        return None
    except Exception as error:  # whatever it is, it is a finding
        return f"it raised {type(error).__name__}: {str(error)[:200]}"
    if decoder.write is not None and decoder.write(value) != data:
        return "it was read, and is written in other bytes"
    return None


class Fuzzer:
    """Spoils and tries, decoder after decoder, until told to stop. A seed gives the same inputs."""

    def __init__(self, seed: int, decoders: Sequence[Decoder] = DECODERS) -> None:
        self.num_tried: Counter[str] = Counter()
        self.num_read: Counter[str] = Counter()  # those that were no error: the rest says little
        self._rng = random.Random(seed)
        self._seeds = {decoder.name: decoder.valid() for decoder in decoders}
        self._decoders = list(decoders)

    async def run(self, seconds: float) -> list[Finding]:
        """Try for so long; return at most one finding of each decoder and kind."""
        sys.setrecursionlimit(MAX_DEPTH)  # as in a daemon: what tests import may have raised it
        until = time.monotonic() + seconds
        found: dict[tuple[str, str], Finding] = {}
        while time.monotonic() < until:
            for decoder in self._decoders:
                for finding in [await self._round(decoder)]:
                    if finding is not None:
                        found.setdefault((decoder.name, finding.what[:40]), finding)
        return list(found.values())

    async def _round(self, decoder: Decoder) -> Finding | None:
        """Try some inputs, each of a seed of its own."""
        for number in range(TRACED):
            seed = self._rng.getrandbits(48)
            data = spoil(random.Random(seed), self._seeds[decoder.name], decoder.form)
            self.num_tried[decoder.name] += 1
            finding = await try_input(decoder, data, seed, is_traced=number == 0)
            if finding is not None:
                return finding
        return None


def keep(finding: Finding, folder: Path = KEPT) -> Path:
    """Write a finding down as a vector for the suite; return where."""
    digest = hashlib.sha256(finding.decoder.encode() + finding.data).hexdigest()[:12]
    path = folder / f"{digest}.json"
    held = {
        "decoder": finding.decoder,
        "what": finding.what,
        "seed": finding.seed,
        "zlib": base64.b64encode(zlib.compress(finding.data, 9)).decode(),
    }
    path.write_text(json.dumps(held, indent=1) + "\n")
    return path


def kept(folder: Path = KEPT) -> Iterator[Finding]:
    """Read the vectors."""
    for path in sorted(folder.glob("*.json")):
        held = json.loads(path.read_text())
        data = zlib.decompress(base64.b64decode(held["zlib"]))
        yield Finding(held["decoder"], data, held["seed"], held["what"])
