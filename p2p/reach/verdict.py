"""Decides whether others can dial this host, from what they saw and tried. Pure: time comes in.

A peer tells two things: the address from which we seem to come, and whether it could dial us back.
One peer may lie or stand behind the same router, so that the majority of the furthest ones counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ..dialling import Realm, realm_of_ip

MAX_OPINIONS = 32
OPINION_LASTS_S = 3600.0
MAX_TOLD_ADDRESSES = 4

State = Literal["unknown", "reachable", "behind"]


@dataclass(frozen=True)
class Opinion:
    """What one peer found when it dialled us back: an address that works, or None."""

    realm: Realm
    works: str | None
    at: float


@dataclass(frozen=True)
class Sight:
    """The address from which a peer sees us come; `is_mapping` if we dialled it from the port on
    which we listen, so that the port is the router's for it.
    """

    ip: str
    port: int
    is_mapping: bool


@dataclass
class Verdict:
    """Everything that peers said of this host's addresses, bounded, newest last."""

    _opinions: dict[str, Opinion] = field(default_factory=dict)
    _sights: dict[str, Sight] = field(default_factory=dict)

    def note_opinion(self, peer: str, realm: Realm, works: str | None, now: float) -> None:
        """Take what a peer found when it dialled us back."""
        self._opinions.pop(peer, None)
        self._opinions[peer] = Opinion(realm, works, now)
        while len(self._opinions) > MAX_OPINIONS:
            del self._opinions[next(iter(self._opinions))]

    def note_sight(self, peer: str, sight: Sight) -> None:
        """Take the address from which a peer sees us come."""
        self._sights.pop(peer, None)
        self._sights[peer] = sight
        while len(self._sights) > MAX_OPINIONS:
            del self._sights[next(iter(self._sights))]

    def forget_all(self) -> None:
        """Start afresh: this machine's own addresses have changed."""
        self._opinions.clear()
        self._sights.clear()

    def has_asked(self, peer: str) -> bool:
        """Return whether this peer's opinion is known."""
        return peer in self._opinions

    def state(self, now: float) -> State:
        """Say whether others can dial us, by the peers that are furthest away."""
        counted = self._furthest(now)
        if not counted:
            return "unknown"
        num_yes = sum(opinion.works is not None for opinion in counted)
        return "reachable" if num_yes * 2 > len(counted) else "behind"

    def confirmed(self, now: float) -> list[str]:
        """List the addresses at which peers reached us, the most often found first."""
        works = Counter(one.works for one in self._furthest(now) if one.works is not None)
        return [address for address, _ in works.most_common(MAX_TOLD_ADDRESSES)]

    def _furthest(self, now: float) -> list[Opinion]:
        fresh = [one for one in self._opinions.values() if one.at > now - OPINION_LASTS_S]
        realm = max((one.realm for one in fresh), default=Realm.NOWHERE)
        return [one for one in fresh if one.realm == realm]

    def seen_ips(self) -> list[str]:
        """List the IP addresses from which peers see us come, the most seen first."""
        return [ip for ip, _ in Counter(s.ip for s in self._sights.values()).most_common()]

    def mappings(self) -> list[tuple[str, int]]:
        """List where a router maps our listening port, as peers see it, the most seen first."""
        seen = Counter((s.ip, s.port) for s in self._sights.values() if s.is_mapping)
        return [mapping for mapping, _ in seen.most_common(MAX_TOLD_ADDRESSES)]

    def is_symmetric(self) -> bool:
        """Return whether a router maps our port anew for each peer, so that no hole fits."""
        return len({(s.ip, s.port) for s in self._sights.values() if s.is_mapping}) > 1

    def is_translated(self, own_ips: Iterable[str]) -> bool:
        """Return whether a router stands in between: no peer sees one of our own addresses."""
        outside = {ip for ip in self.seen_ips() if realm_of_ip(ip) == Realm.PUBLIC}
        return bool(outside) and not outside & set(own_ips)
