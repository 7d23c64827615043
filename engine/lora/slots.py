"""Which adapter sits in which slot. Decides; moves no bytes.

    DISK ──known─▶ HOST ──pin──▶ LOADING ──loaded──▶ READY ──evict──▶ HOST
      ▲              │
      └───dropped────┘   (a pin takes a DISK adapter to LOADING as well)

A slot is owned by at most one adapter. Pinned adapters stay; an adapter with pins is LOADING or
READY. Each placement has a generation, so that a load that ends late, after its slot was given
away, is recognised. An adapter in a slot has its region of an arena (arena.py), because slots have
no size of their own; as many idle ones leave as it takes to make room, those that are worth least
(worth.py). Knows no request, no file and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .arena import Arena, rounded
from .worth import Clock, Worth


class State(Enum):
    """How near an adapter is to the batch."""

    DISK = "disk"
    HOST = "host"
    LOADING = "loading"
    READY = "ready"


@dataclass(frozen=True)
class Placement:
    """Bytes to move: put `adapter` into `slot`, at byte `offset` of the arena; `evicted` left for
    it, and `emptied` are the slots of those that stay empty.
    """

    adapter: bytes
    slot: int
    generation: int
    offset: int
    evicted: tuple[bytes, ...]
    emptied: tuple[int, ...]


@dataclass(frozen=True)
class NoFreeSlot:
    """All slots, or all bytes of theirs, are pinned; retry when a request ends."""

    num_slots: int


@dataclass(slots=True)
class _Entry:
    state: State
    worth: Worth
    size_bytes: int
    slot: int | None = None
    generation: int = 0
    pins: int = 0
    last_pin: int = 0


@dataclass
class SlotTable:
    """Adapters and slots. Pin before use, unpin after; `pin` says what to load."""

    num_slots: int
    arena: Arena
    _entries: dict[bytes, _Entry] = field(default_factory=dict)
    _owners: dict[int, bytes] = field(default_factory=dict)
    _pin_count: int = 0
    _generation: int = 0
    _clock: Clock = field(default_factory=Clock)
    num_loaded: int = 0
    """How often an adapter's bytes came into a slot, and how often one left it for another."""
    num_evicted: int = 0

    def know(self, adapter: bytes, reload_cost: float, size_bytes: int) -> None:
        """Know an adapter that is in host memory.

        `reload_cost` is its reload time over its size: the dearer, the longer it stays;
        `size_bytes` are those in the arena.
        """
        entry = self._entries.setdefault(adapter, _Entry(State.HOST, Worth(reload_cost), 0))
        entry.worth.reload_cost = reload_cost
        if entry.slot is None:
            entry.size_bytes = size_bytes
            entry.state = State.HOST

    @property
    def room_bytes(self) -> int:
        """Bytes for all slots together."""
        return self.arena.size_bytes

    def can_ever_place(self, size_bytes: int) -> bool:
        """Whether an adapter of that size fits once everybody else has left."""
        return rounded(size_bytes) <= self.arena.size_bytes

    def knows(self, adapter: bytes) -> bool:
        """Whether `know` was called and `forget` was not."""
        return adapter in self._entries

    def state(self, adapter: bytes) -> State:
        """The adapter's state; it must be known."""
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
        """How many uses keep the adapter in its slot."""
        return self._entries[adapter].pins

    def ready(self) -> list[bytes]:
        """Adapters that sit in a slot, loaded."""
        return [adapter for adapter, entry in self._entries.items() if entry.state is State.READY]

    def known(self) -> list[bytes]:
        """All adapters that `knows` is true of."""
        return list(self._entries)

    def pin(self, adapter: bytes) -> Placement | NoFreeSlot | None:
        """Use a known adapter.

        None: it has its slot already (READY, or LOADING: wait for it). NoFreeSlot: not pinned.
        """
        entry = self._entries[adapter]
        placement: Placement | None = None
        if entry.slot is None:
            leaving = self._find_room(entry.size_bytes)
            if leaving is None:
                return NoFreeSlot(self.num_slots)
            placement = self._place(adapter, entry, leaving)
        entry.pins += 1
        self._pin_count += 1
        entry.last_pin = self._pin_count
        self._clock.use(entry.worth)
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
        self.num_loaded += 1
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
        self._leave(adapter, entry)
        return entry.slot

    def evict(self, adapter: bytes) -> int | None:
        """Take an unpinned adapter out of its slot, which is returned, if it has one."""
        entry = self._entries[adapter]
        assert entry.pins == 0, "evict needs an unpinned adapter"
        slot = entry.slot
        if slot is not None:
            self._evict(adapter)
        return slot

    def check(self) -> None:
        """The drawing above holds."""
        for slot, owner in self._owners.items():
            assert 0 <= slot < self.num_slots
            assert self._entries[owner].slot == slot, "a slot's owner sits elsewhere"
        for adapter, entry in self._entries.items():
            assert (entry.slot is not None) == (entry.state in (State.LOADING, State.READY)), (
                "state and slot disagree"
            )
            assert entry.slot is None or self._owners[entry.slot] == adapter, (
                "two adapters in one slot"
            )
            assert entry.pins >= 0
            assert entry.pins == 0 or entry.slot is not None, "a pinned adapter has no slot"
        self.arena.check()
        assert self.arena.owners == set(self._owners.values()), (
            "an adapter lies where it has no slot"
        )

    def _find_room(self, size_bytes: int) -> tuple[bytes, ...] | None:
        """Who must leave so that one more of that size fits: nobody, or those that are worth least.

        None: it cannot fit now.
        """
        victims: list[bytes] = []
        if self.arena.find_hole(size_bytes) is None:
            found = self.arena.find_victims(size_bytes, self._worth)
            if found is None:
                return None
            victims = found
        if not victims and len(self._owners) >= self.num_slots:
            idle = [
                (worth, slot)
                for slot, owner in self._owners.items()
                if (worth := self._worth(owner)) is not None
            ]
            if not idle:
                return None
            victims = [self._owners[min(idle)[1]]]
        return tuple(victims)

    def _worth(self, adapter: bytes) -> tuple[float, int] | None:
        """Of an idle adapter: its value, and among equals how recently it was used.

        None: it is pinned.
        """
        entry = self._entries[adapter]
        return None if entry.pins else (entry.worth.value, entry.last_pin)

    def _place(self, adapter: bytes, entry: _Entry, leaving: tuple[bytes, ...]) -> Placement:
        slot = (
            self._entries[leaving[0]].slot
            if leaving
            else next(slot for slot in range(self.num_slots) if slot not in self._owners)
        )
        assert slot is not None, "who leaves has no slot"
        emptied = tuple(
            other for evicted in leaving[1:] if (other := self._entries[evicted].slot) is not None
        )
        for evicted in leaving:
            self._evict(evicted)
        self._generation += 1
        entry.slot = slot
        entry.generation = self._generation
        entry.state = State.LOADING
        self._owners[slot] = adapter
        offset = self.arena.put(adapter, entry.size_bytes)
        return Placement(adapter, slot, self._generation, offset, evicted=leaving, emptied=emptied)

    def _evict(self, adapter: bytes) -> None:
        entry = self._entries[adapter]
        self._leave(adapter, entry)
        self.num_evicted += 1
        entry.slot = None
        entry.state = State.HOST
        self._clock.leave(entry.worth)

    def _leave(self, adapter: bytes, entry: _Entry) -> None:
        if entry.slot is not None:
            del self._owners[entry.slot]
            self.arena.remove(adapter)
