"""What is decided without a network: a relay's limits, who is believed, the order of a dial."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.addresses import advertised, parse_address
from p2p.dialling import (
    MAX_ADDRESSES_PER_DIAL,
    MAX_CIRCUITS_PER_DIAL,
    Realm,
    dial_order,
    is_circuit,
    realm_of,
)
from p2p.errors import InvalidAddress
from p2p.identity import Identity
from p2p.reach.circuits import split_circuit
from p2p.reach.ports import default_gateway
from p2p.reach.reservations import Circuit, Pace, Refused, RelayLimits, Reservations
from p2p.reach.retries import FIRST_PAUSE_S, LAST_PAUSE_S, MAX_PEERS, Retries
from p2p.reach.verdict import MAX_OPINIONS, Sight, Verdict

RELAY = Identity.generate().peer_id


def circuit(ip: str) -> Multiaddr:
    return Multiaddr(f"/ip4/{ip}/tcp/4101/p2p/{RELAY}/p2p-circuit")


class ReservationsMachine(RuleBasedStateMachine):
    """Whoever asks for whatever, no limit is passed and every place comes back."""

    LIMITS = RelayLimits(
        max_reservations=4,
        max_reservations_per_ip=2,
        max_circuits=3,
        max_circuits_per_peer=2,
        reservation_s=10,
    )
    peers = st.sampled_from("abcdefg")

    def __init__(self) -> None:
        super().__init__()
        self.table = Reservations(self.LIMITS)
        self.now = 0.0
        self.open: list[Circuit] = []
        self.ends: dict[str, float] = {}

    @rule(peer=peers, ip=st.sampled_from(["1.1.1.1", "2.2.2.2", "3.3.3.3"]))
    def reserve(self, peer, ip):
        given_until = self.table.reserve(peer, ip, self.now)
        if not isinstance(given_until, Refused):
            self.ends[peer] = given_until

    @rule(peer=peers)
    def drop(self, peer):
        self.table.drop(peer)
        self.ends.pop(peer, None)

    @rule(source=peers, onto=peers)
    def connect(self, source, onto):
        taken = self.table.open_circuit(source, onto, self.now)
        if isinstance(taken, Circuit):
            assert self.ends.get(onto, 0.0) > self.now
            self.open.append(taken)
        elif not taken.is_full:
            assert self.ends.get(onto, 0.0) <= self.now

    @rule()
    def close(self):
        if self.open:
            self.table.close_circuit(self.open.pop())

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def nothing_is_over_its_limit(self):
        self.table.check()
        assert self.table.num_circuits == len(self.open)


TestReservations = ReservationsMachine.TestCase


def test_a_circuit_is_over_when_its_bytes_are_spent():
    table = Reservations(RelayLimits(circuit_bytes=100))
    table.reserve("a", "1.1.1.1", 0.0)
    taken = table.open_circuit("b", "a", 0.0)
    assert taken.spend(60)
    assert taken.spend(40)
    assert not taken.spend(1)


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=50))
def test_a_pace_lets_through_no_more_than_its_rate(pieces):
    pace = Pace(1 << 20)
    now = 0.0
    for size in pieces:
        now += pace.delay(size, now)
    carried_before_last = sum(pieces[:-1])
    assert now >= carried_before_last / (1 << 20) - 0.2


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_the_majority_of_the_furthest_peers_decides(answers):
    verdict = Verdict()
    for number in range(20):  # neighbours say yes, whatever the world says
        verdict.note_opinion(f"lan{number}", Realm.PRIVATE, "/ip4/192.168.1.2/tcp/1", 0.0)
    for number, answer in enumerate(answers):
        works = "/ip4/45.0.0.1/tcp/1" if answer else None
        verdict.note_opinion(f"far{number}", Realm.PUBLIC, works, 0.0)
    expected = "reachable" if sum(answers) * 2 > len(answers) else "behind"
    assert verdict.state(1.0) == expected
    assert verdict.state(4000.0) == "unknown"


def test_one_liar_among_three_changes_nothing():
    verdict = Verdict()
    verdict.note_opinion("liar", Realm.PUBLIC, "/ip4/9.9.9.9/tcp/1", 0.0)
    for honest in "ab":
        verdict.note_opinion(honest, Realm.PUBLIC, None, 0.0)
    assert verdict.state(0.0) == "behind"


def test_a_router_that_maps_each_connection_anew_is_known_as_one():
    verdict = Verdict()
    verdict.note_sight("a", Sight("45.0.0.1", 4101, True))
    assert not verdict.is_symmetric()
    assert verdict.is_translated(["192.168.1.2"])
    assert not verdict.is_translated(["45.0.0.1"])
    verdict.note_sight("b", Sight("45.0.0.1", 9999, True))
    assert verdict.is_symmetric()
    for number in range(10 * MAX_OPINIONS):
        verdict.note_sight(f"p{number}", Sight("45.0.0.1", number, False))
    assert verdict.mappings() == []  # the oldest are forgotten, and nothing grows


address_texts = st.sampled_from(
    ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]
    + [f"/ip4/192.168.1.{n}/tcp/1" for n in range(12)]
    + [f"/ip4/45.0.0.{n}/tcp/1" for n in range(12)]
    + ["/dns4/example.org/tcp/1"]
)


@given(
    st.lists(
        st.one_of(
            address_texts.map(Multiaddr), st.integers(1, 9).map(lambda n: circuit(f"45.1.1.{n}"))
        )
    ),
    st.booleans(),
)
def test_a_dial_is_bounded_and_takes_relays_last(addresses, with_loopback):
    order = dial_order(addresses, with_loopback=with_loopback)
    assert len(order) <= MAX_ADDRESSES_PER_DIAL
    kinds = [is_circuit(address) for address in order]
    assert kinds == sorted(kinds)
    assert sum(kinds) <= MAX_CIRCUITS_PER_DIAL
    assert set(order) <= set(addresses)
    realms = {realm_of(address) for address in order}
    assert Realm.NOWHERE not in realms
    assert with_loopback or Realm.LOOPBACK not in realms
    if any(is_circuit(address) for address in addresses):
        assert any(kinds), "the guarantee is never crowded out"


def test_no_stranger_hears_of_loopback_or_of_nowhere():
    listening = ["/ip4/0.0.0.0/tcp/4101", "/ip6/::/tcp/4101", "/ip4/127.0.0.1/tcp/4101"]
    told = [str(address) for address in advertised([Multiaddr(text) for text in listening])]
    assert not any(text.startswith(("/ip4/0.", "/ip6/::/", "/ip4/127.")) for text in told)
    only_here = [Multiaddr("/ip4/127.0.0.1/tcp/4101")]
    assert advertised(only_here) == only_here  # a network on one machine


def test_a_circuit_address_is_taken_apart_and_a_wrong_one_refused():
    relay, where = split_circuit(circuit("45.0.0.9").encapsulate(Multiaddr(f"/p2p/{RELAY}")))
    assert (str(relay), str(where)) == (RELAY, "/ip4/45.0.0.9/tcp/4101")
    assert parse_address(str(circuit("45.0.0.9")), RELAY) == circuit("45.0.0.9")
    twice = f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}/p2p-circuit"
    for wrong in ("/ip4/1.2.3.4/tcp/1", "/p2p-circuit", f"/p2p/{RELAY}/p2p-circuit", twice):
        with pytest.raises(InvalidAddress):
            split_circuit(Multiaddr(wrong))


def test_the_router_is_read_from_the_kernels_table():
    table = "Iface\tDestination\tGateway\nnet0\t0001A8C0\t00000000\nnet0\t00000000\t0101A8C0\t3\n"
    assert default_gateway(table) == "192.168.1.1"
    assert default_gateway("Iface\n") is None


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(("fail", "work")), st.floats(0, 200))))
def test_who_failed_is_tried_again_soon_and_then_less_often(events):
    retries = Retries()
    now = 0.0
    in_a_row = {}
    for number, event, later_s in events:
        peer = ID(bytes([number]))
        now += later_s
        if event == "work":
            retries.note_success(peer)
            in_a_row[number] = 0
            assert retries.are_due(peer, now)
            continue
        in_a_row[number] = in_a_row.get(number, 0) + 1
        retries.note_failure(peer, now)
        pause_s = min(FIRST_PAUSE_S * 2 ** (in_a_row[number] - 1), LAST_PAUSE_S)
        assert not retries.are_due(peer, now + 0.99 * pause_s)
        assert retries.are_due(peer, now + 1.01 * pause_s)


def test_no_number_of_failing_peers_fills_the_memory():
    retries = Retries()
    for number in range(10 * MAX_PEERS):
        retries.note_failure(ID(number.to_bytes(4, "big")), number * 0.01)
    assert len(retries._pauses) == MAX_PEERS
    assert ID((10 * MAX_PEERS - 1).to_bytes(4, "big")) in retries
