"""`scripts/fuzz`: spoils every message that peers send, for as long as it is told to."""

from __future__ import annotations

import argparse
import random
import sys

import trio

from .run import Fuzzer, keep


def main() -> int:
    """Try; keep what is found; return 1 if anything is."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="gives the same inputs again")
    arguments = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    fuzzer = Fuzzer(seed)
    found = trio.run(fuzzer.run, 60 * arguments.minutes)
    for finding in found:
        print(f"{keep(finding)}: {finding}", flush=True)
    print(f"{sum(fuzzer.num_tried.values())} inputs, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
