"""Who runs in the next step. Decides; computes nothing, moves no bytes.

    waiting ──admit (adapter's bytes here, pages)──▶ running ──▶ ended
       ▲                                               │
       └──────────────────── preempt ──────────────────┘   pages given back; tokens kept, so that it
                                                           resumes exactly

A running sequence takes part in a step when its adapter has a seat (seats.py). A running sequence
without credit is parked: it keeps its pages, costs no step, and is the first to be preempted.

Order, for places and for prompt tokens alike: who has waited longer than the age bound; then
priority; then the adapter that has had the fewest tokens so far (a flood for one adapter delays
that adapter, not the others); then arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .kv.prefix import PrefixCache, first_key, next_key
from .seats import SeatGate, Seats
from .sequence import Sequence
from .shares import Shares

DRAFT_ROWS = 16
"""Rows of a step that drafts may add up to, with the rows they follow: as many cost little more
than one (a step of few rows reads weights).
"""


class AdapterGate(SeatGate, Protocol):
    """What the scheduler must know of adapters."""

    def digest(self, adapter: bytes) -> bytes:
        """Of the content of a prepared adapter."""


@dataclass(slots=True)  # not frozen, for the same reason as the Run that it becomes
class Chunk:
    """`count` tokens of one sequence to compute, from position `start`; `wanted` of them, the last
    ones, want logits.

    draft: guessed ids that follow the sequence's own; the last len(draft) of `count`.
    """

    sequence: Sequence
    start: int
    count: int
    wanted: int
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """One step's work: chunks, and pages that must be cleaned before it, since the step writes only
    their beginning.
    """

    chunks: list[Chunk]
    fresh_pages: list[int]


@dataclass(frozen=True)
class Budget:
    """What a step may hold: rows, sequences, tokens a page; how long one may be passed over; how
    far one may be guessed ahead (0: not at all).

    A step in which nobody decodes may hold `prompt_step_tokens` rows, if they are more: nobody
    waits for its end with a half-spoken answer. Where somebody does, prompts may add
    `beside_tokens` rows. An adapter that others wait for keeps its seat for `seat_steps`.
    """

    step_tokens: int
    max_running: int
    page_tokens: int
    age_bound_s: float
    draft_tokens: int
    prompt_step_tokens: int
    beside_tokens: int
    seat_steps: int


class Scheduler:
    """Continuous batching with chunked prefill: first every decoding sequence, then prompts, up to
    `step_tokens` rows.
    """

    def __init__(self, budget: Budget, pages: PrefixCache, adapters: AdapterGate) -> None:
        self._budget = budget
        self._pages = pages
        self._adapters = adapters
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._step = 0
        self._seats = Seats(adapters, budget.seat_steps)
        self._preempted: set[Sequence] = set()
        self._shares = Shares(self._adapters_running)
        self._unclean: list[int] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; its adapter is sent for at once."""
        self.waiting.append(sequence)
        if sequence.adapter is not None:
            self._adapters.prepare(sequence.adapter)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, ended or cancelled; its pages are free at once."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._give_back(sequence)
        self._seats.leave_all_but(self._adapters_running(), self._step)

    def schedule(self, now_s: float) -> Schedule:
        """Choose the next step's chunks; preempts when pages run out."""
        self._step += 1
        self._preempted.clear()
        self._admit(now_s)
        able = [sequence for sequence in self.running if sequence.has_credit]
        self._take_seats(able)
        chosen: list[Chunk] = []
        fresh = self._unclean
        self._unclean = []
        budget = self._step_tokens(able)
        draft_tokens = self._draft_tokens(len(able))
        for sequence in self._in_order(able, now_s):
            if budget <= 0:
                break
            if not self._seats.may_run(sequence.adapter) or sequence in self._preempted:
                continue
            chunk = self._chunk(sequence, budget, draft_tokens)
            if self._reserve(sequence, chunk.start + chunk.count, fresh):
                chosen.append(chunk)
                budget -= chunk.count
                self._shares.count(sequence.adapter, chunk.count)
        # of those that were preempted
        self._seats.leave_all_but(self._adapters_running(), self._step)
        return Schedule([chunk for chunk in chosen if chunk.sequence not in self._preempted], fresh)

    def foresee(self, chunks: list[Chunk]) -> Schedule | None:
        """The step after one of `chunks` that is under way, in the same order, if that will give a
        token to each and end none.

        None when the next step may be another: somebody waits for a place, a seat or credit, or
        there is something to compute beside the newest tokens. Pages are reserved for it; nothing
        else is changed, so that `schedule` may still be asked instead. `follow` takes it.
        """
        if (
            self.waiting and len(self.running) < self._budget.max_running
        ) or self._seats.has_arriving:
            return None
        if (
            sum([sequence.has_credit for sequence in self.running]) != len(chunks)
            or self._draft_tokens(len(chunks)) > 0
        ):
            return None
        if not all(
            chunk.count == 1 and chunk.sequence.is_decoding and chunk.sequence.room > 1
            for chunk in chunks
        ):
            return None
        ends = [chunk.start + 2 for chunk in chunks]
        missing = sum(
            [
                self._pages_for(end) - len(chunk.sequence.pages)
                for chunk, end in zip(chunks, ends, strict=True)
            ]
        )
        if missing > self._pages.num_available:
            return None
        if missing:
            for chunk, end in zip(chunks, ends, strict=True):
                self._reserve(chunk.sequence, end, self._unclean)
        return Schedule(
            [Chunk(chunk.sequence, chunk.start + 1, 1, 1) for chunk in chunks], self._unclean
        )

    def follow(self, schedule: Schedule) -> None:
        """The step that was foreseen is the next one."""
        self._step += 1
        self._unclean = []
        for chunk in schedule.chunks:
            self._shares.count(chunk.sequence.adapter, 1)

    def publish(self, sequence: Sequence) -> None:
        """Let others share the pages that `sequence` has filled."""
        full = sequence.computed // self._budget.page_tokens
        for index in range(sequence.num_published, full):
            if index == len(sequence.page_keys):
                sequence.page_keys.append(self._key(sequence, index))
            self._pages.publish(sequence.page_keys[index], sequence.pages[index])
        sequence.num_published = max(sequence.num_published, full)

    def check(self) -> None:
        """Pages belong to running sequences only and cover what is computed; seats are of adapters
        that run.
        """
        self._pages.check([sequence.pages for sequence in self.running])
        for sequence in self.running:
            assert sequence.computed <= len(sequence.pages) * self._budget.page_tokens, (
                "computed beyond its pages"
            )
        assert all(not s.pages and s.computed == 0 for s in self.waiting), (
            "a waiting sequence owns pages"
        )
        self._seats.check(self._adapters_running())

    # --- places ---

    def _admit(self, now_s: float) -> None:
        if not self.waiting:
            return
        for sequence in self._by_claim(self.waiting, now_s):
            if len(self.running) >= self._budget.max_running:
                return
            if not sequence.has_credit or not self._is_prepared(sequence, now_s):
                continue
            shared = self._pages.match(self._shareable_keys(sequence))
            needed = self._pages_for(len(sequence.tokens) + 1) - len(shared)
            if needed > self._pages.num_available and not self._can_take_from_parked(
                needed - self._pages.num_available
            ):
                self._pages.release(shared)
                return  # later ones wait as well: a long prompt must not starve behind short ones
            sequence.pages = shared
            sequence.computed = len(shared) * self._budget.page_tokens
            sequence.num_published = len(shared)
            sequence.cached_tokens = sequence.cached_tokens or sequence.computed
            self.waiting.remove(sequence)
            self.running.append(sequence)
            sequence.started_s = sequence.started_s or now_s

    def _is_prepared(self, sequence: Sequence, now_s: float) -> bool:
        if sequence.adapter is None:
            return True
        sequence.asked_s = sequence.asked_s or now_s
        prepared = self._adapters.prepare(sequence.adapter)
        sequence.ready_s = sequence.ready_s or (now_s if prepared else None)
        return prepared

    def _shareable_keys(self, sequence: Sequence) -> list[bytes]:
        count = sequence.num_shareable // self._budget.page_tokens
        sequence.page_keys = []
        for index in range(count):
            sequence.page_keys.append(self._key(sequence, index))
        return sequence.page_keys[:count]

    def _key(self, sequence: Sequence, index: int) -> bytes:
        if index == 0:
            before = first_key(
                None if sequence.adapter is None else self._adapters.digest(sequence.adapter)
            )
        else:
            before = sequence.page_keys[index - 1]
        size = self._budget.page_tokens
        return next_key(before, sequence.tokens[index * size : (index + 1) * size])

    # --- order ---

    def _by_claim(self, sequences: list[Sequence], now_s: float) -> list[Sequence]:
        bound = now_s - self._budget.age_bound_s

        def claim(sequence: Sequence) -> tuple[bool, int, float, int]:
            old = sequence.first_token_s is None and sequence.arrived_s < bound
            return (
                not old,
                0 if old else -sequence.priority,
                0.0 if old else self._shares.of(sequence.adapter),
                sequence.arrival,
            )

        return sorted(sequences, key=claim)

    def _step_tokens(self, able: list[Sequence]) -> int:
        budget = self._budget
        decoding = sum([sequence.is_decoding for sequence in able])
        return (
            min(budget.step_tokens, decoding + budget.beside_tokens)
            if decoding
            else max(budget.step_tokens, budget.prompt_step_tokens)
        )

    def _draft_tokens(self, num_able: int) -> int:
        return min(self._budget.draft_tokens, DRAFT_ROWS // max(1, num_able) - 1)

    def _in_order(self, able: list[Sequence], now_s: float) -> list[Sequence]:
        decoding: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in able:
            (decoding if sequence.is_decoding else prompts).append(sequence)
        decoding.sort(key=lambda sequence: sequence.arrival)
        return decoding + (self._by_claim(prompts, now_s) if prompts else prompts)

    def _adapters_running(self) -> set[bytes | None]:
        return {sequence.adapter for sequence in self.running}

    def _take_seats(self, able: list[Sequence]) -> None:
        wanted: set[bytes] = set()
        new: set[bytes] = set()
        for sequence in able:
            if sequence.adapter is not None:
                wanted.add(sequence.adapter)
                if sequence.first_token_s is None:
                    new.add(sequence.adapter)
        self._seats.take(wanted, new, self._step)

    # --- pages ---

    def _can_take_from_parked(self, missing: int) -> bool:
        return missing <= sum(len(s.pages) for s in self.running if not s.has_credit)

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._budget.page_tokens)

    def _reserve(self, sequence: Sequence, num_tokens: int, fresh: list[int]) -> bool:
        """Give the sequence pages for `num_tokens`, preempting others; False when it had to give
        way itself.
        """
        missing = self._pages_for(num_tokens) - len(sequence.pages)
        while missing > 0 and missing > self._pages.num_available:
            victim = self._victim()
            self._preempt(victim)
            if victim is sequence:
                return False
        if missing > 0:
            pages = self._pages.allocate(missing)
            sequence.pages += pages
            if num_tokens % self._budget.page_tokens:
                fresh.append(
                    pages[-1]
                )  # the others are written whole in this step, before anybody reads them
        return True

    def _victim(self) -> Sequence:
        """Parked before active, then the lowest priority, then the latest arrival: the oldest
        active sequence always gets on.
        """

        def weight(sequence: Sequence) -> tuple[bool, int, int]:
            return (
                not sequence.has_credit and bool(sequence.pages),
                -sequence.priority,
                sequence.arrival,
            )

        return max((s for s in self.running if s.pages or s.has_credit), key=weight)

    def _preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to wait; it will compute its tokens again and go on."""
        self.running.remove(sequence)
        self._preempted.add(sequence)
        self._give_back(sequence)
        self.waiting.append(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self._pages.release(sequence.pages)
        sequence.pages = []
        sequence.page_keys = []
        sequence.computed = 0
        sequence.num_published = 0

    def _chunk(self, sequence: Sequence, budget: int, draft_tokens: int) -> Chunk:
        if sequence.is_decoding and draft_tokens > 0:
            draft = self._draft(sequence, min(draft_tokens, budget - 1))
            return Chunk(
                sequence, sequence.computed, 1 + len(draft), 1 + len(draft), draft=tuple(draft)
            )
        count = min(budget, sequence.num_wanted - sequence.computed)
        end = sequence.computed + count
        if sequence.replay:
            return Chunk(
                sequence,
                sequence.computed,
                count,
                max(0, min(count, end - (sequence.num_prompt - 1))),
            )
        return Chunk(sequence, sequence.computed, count, int(end == len(sequence.tokens)))

    def _draft(self, sequence: Sequence, count: int) -> list[int]:
        """Guesses for which there is room, in the answer and in pages: nobody gives way for a
        guess.
        """
        cells = (len(sequence.pages) + self._pages.num_available) * self._budget.page_tokens
        count = min(count, sequence.room - 1, cells - len(sequence.tokens))
        return sequence.proposer.propose(sequence.tokens, count) if count > 0 else []
