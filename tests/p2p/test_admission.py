"""Who may stay connected: the decision alone, under thousands of schedules, then at real hosts."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p import admission, entrance
from p2p.admission import MAX_INBOUND, MAX_PER_NETWORK, MAX_VISITORS, Guests, Line, network_of
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity

from .helpers import connect, eventually, is_alive, open_hosts


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("203.0.114.7", "203.0.114.0/24"),
        ("::ffff:203.0.114.9", "203.0.114.0/24"),
        ("2a01:4f8:1:2:3:4:5:6", "2a01:4f8:1:2::/64"),
        ("127.0.0.1", None),
        ("::1", None),
        ("10.1.2.3", None),
        ("192.168.1.1", None),
        ("172.17.0.1", None),
        ("fe80::1%eth0", None),
        ("fd00::1", None),
        (None, None),
        ("nonsense", None),
    ],
)
def test_an_address_is_counted_to_its_network(ip, network):
    assert network_of(ip) == network


def full_house(num_networks, per_network, is_open=True):
    """Guests from so many networks, and from which each is."""
    guests = Guests()
    ips = {}
    for number in range(num_networks * per_network):
        ip = f"203.{number % num_networks}.9.{number // num_networks}"
        guest = guests.enter(ip)
        guest.is_open = is_open
        ips[guest] = ip
    return guests, ips


def leaver_among(guests, visitors=(), busy=()):
    return guests.find_leaver(lambda guest: guest in visitors, lambda guest: guest not in busy)


def test_one_network_has_a_small_part_of_the_places_and_others_come_in():
    guests, _ = full_house(1, MAX_PER_NETWORK)
    assert guests.enter("203.0.9.99") is None
    assert guests.enter("203.0.10.99") is not None
    assert guests.enter("127.0.0.1") is not None


def test_behind_loopback_and_private_addresses_there_may_be_many():
    guests = Guests()
    for _ in range(2 * MAX_PER_NETWORK):
        for ip in ("127.0.0.1", "10.0.0.1", "fd00::1", None):
            assert guests.enter(ip) is not None


def test_where_all_places_are_taken_somebody_of_the_largest_network_goes_and_not_the_newcomer():
    guests, ips = full_house(MAX_INBOUND // 30, 30)
    assert leaver_among(guests) is None
    honest = guests.enter("198.51.99.1")
    honest.is_open = True
    leaver = leaver_among(guests)
    assert ips[leaver] == "203.0.9.0"  # the oldest of one of the largest
    guests.leave(leaver)
    assert leaver_among(guests) is None


def test_visitors_have_a_part_and_nodes_stay():
    guests, ips = full_house(MAX_VISITORS, 1)
    visitors = set(ips)
    node = guests.enter("198.51.99.1")
    node.is_open = True
    assert leaver_among(guests, visitors) is None
    busy = set(list(ips)[:10])
    newest = guests.enter("198.51.98.1")
    newest.is_open = True
    leaver = leaver_among(guests, {*visitors, newest}, busy)
    assert leaver == list(ips)[10]  # the oldest that does nothing


def test_who_has_not_ended_its_handshake_is_not_sent_away_for_room():
    guests, _ = full_house(MAX_INBOUND, 1, is_open=False)
    assert guests.enter("198.51.98.1") is not None
    assert leaver_among(guests) is None


steps = st.one_of(
    st.tuples(st.just("come"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["go", "serve", "open"]), st.integers(0, 50)),
)


@given(st.lists(steps, max_size=120))
def test_however_they_come_and_go_the_bounds_hold(taken):
    with pytest.MonkeyPatch.context() as patch:
        for name, bound in (("MAX_INBOUND", 12), ("MAX_VISITORS", 6), ("MAX_PER_NETWORK", 4)):
            patch.setattr(admission, name, bound)
        guests, inside, serving = Guests(), [], set()
        for step, number in taken:
            if step == "come":
                guest = guests.enter(f"203.{number}.1.1" if number else "127.0.0.1")
                if guest is not None:
                    inside.append(guest)
            elif inside:
                guest = inside[number % len(inside)]
                if step == "go":
                    guests.leave(guest)
                    inside.remove(guest)
                elif step == "serve":
                    serving.add(guest)
                else:
                    guest.is_open = True
            leaver = guests.find_leaver(lambda guest: guest not in serving, lambda guest: True)
            if leaver is not None:
                guests.leave(leaver)
                inside.remove(leaver)
            guests.check()
            stay = [guest for guest in inside if guest.is_open]
            assert len(guests) == len(inside)
            assert len(stay) <= 12
            assert sum(guest not in serving for guest in stay) <= 6


async def test_of_too_many_that_have_begun_the_oldest_is_cancelled(autojump_clock):
    line = Line(3)
    ended = []

    async def begin(name):
        with line.place(100) as scope:
            await trio.sleep(1000)
        ended.append((name, scope.cancelled_caught, trio.current_time()))

    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        for name in "abcde":
            nursery.start_soon(begin, name)
            await trio.sleep(1)
    assert [(name, at - start) for name, _, at in ended] == [
        ("a", 3),
        ("b", 4),
        ("c", 102),
        ("d", 103),
        ("e", 104),
    ]
    assert not line._scopes


async def test_visitors_beyond_their_part_make_room_and_nodes_keep_their_place(monkeypatch):
    monkeypatch.setattr(admission, "MAX_VISITORS", 3)
    visitor = NetworkConfig(listen=(), dht_server=False, relay=None, port_mapping=False)
    async with open_hosts(2) as (a, node):
        await connect(node, a)
        await eventually(lambda: a._swarm.entrance.serves_dht(node._library.get_id()))
        async with trio.open_nursery() as nursery:
            opened = []

            async def visit(is_over):
                async with open_host(Identity.generate(), visitor) as one:
                    await connect(one, a)
                    opened.append(one)
                    await is_over.wait()

            is_over = trio.Event()
            for number in range(5):
                nursery.start_soon(visit, is_over)
                await eventually(lambda number=number: len(opened) > number)
            await eventually(lambda: len(a.peers()) == 4)
            inside = {peer.peer_id for peer in a.peers()}
            await eventually(lambda: sum(peer.is_visitor for peer in a.peers()) == 3)
            assert inside == {node.peer_id, *(one.peer_id for one in opened[2:])}
            assert await is_alive(opened[-1], a)
            is_over.set()
        assert await is_alive(node, a)
        await eventually(lambda: len(a._swarm.entrance.guests) == 1)


async def test_sockets_that_never_shake_hands_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(entrance, "MAX_HANDSHAKES", 5)
    async with open_hosts(2) as (a, b):
        parts = a.addresses[0].split("/")
        idle = [await trio.open_tcp_stream(parts[2], int(parts[4])) for _ in range(30)]
        await eventually(lambda: a._swarm._inbound_limiter.borrowed_tokens == 5)
        await connect(b, a)
        assert await is_alive(b, a)
        for one in idle:
            await one.aclose()
        await eventually(lambda: len(a._swarm.entrance.guests) == 1)
