"""`python -m factory.influence RUN`: work on a run until it is whole or time is over. With `--of
TRAINING` the folder is made out of that training's run first, unless it is made.

Exit status: 0 all is there; 2 the folder or the computation is not as it must be; 3 time ended
before all was there, start again to go on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..errors import FactoryError
from ..keeping import held, keep
from ..measured import ENDED_FILE, LOCK_FILE, PID_FILE, Ended
from .errors import TooEarly
from .folder import read_run

if TYPE_CHECKING:
    from .result import Result

UNFINISHED = 3
WRONG = 2


def main() -> int:
    """Read the command line, work, and print what was found."""
    asked = _arguments()
    if not asked.run.is_dir() and asked.of is None:
        print(f"BadRun: {asked.run} is no folder; a run's folder is needed", file=sys.stderr)
        return WRONG
    try:
        if asked.of is not None:
            asked.run.mkdir(exist_ok=True)
        with held(asked.run / LOCK_FILE):
            (asked.run / PID_FILE).write_text(str(os.getpid()))
            return work_on(asked)
    except FactoryError as error:  # another process holds it
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG


def work_on(asked: argparse.Namespace) -> int:
    """Work on a folder that is held, and keep how that ended."""
    ended = asked.run / ENDED_FILE
    ended.unlink(missing_ok=True)
    try:
        status, why = work(asked)
    except TooEarly as error:
        status, why = UNFINISHED, f"time is over: {error}"
    except FactoryError as error:
        status, why = WRONG, f"{type(error).__name__}: {error}"
    except OSError as error:
        status, why = WRONG, f"{error}; what was finished is kept, start again to go on"
    if why:
        print(why, file=sys.stderr)
    with suppress(OSError):  # a full disk: whoever looks finds no result and the process gone
        keep(ended, msgspec.json.encode(Ended(status, why)))
    return status


def work(asked: argparse.Namespace) -> tuple[int, str]:
    """Make the folder if it is to be made, train, and print what was found; return the exit status,
    and why if it is not 0. Raises FactoryError and OSError.
    """
    if asked.of is not None:
        import torch

        from ..training.folder import read_run as read_training
        from .making import make

        torch.set_num_threads(asked.threads)
        make(read_training(asked.of), asked.run, asked.minutes)
    run = read_run(asked.run)
    # Only now: torch and transformers take seconds, and a wrong folder is told at once.
    import torch

    from .campaign import Campaign
    from .result import conclude

    torch.set_num_threads(asked.threads)
    found = Campaign(run, say, time.monotonic).work(60 * asked.minutes)
    result, _, _ = conclude(run, found)
    keep(run.result, msgspec.json.format(msgspec.json.encode(result), indent=1))
    show(result)
    print(f"written to {run.result}")
    if result.missing:
        return UNFINISHED, f"{len(result.missing)} trainings are missing; start again to go on"
    return 0, ""


def show(result: Result) -> None:
    """Print what was found."""
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
        "--of", type=Path, metavar="TRAINING", help="make the folder out of this training's run"
    )
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
