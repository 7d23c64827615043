"""The steps of a training, and how it goes on after whatever ended it.

    step    the rows that order.npy names → loss / tokens learnt → gradient, clipped → AdamW
    look    every so many steps, and after the last: what is held out loses; the adapter that lost
            least is the one that is kept
    keep    every 30 seconds or 25 steps: all that the next step needs

The rate is a function of the step alone and nothing is drawn at random, so a run that was killed at
any moment ends with the bits of one that was not (the same machine, threads and versions). Where a
loss or gradient is no number, the run goes back to the last multiple of 25 steps once, at half the
rate; a second time it ends, and names step, rows and contributions.
"""

from __future__ import annotations

import errno
import math
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..learning import rate_at
from . import checkpoints, pinned
from .batches import batches_of, learnt_of, lengths_of, spread
from .checkpoints import ANCHOR, Held
from .crew import Crew
from .errors import Diverged, NoRoom
from .folder import Run
from .journal import Asked, Journal, Step
from .loss import NOT_LEARNT
from .memory import free_bytes, needs_of, resident_bytes
from .model import Learner
from .rows import NO_ROW

KEEP_EVERY_S = 30.0
LOOK_ROWS = 12
PROCESSOR_TOKENS = 2048  # of a step at once: what they become stays in a machine's memory
DEVICE_TOKENS = 1 << 15
NAMED = 8
CHECKPOINT_FLOATS = 4  # of each number of the adapter: itself, two of AdamW's, the best
Ended = Literal["paused", "finished"]
Say = Callable[[str], None]


class NotFinite(Exception):
    """A step's loss or gradient is no number."""


class Trainer:
    """One run at work. `asked` says what a person wants of it, `say` is told in lines."""

    def __init__(
        self, run: Run, learner: Learner, crew: Crew, asked: Callable[[], Asked], say: Say
    ) -> None:
        self.run = run
        self.learner = learner
        self.crew = crew
        self.asked = asked
        self.say = say
        self.journal = Journal(run.folder)
        self.joined = crew.join(learner)
        self.parameters = list(learner.adapter().values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, weight_decay=0.0)
        self.first = learner.copy()
        self.empty = self.optimizer.state_dict()
        self.learnt = learnt_of(run.rows)
        self.looked = spread(len(run.held_out), LOOK_ROWS)
        self.checkpoints = run.folder / "checkpoints"
        on_processor = crew.device.type == "cpu"
        self.tokens_at_once = PROCESSOR_TOKENS if on_processor else DEVICE_TOKENS

    def train(self) -> Ended:
        """Train from the start, or from where it was left. Raises Diverged or NoRoom."""
        self.check_memory()
        held = checkpoints.newest(self.checkpoints, self.say) or self._start()
        kept_at = time.monotonic()
        try:
            self._go_to(held)
            while held.step < self.run.num_steps and not self._is_enough(held):
                wanted = self._agreed()
                if wanted == "pause":
                    self._keep(held)
                    return "paused"
                if wanted == "finish":
                    break
                try:
                    self._step(held)
                except NotFinite as reason:
                    held = self._go_back(held, str(reason))
                    continue
                late = time.monotonic() - kept_at > KEEP_EVERY_S
                if self.crew.total([late])[0] or held.step % ANCHOR == 0:
                    self._keep(held)
                    kept_at = time.monotonic()
            self._end(held)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoRoom(self._no_room(held)) from error
        finally:
            self.journal.close()
        return "finished"

    def trial(self, steps: int) -> dict[str, float]:
        """Take a few steps and a look, and keep nothing: seconds of each, and bytes of memory and
        disk that a whole run takes.
        """
        free = resident_bytes() + free_bytes(self.crew.device)
        expected = self.check_memory()
        held = self._start()
        seconds = []
        fullest, _ = self._fullest()
        for step in (fullest, *range(min(steps, self.run.num_steps) - 1)):
            held.step = step
            begun = time.monotonic()
            self._learn(held)
            seconds.append(time.monotonic() - begun)
        begun = time.monotonic()
        if self.looked:
            self._look(held)
        looked = time.monotonic() - begun
        numbers = sum(each.numel() for each in self.parameters)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "seconds_a_step": min(seconds),
            "seconds_a_look": looked,
            "disk_bytes": (checkpoints.KEPT + 2) * CHECKPOINT_FLOATS * 4 * numbers + 2 * numbers,
            "memory_bytes": peak,
            "expected_memory_bytes": expected,
            "free_memory_bytes": free,
        }

    def check_memory(self) -> int:
        """Return how much memory this process will have, in bytes, by a count of two short passes.
        Raises NoRoom where more is needed than is free.
        """
        _, tokens = self._fullest()
        more = needs_of(self.learner).of(tokens)
        free = free_bytes(self.crew.device)
        if more > free:
            raise NoRoom(
                f"a step of {tokens} tokens takes about {more >> 20} MB of memory beside the base,"
                f" and {free >> 20} MB are free; free some and start it again, or make a new run"
                f" with a lower train.batch_tokens ({self.run.recipe.train.batch_tokens} now),"
                f" rows.window ({self.run.recipe.rows.window}) or adapter.rank"
                f" ({self.run.recipe.adapter.rank})"
            )
        return resident_bytes() + more

    def _fullest(self) -> tuple[int, int]:
        """Return the step with the most tokens, and how many of them are computed at once."""
        lengths = lengths_of(self.run.rows)
        totals = np.where(self.run.order == NO_ROW, 0, lengths[self.run.order]).sum(axis=1)
        step = int(totals.argmax())
        rows = [int(row) for row in self.run.order[step] if row != NO_ROW]
        parts = batches_of(
            self.run.rows,
            rows[:: self.crew.count],
            self.crew.device,
            most_tokens=self.tokens_at_once,
        )
        return step, max(part.ids.numel() for part in parts)

    def _start(self) -> Held:
        return Held(0, self.first, self.empty)

    def _go_to(self, held: Held) -> None:
        """Be where a checkpoint was kept."""
        self.learner.put(held.parameters)
        self.optimizer.load_state_dict(held.optimizer)
        if self.crew.is_first:
            self.journal.begin(held.step)

    def _agreed(self) -> Asked:
        asked = self.asked()
        pause, finish = self.crew.total([asked == "pause", asked == "finish"])
        return "pause" if pause else "finish" if finish else None

    # ── a step ──

    def _step(self, held: Held) -> None:
        begun = time.monotonic()
        loss, rate, total = self._learn(held)
        looked = self._look(held) if self._is_look(held.step) else None
        if self.crew.is_first:
            seconds = time.monotonic() - begun
            self.journal.note(Step(held.step, loss, rate, total, seconds=seconds, held_out=looked))

    def _learn(self, held: Held) -> tuple[float, float, int]:
        """Take a step; return its loss a token, its rate and its tokens. Raises NotFinite."""
        train = self.run.recipe.train
        rows = [int(row) for row in self.run.order[held.step] if row != NO_ROW]
        total = int(self.learnt[rows].sum())
        rate = float(train.learning_rate) * rate_at(held.step, self.run.num_steps, train.warmup)
        if held.halved_at is not None:
            rate /= 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._gradient(rows, total)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, train.clip).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise NotFinite(self._who(held.step, rows))
        self.optimizer.step()
        self.optimizer.zero_grad()
        held.step += 1
        return loss, rate, total

    def _gradient(self, rows: list[int], total: int) -> float:
        """Put a step's gradient into the parameters; return its loss a token."""
        mine = rows[self.crew.number :: self.crew.count]
        # With no row left for this process one takes part in the exchange that counts nothing.
        counts = 1 if mine else 0
        parts = batches_of(
            self.run.rows, mine or rows[:1], self.crew.device, most_tokens=self.tokens_at_once
        )
        loss = 0.0
        for place, part in enumerate(parts, 1):
            is_last = place == len(parts)
            with nullcontext() if is_last else self.crew.alone(self.joined):
                of_part = self.joined(part.ids, part.targets, part.positions) / total * counts
                (of_part * self.crew.count).backward()
            loss += of_part.item()
        return self.crew.total([loss])[0]

    # ── looking ──

    def _is_look(self, step: int) -> bool:
        every = int(self.run.recipe.stop.every)
        return bool(self.looked) and (step % every == 0 or step == self.run.num_steps)

    @torch.no_grad()
    def _look(self, held: Held) -> float:
        """Return what is held out loses a token; remember the adapter that loses least."""
        mine = self.looked[self.crew.number :: self.crew.count]
        lost = 0.0
        count = 0
        for part in batches_of(
            self.run.held_out, mine, self.crew.device, most_tokens=self.tokens_at_once
        ):
            lost += self.learner(part.ids, part.targets, part.positions).item()
            count += int((part.targets != NOT_LEARNT).sum())
        lost, tokens = self.crew.total([lost, count])
        found = lost / tokens
        least = self.run.recipe.stop.least
        if held.best_loss is not None and not found < held.best_loss * (1 - least):
            held.worse += 1
        else:
            held.worse = 0
        if found < (math.inf if held.best_loss is None else held.best_loss):
            held.best = self.learner.copy()
            held.best_loss = found
            held.best_step = held.step
        held.looks.append((held.step, found))
        return found

    def _is_enough(self, held: Held) -> bool:
        return held.worse >= self.run.recipe.stop.patience

    # ── keeping, and going back ──

    def _keep(self, held: Held) -> None:
        held.parameters = self.learner.copy()
        held.optimizer = self.optimizer.state_dict()
        if self.crew.is_first:
            pinned.check(self.run.folder, Path(self.run.about.base))
            checkpoints.write(self.checkpoints, held)

    def _go_back(self, held: Held, reason: str) -> Held:
        """Return to the last anchor, at half the rate. Raises Diverged the second time."""
        if held.halved_at is not None:
            raise Diverged(
                f"{reason}, also at half the rate, as from step {held.halved_at + 1} on; look at"
                " those texts, or lower train.learning_rate in a new run"
            )
        self.say(f"{reason}; back to step {held.step // ANCHOR * ANCHOR}, at half the rate")
        self.crew.meet()
        most = held.step // ANCHOR * ANCHOR
        back = checkpoints.newest(self.checkpoints, self.say, most)
        self.crew.meet()
        back = back or self._start()
        back.halved_at = back.step
        self._go_to(back)
        if self.crew.is_first:
            checkpoints.forget_after(self.checkpoints, back.step)
        self._keep(back)
        return back

    def _end(self, held: Held) -> None:
        """Keep the last state, and the adapter that lost least."""
        if self.looked and (not held.looks or held.looks[-1][0] != held.step):
            self._look(held)
        self._keep(held)
        if held.best is not None:
            self.learner.put(held.best)
        if self.crew.is_first:
            self.learner.save(self.run.folder / "adapter", self.run.recipe.base)
        self.crew.meet()  # so nobody leaves, which would end the others, before it is kept

    def _who(self, step: int, rows: list[int]) -> str:
        whose = sorted({int(self.run.rows.contributions[row]) for row in rows})
        named = [self.run.about.contributions[place][:16] for place in whose[:NAMED]]
        more = f" and {len(whose) - NAMED} more" if len(whose) > NAMED else ""
        return (
            f"step {step + 1} has a loss or gradient that is no number, with rows {rows} of the"
            f" contributions {', '.join(named)}{more}"
        )

    def _no_room(self, held: Held) -> str:
        missing = 4 * sum(each.numel() for each in self.parameters) * CHECKPOINT_FLOATS
        last = (checkpoints.steps_in(self.checkpoints) or [0])[-1]
        return (
            f"the disk of {self.run.folder} is full; free about {missing >> 20 or 1} MB and go on:"
            f" what was learnt up to step {last} of {held.step} is kept"
        )
