"""`scripts/fuzz`: spoils every message that peers send, for as long as it is told to: half of the
time for the decoders alone, half over real streams to real daemons.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import trio

from .live import Broken, attack, open_target
from .run import Fuzzer, keep


def main() -> int:
    """Try; keep what is found; return 1 if anything is."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="gives the same inputs again")
    arguments = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    num_found = trio.run(fuzz_decoders, 30 * arguments.minutes, seed)
    num_found += trio.run(fuzz_daemons, 30 * arguments.minutes, seed)
    return 1 if num_found else 0


async def fuzz_decoders(seconds: float, seed: int) -> int:
    """Spoil messages for the decoders; return how many findings were kept."""
    fuzzer = Fuzzer(seed)
    found = await fuzzer.run(seconds)
    for finding in found:
        print(f"{keep(finding)}: {finding}", flush=True)
    print(f"decoders: {sum(fuzzer.num_tried.values())} inputs, {len(found)} findings", flush=True)
    return len(found)


async def fuzz_daemons(seconds: float, seed: int) -> int:
    """Speak to a volunteer, an aggregator and a witness; return 1 if one of them broke."""
    folder = Path(tempfile.mkdtemp(prefix="lorikeet-fuzz-"))
    async with open_target(folder, with_chain=True) as target:
        try:
            num = await attack(target, seconds, seed)
        except Broken as error:
            print(f"daemons: {error}; their log: {folder}/target.log", flush=True)
            return 1
    print(f"daemons: {dict(num)}, nothing found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
