"""Random histories of the page pool, the prefix cache, the host cache and the slot table; `check`
after each step.
"""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.kv.pages import ZERO_PAGE, PagePool
from engine.kv.prefix import PrefixCache, first_key, next_key
from engine.lora.arena import Arena
from engine.lora.bank import SlotBank
from engine.lora.host_cache import HostCache
from engine.lora.layout import Layout, PackedAdapter
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


class PrefixMachine(RuleBasedStateMachine):
    """Sequences over an alphabet of two, so that beginnings often meet; what a page holds is
    remembered and must be what a match expects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(PagePool(10))
        self.sequences: list[tuple[list[int], list[bytes]]] = []
        self.content: dict[int, bytes] = {}

    @rule(
        letters=st.lists(st.integers(0, 1), min_size=1, max_size=4),
        adapter=st.sampled_from([None, b"a"]),
    )
    def begin(self, letters: list[int], adapter: bytes | None) -> None:
        key = first_key(adapter)
        keys = []
        for letter in letters:
            key = next_key(key, [letter])
            keys.append(key)
        pages = self.cache.match(keys)
        for page, expected in zip(pages, keys, strict=False):
            assert self.content[page] == expected, "a match gave another page's content"
        missing = len(keys) - len(pages)
        if missing > self.cache.num_available:
            self.cache.release(pages)
            return
        for page, expected in zip(
            fresh := self.cache.allocate(missing), keys[len(pages) :], strict=True
        ):
            self.content[page] = expected
            self.cache.publish(expected, page)
        self.sequences.append((pages + fresh, keys))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        pages, _ = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        self.cache.release(pages)

    @invariant()
    def nothing_is_lost(self) -> None:
        self.cache.check([pages for pages, _ in self.sequences])

    def teardown(self) -> None:
        for pages, _ in self.sequences:
            self.cache.release(pages)
        assert self.cache.num_available == 10


class HostMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cache = HostCache(1000)
        self.known: set[bytes] = set()

    @rule(adapter=st.sampled_from(ADAPTERS), size=st.integers(0, 1200), reload_ms=st.floats(0, 100))
    def put(self, adapter: bytes, size: int, reload_ms: float) -> None:
        dropped = self.cache.put(
            adapter,
            PackedAdapter(Layout((), size, torch.float32), torch.zeros(size, dtype=torch.uint8), 1),
            reload_ms,
        )
        assert adapter not in dropped
        self.known = (self.known | {adapter}) - set(dropped)

    @rule(adapter=st.sampled_from(ADAPTERS))
    def touch(self, adapter: bytes) -> None:
        if self.cache.find(adapter) is not None:
            self.cache.touch(adapter)

    @rule(adapter=st.sampled_from(ADAPTERS))
    def remove(self, adapter: bytes) -> None:
        self.cache.remove(adapter)
        self.known.discard(adapter)

    @invariant()
    def the_budget_holds(self) -> None:
        self.cache.check()
        assert {
            adapter for adapter in ADAPTERS if self.cache.find(adapter) is not None
        } == self.known
        assert self.cache.size_bytes <= 1000 or len(self.known) == 1


class SlotsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(3, Arena(1 << 20))
        self.pins: list[bytes] = []
        self.loading: list[Placement] = []

    @rule(adapter=st.sampled_from(ADAPTERS), cost=st.floats(0.01, 10), size=st.integers(0, 1000))
    def know(self, adapter: bytes, cost: float, size: int) -> None:
        self.table.know(adapter, cost, size)

    @rule(adapter=st.sampled_from(ADAPTERS))
    def pin(self, adapter: bytes) -> None:
        if not self.table.knows(adapter):
            return
        pinned_slots = set(self.pins)
        placement = self.table.pin(adapter)
        if isinstance(placement, NoFreeSlot):
            assert len(pinned_slots) == 3
            assert adapter not in pinned_slots
            return
        self.pins.append(adapter)
        if placement is not None:
            assert pinned_slots.isdisjoint(placement.evicted)
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
        if self.table.knows(adapter):
            self.table.drop_from_host(adapter)

    @invariant()
    def the_drawing_holds(self) -> None:
        self.table.check()
        for adapter in self.pins:
            assert self.table.state(adapter) in (State.LOADING, State.READY)
            assert self.table.pins(adapter) == self.pins.count(adapter)


TestPages = PagesMachine.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPrefix = PrefixMachine.TestCase
TestPrefix.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHost = HostMachine.TestCase
TestHost.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_slots_of_one_layout_share_a_number_until_the_last_has_left() -> None:
    bank = SlotBank()
    one, other = (
        PackedAdapter(Layout((), size, torch.float32), torch.zeros(size, dtype=torch.uint8), 1)
        for size in (64, 128)
    )
    for slot, packed in enumerate((one, other, one)):
        bank.load(slot, slot, packed)
    assert bank.layout_number(0) == bank.layout_number(2) != bank.layout_number(1)
    before = bank.layout_number(0)
    bank.clear(0)
    bank.load(2, 3, other)
    assert bank.layout_number(2) == bank.layout_number(1)
    bank.load(0, 4, one)
    assert bank.layout_number(0) not in (
        before,
        bank.layout_number(1),
    ), "nobody had that layout any more"
