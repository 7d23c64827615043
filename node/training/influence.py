"""Has a process measure whose text mattered to a run's adapter, and tells how far it is.

    runs/NAME/influence/          the influence run (factory/measured.py says what is in it)
    runs/NAME/influence.output    what its process printed

The process belongs to nobody: it is found again by its lock, and goes on where it was when it is
begun again. Blocks for moments.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from factory import measured
from factory.errors import FactoryError
from factory.keeping import is_held
from factory.measured import Ended, Figure, Made, Measured
from factory.training.folder import ABOUT_FILE, About, recipe_of
from factory.training.journal import read_status
from proofs.attribution.blend import WHOLE_BPS

from ..api.training import FigureInfo, InfluenceInfo, InfluenceState, WeighedInfo
from ..errors import BadRequest
from .runs import Processes, last_words

OUTPUT_FILE = "influence.output"
PROGRAM = "factory.influence"
FINISHED = 0
TIME_OVER = 3


class Influences:
    """The influence runs of one daemon; `command` is the runs' program, whose last word is its
    module.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = (*command[:-1], PROGRAM)
        self._processes = Processes()

    @property
    def are_alive(self) -> bool:
        """Whether a process lives that was begun here."""
        return self._processes.are_alive

    def begin(self, run: Path, minutes: float | None, threads: int) -> None:
        """Begin a process that measures, or goes on. Raises BadRequest."""
        if is_held(_folder(run) / measured.LOCK_FILE):
            raise BadRequest(f"the influence of {run.name} is being measured already")
        try:
            state = read_status(run).state
            about = _about(run)
            recipe = recipe_of(run)
        except FactoryError as error:
            raise BadRequest(str(error)) from error
        if state != "finished":
            raise BadRequest(
                f"the run {run.name} is {state}; whose text mattered is measured when it is"
                " finished"
            )
        wanted = recipe.influence.minutes if minutes is None else minutes
        self._processes.begin(
            [
                *self._command,
                str(_folder(run)),
                *("--of", str(run)),
                *("--minutes", str(wanted)),
                *("--threads", str(threads or about.threads)),
            ],
            cwd=run,
            output=run / OUTPUT_FILE,
        )

    def stop(self, run: Path) -> None:
        """End the process at work; what it has measured is kept. Raises BadRequest."""
        folder = _folder(run)
        if not is_held(folder / measured.LOCK_FILE):
            raise BadRequest(f"nobody measures the influence of {run.name} now")
        with suppress(OSError, ValueError):  # it ended meanwhile
            os.kill(int((folder / measured.PID_FILE).read_text()), signal.SIGTERM)

    def show(self, run: Path) -> InfluenceInfo:
        """Tell how far it is, and what was found. Raises BadRequest."""
        folder = _folder(run)
        try:
            made = measured.read_made(folder)
            ended = measured.read_ended(folder)
            found = measured.read_measured(folder)
            about = _about(run)
        except FactoryError as error:
            raise BadRequest(str(error)) from error
        says = last_words(run / OUTPUT_FILE)
        state, why = _state(run, ended, says)
        return InfluenceInfo(
            run=run.name,
            state=state,
            why=why,
            says=says if state == "working" else "",
            done=measured.num_trained(folder),
            total=made.trainings if made else 0,
            tokens=made.tokens if made else 0,
            of_tokens=made.of_tokens if made else 0,
            groups=len(made.units) if made else 0,
            people=_people(about, made, found),
            lambda_eighths=found.lambda_eighths if found else None,
            r=_figure(found.r) if found else None,
            lds=_figure(found.lds) if found else None,
            answers=found.num_answers if found else 0,
            note=found.note if found else "",
        )


def is_at_work(run: Path) -> bool:
    """Whether a process measures the influence of a run."""
    return is_held(_folder(run) / measured.LOCK_FILE)


def _folder(run: Path) -> Path:
    return run / measured.FOLDER


def _about(run: Path) -> About:
    try:
        return msgspec.json.decode((run / ABOUT_FILE).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(f"the run {run.name} cannot be read: {error}") from error


def _state(run: Path, ended: Ended | None, says: str) -> tuple[InfluenceState, str]:
    """Return what it does, or how it ended, with the mend."""
    go_on = f"go on with: lorikeet train influence {run.name}"
    if is_at_work(run):
        return "working", ""
    if ended is None:
        if not (run / OUTPUT_FILE).exists():
            return "new", f"it was not measured yet; begin: lorikeet train influence {run.name}"
        return "stopped", f"its process is gone ({says or 'without a word'}); {go_on}"
    if ended.status == FINISHED:
        return "finished", ""
    if ended.status == TIME_OVER:
        return "paused", f"{ended.why}; {go_on}"
    return "failed", ended.why


def _people(about: About, made: Made | None, found: Measured | None) -> tuple[WeighedInfo, ...]:
    """Return each person's standing weight; who was left out with others has their effect."""
    if made is None or found is None:
        return ()
    weights = measured.standing_of(made, found)
    return tuple(
        WeighedInfo(
            about.people[place].name,
            weights[place] / WHOLE_BPS,
            one.mean_effect,
            len(unit) - 1,
        )
        for unit, one in zip(made.units, found.contributors, strict=True)
        for place in unit
    )


def _figure(figure: Figure | None) -> FigureInfo | None:
    return FigureInfo(figure.mean, figure.low, figure.high) if figure else None
