"""How fast blocks come, and what faults cost: `python -m benchmarks.p2p.blocks [--mb 200]`.

1. One peer, on loopback: verified and on disk, beside py-libp2p's raw stream as it comes, the same
   stream over p2p/transport, and Python's TLS with the same hashing and writing; all sides in turn,
   every round.
2. Four peers that give 20 Mbit/s each beside one; four good ones, as fast as they can, beside two
   with a liar and a staller.
3. A fetch that is killed in the middle (SIGKILL) and begun again.

Every side is a process of its own. Prints and writes one JSON object; figures of one machine and
hour only: compare inside a run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks import write_result
from p2p.blocks import BLOCK_BYTES

SIDES = ("stock", "fast", "blocks", "tls")
CAP_BYTES_PER_S = 20_000_000 // 8
CAPPED_MB = 40


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    figures = {
        "one_peer": compare(arguments.mb, arguments.rounds),
        "capped": compare_capped(),
        "resumed": resume(arguments.mb),
    }
    print(json.dumps(figures, indent=1))
    write_result("p2p-blocks", figures)


def compare(num_mb: int, rounds: int) -> dict[str, object]:
    """Every side in turn; medians, and how often the blocks' rate is each other side's."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with made_file(num_mb) as path, givers([(side, "") for side in SIDES], path) as addresses:
        for number in range(rounds):
            for side, address in zip(SIDES, addresses, strict=True):
                runs[side].append(take(side, [address], path, f"{side}{number}"))
    rates = {side: [run["mb_s"] for run in runs[side]] for side in SIDES}
    return {
        "mb": num_mb,
        "mb_s": {side: round(statistics.median(rates[side]), 1) for side in SIDES},
        "all_mb_s": {side: [round(rate, 1) for rate in rates[side]] for side in SIDES},
        "taker_cpu_ms_per_mb": {
            side: round(statistics.median(run["cpu_ms_per_mb"] for run in runs[side]), 2)
            for side in SIDES
        },
        "blocks_beside": {
            side: round(
                statistics.median(
                    ours / theirs for ours, theirs in zip(rates["blocks"], rates[side], strict=True)
                ),
                2,
            )
            for side in SIDES
        },
    }


def compare_capped() -> dict[str, object]:
    """How much four capped peers bring of four times one, and what a liar and a staller cost."""
    good = ("blocks", str(CAP_BYTES_PER_S))
    casts = {
        "one_capped": [good],
        "four_capped": [good] * 4,
        "four": [("blocks", "")] * 4,
        "two_liar_staller": [("liar", ""), ("staller", ""), ("blocks", ""), ("blocks", "")],
    }
    seconds = {}
    with made_file(CAPPED_MB) as path:
        for name, cast in casts.items():
            with givers(cast, path) as addresses:
                seconds[name] = CAPPED_MB / take("blocks", addresses, path, name)["mb_s"]
    return {
        "mb": CAPPED_MB,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "four_beside_one": round(seconds["one_capped"] / seconds["four_capped"], 2),
        "liar_and_staller_beside_four": round(seconds["two_liar_staller"] / seconds["four"], 2),
    }


def resume(num_mb: int) -> dict[str, object]:
    """Kill a taker when half is there; what the next one fetches beyond what was missing."""
    with made_file(num_mb) as path, givers([("blocks", "100000000")], path) as addresses:
        folder = path.with_name("killed")
        folder.mkdir()
        taker = subprocess.Popen(taking("blocks", addresses, path, folder))
        taken = folder / "taken"
        half = num_mb * 1_000_000 // 2
        while not (taken.exists() and taken.stat().st_blocks * 512 > half):
            time.sleep(0.005)
        taker.send_signal(signal.SIGKILL)
        taker.wait()
        num_written = taken.stat().st_blocks * 512
        report = take("blocks", addresses, path, "killed")
        return {
            "mb": num_mb,
            "mb_on_disk_when_killed": round(num_written / 1e6, 1),
            "mb_fetched_then": round(report["mb_fetched"], 1),
            "share_fetched_again": round(
                max(0.0, report["mb_fetched"] - (num_mb - num_written / 1e6)) / num_mb, 4
            ),
        }


# --- files and processes ---


@contextmanager
def made_file(num_mb: int) -> Iterator[Path]:
    """A random file of whole blocks, with the list of their digests beside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given"
        with path.open("wb") as given, path.with_name("list").open("wb") as digests:
            for _ in range(num_mb * 1_000_000 // BLOCK_BYTES):
                block = os.urandom(BLOCK_BYTES)
                given.write(block)
                digests.write(sha256(block).digest())
        yield path


@contextmanager
def givers(cast: Sequence[tuple[str, str]], path: Path) -> Iterator[list[str]]:
    """Processes that give the file, and their addresses."""
    module = [sys.executable, "-m", "benchmarks.p2p.sides", "give"]
    children = [
        subprocess.Popen(
            [*module, side, str(path), *([rate] if rate else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side, rate in cast
    ]
    try:
        addresses = []
        for child in children:
            assert child.stdout is not None
            addresses.append(child.stdout.readline().strip())
        yield addresses
    finally:
        for child in children:
            child.kill()
            child.wait()


def take(side: str, addresses: Sequence[str], path: Path, name: str) -> dict[str, Any]:
    """One taker's report, from a new process. What it took must be what was given."""
    folder = path.with_name(name)
    folder.mkdir(exist_ok=True)
    done = subprocess.run(taking(side, addresses, path, folder), stdout=subprocess.PIPE, check=True)
    taken = folder / "taken"
    if taken.exists():
        assert sha256(taken.read_bytes()).digest() == sha256(path.read_bytes()).digest()
        taken.unlink()
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def taking(side: str, addresses: Sequence[str], path: Path, folder: Path) -> list[str]:
    """The command of a taker."""
    digests = path.with_name("list")
    module = [sys.executable, "-m", "benchmarks.p2p.sides", "take"]
    return [*module, side, ",".join(addresses), str(digests), str(folder)]


if __name__ == "__main__":
    main()
