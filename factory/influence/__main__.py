"""`python -m factory.influence RUN`: work on a run until it is whole or time is over.

Exit status: 0 all is there; 2 the folder or the computation is not as it must be; 3 time ended
before all was there, start again to go on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import msgspec

from ..errors import FactoryError
from ..keeping import held, keep
from .errors import TooEarly
from .folder import read_run

UNFINISHED = 3
WRONG = 2


def main() -> int:
    """Read the command line, work, and print what was found."""
    asked = _arguments()
    try:
        run = read_run(asked.run)
        with held(asked.run / "lock"):
            # Only now: torch and transformers take seconds, and a wrong folder is told at once.
            import torch

            from .campaign import Campaign
            from .result import conclude

            torch.set_num_threads(asked.threads)
            found = Campaign(run, say, time.monotonic).work(60 * asked.minutes)
            result, _, _ = conclude(run, found)
            keep(run.result, msgspec.json.format(msgspec.json.encode(result), indent=1))
    except TooEarly as error:
        print(f"time is over: {error}", file=sys.stderr)
        return UNFINISHED
    except FactoryError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG
    except OSError as error:
        print(f"{error}; what was finished is kept, start again to go on", file=sys.stderr)
        return WRONG
    for person in result.contributors:
        print(
            f"{person.name:30} standing {person.standing_bps / 100:5.1f} %   left out:"
            f" {person.mean_effect:+.2f} nats an answer   owns {person.owned:.0%} of"
            f" {person.tokens} tokens"
        )
    if result.r and result.lambda_eighths is not None:
        lds = f", LDS {_interval(result.lds)}" if result.lds else ""
        fitted = f"λ {result.lambda_eighths}/8, r {_interval(result.r)}{lds}"
        print(f"{fitted}; {result.num_answers} answers")
    if result.note:
        print(result.note)
    print(f"written to {run.result}")
    if result.missing:
        print(f"{len(result.missing)} trainings are missing; start again to go on")
        return UNFINISHED
    return 0


def say(line: str) -> None:
    """Print one line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _interval(figure: object) -> str:
    mean, low, high = (getattr(figure, name) for name in ("mean", "low", "high"))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m factory.influence",
        description="Measure what each contributor's text did to an adapter's answers.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--minutes",
        type=float,
        default=60.0,
        help="begin no training after this many minutes (default: 60)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        choices=range(1, 1 + (os.cpu_count() or 1)),
        metavar="COUNT",
        help="of the processor (default: 1)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
