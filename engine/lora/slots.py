"""Which adapter sits in which slot. Decides; moves no bytes.

    DISK ──held──▶ HOST ──pin──▶ LOADING ──loaded──▶ READY ──evict──▶ HOST
      ▲              │
      └───dropped────┘   (a pin takes a DISK adapter to LOADING as well)

A slot is owned by at most one adapter. Pinned adapters stay; an adapter with pins is LOADING or READY. Each placement has a generation,
so that a load that ends late, after its slot was given away, is recognised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    """How near an adapter is to the batch."""

    DISK = "disk"
    HOST = "host"
    LOADING = "loading"
    READY = "ready"


@dataclass(frozen=True)
class Placement:
    """Bytes to move: put `adapter` into `slot`; `evicted` sat there before."""

    adapter: bytes
    slot: int
    generation: int
    evicted: bytes | None


@dataclass(frozen=True)
class NoFreeSlot:
    """All slots are pinned; retry when a request ends."""

    num_slots: int


@dataclass
class _Entry:
    state: State
    reload_cost: float = 1.0
    slot: int | None = None
    generation: int = 0
    pins: int = 0
    uses: int = 0
    value: float = 0.0
    last_pin: int = 0


@dataclass
class SlotTable:
    """Adapters and slots. Pin before use, unpin after; `pin` says what to load."""

    num_slots: int
    _entries: dict[bytes, _Entry] = field(default_factory=dict)
    _owners: dict[int, bytes] = field(default_factory=dict)
    _pin_count: int = 0
    _generation: int = 0
    _clock: float = 0.0

    def hold(self, adapter: bytes, in_host: bool, reload_cost: float = 1.0) -> None:
        """Know an adapter. `reload_cost` is its reload time over its size: the dearer, the longer it stays."""
        entry = self._entries.setdefault(adapter, _Entry(State.DISK))
        entry.reload_cost = reload_cost
        if entry.state in (State.DISK, State.HOST):
            entry.state = State.HOST if in_host else State.DISK

    def holds(self, adapter: bytes) -> bool:
        """Whether `hold` was called and `forget` was not."""
        return adapter in self._entries

    def state(self, adapter: bytes) -> State:
        """The adapter's state; it must be held."""
        return self._entries[adapter].state

    def slot(self, adapter: bytes) -> int:
        """The slot of a READY adapter."""
        entry = self._entries[adapter]
        assert entry.state is State.READY
        assert entry.slot is not None
        return entry.slot

    def generation(self, adapter: bytes) -> int:
        """Which placement of the adapter is current."""
        return self._entries[adapter].generation

    def pins(self, adapter: bytes) -> int:
        """How many uses hold the adapter."""
        return self._entries[adapter].pins

    def ready(self) -> list[bytes]:
        """Adapters that sit in a slot, loaded."""
        return [adapter for adapter, entry in self._entries.items() if entry.state is State.READY]

    def held(self) -> list[bytes]:
        """All adapters known."""
        return list(self._entries)

    def pin(self, adapter: bytes) -> Placement | NoFreeSlot | None:
        """Use a held adapter. None: it has its slot already (READY, or LOADING: wait for it). NoFreeSlot: not pinned."""
        entry = self._entries[adapter]
        placement: Placement | None = None
        if entry.slot is None:
            found = self._find_slot()
            if found is None:
                return NoFreeSlot(self.num_slots)
            placement = self._place(adapter, entry, found)
        entry.pins += 1
        self._pin_count += 1
        entry.last_pin = self._pin_count
        entry.uses += 1
        entry.value = self._clock + entry.uses * entry.reload_cost
        return placement

    def unpin(self, adapter: bytes) -> None:
        """End one use."""
        entry = self._entries[adapter]
        assert entry.pins > 0, "unpin without pin"
        entry.pins -= 1

    def loaded(self, adapter: bytes, generation: int) -> bool:
        """The bytes of a placement arrived. False when that placement is no longer current."""
        entry = self._entries.get(adapter)
        if entry is None or entry.generation != generation or entry.state is not State.LOADING:
            return False
        entry.state = State.READY
        return True

    def drop_from_host(self, adapter: bytes) -> None:
        """The host cache let go of it: a later pin reads the disk again."""
        entry = self._entries[adapter]
        if entry.state is State.HOST:
            entry.state = State.DISK

    def can_forget(self, adapter: bytes) -> bool:
        """Whether nobody uses the adapter."""
        return adapter in self._entries and self._entries[adapter].pins == 0

    def forget(self, adapter: bytes) -> int | None:
        """Stop knowing an unpinned adapter; its slot, if it had one, is free again and returned."""
        assert self.can_forget(adapter), "forget needs an unpinned adapter"
        entry = self._entries.pop(adapter)
        if entry.slot is not None:
            del self._owners[entry.slot]
        return entry.slot

    def check(self) -> None:
        """The drawing above holds."""
        for slot, owner in self._owners.items():
            assert 0 <= slot < self.num_slots
            assert self._entries[owner].slot == slot, "a slot's owner sits elsewhere"
        for adapter, entry in self._entries.items():
            assert (entry.slot is not None) == (entry.state in (State.LOADING, State.READY)), "state and slot disagree"
            assert entry.slot is None or self._owners[entry.slot] == adapter, "two adapters in one slot"
            assert entry.pins >= 0
            assert entry.pins == 0 or entry.slot is not None, "a pinned adapter has no slot"

    def _find_slot(self) -> int | None:
        if len(self._owners) < self.num_slots:
            return next(slot for slot in range(self.num_slots) if slot not in self._owners)
        idle = [(entry.value, entry.last_pin, slot) for slot, entry in self._idle_owners()]
        return min(idle)[2] if idle else None

    def _idle_owners(self) -> list[tuple[int, _Entry]]:
        return [(slot, self._entries[owner]) for slot, owner in self._owners.items() if self._entries[owner].pins == 0]

    def _place(self, adapter: bytes, entry: _Entry, slot: int) -> Placement:
        evicted = self._owners.get(slot)
        if evicted is not None:
            self._evict(evicted)
        self._generation += 1
        entry.slot, entry.generation, entry.state = slot, self._generation, State.LOADING
        self._owners[slot] = adapter
        return Placement(adapter, slot, self._generation, evicted)

    def _evict(self, adapter: bytes) -> None:
        entry = self._entries[adapter]
        entry.slot, entry.state = None, State.HOST
        self._clock = max(self._clock, entry.value)  # values rise with it, so that yesterday's favourite leaves at last
