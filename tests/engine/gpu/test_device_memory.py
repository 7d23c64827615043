"""Who gets a device's memory: the split between keys and values and adapters, and regions of the
room for adapters. All of it pure.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.config import Stored
from engine.cuda.memory import MARGIN, Demand, Load, base_bytes, demand_of, divide, earned, harmonic
from engine.errors import ModelError
from engine.lora.arena import Arena, rounded
from engine.lora.layout import PartWeights, adapter_numbers, make_layout
from engine.lora.slots import NoFreeSlot, Placement, SlotTable
from engine.model.config import ModelConfig
from engine.model.parts import parts_of

LLAMA_8B = ModelConfig(
    128256,
    4096,
    14336,
    32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    context=131072,
    norm_eps=1e-5,
    rope_base=500000.0,
)
GIB = 1 << 30
DEMAND = demand_of(LLAMA_8B, 2, 16, GIB)
LOAD = Load(max_running=256)

demands = st.builds(
    Demand,
    base_bytes=st.integers(1 << 20, 20 << 30),
    work_bytes=st.integers(0, 2 << 30),
    page_bytes=st.integers(1 << 10, 4 << 20),
    page_tokens=st.just(16),
    adapter_bytes=st.integers(1 << 10, 300 << 20),
    slot_bytes=st.integers(40, 20_000),
)


def test_the_bytes_are_those_of_the_layouts_themselves() -> None:
    pair = PartWeights(a=torch.empty(16, 0))
    layout = make_layout(
        LLAMA_8B,
        {(layer, part.name): pair for layer in range(32) for part in parts_of(LLAMA_8B)},
        torch.bfloat16,
    )
    assert adapter_numbers(LLAMA_8B, 16) * 2 == pytest.approx(layout.size_bytes, rel=1e-4)
    assert base_bytes(LLAMA_8B, 2) == pytest.approx(2 * 8.03e9, rel=1e-2)
    assert DEMAND.page_bytes == 16 * 131072


def test_linears_in_fewer_bits_take_fewer_bytes_and_never_more_than_is_counted() -> None:
    """The embedding keeps its 2 bytes a number; a tied head is there besides, in 8 bits."""
    table = 128256 * 4096
    linears = 8.03e9 - 2 * table
    assert base_bytes(LLAMA_8B, 2, Stored.INT8) == pytest.approx(linears + 3 * table, rel=1e-2)
    assert base_bytes(LLAMA_8B, 2, Stored.Q4) == pytest.approx(
        linears * 6 / 8 + 3 * table, rel=1e-2
    )
    tied = replace(LLAMA_8B, tied_head=True)
    for stored in (Stored.INT8, Stored.Q4):
        assert base_bytes(tied, 2, stored) == base_bytes(LLAMA_8B, 2, stored)
    assert demand_of(LLAMA_8B, 2, 16, GIB, stored=Stored.INT8).base_bytes == base_bytes(
        LLAMA_8B, 2, Stored.INT8
    )


@settings(max_examples=60, deadline=None)
@given(demand=demands, free=st.integers(1 << 22, 150 << 30), running=st.integers(1, 512))
def test_a_split_uses_what_is_free_and_never_more(demand: Demand, free: int, running: int) -> None:
    try:
        split = divide(demand, free, free, Load(running))
    except ModelError:
        left = free - demand.base_bytes - demand.work_bytes - int(MARGIN * free)
        assert left < 250 * (demand.page_bytes + demand.adapter_bytes), "there was room for both"
        return
    kv = (1 + split.num_pages) * demand.page_bytes
    used = (
        demand.base_bytes
        + demand.work_bytes
        + kv
        + split.adapter_bytes
        + split.num_slots * demand.slot_bytes
    )
    assert used <= free - int(MARGIN * free)
    assert used > free - int(MARGIN * free) - 2 * demand.page_bytes - demand.slot_bytes
    assert split.num_pages >= 1
    assert split.adapter_bytes >= demand.adapter_bytes


@settings(max_examples=40, deadline=None)
@given(free=st.integers(20, 150), share=st.floats(0.01, 0.99))
def test_no_other_split_earns_more(free: int, share: float) -> None:
    split = divide(DEMAND, free * GIB, free * GIB, LOAD)
    kv = (1 + split.num_pages) * DEMAND.page_bytes
    rest = kv + split.adapter_bytes
    request = LOAD.request_tokens // 16 * DEMAND.page_bytes
    ours = earned(DEMAND, kv, rest - kv, request, LOAD)
    assert earned(DEMAND, int(share * rest), rest - int(share * rest), request, LOAD) <= ours * 1.05


def test_a_small_card_runs_what_it_can_with_an_adapter_each_and_a_large_one_keeps_many() -> None:
    small, large = (divide(DEMAND, free * GIB, free * GIB, LOAD) for free in (23, 140))
    running = small.num_pages * 16 // LOAD.request_tokens
    assert running <= small.adapter_bytes // DEMAND.adapter_bytes <= running + 3
    assert large.num_pages * 16 >= 256 * LOAD.request_tokens
    assert large.adapter_bytes // DEMAND.adapter_bytes > 500


def test_what_an_operator_chooses_is_kept() -> None:
    split = divide(DEMAND, 140 * GIB, 141 * GIB, LOAD, num_pages=1000)
    assert split.num_pages == 1000
    assert split.adapter_bytes // DEMAND.adapter_bytes > 1400
    assert divide(DEMAND, 140 * GIB, 141 * GIB, LOAD, num_slots=64).num_slots == 64
    with pytest.raises(ModelError, match="fewer --kv-tokens"):
        divide(DEMAND, 24 * GIB, 24 * GIB, LOAD, num_pages=100_000)


@given(free=st.integers(22, 140))
@settings(max_examples=20, deadline=None)
def test_more_memory_never_runs_fewer(free: int) -> None:
    def running(gib: int) -> float:
        split = divide(DEMAND, gib * GIB, gib * GIB, LOAD)
        return min(
            256.0,
            split.num_pages * 16 / LOAD.request_tokens,
            split.adapter_bytes / DEMAND.adapter_bytes,
        )

    assert running(free + 8) >= running(free) - 1


def test_sharing_is_worth_more_where_more_ask_for_the_same() -> None:
    assert harmonic(2) == 1.5
    few, many = (
        earned(DEMAND, 40 * GIB, 20 * GIB, 1 << 28, replace(LOAD, known_adapters=known))
        for known in (100, 100_000)
    )
    assert few > many


# --- the room for adapters ---


class ArenaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(20 * 256 + 77)
        self.worth: dict[bytes, tuple[float, int] | None] = {}
        self.next = 0

    @rule(size=st.integers(1, 6 * 256), value=st.one_of(st.none(), st.floats(0, 10)))
    def put(self, size: int, value: float | None) -> None:
        self.next += 1
        owner = self.next.to_bytes(4, "big")
        if self.arena.find_hole(size) is None:
            victims = self.arena.find_victims(size, self.worth.__getitem__)
            if victims is None:
                return
            assert victims
            assert all(self.worth[victim] is not None for victim in victims)
            for victim in victims:
                self.arena.remove(victim)
                del self.worth[victim]
        offset = self.arena.put(owner, size)
        assert offset % 256 == 0
        self.worth[owner] = None if value is None else (value, self.next)

    @precondition(lambda self: self.worth)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.worth)))
        self.arena.remove(owner)
        del self.worth[owner]

    @rule(size=st.integers(1, 20 * 256))
    def victims_are_found_whenever_there_are_some(self, size: int) -> None:
        """Against trying every run of neighbours."""
        regions = sorted(self.arena._by_owner.values())
        found = self.arena.find_victims(size, self.worth.__getitem__)
        costs = []
        for first in range(len(regions)):
            for last in range(first, len(regions)):
                window = regions[first : last + 1]
                values = [self.worth[region.owner] for region in window]
                begin = regions[first - 1].end if first else 0
                end = regions[last + 1].offset if last + 1 < len(regions) else self.arena.size_bytes
                if None not in values and end - begin >= rounded(size):
                    costs.append(sum(value[0] for value in values if value))
        if found is None:
            assert not costs
        else:
            assert sum(
                value[0] for owner in found if (value := self.worth[owner])
            ) == pytest.approx(min(costs))

    @invariant()
    def the_drawing_holds(self) -> None:
        self.arena.check()
        assert self.arena.owners == set(self.worth)


class SlotsOverArenaMachine(RuleBasedStateMachine):
    """The slot table with an arena: whoever is pinned keeps its bytes, and an adapter that fits
    alone gets a place once nobody is pinned.
    """

    ADAPTERS = tuple(bytes([number]) for number in range(7))

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(4, Arena(10 * 256))
        self.pins: list[bytes] = []
        for number, adapter in enumerate(self.ADAPTERS):
            self.table.know(adapter, 1.0, 256 * (1 + number))

    @rule(adapter=st.sampled_from(ADAPTERS))
    def pin(self, adapter: bytes) -> None:
        before = {each: self.table.arena._by_owner.get(each) for each in self.pins}
        placement = self.table.pin(adapter)
        assert {each: self.table.arena._by_owner.get(each) for each in before} == before
        if isinstance(placement, NoFreeSlot):
            assert self.pins
            return
        self.pins.append(adapter)
        if isinstance(placement, Placement):
            assert set(self.pins[:-1]).isdisjoint(placement.evicted)
            self.table.loaded(adapter, placement.generation)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.table.unpin(self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1))))

    @rule(adapter=st.sampled_from(ADAPTERS))
    def evict(self, adapter: bytes) -> None:
        assume(adapter not in self.pins)
        self.table.evict(adapter)

    @invariant()
    def the_drawing_holds(self) -> None:
        self.table.check()


def test_of_equal_sizes_the_one_worth_least_leaves_and_of_equals_the_one_used_longest_ago() -> None:
    table = SlotTable(9, Arena(3 * 256))
    for adapter in (b"a", b"b", b"c", b"d"):
        table.know(adapter, 1.0, 256)
    for adapter in (b"a", b"b", b"c"):
        table.pin(adapter)
        table.unpin(adapter)
    table.pin(b"a")
    table.unpin(b"a")
    placement = table.pin(b"d")
    assert isinstance(placement, Placement)
    assert (placement.evicted, placement.slot, placement.offset) == ((b"b",), 1, 256)


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSlotsOverArena = SlotsOverArenaMachine.TestCase
TestSlotsOverArena.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
