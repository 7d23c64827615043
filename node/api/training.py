"""Declares what the faces may ask of a daemon about trainings, and what they get back: immutable,
made of plain values. Decides nothing.

A run is named by its recipe's name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from .datanets import PathOrNone, Tell

RunState = Literal["new", "working", "paused", "stopped", "finished", "failed"]

Agreement = Literal["agrees", "differs", "unknown"]
InfluenceState = Literal["new", "working", "paused", "stopped", "finished", "failed"]
Answerer = Literal["base", "adapter"]


@dataclass(frozen=True)
class FieldInfo:
    """A field of a recipe, its value, and what it does; `is_decided`: the recipe left it open."""

    field: str
    value: str
    what: str
    is_decided: bool = False


@dataclass(frozen=True)
class CheckInfo:
    """What a recipe would do. Losses in nats a token, sizes in bytes; seconds by a short trial."""

    name: str
    fields: tuple[FieldInfo, ...]
    people: int
    documents: int
    held_out: int
    contaminated: int
    tokens: int
    rows: int
    chats: int
    steps: int
    seconds_a_step: float
    seconds: float
    disk_bytes: int
    memory_bytes: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepInfo:
    """A step: its loss in nats a token, and after a look what is held out loses."""

    step: int
    loss: float
    seconds: float
    held_out: float | None = None


@dataclass(frozen=True)
class RunInfo:
    """A run. `why` says how it ended, with the mend; `best` is the look that lost least, of step
    `best_step`; `first` what was held out lost at the first look.
    """

    name: str
    state: RunState
    why: str
    folder: str
    base: str
    kind: str
    rank: int
    people: int
    tokens: int
    made_at: int
    step: int
    num_steps: int
    loss: float | None = None
    first: float | None = None
    best: float | None = None
    best_step: int = 0
    seconds_left: float | None = None
    tokens_a_second: float | None = None
    adapter: str = ""


@dataclass(frozen=True)
class StartSaid:
    """What is to be trained: a recipe's text, and by how many threads (0: the daemon's choice)."""

    recipe: str
    threads: int = 0


@dataclass(frozen=True)
class Watched:
    """A run as it is now, and the steps that came since the last word."""

    run: RunInfo
    steps: tuple[StepInfo, ...]


@dataclass(frozen=True)
class BesideInfo:
    """What base and adapter lose of some text, in nats a token, and of how many tokens."""

    of: str
    base: float
    adapter: float
    tokens: int


@dataclass(frozen=True)
class AnswerInfo:
    """What base and adapter make of a prompt, same seed; the longest run of tokens in the adapter's
    that stands so in what it learnt.
    """

    prompt: str
    is_own: bool
    base: str
    adapter: str
    longest_run: int


@dataclass(frozen=True)
class EvaluationInfo:
    """What a run's adapter does beside its base; the verdict in a sentence. `memorised` is the part
    of its answers' tokens in long runs of what it learnt.
    """

    name: str
    verdict: str
    is_good: bool
    held_out: BesideInfo | None
    learnt: BesideInfo
    forgetting: BesideInfo
    people: tuple[BesideInfo, ...]
    unseen: tuple[BesideInfo, ...]
    memorised: float
    answers: tuple[AnswerInfo, ...]


@dataclass(frozen=True)
class TurnSaid:
    """A turn of a chat: `role` is "system", "user" or "assistant"."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class ChatSaid:
    """What a run's checkpoint is asked: turns, or a `text` that it goes on with.

    `which`: the newest checkpoint or the best until now; `step`: that one; neither: what a finished
    run keeps, or else the newest. `with_base`: the base answers too, with the same seed.
    """

    turns: tuple[TurnSaid, ...] = ()
    text: str = ""
    which: Literal["last", "best"] | None = None
    step: int | None = None
    max_tokens: int = 128
    temperature: float = 0.7
    seed: int | None = None
    with_base: bool = False


@dataclass(frozen=True)
class ChatBegun:
    """Which checkpoint answers: its step, None for what a finished run keeps; what was held out
    lost there, in nats a token, where that was looked at; what was passed over and why.
    """

    step: int | None
    held_out: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ChatText:
    """More of an answer."""

    by: Answerer
    text: str


@dataclass(frozen=True)
class ChatEnded:
    """An answer is complete, after so many tokens."""

    by: Answerer
    tokens: int
    reason: str


ChatWord = ChatBegun | ChatText | ChatEnded


@dataclass(frozen=True)
class InfluenceSaid:
    """For how many minutes trainings may begin (None: as the recipe says), by how many threads (0:
    as the run had).
    """

    minutes: float | None = None
    threads: int = 0


@dataclass(frozen=True)
class FigureInfo:
    """A correlation and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class WeighedInfo:
    """A person's standing weight as a part of 1, and what an answer loses in nats without him, and
    without so many `others` who were left out with him.
    """

    name: str
    weight: float
    effect: float
    others: int


@dataclass(frozen=True)
class InfluenceInfo:
    """How far it is measured whose text mattered to a run: `done` of `total` trainings, over
    `tokens` of the run's `of_tokens`; `says` is the process's last line.

    What is found until now: λ in eighths, r and LDS over so many answers, people's weights.
    """

    run: str
    state: InfluenceState
    why: str
    says: str
    done: int
    total: int
    tokens: int
    of_tokens: int
    groups: int
    people: tuple[WeighedInfo, ...]
    lambda_eighths: int | None
    r: FigureInfo | None
    lds: FigureInfo | None
    answers: int
    note: str


@dataclass(frozen=True)
class PublishSaid:
    """How a run is published; what is empty follows from run and datanets.

    `name`: of the adapter, else the recipe's. `key`: a file with the creator's key, else the node's
    own. `anyway`: though its verdict is red, or a datanet's newest word is not to be had. `dry_run`
    writes the folder that would be published, and signs nothing.
    """

    name: str = ""
    version: str = ""
    licence: str = ""
    description: str = ""
    languages: tuple[str, ...] = ()
    key: PathOrNone = ""
    anyway: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class PaidInfo:
    """Somebody who is paid: `tokens` he gave, `owned` count as his; `part` of the contributors'
    part is his by standing weight.
    """

    name: str
    pay_to: str
    tokens: int
    owned: int
    part: float


@dataclass(frozen=True)
class PublishedInfo:
    """What was published from which folder; after a dry run `version` and `cid` are empty. Parts
    were measured on so many `answers`, or are of the tokens that count (0).
    """

    name: str
    folder: str
    licence: str
    verdict: str
    is_good: bool
    size_bytes: int
    paid: tuple[PaidInfo, ...]
    answers: int = 0
    version: str = ""
    cid: str = ""
    creator: str = ""


@dataclass(frozen=True)
class RecipeInfo:
    """A recipe's text, and what is to be known of it."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifySaid:
    """Which published adapter is checked; `train` trains it again, by so many threads (0: all)."""

    model: str
    train: bool = False
    threads: int = 0


@dataclass(frozen=True)
class ComparedInfo:
    """One thing that a published adapter says, and whether it is so."""

    what: str
    outcome: Agreement
    why: str


@dataclass(frozen=True)
class AdapterVerifiedInfo:
    """A published adapter beside its recipe, its datanets and what is served here."""

    name: str
    version: str
    cid: str
    creator: str
    outcome: Agreement
    compared: tuple[ComparedInfo, ...]


@dataclass(frozen=True)
class ParentSaid:
    """An adapter by any of its names, and its weight; None counts as 1."""

    model: str
    weight: float | None = None


@dataclass(frozen=True)
class MergeSaid:
    """What is merged and how: `method` is linear, ties, dare_linear or dare_ties; `density` is the
    part of the numbers that all but the first keep; `seed` draws what the last two drop.
    """

    name: str
    parents: tuple[ParentSaid, ...]
    method: Literal["linear", "ties", "dare_linear", "dare_ties"] = "linear"
    density: float = 0.5
    seed: int = 20260


@dataclass(frozen=True)
class MergedFrom:
    """A parent, and how much of it is in; weights sum to 1."""

    name: str
    cid: str
    weight: float


@dataclass(frozen=True)
class MergePaid:
    """Somebody who is paid for the merged adapter: as a parent's creator, or for data; `part` of a
    fee is his while answers draw on nothing.
    """

    role: str
    address: str
    part: float


@dataclass(frozen=True)
class MergedInfo:
    """A merged adapter, in a folder that can be published; `note` says how weights were taken."""

    name: str
    folder: str
    method: str
    rank: int
    note: str
    parents: tuple[MergedFrom, ...]
    paid: tuple[MergePaid, ...]


@dataclass(frozen=True)
class DifferingInfo:
    """A field in which recipes differ, and its value in each."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class BesideRunInfo:
    """A run beside others: the seconds of its steps, and what it does beside its base where that
    was tried.
    """

    run: RunInfo
    seconds: float
    held_out: BesideInfo | None
    verdict: str
    is_good: bool | None


@dataclass(frozen=True)
class RunsBesideInfo:
    """Runs, and the fields in which their recipes differ, values in the runs' order."""

    runs: tuple[BesideRunInfo, ...]
    differing: tuple[DifferingInfo, ...]


class Training(Protocol):
    """What a daemon does in training.

    Everything raises `node.errors.NodeError`, whose message says how to fix it.
    """

    async def listing(self) -> list[RunInfo]:
        """List the runs of this home, the newest first."""

    async def show(self, name: str) -> Watched:
        """Return a run and all its steps."""

    async def check(self, said: StartSaid, tell: Tell) -> CheckInfo:
        """Say what a recipe would do, by making its rows and trying a few steps."""

    async def start(self, said: StartSaid, tell: Tell) -> RunInfo:
        """Begin a run, in a process that outlives this daemon."""

    async def resume(self, name: str) -> RunInfo:
        """Have a run go on that was paused, or whose process is gone."""

    async def ask(self, name: str, wanted: Literal["pause", "finish"]) -> RunInfo:
        """Have a run pause, or end here and keep what it has learnt."""

    async def delete(self, name: str) -> None:
        """Delete a run that nobody works on, its adapter too."""

    async def evaluation(self, name: str) -> EvaluationInfo:
        """Return what a finished run's adapter does beside its base."""

    async def publish(self, name: str, said: PublishSaid, tell: Tell) -> PublishedInfo:
        """Publish a finished run's adapter, with all that it was made of."""

    async def again(self, name: str, new_name: str) -> RecipeInfo:
        """Write a recipe like a run's, over the newest versions of its datanets."""

    async def verify(self, said: VerifySaid, tell: Tell) -> AdapterVerifiedInfo:
        """Check a published adapter against its recipe and its datanets."""

    def watch(self, name: str, after: int) -> AbstractAsyncContextManager[AsyncIterator[Watched]]:
        """Tell of a run as it goes on, from that step on, until it is at work no more."""

    def chat(
        self, name: str, said: ChatSaid
    ) -> AbstractAsyncContextManager[AsyncIterator[ChatWord]]:
        """Answer by a checkpoint of a run, on this daemon's own engine, for nobody else; leaving
        the block early cancels it.
        """

    async def influence(self, name: str) -> InfluenceInfo:
        """Tell how far it is measured whose text mattered to a run, and what is found."""

    async def measure(self, name: str, said: InfluenceSaid) -> InfluenceInfo:
        """Begin to measure it, or go on, in a process that outlives this daemon."""

    async def stop_measuring(self, name: str) -> InfluenceInfo:
        """End that process; what it has measured is kept."""

    def watch_influence(
        self, name: str
    ) -> AbstractAsyncContextManager[AsyncIterator[InfluenceInfo]]:
        """Tell how it goes on, until nobody is at work on it."""

    async def merge(self, said: MergeSaid, tell: Tell) -> MergedInfo:
        """Merge adapters into one whose parents are paid for it; publishes nothing."""

    async def compare(self, names: Sequence[str]) -> RunsBesideInfo:
        """Show runs beside one another: what differs in their recipes, and what came of each."""

    async def export(self, name: str, folder: Path) -> None:
        """Write a finished run's adapter and what is to be known of it into a new folder."""
