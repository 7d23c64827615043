"""Who is met: the peers of the last run, and neighbours on the local network."""

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import PeerTimeout
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.meeting import BOOTSTRAP_TIMEOUT_S, MAX_MEETING_TIMEOUT_S, Meeting
from p2p.reach.known import MAX_FILE_BYTES, MAX_KNOWN_PEERS, KnownPeers
from p2p.reach.mdns import read_neighbour
from p2p.reach.ports import map_by_nat_pmp

from ..helpers import eventually, open_hosts
from .lab import lab, needs_lab, public

PEER = Identity.generate().peer_id
ADDRESS = f"/ip4/45.0.0.1/tcp/4101/p2p/{PEER}"


async def test_a_restart_joins_without_any_bootstrap_peer(tmp_path):
    path = tmp_path / "peers.json"
    identity = Identity.generate()
    async with open_hosts(1) as (a,):
        settings = NetworkConfig(bootstrap=a.addresses, known_peers=path)
        async with open_host(identity, settings) as b:
            await eventually(lambda: b.direct_peers() and a.peer_id in b.direct_peers()[0].peer_id)
        assert list(json.loads(path.read_text())) == [a.peer_id]
        gone = f"/ip4/127.0.0.1/tcp/9/p2p/{PEER}"
        path.write_text(json.dumps(json.loads(path.read_text()) | {PEER: [gone]}))
        async with open_host(identity, NetworkConfig(known_peers=path)) as b:
            await eventually(lambda: b.is_connected(a.peer_id))
        assert list(json.loads(path.read_text())) == [a.peer_id]  # who did not answer is forgotten


class Alone:
    """A host whose bootstrap peer does not answer, until `is_there`. Notes when it was asked."""

    def __init__(self):
        self.is_there = False
        self.asked = []

    async def connect(self, address, deadline_s):
        self.asked.append((trio.current_time(), deadline_s))
        if not self.is_there:
            await trio.sleep(deadline_s)
            raise PeerTimeout("silence")

    def has_peers(self):
        return self.is_there

    is_connected = lacks_relays = lambda self, *_: False

    def direct_peers(self):
        return []

    async def note_dht_servers(self, *, all_again):
        """Nobody."""


async def test_whom_nobody_can_reach_is_asked_more_seldom_and_more_patiently(autojump_clock):
    host = Alone()
    meeting = Meeting(host, [ADDRESS], KnownPeers(None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.keep_in_touch, lambda all_again: None)
        await trio.sleep(600)
        times = [at - host.asked[0][0] for at, _ in host.asked]
        assert 15 <= len(times) <= 40
        assert times[1] <= 15
        waits = [deadline_s for _, deadline_s in host.asked]
        assert waits[0] < waits[1] < waits[2] <= MAX_MEETING_TIMEOUT_S
        host.is_there = True
        await trio.sleep(60)
        host.is_there = False
        gone_at, num_asked = trio.current_time(), len(host.asked)
        await trio.sleep(7)
        assert len(host.asked) > num_asked  # at once again: it was there a moment ago
        assert host.asked[num_asked] == (pytest.approx(gone_at, abs=4), BOOTSTRAP_TIMEOUT_S)
        nursery.cancel_scope.cancel()


@given(st.binary(max_size=300))
def test_a_spoilt_file_of_peers_costs_what_it_held(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("home") / "peers.json"
    path.write_bytes(data)
    assert KnownPeers(path).latest(9) == []


def test_a_file_of_peers_is_bounded_and_holds_addresses_of_their_owners(tmp_path):
    path = tmp_path / "peers.json"
    path.write_text(json.dumps({PEER: [ADDRESS, "/ip4/1.2.3.4/tcp/1", 7], "x": [ADDRESS]}))
    (peer,) = KnownPeers(path).latest(9)
    assert (peer.peer_id, peer.addresses) == (PEER, (ADDRESS,))
    path.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    known = KnownPeers(path)
    assert known.latest(9) == []
    for number in range(2 * MAX_KNOWN_PEERS):
        known.note(f"peer{number}", [f"/ip4/45.0.0.1/tcp/{number}/p2p/peer{number}"])
    assert len(known.latest(1000)) == MAX_KNOWN_PEERS
    known.forget(f"peer{2 * MAX_KNOWN_PEERS - 1}")
    assert known.latest(1)[0].peer_id == f"peer{2 * MAX_KNOWN_PEERS - 2}"


def test_what_neighbours_say_is_read_with_care():
    good = {b"dnsaddr": ADDRESS.encode(), b"dnsaddr1": f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}".encode()}
    found = read_neighbour(
        good | {b"dnsaddr2": b"\xff/nonsense", b"other": b"x", b"dnsaddr3": None}
    )
    assert (found.peer_id, found.addresses) == (PEER, (ADDRESS,))
    assert read_neighbour({b"dnsaddr": b"/ip4/45.0.0.1/tcp/4101"}) is None
    assert read_neighbour({}) is None


@needs_lab
async def test_hosts_that_listen_everywhere_meet_on_a_local_network_by_multicast():
    sites = [public("a", 11, mdns=True), public("b", 12, mdns=True)]
    async with lab(sites, delay_s=None, with_bootstrap=False) as (a, b):
        await a.until(lambda found: b.peer_id in found["peers"], 60)


@pytest.mark.parametrize("answer", ["good", "refuses", "lies", "silent"])
async def test_nat_pmp_takes_a_port_or_nothing(answer, monkeypatch):
    monkeypatch.setattr("p2p.reach.ports.NAT_PMP_TRIES", (0.1, 0.1))
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as router:
        await router.bind(("127.0.0.1", 0))

        async def serve():
            while True:
                request, sender = await router.recvfrom(100)
                code = b"\0\3" if answer == "refuses" else b"\0\0"
                if request == bytes(2):
                    reply = bytes((0, 128)) + code + bytes(4) + bytes((45, 0, 0, 9))
                else:
                    inside = b"\0\7" if answer == "lies" else request[4:6]
                    reply = bytes((0, 130)) + code + bytes(4) + inside + b"\x20\0" + request[8:12]
                if answer != "silent":
                    await router.sendto(reply, sender)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            port = router.getsockname()[1]
            found = await map_by_nat_pmp("127.0.0.1", 4101, server_port=port)
            assert found == (("45.0.0.9", 8192) if answer == "good" else None)
            nursery.cancel_scope.cancel()
