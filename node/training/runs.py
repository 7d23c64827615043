"""The runs of this home: what each does, and the processes that work on them.

    runs/NAME/          a run's folder (factory/training/folder.py)
    runs/NAME/output    what its process printed

A run's process is nobody's child for long: it is begun in a session of its own, and is found again
by its folder's lock. Blocks for moments.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import trio

from factory import measured
from factory.errors import FactoryError
from factory.keeping import is_held
from factory.training import folder as run_folder
from factory.training.folder import ABOUT_FILE, About, recipe_of
from factory.training.journal import (
    ASKED_FILE,
    Status,
    Step,
    ask,
    is_at_work,
    read_status,
    read_steps,
    renew,
)
from factory.training.judging import FILE as EVALUATION_FILE
from factory.training.judging import Beside, Evaluation
from factory.training.recipe import Recipe

from ..api.training import (
    AnswerInfo,
    BesideInfo,
    EvaluationInfo,
    RunInfo,
    StepInfo,
    Watched,
)
from ..errors import BadRequest, NotHere

OUTPUT_FILE = "output"
ADAPTER = "adapter"
MAX_OUTPUT_BYTES = 4096
RECENT = 20  # steps by which the time left is told
COMMAND = ("nice", "-n", "5", sys.executable, "-m", "factory.training")
"""Whoever asks this node for an answer comes first."""


class Runs:
    """The runs under one folder; `command` is the program that works on one."""

    def __init__(self, folder: Path, command: Sequence[str] = COMMAND) -> None:
        self.folder = folder
        self._command = tuple(command)
        self._processes = Processes()

    def listing(self) -> list[RunInfo]:
        """List the runs, the newest first; a folder that is none is left out."""
        found = []
        for path in self.folder.glob("[!.]*"):
            try:
                found.append(self.show(path.name).run)
            except BadRequest:
                continue
        return sorted(found, key=lambda run: (-run.made_at, run.name))

    def show(self, name: str, after: int = 0) -> Watched:
        """Return a run, and its steps later than `after`. Raises BadRequest."""
        folder = self.path(name)
        try:
            recipe = recipe_of(folder)
            about = msgspec.json.decode((folder / ABOUT_FILE).read_bytes(), type=About)
            status = read_status(folder)
            steps = read_steps(folder)
            num_steps = run_folder.num_steps_of(folder)
        except (FactoryError, OSError, msgspec.DecodeError) as error:
            raise BadRequest(f"the run {name} cannot be read: {error}") from error
        looks = [(step.held_out, step.step) for step in steps if step.held_out is not None]
        best, best_step = min(looks, default=(None, 0))
        recent = steps[-RECENT:]
        pace = statistics.median(step.seconds for step in recent) if recent else None
        last = steps[-1] if steps else None
        is_done = status.state == "finished"
        left = num_steps - (last.step if last else 0)
        info = RunInfo(
            name=name,
            state=status.state,
            why=status.why or self._last_words(folder, status),
            folder=str(folder),
            base=recipe.base,
            kind=recipe.adapter.kind,
            rank=int(recipe.adapter.rank),
            people=len(about.people),
            tokens=about.tokens,
            made_at=about.made_at,
            step=last.step if last else 0,
            num_steps=num_steps,
            loss=last.loss if last else None,
            first=looks[0][0] if looks else None,
            best=best,
            best_step=best_step,
            seconds_left=None if pace is None or is_done else pace * left,
            tokens_a_second=_tokens_a_second(recent),
            adapter=str(folder / ADAPTER) if is_done else "",
        )
        told = tuple(
            StepInfo(step.step, step.loss, step.seconds, step.held_out)
            for step in steps
            if step.step > after
        )
        return Watched(info, told)

    def evaluation(self, name: str, decode: Callable[[Sequence[int]], str]) -> EvaluationInfo:
        """Return what a run's adapter does beside its base. Raises BadRequest where none is there
        yet.
        """
        path = self.path(name) / EVALUATION_FILE
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Evaluation)
        except FileNotFoundError as error:
            state = self.show(name).run.state
            raise BadRequest(
                f"the run {name} is {state}; it is tried beside the base when it is finished"
            ) from error
        except (OSError, msgspec.DecodeError) as error:
            raise BadRequest(f"{path} cannot be read: {error}") from error
        return EvaluationInfo(
            name=name,
            verdict=found.verdict,
            is_good=found.is_good,
            held_out=_beside(found.held_out) if found.held_out else None,
            learnt=_beside(found.learnt),
            forgetting=_beside(found.forgetting),
            people=tuple(map(_beside, found.people)),
            unseen=tuple(map(_beside, found.unseen)),
            memorised=found.memorised,
            answers=tuple(
                AnswerInfo(
                    decode(answer.prompt),
                    answer.is_own,
                    decode(answer.base),
                    decode(answer.adapter),
                    answer.longest_run,
                )
                for answer in found.answers
            ),
        )

    def recipe(self, name: str) -> Recipe:
        """Return a run's recipe. Raises BadRequest."""
        try:
            return recipe_of(self.path(name))
        except FactoryError as error:
            raise BadRequest(f"the recipe of {name} cannot be read: {error}") from error

    def path(self, name: str) -> Path:
        """Return a run's folder. Raises NotHere where there is none."""
        folder = self.folder / name
        if "/" in name or name.startswith(".") or not folder.is_dir():
            raise NotHere(f"there is no run {name[:80]!r}; `lorikeet train status` lists them")
        return folder

    @property
    def is_alive(self) -> bool:
        """Whether a process lives that was begun here."""
        return self._processes.are_alive

    def begin(self, folder: Path) -> None:
        """Begin a process that works on a run, and let it go. Raises BadRequest."""
        (folder / ASKED_FILE).unlink(missing_ok=True)
        try:
            renew(folder)
        except OSError as error:
            raise BadRequest(f"no process could be begun for {folder}: {error}") from error
        self._processes.begin([*self._command, str(folder)], folder, folder / OUTPUT_FILE)

    def resume(self, name: str) -> None:
        """Have a run go on. Raises BadRequest where it cannot."""
        folder = self.path(name)
        status = self.show(name).run
        if status.state == "working":
            raise BadRequest(f"the run {name} is at work already")
        if status.state == "finished":
            raise BadRequest(f"the run {name} is finished; its adapter lies in {status.adapter}")
        self.begin(folder)

    def ask(self, name: str, wanted: str) -> None:
        """Ask a run's process for something. Raises BadRequest where none is at work."""
        folder = self.path(name)
        if not is_at_work(folder):
            raise BadRequest(f"nobody works on the run {name}: it is {self.show(name).run.state}")
        ask(folder, "finish" if wanted == "finish" else "pause")

    def delete(self, name: str) -> None:
        """Delete a run that nobody works on. Raises BadRequest."""
        folder = self.path(name)
        if is_at_work(folder):
            raise BadRequest(f"the run {name} is at work; pause it first")
        if is_held(folder / measured.FOLDER / measured.LOCK_FILE):
            raise BadRequest(
                f"whose text mattered to {name} is being measured; end that first: lorikeet train"
                f" influence {name} --stop"
            )
        gone = folder.with_name(f".{name}.deleted")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _last_words(self, folder: Path, status: Status) -> str:
        """Return what a process printed last that ended before it could say anything."""
        return last_words(folder / OUTPUT_FILE) if status.state == "new" else ""


class Processes:
    """Processes that were begun here and belong to nobody: each of its own session, what it prints
    in a file.
    """

    def __init__(self) -> None:
        self._begun: list[subprocess.Popen[bytes]] = []

    @property
    def are_alive(self) -> bool:
        """Whether one of them lives; those that do not are let go."""
        self._begun = [one for one in self._begun if one.poll() is None]
        return bool(self._begun)

    def begin(self, command: Sequence[str], cwd: Path, output: Path) -> None:
        """Begin one. Raises BadRequest."""
        try:
            with output.open("ab") as file:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd=cwd,
                    env=environment(),
                    start_new_session=True,
                )
        except OSError as error:
            raise BadRequest(f"no process could be begun for {cwd}: {error}") from error
        self._begun.append(process)


async def work(command: Sequence[str], what: str) -> bytes:
    """Have a process work while the caller waits, and return what it printed; leaving ends it.

    Raises BadRequest with its last words; `what` is what it does, for one that says none.
    """
    done = await trio.run_process(
        command,
        capture_stdout=True,
        capture_stderr=True,
        stdin=subprocess.DEVNULL,
        check=False,
        env=environment(),
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise BadRequest(lines[-1] if lines else f"{what} ended with {done.returncode}")
    return done.stdout


def last_words(output: Path) -> str:
    """Return the last line that a process printed; empty where there is none."""
    try:
        with output.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - MAX_OUTPUT_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _beside(one: Beside) -> BesideInfo:
    return BesideInfo(one.of, one.base, one.adapter, one.tokens)


def environment() -> dict[str, str]:
    """Return the environment of a trainer: nothing is asked of a hub."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline}


def _tokens_a_second(steps: Sequence[Step]) -> float | None:
    seconds = sum(step.seconds for step in steps)
    return sum(step.tokens for step in steps) / seconds if seconds else None
