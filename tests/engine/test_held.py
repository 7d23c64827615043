"""The records of held adapters: whatever the order in which adapters are held, read, used, refused
and released, each is kept as long as it is needed and no longer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import BadAdapter, UnknownAdapter
from engine.lora.arena import ALIGN_BYTES, Arena
from engine.lora.bank import SlotBank
from engine.lora.held import MAX_REFUSALS, HeldAdapters
from engine.lora.host_cache import HostCache
from engine.lora.layout import Layout, Loaded, PackedAdapter
from engine.lora.loader import LoadDone, LoadJob, Source, Sources
from engine.lora.slots import SlotTable
from engine.messages import AdapterHeld, AdapterRefused

ADAPTERS = st.sampled_from([b"a", b"b", b"c", b"d"])
SIZE = ALIGN_BYTES
BAD = BadAdapter("rank is 0")


def files(weights: str) -> Sources:
    return (Source(Path("config"), Path(weights)),)


def loaded(digest: bytes = b"same") -> Loaded:
    blob = torch.zeros(SIZE, dtype=torch.uint8)
    return Loaded(PackedAdapter(Layout((), SIZE, torch.float32), blob, 1), digest)


def open_adapters(jobs: list[LoadJob], num_slots: int = 2) -> HeldAdapters:
    """Room for two adapters in host memory."""
    return HeldAdapters(
        SlotTable(num_slots, Arena(num_slots * SIZE)),
        SlotBank(),
        HostCache(2 * SIZE),
        submit=jobs.append,
        recall=lambda *_: None,
    )


def knows(adapters: HeldAdapters, adapter: bytes) -> bool:
    try:
        adapters.check_known(adapter)
    except UnknownAdapter:
        return False
    return True


class HeldMachine(RuleBasedStateMachine):
    """Does what an engine does with a few adapters: who uses one first asks whether it is known."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[LoadJob] = []
        self.adapters = open_adapters(self.jobs)
        self.waiting: list[bytes] = []
        self.pinned: list[tuple[bytes, bytes]] = []

    @rule(adapter=ADAPTERS, version=st.sampled_from(["1", "2"]))
    def hold(self, adapter: bytes, version: str) -> None:
        answer = self.adapters.hold(adapter, files(version))
        assert answer is None or isinstance(answer, AdapterHeld)
        assert knows(self.adapters, adapter)

    @precondition(lambda self: self.jobs)
    @rule(outcome=st.sampled_from([BAD, b"same", b"same", b"other"]))
    def finish_a_load(self, outcome: BadAdapter | bytes) -> None:
        job = self.jobs.pop(0)
        self.adapters.receive(
            LoadDone(job, outcome if isinstance(outcome, BadAdapter) else loaded(outcome), 1.0)
        )
        if not knows(self.adapters, job.adapter):
            for _ in range(self.waiting.count(job.adapter)):
                self.waiting.remove(job.adapter)
                self.adapters.leave(job.adapter)

    @rule(adapter=ADAPTERS)
    def use(self, adapter: bytes) -> None:
        if knows(self.adapters, adapter):
            self.adapters.use(adapter)
            self.waiting.append(adapter)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        adapter = data.draw(st.sampled_from(self.waiting))
        if self.adapters.prepare(adapter) and self.adapters.try_pin(adapter):
            self.waiting.remove(adapter)
            self.pinned.append((adapter, self.adapters.digest(adapter)))
            assert self.adapters.is_ready(adapter)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        adapter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(adapter)
        self.adapters.leave(adapter)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._end(data.draw(st.integers(0, len(self.pinned) - 1)))

    @rule(adapter=ADAPTERS)
    def release(self, adapter: bytes) -> None:
        self.adapters.release(adapter)
        assert not knows(self.adapters, adapter)

    @invariant()
    def the_records_agree(self) -> None:
        self.adapters.check()

    @invariant()
    def whoever_computes_has_the_weights_it_began_with(self) -> None:
        for adapter, digest in self.pinned:
            assert self.adapters.is_ready(adapter)
            assert self.adapters.digest(adapter) == digest

    def teardown(self) -> None:
        while self.pinned:
            self._end(0)
        for adapter in self.waiting:
            self.adapters.leave(adapter)
        for adapter in (b"a", b"b", b"c", b"d"):
            self.adapters.release(adapter)
        for job in self.jobs:
            self.adapters.receive(LoadDone(job, loaded(), 1.0))
        self.adapters.check()
        assert self.adapters.slots.known() == [], "an adapter is kept for nobody"

    def _end(self, index: int) -> None:
        adapter, _ = self.pinned.pop(index)
        self.adapters.unpin(adapter)
        self.adapters.leave(adapter)


TestHeld = HeldMachine.TestCase
TestHeld.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_no_more_refusals_are_remembered_than_the_bound() -> None:
    jobs: list[LoadJob] = []
    adapters = open_adapters(jobs)
    names = [number.to_bytes(32) for number in range(MAX_REFUSALS + 1)]
    for name in names:
        adapters.hold(name, files("weights"))
        assert adapters.receive(LoadDone(jobs.pop(), BAD, 1.0)) == AdapterRefused(name, str(BAD))
    adapters.check()
    with pytest.raises(UnknownAdapter, match="is not held"):
        adapters.check_known(names[0])
    for name in names[1:]:
        with pytest.raises(UnknownAdapter, match="was refused: rank is 0"):
            adapters.check_known(name)


def test_other_weights_under_a_name_wait_until_nobody_computes_with_the_old_ones() -> None:
    jobs: list[LoadJob] = []
    adapters = open_adapters(jobs)
    adapters.hold(b"a", files("1"))
    adapters.receive(LoadDone(jobs.pop(), loaded(b"old"), 1.0))
    adapters.use(b"a")
    assert adapters.prepare(b"a")
    assert adapters.try_pin(b"a")
    adapters.hold(b"a", files("2"))
    answer = adapters.receive(LoadDone(jobs.pop(), loaded(b"new"), 1.0))
    assert isinstance(answer, AdapterRefused)
    assert "requests are running" in answer.message
    adapters.unpin(b"a")
    adapters.leave(b"a")
    adapters.hold(b"a", files("2"))
    assert isinstance(adapters.receive(LoadDone(jobs.pop(), loaded(b"new"), 1.0)), AdapterHeld)
    assert adapters.digest(b"a") == b"new"
    assert not adapters.is_ready(b"a"), "the slot still had the old ones"
