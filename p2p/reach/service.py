"""Runs everything that makes this host reachable, and says which addresses peers are told.

Learns whether peers can dial us; while they cannot, keeps places at relays, asks the router for a
port and punches holes; while they can, carries for others. Decides nothing about bytes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio
from libp2p.abc import INetConn
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from ..addresses import advertised, own_ipv4, own_ipv6
from ..dialling import Realm, ip_of, is_websocket, realm_of, realm_of_ip, to_address
from ..hardening import HardenedHost
from ..swarm import HardenedSwarm, is_relayed
from .circuits import Circuits
from .dialback import AUTONAT, DialBack
from .places import WANTED_PLACES, Places
from .ports import PortMapper
from .punch import Puncher
from .relay import HOP, Relay
from .reservations import RelayLimits
from .retries import Retries
from .verdict import Sight, State, Verdict

TEND_INTERVAL_S = 3.0  # and whenever something happens
ASK_INTERVAL_S = 1.0
OWN_IPS_INTERVAL_S = 15.0
ASK_AGAIN_S = 900.0
ASK_SOON_S = 6.0  # peers dial us back every five seconds at most
ASK_LATER_S = 60.0
OPINIONS_WANTED = 3
PATIENCE_S = 8.0  # without anybody's opinion, before relays are looked for
IDLE_RELAYED_S = 5.0
COME_NEAR_TIMEOUT_S = 10.0
MAX_CANDIDATES = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reachability:
    """How others reach this host now. `relays` are peer ids of relays that carry for us; `circuits`
    how many we carry for others, None if we offer none.
    """

    state: State
    seen_as: tuple[str, ...]
    relays: tuple[str, ...]
    circuits: int | None
    mapped_port: str | None
    holes_punched: int


class Reach:
    """The host's reachability. `run` does the work; `told` lists the addresses for peers."""

    def __init__(
        self,
        library: HardenedHost,
        swarm: HardenedSwarm,
        *,
        announce: list[Multiaddr],
        beside: list[Multiaddr],
        relay: RelayLimits | None,
        port_mapping: bool,
    ) -> None:
        self._library = library
        self._swarm = swarm
        self._announce = announce
        self._beside = beside
        self._verdict = Verdict()
        self._woken = trio.Event()
        self._changed = False
        self._nursery: trio.Nursery | None = None  # while `run` runs
        self._places = Places(library, swarm, self._note_change)
        self._circuits = Circuits(
            library,
            swarm,
            trusts=self._places.is_relay,
            on_inbound=self._note_inbound_circuit,
            on_broken=self._places.strike,
        )
        self._dial_back = DialBack(library, swarm)
        self._puncher = Puncher(library, swarm, self._mappings)
        self._relay = Relay(library, swarm, relay, self._direct_addresses) if relay else None
        self._mapper = PortMapper() if port_mapping else None
        self._own_ips: frozenset[str] = frozenset()
        self._listened: list[Multiaddr] = []
        self._unheard = Retries()
        self._distant = Retries()
        self._look_again_at = 0.0
        self._idle_since: dict[int, float] = {}
        self.on_new_addresses = _ignore
        self.lacks_relays = False
        library.told = self.told
        library._observed_addr_manager = self  # type: ignore[assignment]  # identify tells it what peers see

    # --- what peers are told ---

    def told(self) -> list[Multiaddr]:
        """List the addresses for peers: where we were reached, where we listen, our relays."""
        beside = self._addresses_beside()
        if self._announce:
            return [*self._announce, *beside]
        return [*self._direct_addresses(), *beside, *self._places.addresses]

    def _addresses_beside(self) -> list[Multiaddr]:
        """List where others listen for us; on loopback only for a host that is there itself."""
        is_local = self._is_local()
        told = advertised(self._beside)
        return [one for one in told if is_local or realm_of(one) > Realm.LOOPBACK]

    def _direct_addresses(self) -> list[Multiaddr]:
        if self._announce:
            return self._announce
        listening = advertised(self._listening())
        least = Realm.PRIVATE if any(realm_of(a) > Realm.LOOPBACK for a in listening) else Realm(1)
        confirmed = [
            Multiaddr(address)
            for address in self._verdict.confirmed(trio.current_time())
            if realm_of(address) >= least
        ]
        return list(dict.fromkeys([*confirmed, *listening]))

    def describe(self) -> Reachability:
        """Say how others reach this host now."""
        return Reachability(
            state=self._state(),
            seen_as=tuple(self._verdict.seen_ips()),
            relays=tuple(self._places.relays),
            circuits=(
                self._relay.reservations.num_circuits
                if self._relay is not None and self._relay.is_offered
                else None
            ),
            mapped_port=self._mapper.address if self._mapper is not None else None,
            holes_punched=self._puncher.num_punched,
        )

    # --- what the library tells us ---

    def record_observation(
        self, connection: INetConn, observed: Multiaddr, listening: list[Multiaddr]
    ) -> None:
        """Take the address that a peer's identify says we come from."""
        ip = ip_of(observed)
        try:
            port = int(observed.value_for_protocol("tcp"))
        except Exception:  # multiaddr raises several unrelated kinds
            return
        if ip is not None and realm_of_ip(ip) > Realm.NOWHERE:
            is_mapping = connection in self._swarm.from_listen_port
            sight = Sight(ip.removeprefix("::ffff:"), port, is_mapping)
            self._verdict.note_sight(str(connection.muxed_conn.peer_id), sight)
        self._wake()

    def remove_conn(self, connection: INetConn) -> None:
        """Note that a connection has ended."""
        self._wake()

    def addrs(self) -> list[Multiaddr]:
        """List nothing: what peers see is not told before it was tried."""
        return []

    def _note_inbound_circuit(self, peer: ID) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._puncher.initiate, peer)

    def _note_change(self) -> None:
        self._changed = True
        self._wake()

    def _wake(self) -> None:
        self._woken.set()

    # --- the work ---

    async def run(self) -> None:
        """Do what is due until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_asking)
            nursery.start_soon(self._keep_after_peers)
            if self._mapper is not None:
                nursery.start_soon(self._keep_mapped, self._mapper)
            started_at = trio.current_time()
            while True:
                await self._tend(started_at)
                with trio.move_on_after(TEND_INTERVAL_S):
                    await self._woken.wait()
                self._woken = trio.Event()

    async def _tend(self, started_at: float) -> None:
        """Bring relaying, our places and what we told into line with what we know."""
        now = trio.current_time()
        if now >= self._look_again_at:
            self._look_again_at = now + OWN_IPS_INTERVAL_S
            self._note_own_ips()
        state = self._state()
        self._swarm.shows_listen_port = state != "reachable"
        if self._relay is not None and self._relay.is_offered != (state == "reachable"):
            (self._relay.offer if state == "reachable" else self._relay.withdraw)()
            self._changed = True
        needs_relays = self._needs_relays(state, started_at)
        await self._places.tend(self._circuits, are_wanted=needs_relays)
        self.lacks_relays = needs_relays and len(self._places.relays) < WANTED_PLACES
        await self._close_idle_relayed(now)
        if self._changed:
            self._changed = False
            await self._library.push_identify()
            self.on_new_addresses()

    def _state(self) -> State:
        """Say whether others can dial us. On loopback there is nothing between us and anybody."""
        if self._listening() and self._is_local():
            return "reachable"
        return self._verdict.state(trio.current_time())

    def _listening(self) -> list[Multiaddr]:
        """List where we listen; that does not change once it is so."""
        self._listened = self._listened or self._library.get_transport_addrs()
        return self._listened

    def _tcp_listening(self) -> list[Multiaddr]:
        """List where we listen for nodes: what a router should map and peers should see."""
        return [address for address in self._listening() if not is_websocket(address)]

    def _is_local(self) -> bool:
        """Return whether we listen on loopback only, or nowhere."""
        listening = self._listening()
        return all(realm_of(address) == Realm.LOOPBACK for address in listening)

    def _needs_relays(self, state: State, started_at: float) -> bool:
        if self._announce or state == "reachable":
            return False
        if state == "behind" or not self._listening():
            return True
        is_patient = trio.current_time() < started_at + PATIENCE_S
        return self._verdict.is_translated(self._own_ips) or not (
            is_patient or self._swarm.is_among_loopback_peers()
        )

    def _note_own_ips(self) -> None:
        """Start afresh when this machine came into another network."""
        listening = {ip_of(address) or "" for address in self._listening()}
        own = frozenset((*own_ipv4(), *own_ipv6(), *listening))
        if self._own_ips and own != self._own_ips:
            logger.info("this machine's addresses have changed; reachability is learnt anew")
            self._verdict.forget_all()
            self._changed = True
        self._own_ips = own

    async def _keep_after_peers(self) -> None:
        """Go after those peers of which something is missing, less and less often."""
        while True:
            now = trio.current_time()
            async with trio.open_nursery() as nursery:
                for peer in self._library.get_connected_peers():
                    self._go_after(peer, now, nursery)
            await trio.sleep(TEND_INTERVAL_S)

    def _go_after(self, peer: ID, now: float, nursery: trio.Nursery) -> None:
        """Ask again who has not said what he serves, and, while relays are lacking, who has not
        said that he carries: what he told, or told later, may have been lost. Dial directly, while
        they are lacking, who carries and came by a relay himself: whoever hears of this host early
        comes by its first one, and would never be a second.
        """
        said = self._library.protocols_of(peer)
        carries = HOP in said
        if said and (carries or not self.lacks_relays):
            self._unheard.note_success(peer)
        else:
            is_new = peer not in self._unheard  # then the library is asking just now
            if self._unheard.take(peer, now) and not is_new:
                nursery.start_soon(self._library.identify_again, peer)
        if not carries or self._swarm.has_direct(peer):
            self._distant.note_success(peer)
        elif self.lacks_relays and self._distant.take(peer, now):
            nursery.start_soon(self._come_near, peer)

    async def _come_near(self, peer: ID) -> None:
        with trio.move_on_after(COME_NEAR_TIMEOUT_S):
            try:
                await self._swarm.dial_directly(peer)
            except SwarmException as error:
                logger.debug("%s stays behind its relay: %s", peer, error)
            else:
                self._wake()

    async def _keep_asking(self) -> None:
        """Have peers dial us back: a few soon, then now and then.

        What failed may have been a moment's trouble: it is tried again in seconds, then less often.
        """
        next_full = 0.0
        pause_s = ASK_SOON_S
        while True:
            now = trio.current_time()
            if self._is_local():  # nobody needs to be asked
                await trio.sleep(TEND_INTERVAL_S)
                continue
            is_full = now >= next_full
            askable = self._askable()
            fresh = [one for one in askable if is_full or not self._verdict.has_asked(str(one))]
            wanted = OPINIONS_WANTED if is_full else OPINIONS_WANTED - len(askable) + len(fresh)
            if fresh and wanted > 0:
                async with trio.open_nursery() as nursery:
                    for peer in fresh[:wanted]:
                        nursery.start_soon(self._ask, peer)
                if is_full:
                    is_sure = self._state() == "reachable"
                    next_full = now + (ASK_AGAIN_S if is_sure else pause_s)
                    pause_s = ASK_SOON_S if is_sure else min(2 * pause_s, ASK_LATER_S)
                self._wake()
            await trio.sleep(ASK_INTERVAL_S)

    def _askable(self) -> list[ID]:
        found = [
            peer
            for peer in self._library.get_connected_peers()
            if AUTONAT in self._library.protocols_of(peer) and self._swarm.has_direct(peer)
        ]
        found.sort(key=lambda peer: self._verdict.has_asked(str(peer)))
        return found

    async def _ask(self, peer: ID) -> None:
        answer = await self._dial_back.ask(peer, self._candidates())
        if answer is not None:
            realm, works = answer
            before = self._verdict.confirmed(trio.current_time())
            self._verdict.note_opinion(str(peer), realm, works, trio.current_time())
            if self._verdict.confirmed(trio.current_time()) != before:
                self._changed = True

    def _candidates(self) -> list[str]:
        """List where we might be reached: what the router gave, what peers see, where we listen."""
        ports = [int(address.value_for_protocol("tcp")) for address in self._tcp_listening()]
        seen = [to_address(ip, port) for ip in self._verdict.seen_ips() for port in ports]
        mapped = [to_address(ip, port) for ip, port in self._verdict.mappings()]
        given = [self._mapper.address] if self._mapper and self._mapper.address else []
        listening = [str(one) for one in advertised(self._listening())]
        return list(dict.fromkeys([*given, *listening, *seen, *mapped]))[:MAX_CANDIDATES]

    def _mappings(self) -> list[Multiaddr]:
        """List where a router maps our port: what a hole must be punched at. Nothing where each
        connection is mapped anew, so that no hole would fit.
        """
        if self._verdict.is_symmetric():
            return []
        guessed = [
            (ip, int(address.value_for_protocol("tcp")))
            for ip in self._verdict.seen_ips()[:1]
            for address in self._tcp_listening()[:1]
        ]
        ends = self._verdict.mappings() or guessed
        return [Multiaddr(to_address(ip, port)) for ip, port in ends]

    async def _keep_mapped(self, mapper: PortMapper) -> None:
        """Ask the router for a port while we are behind one."""
        while True:
            if self._state() == "behind" and not mapper.address:
                listening = [
                    one
                    for one in self._tcp_listening()
                    if realm_of_ip(ip_of(one) or "") != Realm.LOOPBACK
                ]
                if listening:
                    await mapper.map(int(listening[0].value_for_protocol("tcp")))
                    if mapper.address:
                        self._verdict.forget_all()
            await trio.sleep(mapper.renew_after_s)

    async def _close_idle_relayed(self, now: float) -> None:
        """Give a relay back what a direct connection has made needless."""
        seen: dict[int, float] = {}
        for connection in self._swarm.get_connections():
            peer = connection.muxed_conn.peer_id
            if not is_relayed(connection) or not self._swarm.has_direct(peer):
                continue
            if connection.get_streams():
                continue
            since = self._idle_since.get(id(connection), now)
            seen[id(connection)] = since
            if now > since + IDLE_RELAYED_S:
                await connection.close()
        self._idle_since = seen


def _ignore() -> None:
    """Do nothing."""


__all__ = ["Reach", "Reachability"]
