"""Decides for whom a relay carries bytes, and how many. Pure: time comes in; moves no byte.

A reservation is a peer's right to be dialled through this relay; a circuit is one such connection.
Whatever a stranger can make grow here has a limit of `RelayLimits`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RelayLimits:
    """What one relay gives away, to all and to each."""

    max_reservations: int = 128
    max_reservations_per_ip: int = 16
    max_circuits: int = 64
    max_circuits_per_peer: int = 8  # to one reservation, and from one dialler
    circuit_bytes: int = 1 << 30  # both directions together
    circuit_s: float = 3600.0
    bytes_per_s: int = 8 << 20  # all circuits together
    reservation_s: float = 1800.0


def relay_limits(bytes_per_s: int, circuit_bytes: int) -> RelayLimits | None:
    """Make the limits of a host that gives this much, None for one that gives nothing."""
    if not bytes_per_s:
        return None
    return RelayLimits(bytes_per_s=bytes_per_s, circuit_bytes=circuit_bytes)


@dataclass(frozen=True)
class Refused:
    """Why a relay does not do what it was asked; `is_full` when it might later."""

    reason: str
    is_full: bool = False


@dataclass(eq=False)
class Circuit:
    """One relayed connection and what it may still carry."""

    source: str
    target: str
    bytes_left: int
    ends_at: float

    def spend(self, num_bytes: int) -> bool:
        """Count bytes that are about to be passed on; False when they are too many."""
        self.bytes_left -= num_bytes
        return self.bytes_left >= 0


@dataclass
class Reservations:
    """Who may be dialled through this relay, and the circuits that are open."""

    limits: RelayLimits
    _held: dict[str, tuple[str, float]] = field(default_factory=dict)
    """peer id → its IP address, when the reservation ends"""
    _circuits: set[Circuit] = field(default_factory=set)

    @property
    def num_held(self) -> int:
        """Return how many reservations there are, ended ones included until somebody asks."""
        return len(self._held)

    @property
    def num_circuits(self) -> int:
        """Return how many circuits are open."""
        return len(self._circuits)

    def reserve(self, peer: str, ip: str, now: float) -> float | Refused:
        """Give or prolong a peer's reservation; return when it ends."""
        self._forget_ended(now)
        others = [held_ip for held, (held_ip, _) in self._held.items() if held != peer]
        if len(others) >= self.limits.max_reservations:
            return Refused(f"all {self.limits.max_reservations} reservations are given", True)
        if Counter(others)[ip] >= self.limits.max_reservations_per_ip:
            return Refused(f"{ip} has enough reservations here", True)
        ends_at = now + self.limits.reservation_s
        self._held[peer] = (ip, ends_at)
        return ends_at

    def drop(self, peer: str) -> None:
        """Forget a peer that is no longer connected."""
        self._held.pop(peer, None)

    def open_circuit(self, source: str, target: str, now: float) -> Circuit | Refused:
        """Take a place for one connection from `source` to a peer with a reservation."""
        self._forget_ended(now)
        if target not in self._held:
            return Refused(f"{target} has no reservation here")
        ends = Counter(
            end for circuit in self._circuits for end in (circuit.source, circuit.target)
        )
        if len(self._circuits) >= self.limits.max_circuits:
            return Refused(f"all {self.limits.max_circuits} circuits are in use", True)
        if max(ends[source], ends[target]) >= self.limits.max_circuits_per_peer:
            return Refused("one of the two has enough circuits here", True)
        circuit = Circuit(source, target, self.limits.circuit_bytes, now + self.limits.circuit_s)
        self._circuits.add(circuit)
        return circuit

    def close_circuit(self, circuit: Circuit) -> None:
        """Give a circuit's place back. Harmless when repeated."""
        self._circuits.discard(circuit)

    def _forget_ended(self, now: float) -> None:
        self._held = {peer: held for peer, held in self._held.items() if held[1] > now}

    def check(self) -> None:
        """Raise AssertionError if a limit is broken."""
        limits = self.limits
        assert len(self._held) <= limits.max_reservations
        per_ip = Counter(ip for ip, _ in self._held.values())
        assert all(count <= limits.max_reservations_per_ip for count in per_ip.values())
        assert len(self._circuits) <= limits.max_circuits


@dataclass
class Pace:
    """Spreads bytes so that over any second at most about `bytes_per_s` pass."""

    bytes_per_s: int
    _free_at: float = 0.0

    def delay(self, num_bytes: int, now: float) -> float:
        """Return how long to wait before these bytes pass."""
        start = max(self._free_at, now - 0.1)  # a tenth of a second may be made up for
        self._free_at = start + num_bytes / self.bytes_per_s
        return max(0.0, start - now)
