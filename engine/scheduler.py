"""Who runs in the next step. Decides; computes nothing, moves no bytes.

    waiting ──admit (adapter's bytes here, pages)──▶ running ──▶ ended
       ▲                                               │
       └──────────────────── preempt ──────────────────┘   pages given back; tokens kept, so that it
                                                           resumes exactly

A running sequence takes part in a step when its adapter has a seat (seats.py). A running sequence
without credit is parked: it keeps its pages, costs no step, and is the first to be preempted.

Who is first is decided in order.py, and which pages a sequence has in page_tables.py.
"""

from __future__ import annotations

from typing import Protocol

from .kv.prefix import PrefixCache
from .order import by_claim, first_to_give_way, for_rows
from .page_tables import PageTables
from .schedule import Budget, Chunk, Schedule
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


class Scheduler:
    """Continuous batching with chunked prefill: first every decoding sequence, then prompts, up to
    `step_tokens` rows.
    """

    def __init__(self, budget: Budget, pages: PrefixCache, adapters: AdapterGate) -> None:
        self._budget = budget
        self._tables = PageTables(pages, budget.page_tokens, adapters.digest, budget.window)
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
        self._tables.give_back(sequence)
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
        for sequence in for_rows(able, self._shares.of, self._oldest_s(now_s)):
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
        if not (self._is_settled(chunks) and self._goes_on_alike(chunks)):
            return None
        # The step under way writes the cell at `start`, the next one the cell behind it.
        ends = [chunk.start + 2 for chunk in chunks]
        missing = sum(
            [
                self._tables.missing(chunk.sequence, end)
                for chunk, end in zip(chunks, ends, strict=True)
            ]
        )
        if missing > self._tables.num_available:
            # Somebody would have to give way, and its pages are being read.
            return None
        if missing:
            for chunk, end in zip(chunks, ends, strict=True):
                # If `schedule` is asked after all, it finds these pages reserved and takes them
                # over; but it must still clean them, so what is unclean outlives this call.
                self._tables.grow(chunk.sequence, end, self._unclean)
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
        """Let others share the pages that `sequence` has filled, and leave those behind that it
        will not see again.
        """
        self._tables.publish(sequence)
        self._tables.leave_behind(sequence)

    def check(self) -> None:
        """Pages belong to running sequences only and cover what is computed; seats are of adapters
        that run.
        """
        self._tables.check(self.running, self.waiting)
        self._seats.check(self._adapters_running())

    # --- places ---

    def _admit(self, now_s: float) -> None:
        if not self.waiting:
            return
        for sequence in by_claim(self.waiting, self._shares.of, self._oldest_s(now_s)):
            if len(self.running) >= self._budget.max_running:
                return
            if not sequence.has_credit or not self._is_prepared(sequence, now_s):
                continue
            self._tables.begin(sequence)
            missing = self._tables.missing(sequence, len(sequence.tokens) + 1)
            missing -= self._tables.num_available
            if missing > 0 and not self._can_take_from_parked(missing):
                self._tables.give_back(sequence)
                return  # later ones wait as well: a long prompt must not starve behind short ones
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

    # --- what a step holds ---

    def _oldest_s(self, now_s: float) -> float:
        return now_s - self._budget.age_bound_s

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
        cells = self._tables.room_tokens(sequence)
        count = min(count, sequence.room - 1, cells - len(sequence.tokens))
        return sequence.proposer.propose(sequence.tokens, count) if count > 0 else []

    # --- the step after the one under way ---

    def _is_settled(self, chunks: list[Chunk]) -> bool:
        """Whether the next step holds the sequences of `chunks` and no others."""
        # A free place goes to whoever waits, as soon as its adapter's bytes are here.
        if self.waiting and len(self.running) < self._budget.max_running:
            return False
        # Bytes that arrive in a slot let their adapter take part from the next step on.
        if self._seats.has_arriving:
            return False
        # Who has credit and takes no part was granted it meanwhile, stands without a seat, or found
        # no row; next time `schedule` may decide otherwise. Where there is nobody, no seat ends
        # either, since one is only given up for somebody who stands.
        return sum([sequence.has_credit for sequence in self.running]) == len(chunks)

    def _goes_on_alike(self, chunks: list[Chunk]) -> bool:
        """Whether each of `chunks` is followed by one row more of its sequence."""
        # What a draft guesses follows from the tokens that the step under way is to give.
        if self._draft_tokens(len(chunks)) > 0:
            return False
        # A prompt's chunk is followed by one of another size, and after the last token that credit
        # or length allow there is no next one. (`room` still counts the token under way.)
        return all(
            chunk.count == 1 and chunk.sequence.is_decoding and chunk.sequence.room > 1
            for chunk in chunks
        )

    # --- pages ---

    def _can_take_from_parked(self, missing: int) -> bool:
        parked = (sequence for sequence in self.running if not sequence.has_credit)
        return missing <= sum(map(self._tables.num_held, parked))

    def _reserve(self, sequence: Sequence, num_tokens: int, fresh: list[int]) -> bool:
        """Give the sequence pages for `num_tokens`, preempting others; False when it had to give
        way itself.
        """
        while True:
            missing = self._tables.missing(sequence, num_tokens)
            if missing <= 0:
                return True
            if missing <= self._tables.num_available:
                self._tables.grow(sequence, num_tokens, fresh)
                return True
            victim = first_to_give_way(self.running)
            self._preempt(victim)
            if victim is sequence:
                return False

    def _preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to wait; it will compute its tokens again and go on."""
        self.running.remove(sequence)
        self._preempted.add(sequence)
        self._tables.give_back(sequence)
        self.waiting.append(sequence)
