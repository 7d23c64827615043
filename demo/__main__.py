"""`scripts/demo`: reads the command line, tells the story, writes the JSON, and ends with its truth
as exit status.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from node.testnet.interrupts import run_until_signal

from .cast import adapters_folder
from .record import Record
from .stage import Stage
from .story import NUM_STEPS, tell

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the demo."""
    options = read_options()
    stage = Stage(Console(highlight=False, soft_wrap=not sys.stdout.isatty()))
    record = Record(NUM_STEPS)
    home = options.home or Path(tempfile.mkdtemp(prefix="lorikeet-demo-"))
    ended = False
    try:
        ended = run_until_signal(
            lambda: tell(home, options.adapters, stage, record, keep=options.keep)
        )
    finally:
        if options.json:
            options.json.write_text(
                json.dumps(record.as_json(), indent=2, ensure_ascii=False) + "\n"
            )
    if not ended:
        stage.say("interrupted; everything was ended")
        if options.home is None:
            shutil.rmtree(home, ignore_errors=True)
        return EXIT_INTERRUPTED
    return conclude(stage, record, home, keep=options.keep, own_home=options.home is None)


def conclude(stage: Stage, record: Record, home: Path, *, keep: bool, own_home: bool) -> int:
    """The last line; the logs are kept when there is something to look for."""
    seconds = record.as_json()["seconds"]
    if not record.ok:
        failed = ", ".join(step.name for step in record.steps if not step.ok)
        stage.say(
            f"[bold red]not everything did what it says[/bold red] ({seconds:.0f} s): {failed}"
        )
        stage.say(f"every node's log: {home}/*/out.log and {home}/*/log")
        return EXIT_FAILED
    stage.say(f"[bold green]everything did what it says[/bold green] ({seconds:.0f} s)")
    if not keep and own_home:
        shutil.rmtree(home, ignore_errors=True)
    return 0


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="A small Lorikeet network does its main job, and every claim is checked.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what happened as data")
    parser.add_argument(
        "--keep", action="store_true", help="leave the network up and say what to try"
    )
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help="where the nodes live (a temporary folder when left out)",
    )
    parser.add_argument(
        "--adapters",
        type=Path,
        default=adapters_folder(),
        metavar="DIR",
        help="the adapters' folders",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
