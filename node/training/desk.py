"""What this daemon does in training: checks recipes, makes runs of them, begins their processes and
tells how they go on.

A recipe's texts are brought to a folder beside the runs, become rows, and are gone again; the run
keeps token ids alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import trio

from factory.errors import FactoryError
from factory.training.recipe import EXPLAINED, Recipe, read_recipe
from proofs.manifest import MAX_CONTRIBUTORS

from ..api.datanets import Datanets, Progress, Tell
from ..api.training import (
    AdapterVerifiedInfo,
    ChatSaid,
    ChatWord,
    CheckInfo,
    EvaluationInfo,
    FieldInfo,
    InfluenceInfo,
    InfluenceSaid,
    MergedInfo,
    MergeSaid,
    PublishedInfo,
    PublishSaid,
    RecipeInfo,
    RunInfo,
    RunsBesideInfo,
    StartSaid,
    VerifySaid,
    Watched,
)
from ..bases.loading import Base
from ..errors import BadRequest, NoBase, NoEngine
from .background import NUM_SAMPLES, Backgrounds
from .chatting import Chats
from .exporting import compare, export, flat
from .influence import Influences, is_at_work
from .making import Ready, make_ready, write
from .merging import Merging
from .network import Network
from .publishing import Publishing, clear_scratch, scratch_in
from .renewing import renewed
from .runs import COMMAND, Runs
from .texts import bring
from .verifying import Verifying

TRIAL_STEPS = 3
MERGES = "merges"
"""Beside the runs."""
TRIAL_DEADLINE_S = 600.0
MOST_OF_FREE = 0.9
LESS_MEMORY = "free some, or lower train.batch_tokens, rows.window or adapter.rank"
LOOK_EVERY_S = 0.5
MOST_LOST_S = 120.0
"""A process that has not taken its run's lock by then did not start."""


class TrainingDesk:
    """The trainings of one daemon. `base` gives the base, or raises NodeError; a background has
    `num_samples` of it.
    """

    def __init__(
        self,
        folder: Path,
        datanets: Datanets,
        base: Callable[[], Base],
        command: Sequence[str] = COMMAND,
        *,
        num_samples: int = NUM_SAMPLES,
    ) -> None:
        clear_scratch(folder)
        self._runs = Runs(folder, command)
        self._folder = folder
        self._datanets = datanets
        self._base = base
        self._command = tuple(command)
        self._making = trio.Lock()
        self._chats = Chats(folder, command)
        self._influences = Influences(command)
        backgrounds = Backgrounds(folder / ".backgrounds", num_samples)
        self._publishing = Publishing(self._runs, datanets, base, backgrounds)
        self._verifying = Verifying(folder, datanets, base, command)
        self._merging = Merging(folder.with_name(MERGES), base, command)
        self._network: Network | None = None

    def take_network(self, network: Network) -> None:
        """The base is here, and perhaps an engine: checkpoints answer, and what was trained can be
        published.
        """
        self._network = network

    async def listing(self) -> list[RunInfo]:
        """List the runs of this home, the newest first."""
        return await trio.to_thread.run_sync(self._runs.listing)

    async def show(self, name: str) -> Watched:
        """Return a run and all its steps."""
        return await trio.to_thread.run_sync(self._runs.show, name)

    async def check(self, said: StartSaid, tell: Tell) -> CheckInfo:
        """Say what a recipe would do, by making its rows and trying a few steps."""
        recipe = _read(said.recipe)
        async with self._making:
            ready = await self._ready(recipe, said.threads, tell)
            with scratch_in(self._folder, "check") as folder:
                run = folder / recipe.name
                await trio.to_thread.run_sync(write, ready, run)
                tell(Progress("trial", 0, TRIAL_STEPS))
                tried = await self._try(run)
        return _check(ready, tried)

    async def start(self, said: StartSaid, tell: Tell) -> RunInfo:
        """Begin a run, in a process that outlives this daemon."""
        recipe = _read(said.recipe)
        folder = self._folder / recipe.name
        if folder.exists():
            raise BadRequest(
                f"there is a run named {recipe.name} already; take another name in the recipe, or"
                f" delete it: lorikeet train delete {recipe.name}"
            )
        async with self._making:
            ready = await self._ready(recipe, said.threads, tell)
            await trio.to_thread.run_sync(write, ready, folder)
            await trio.to_thread.run_sync(self._runs.begin, folder)
        return await self._begun(recipe.name)

    async def resume(self, name: str) -> RunInfo:
        """Have a run go on that was paused, or whose process is gone."""
        await trio.to_thread.run_sync(self._runs.resume, name)
        return await self._begun(name)

    async def ask(self, name: str, wanted: Literal["pause", "finish"]) -> RunInfo:
        """Have a run pause, or end here and keep what it has learnt."""
        self._runs.ask(name, wanted)
        async with self.watch(name, 0) as words:
            async for word in words:
                found = word.run
        return found

    async def evaluation(self, name: str) -> EvaluationInfo:
        """Return what a finished run's adapter does beside its base."""
        decode = self._base().tokenizer.decode
        return await trio.to_thread.run_sync(self._runs.evaluation, name, decode)

    async def delete(self, name: str) -> None:
        """Delete a run that nobody works on, its adapter too."""
        await trio.to_thread.run_sync(self._runs.delete, name)

    async def publish(self, name: str, said: PublishSaid, tell: Tell) -> PublishedInfo:
        """Publish a finished run's adapter, with all that it was made of."""
        return await self._publishing.publish(name, said, self._need_network(), tell)

    async def again(self, name: str, new_name: str) -> RecipeInfo:
        """Write a recipe like a run's, over the newest versions of its datanets."""
        recipe = await trio.to_thread.run_sync(self._runs.recipe, name)
        return await renewed(recipe, new_name, self._datanets)

    async def verify(self, said: VerifySaid, tell: Tell) -> AdapterVerifiedInfo:
        """Check a published adapter against its recipe and its datanets."""
        return await self._verifying.verify(said, self._need_network(), tell)

    def _need_network(self) -> Network:
        if self._network is None:
            self._base()  # says what is missing
            raise NoBase("the base is not ready yet; try again in a moment")
        return self._network

    @asynccontextmanager
    async def chat(self, name: str, said: ChatSaid) -> AsyncIterator[AsyncIterator[ChatWord]]:
        """Answer by a checkpoint of a run, for nobody else; leaving the block early cancels it."""
        run = self._runs.path(name)
        base = self._base()
        engine = self._need_network().engine
        if engine is None:
            raise NoEngine("this daemon runs no engine, by which a checkpoint could answer")
        async with self._chats.chat(run, said, base, engine) as words:
            yield words

    async def compare(self, names: Sequence[str]) -> RunsBesideInfo:
        """Show runs beside one another: what differs in their recipes, and what came of each."""
        return await trio.to_thread.run_sync(compare, self._runs, names)

    async def export(self, name: str, folder: Path) -> None:
        """Write a finished run's adapter and what is to be known of it into a new folder."""
        await trio.to_thread.run_sync(export, self._runs, name, folder)

    async def merge(self, said: MergeSaid, tell: Tell) -> MergedInfo:
        """Merge adapters into one whose parents are paid for it; publishes nothing."""
        return await self._merging.merge(said, self._need_network(), tell)

    async def influence(self, name: str) -> InfluenceInfo:
        """Tell how far it is measured whose text mattered to a run, and what is found."""
        run = self._runs.path(name)
        return await trio.to_thread.run_sync(self._influences.show, run)

    async def measure(self, name: str, said: InfluenceSaid) -> InfluenceInfo:
        """Begin to measure it, or go on, in a process that outlives this daemon."""
        run = self._runs.path(name)
        await trio.to_thread.run_sync(self._influences.begin, run, said.minutes, said.threads)
        with trio.move_on_after(MOST_LOST_S):
            while True:
                if is_at_work(run) or not self._influences.are_alive:
                    return await self.influence(name)
                await trio.sleep(LOOK_EVERY_S / 5)
        raise BadRequest(f"{name} was not begun within {MOST_LOST_S:.0f} s: see influence.output")

    async def stop_measuring(self, name: str) -> InfluenceInfo:
        """End that process; what it has measured is kept."""
        self._influences.stop(self._runs.path(name))
        async with self.watch_influence(name) as words:
            async for word in words:
                found = word
        return found

    @asynccontextmanager
    async def watch_influence(self, name: str) -> AsyncIterator[AsyncIterator[InfluenceInfo]]:
        """Tell how it goes on, until nobody is at work on it."""
        self._runs.path(name)
        yield self._influence_words(name)

    async def _influence_words(self, name: str) -> AsyncIterator[InfluenceInfo]:
        said: InfluenceInfo | None = None
        while True:
            word = await self.influence(name)
            if word != said:
                said = word
                yield word
            if word.state != "working":
                return
            await trio.sleep(LOOK_EVERY_S)

    @asynccontextmanager
    async def watch(self, name: str, after: int) -> AsyncIterator[AsyncIterator[Watched]]:
        """Tell of a run as it goes on, from that step on, until it is at work no more."""
        self._runs.path(name)
        yield self._words(name, after)

    async def _words(self, name: str, after: int) -> AsyncIterator[Watched]:
        said: tuple[str, int] | None = None
        while True:
            word = await trio.to_thread.run_sync(self._runs.show, name, after)
            now = (word.run.state, word.run.step)
            if now != said:
                said = now
                after = max([after, *(step.step for step in word.steps)])
                yield word
            if word.run.state != "working":
                return
            await trio.sleep(LOOK_EVERY_S)

    async def _begun(self, name: str) -> RunInfo:
        """Wait until the process works, or has ended."""
        with trio.move_on_after(MOST_LOST_S):
            while True:
                run = (await self.show(name)).run
                if run.state != "new":
                    return run
                if not self._runs.is_alive:
                    raise BadRequest(f"the run {name} did not begin: {run.why}")
                await trio.sleep(LOOK_EVERY_S / 5)
        raise BadRequest(f"the run {name} did not begin within {MOST_LOST_S:.0f} s: see its output")

    # ── what a recipe becomes ──

    async def _ready(self, recipe: Recipe, threads: int, tell: Tell) -> Ready:
        base = self._base()
        threads = threads or len(os.sched_getaffinity(0))
        with scratch_in(self._folder, "texts") as scratch:
            sources = await bring(self._datanets, recipe.datanets, scratch, tell)
        tell(Progress("rows", 0, 0))
        try:
            return await trio.to_thread.run_sync(make_ready, recipe, sources, base, threads)
        except FactoryError as error:
            raise BadRequest(str(error)) from error

    async def _try(self, run: Path) -> dict[str, float]:
        """Try a few steps in a process, and return what it found."""
        with trio.move_on_after(TRIAL_DEADLINE_S):
            done = await trio.run_process(
                [*self._command, str(run), "--trial", str(TRIAL_STEPS)],
                capture_stdout=True,
                capture_stderr=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            if done.returncode < 0:
                raise BadRequest(
                    f"the trial's process was killed by signal {-done.returncode}, as a machine"
                    f" does that has no memory left; {LESS_MEMORY}"
                )
            if done.returncode:
                why = done.stderr.decode(errors="replace").strip().splitlines()
                raise BadRequest(f"the trial failed: {why[-1] if why else done.returncode}")
            found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return found
        raise BadRequest(f"{TRIAL_STEPS} steps did not end within {TRIAL_DEADLINE_S:.0f} s")


def _read(text: str) -> Recipe:
    try:
        return read_recipe(text.encode(), "the recipe")
    except FactoryError as error:
        raise BadRequest(str(error)) from error


def _check(ready: Ready, tried: dict[str, float]) -> CheckInfo:
    looks = ready.steps.total // int(ready.recipe.stop.every) + 1
    seconds = ready.steps.total * tried["seconds_a_step"] + looks * tried["seconds_a_look"]
    warnings = []
    if not len(ready.made.held_out):
        warnings.append("nothing is held out, so nobody will know whether it learnt anything")
    if ready.about.contaminated:
        warnings.append(
            f"{ready.about.contaminated} documents that were held out share a run of 13 tokens with"
            " what is learnt; they are not looked at"
        )
    if len(ready.about.people) > MAX_CONTRIBUTORS:
        warnings.append(
            f"{len(ready.about.people)} people gave these texts; a manifest has room for"
            f" {MAX_CONTRIBUTORS}, so it could not be published"
        )
    if ready.dropped:
        warnings.append(
            f"{ready.dropped} documents are left out: they were refused since, or are of people who"
            " were barred"
        )
    needed, free = int(tried["memory_bytes"]), int(tried["free_memory_bytes"])
    if needed > MOST_OF_FREE * free:
        warnings.append(
            f"it takes {needed >> 20} MB of memory, and {free >> 20} MB are free; {LESS_MEMORY}"
        )
    return CheckInfo(
        name=ready.recipe.name,
        fields=tuple(_fields(ready)),
        people=len(ready.about.people),
        documents=ready.about.documents,
        held_out=ready.about.held_out,
        contaminated=ready.about.contaminated,
        tokens=ready.amount.tokens,
        rows=ready.amount.running,
        chats=ready.amount.chats,
        steps=ready.steps.total,
        seconds_a_step=tried["seconds_a_step"],
        seconds=seconds,
        disk_bytes=int(tried["disk_bytes"]),
        memory_bytes=needed,
        warnings=tuple(warnings),
    )


def _fields(ready: Ready) -> list[FieldInfo]:
    """Return each field of a recipe with its value, and whether the recipe left it open."""
    asked = flat(ready.asked)
    decided = flat(ready.recipe)
    return [
        FieldInfo(name, str(value), EXPLAINED[name], asked[name] != value)
        for name, value in decided.items()
    ]
