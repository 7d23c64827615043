"""`scripts/factory`: plays the line from an empty home to a paid answer, and times each step.

Exit status 1: a step did not do what it says, or all of it took longer than was promised.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from node.testnet.interrupts import run_until_signal

from ..record import Record
from ..stage import Stage
from .line import NUM_STEPS, play

PROMISED_S = 15 * 60
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main() -> int:
    """Play the line."""
    parser = argparse.ArgumentParser(
        prog="scripts/factory", description="From twelve people's notes to a paid answer."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what happened as data")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="an empty folder (a temporary one when left out)"
    )
    options = parser.parse_args()
    stage = Stage(Console(highlight=False, soft_wrap=not sys.stdout.isatty()))
    home = options.home or Path(tempfile.mkdtemp(prefix="lorikeet-factory-"))
    if home.exists() and any(home.iterdir()):
        parser.error(f"{home} is not empty: the line begins with nothing")
    record = Record(NUM_STEPS)
    ended = False
    try:
        ended = run_until_signal(lambda: play(home.resolve(), stage, record))
    finally:
        if options.json:
            options.json.write_text(json.dumps(as_json(record), indent=1) + "\n")
    if not ended:
        stage.say("interrupted; everything was ended")
        return EXIT_INTERRUPTED
    return conclude(stage, record, home, is_ours=options.home is None)


def as_json(record: Record) -> dict[str, object]:
    """What happened, as data; processor seconds are those of everything that was started."""
    told = record.as_json()
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = of_children.ru_utime + of_children.ru_stime
    return {
        "ok": told["ok"],
        "seconds": told["seconds"],
        "processor_seconds": round(spent, 1),
        "load_average": os.getloadavg(),
        "cores": os.cpu_count(),
        "steps": told["steps"],
    }


def conclude(stage: Stage, record: Record, home: Path, *, is_ours: bool) -> int:
    """Say the whole and its time; the logs are kept when there is something to look for."""
    for step in record.steps:
        stage.say(f"{step.seconds:7.1f} s  {step.name}")
    seconds = record.as_json()["seconds"]
    if not record.ok:
        stage.say(
            f"[bold red]the line stopped[/bold red] ({seconds:.0f} s): {record.steps[-1].error}"
        )
        stage.say(f"every node's log: {home}/*/out.log")
        return EXIT_FAILED
    if is_ours:
        shutil.rmtree(home, ignore_errors=True)
    if seconds > PROMISED_S:
        stage.say(f"[bold red]too long[/bold red]: {seconds:.0f} s, and {PROMISED_S} were promised")
        return EXIT_FAILED
    stage.say(f"[bold green]from nothing to a paid answer[/bold green] in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
