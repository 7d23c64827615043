"""`python -m factory.training RUN`: work on a run until it is done, paused, or cannot go on.

A process of its own: it ends with nobody else. SIGTERM and SIGINT pause it, as `lorikeet train
pause` does. Exit status: 0 the adapter is there; 2 something must be mended first; 3 paused, start
it again to go on. `torchrun --nproc-per-node N -m factory.training RUN` begins N processes of one
training, `python -m factory.training.cluster RUN` those of several machines.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import FactoryError
from ..keeping import held
from .errors import NoRoom, NotInstalled
from .folder import Run, adapter_digest, read_run
from .journal import ASKED_FILE, LOCK_FILE, Asked, Journal, State, Status, asked_of
from .pinned import pin

if TYPE_CHECKING:
    from .trainer import Trainer

PAUSED = 3
NO_MEMORY = re.compile("out of memory|allocate memory")
"""What torch says of a processor's memory and a device's, as a RuntimeError."""
WRONG = 2
M_TRIM_THRESHOLD = -1  # numbers of glibc's malloc.h
M_MMAP_THRESHOLD = -3
MOST_KEPT_BYTES = (1 << 31) - 1
MISSING = "training needs the extra `train` ({}): pip install 'lorikeet[train]'"
RANK = "RANK"
"""The environment's name for a process's number among those of one training (torchrun's)."""


def main() -> int:
    """Read the command line and work."""
    asked = _arguments()
    try:
        if asked.take is not None:
            print(json.dumps(taken(asked)))
            return 0
        if asked.trial:
            with memory_named():
                print(json.dumps(trainer_of(read_run(asked.run)).trial(asked.trial)))
            return 0
        ended = attend(asked.run)
    except FactoryError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG
    say(ended.state if not ended.why else f"{ended.state}: {ended.why}")
    return 0 if ended.state == "finished" else PAUSED


def attend(folder: Path) -> Status:
    """Work on the run in a folder as one of its processes; return how it ended.

    The first of them has the run to itself and writes down how it goes. Raises FactoryError, which
    is written down too.
    """
    run = read_run(folder)
    if os.environ.get(RANK, "0") != "0":
        return work(run)
    journal = Journal(folder)
    with held(folder / LOCK_FILE):
        (folder / ASKED_FILE).unlink(missing_ok=True)
        journal.say(Status("working", pid=os.getpid()))
        try:
            ended = work(run)
        except FactoryError as error:
            state: State = "paused" if isinstance(error, NoRoom) else "failed"
            journal.say(Status(state, str(error)))
            raise
        journal.say(ended)
    return ended


def work(run: Run) -> Status:
    """Train a run; return how it ended. Raises FactoryError."""
    is_ended = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal is_ended
        is_ended = True

    if threading.current_thread() is threading.main_thread():  # which alone may ask for signals
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
    pin(run.folder, Path(run.about.base))
    with memory_named():
        trainer = trainer_of(run, lambda: "pause" if is_ended else asked_of(run.folder))
        ended = trainer.train()
        if ended == "finished" and trainer.crew.is_first:
            from .evaluation import evaluate

            say("trying it beside the base")
            evaluate(run, trainer.learner)
    trainer.crew.leave()
    if ended == "paused":
        return Status("paused", "as it was asked; start it again and it goes on")
    return Status("finished", adapter=adapter_digest(run.folder) if trainer.crew.is_first else "")


@contextmanager
def memory_named() -> Iterator[None]:
    """Turn what a machine says that has no memory left into NoRoom, with the mend."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        mend = "free some and start it again, or make a new run with a lower train.batch_tokens,"
        raise NoRoom(f"memory did not do ({error}); {mend} rows.window or adapter.rank") from error


def taken(asked: argparse.Namespace) -> dict[str, object]:
    """Write the adapter of a checkpoint; return which it is. Raises FactoryError."""
    try:
        from .taking import take
    except ImportError as error:
        raise NotInstalled(MISSING.format(error)) from error
    found = take(asked.run, asked.take, "best" if asked.best else "last", asked.step)
    return dataclasses.asdict(found)


def trainer_of(run: Run, asked: Callable[[], Asked] = lambda: None) -> Trainer:
    """Load the base and be ready to train. Raises FactoryError."""
    warnings.simplefilter("ignore", FutureWarning)  # peft's own calls of transformers
    # Only now: torch and transformers take seconds, and a wrong folder is told at once.
    try:
        import torch

        from .crew import Crew
        from .model import Learner
        from .trainer import Trainer
    except ImportError as error:
        raise NotInstalled(MISSING.format(error)) from error

    torch.set_num_threads(run.about.threads)
    keep_freed_memory()
    crew = Crew()
    among = f", as process {crew.number + 1} of {crew.count}" if crew.count > 1 else ""
    say(f"loading {run.about.base}{among}")
    recipe = run.recipe
    base = Path(run.about.base)
    learner = Learner(base, recipe.adapter, seed=recipe.train.seed, device=crew.device)
    return Trainer(run, learner, crew, asked, say=say)


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one.

    By itself glibc gives arrays of that size back to the system at once, which then has to clear
    every page again: a tenth of a step's time. Another C library does as it likes.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, MOST_KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, MOST_KEPT_BYTES)


def say(line: str) -> None:
    """Print one line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m factory.training", description="Train an adapter; go on where it was left."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--trial",
        type=int,
        metavar="STEPS",
        help="only try so many steps, and print what they took as JSON",
    )
    parser.add_argument(
        "--take",
        type=Path,
        metavar="FOLDER",
        help="only write the adapter of a checkpoint there, and print which it is as JSON",
    )
    parser.add_argument("--step", type=int, help="with --take: of that step, not the newest")
    parser.add_argument(
        "--best", action="store_true", help="with --take: the one that lost least until then"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
