"""Random histories of the page pool and the slot table; `check` after each step."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.kv.pages import ZERO_PAGE, PagePool
from engine.lora.slots import NoFreeSlot, Placement, SlotTable, State

ADAPTERS = [bytes([i]) for i in range(6)]


class PagesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.owned: list[list[int]] = []

    @rule(count=st.integers(0, 15))
    def allocate(self, count: int) -> None:
        if self.pool.can_allocate(count):
            self.owned.append(self.pool.allocate(count))
            assert ZERO_PAGE not in self.owned[-1]

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.pool.free(self.owned.pop(data.draw(st.integers(0, len(self.owned) - 1))))

    @invariant()
    def pages_have_one_owner(self) -> None:
        self.pool.check()
        taken = [page for pages in self.owned for page in pages]
        assert len(taken) == len(set(taken)) == 12 - self.pool.num_free


class SlotsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(3)
        self.pins: list[bytes] = []
        self.loading: list[Placement] = []

    @rule(adapter=st.sampled_from(ADAPTERS), in_host=st.booleans(), cost=st.floats(0.01, 10))
    def hold(self, adapter: bytes, in_host: bool, cost: float) -> None:
        self.table.hold(adapter, in_host, cost)

    @rule(adapter=st.sampled_from(ADAPTERS))
    def pin(self, adapter: bytes) -> None:
        if not self.table.holds(adapter):
            return
        pinned_slots = set(self.pins)
        placement = self.table.pin(adapter)
        if isinstance(placement, NoFreeSlot):
            assert len(pinned_slots) == 3
            assert adapter not in pinned_slots
            return
        self.pins.append(adapter)
        if placement is not None:
            assert placement.evicted not in pinned_slots
            self.loading.append(placement)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.table.unpin(self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1))))

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def finish_a_load(self, data: st.DataObject) -> None:
        placement = self.loading.pop(data.draw(st.integers(0, len(self.loading) - 1)))
        if self.table.loaded(placement.adapter, placement.generation):
            assert self.table.slot(placement.adapter) == placement.slot

    @rule(adapter=st.sampled_from(ADAPTERS))
    def forget(self, adapter: bytes) -> None:
        if self.table.can_forget(adapter):
            assert adapter not in self.pins
            self.table.forget(adapter)

    @rule(adapter=st.sampled_from(ADAPTERS))
    def drop_from_host(self, adapter: bytes) -> None:
        if self.table.holds(adapter):
            self.table.drop_from_host(adapter)

    @invariant()
    def the_drawing_holds(self) -> None:
        self.table.check()
        for adapter in self.pins:
            assert self.table.state(adapter) in (State.LOADING, State.READY)
            assert self.table.pins(adapter) == self.pins.count(adapter)


TestPages = PagesMachine.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
