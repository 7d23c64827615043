"""All of a run's trainings, one after the other, as far as time allows.

Each finished one is a file under `trained/`: the loss of every answer, in nats. Whoever starts
again goes on at the first that is missing. A run that was killed and one that was not give the same
files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from ..errors import BadRun
from ..keeping import keep, keep_array
from .base import NOT_LEARNT, Base
from .folder import NO_TOKEN, Run
from .plan import WHOLE, Training, plan
from .training import Rows, Trainer, forget

BARE = "bare"  # the base without an adapter, in the place of a training's name
ROWS_AT_ONCE = 16
ANSWERS_FILE = "answers.json"
ADAPTER_FILE = "adapter.pt"
INPUTS_FILE = "inputs.sha256"

Say = Callable[[str], None]
Losses = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What is there of a run: the answers, and their losses by training."""

    answers: tuple[tuple[int, ...], ...]
    losses: dict[str, Losses]
    missing: tuple[str, ...]


class Campaign:
    """A run at work. `say` is given lines of progress, `now` a clock in seconds."""

    def __init__(self, run: Run, say: Say, now: Callable[[], float]) -> None:
        self.run = run
        self.say = say
        self.now = now
        for folder in (run.work, run.trained):
            folder.mkdir(exist_ok=True)
        self.ids = occurring(run)

    def work(self, seconds: float) -> Found:
        """Train what is missing; begin nothing more after `seconds`. The whole adapter and its
        answers are made in any case. Raises BadRun where what is there was trained from something
        else.
        """
        end = self.now() + seconds
        self._check_inputs()
        missing = [one for one in plan(self.run.recipe) if not self._is_done(one.name)]
        if missing or not self._is_done(BARE):
            self._train(missing, end)
        return self.found()

    def found(self) -> Found:
        """Return what is there."""
        path = self.run.trained / ANSWERS_FILE
        answers: tuple[tuple[int, ...], ...] = ()
        if path.exists():
            answers = msgspec.json.decode(path.read_bytes(), type=tuple[tuple[int, ...], ...])
        names = [BARE, *(one.name for one in plan(self.run.recipe))]
        there = {name: self._losses(name) for name in names if self._is_done(name)}
        return Found(answers, there, tuple(name for name in names if name not in there))

    def _check_inputs(self) -> None:
        path = self.run.trained / INPUTS_FILE
        digest = self.run.digest()
        if not path.exists():
            keep(path, digest.encode())
        if path.read_text() != digest:
            raise BadRun(
                f"{self.run.folder} was changed after its trainings began; put rows, order, prompts"
                " and run.toml back, or begin in a new folder"
            )

    def _train(self, missing: Sequence[Training], end: float) -> None:
        self.say(f"loading {self.run.recipe.base}")
        base = Base(self.run.recipe, self.ids)
        trainer = Trainer(self.run, base, self._rows(base))
        if missing and missing[0].name == WHOLE:
            self._whole(base, trainer, missing[0])
            missing = missing[1:]
        judged = self._answer_rows(base)
        if not self._is_done(BARE):
            base.begin(self.run.recipe.seed)
            self._keep_losses(BARE, base, judged)
        if not self._is_done(WHOLE):
            self._restore(base)
            self._keep_losses(WHOLE, base, judged)
        took = 0.0
        for place, training in enumerate(missing, 1):
            if self.now() + took > end:
                self.say(f"time is over; {len(missing) - place + 1} trainings are missing")
                return
            begun = self.now()
            trainer.train(training, self._progress(training.name))
            self._keep_losses(training.name, base, judged)
            forget(trainer.checkpoint(training))
            took = self.now() - begun
            rest = (len(missing) - place) * took / 60
            self.say(
                f"{training.name}: {took:.0f} s; {len(missing) - place} to go, about"
                f" {rest:.0f} minutes"
            )

    def _whole(self, base: Base, trainer: Trainer, training: Training) -> None:
        """Train the whole adapter and draw answers from it."""
        adapter = self.run.trained / ADAPTER_FILE
        if not adapter.exists():
            trainer.train(training, self._progress(WHOLE))
            buffer = io.BytesIO()
            torch.save([one.detach().cpu() for one in base.parameters()], buffer)
            keep(adapter, buffer.getbuffer())
            forget(trainer.checkpoint(training))
        self._restore(base)
        if not (self.run.trained / ANSWERS_FILE).exists():
            self.say(f"drawing {len(self.run.prompts)} answers")
            answers = draw_answers(self.run, base)
            keep(self.run.trained / ANSWERS_FILE, msgspec.json.encode(answers))

    def _restore(self, base: Base) -> None:
        held = torch.load(self.run.trained / ADAPTER_FILE, weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(base.parameters(), held, strict=True):
                parameter.copy_(value)

    def _rows(self, base: Base) -> Rows:
        """Return the training rows, their lower states kept under `work/`."""
        return self._prepared(base, "rows", self.run.rows, self.run.starts)

    def _answer_rows(self, base: Base) -> Rows:
        """Return prompts and answers as rows of which the answers count."""
        answers = self.found().answers
        texts = [
            [*prompt.ids, *answer] for prompt, answer in zip(self.run.prompts, answers, strict=True)
        ]
        ids = np.full((len(texts), max(len(text) for text in texts)), NO_TOKEN, np.int32)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        starts = np.array([len(prompt.ids) for prompt in self.run.prompts], np.int32)
        return self._prepared(base, "answers", ids, starts)

    def _prepared(
        self,
        base: Base,
        name: str,
        rows: npt.NDArray[np.int32],
        starts: npt.NDArray[np.int32],
    ) -> Rows:
        targets = torch.from_numpy(targets_of(rows, starts, self.ids)).to(base.device)
        ids = torch.from_numpy(np.where(rows < 0, self.ids[0], rows).astype(np.int64))
        ids = ids.to(base.device)
        return Rows(ids, targets, self._states(base, name, ids))

    def _states(self, base: Base, name: str, ids: torch.Tensor) -> torch.Tensor | None:
        if not base.num_lower:
            return None
        path = self.run.work / f"{name}.states.npy"
        if not path.exists():
            self.say(f"{name}: what the lower {base.num_lower} layers make of {len(ids)} rows")
            parts = [base.states(part) for part in torch.split(ids, ROWS_AT_ONCE)]
            whole = torch.cat([part for part in parts if part is not None]).cpu()
            keep_array(path, whole.view(torch.int16).numpy())
        found = torch.from_numpy(np.load(path, allow_pickle=False)).view(torch.bfloat16)
        return found.to(base.device)

    def _keep_losses(self, name: str, base: Base, judged: Rows) -> None:
        keep_array(self._path(name), losses(base, judged))

    def _is_done(self, name: str) -> bool:
        return self._path(name).exists()

    def _losses(self, name: str) -> Losses:
        found: Losses = np.load(self._path(name), allow_pickle=False)
        return found

    def _path(self, name: str) -> Path:
        return self.run.trained / f"{name}.npy"

    def _progress(self, name: str) -> Callable[[int, int, float], None]:
        said = self.now()

        def tell(step: int, num_steps: int, loss: float) -> None:
            nonlocal said
            if self.now() - said > 15 or step == num_steps:
                said = self.now()
                self.say(f"{name}: step {step}/{num_steps}, loss {loss:.2f}")

        return tell


@torch.no_grad()
def losses(base: Base, judged: Rows) -> Losses:
    """Return the loss of each answer under the base's present adapter, in nats: [answers]."""
    sums = []
    with base.above() as given:
        for first in range(0, len(judged.ids), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            states = None if judged.states is None else judged.states[part]
            each = base.loss(given, judged.ids[part], states, judged.targets[part])
            sums.append(each.double().sum(dim=1).cpu())
    found: Losses = torch.cat(sums).numpy()
    return found


def draw_answers(run: Run, base: Base) -> list[list[int]]:
    """Draw an answer for every prompt, those of one length together."""
    recipe = run.recipe
    answers: dict[int, list[int]] = {}
    for length in sorted({len(prompt.ids) for prompt in run.prompts}):
        places = [i for i, prompt in enumerate(run.prompts) if len(prompt.ids) == length]
        for first in range(0, len(places), 4 * ROWS_AT_ONCE):
            some = places[first : first + 4 * ROWS_AT_ONCE]
            drawn = base.draw(
                [run.prompts[i].ids for i in some],
                [recipe.seed * 100_003 + i for i in some],
                recipe.answer_tokens,
                recipe.temperature,
            )
            answers |= dict(zip(some, drawn, strict=True))
    return [answers[i] for i in range(len(run.prompts))]


def occurring(run: Run) -> npt.NDArray[np.int64]:
    """Return the token ids that occur in rows and prompts, ascending."""
    said = [np.asarray(prompt.ids, np.int64) for prompt in run.prompts]
    found = np.unique(np.concatenate([run.rows.ravel().astype(np.int64), *said]))
    return found[found >= 0]


def targets_of(
    rows: npt.NDArray[np.int32], starts: npt.NDArray[np.int32], ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return what each place should say next, as places in `ids`: [rows, window - 1]."""
    following = rows[:, 1:].astype(np.int64)
    learnt = (following >= 0) & (np.arange(1, rows.shape[1]) >= starts[:, None])
    return np.where(learnt, np.searchsorted(ids, np.maximum(following, 0)), NOT_LEARNT)
