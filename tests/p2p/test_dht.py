"""Look-ups among real hosts: some are silent, some are gone, some lie."""

from __future__ import annotations

import time
from hashlib import sha256

import coincurve
import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message, Record
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.cid import Cid
from p2p.errors import (
    InvalidNameRecord,
    NameRefused,
    PeerTimeout,
    PeerUnreachable,
    ProtocolRefused,
    StaleName,
    StreamClosed,
)
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.names import MAX_AHEAD_S, encode_name, name_key, sign_name
from p2p.peers import PeerAddress

from .helpers import eventually, open_hosts
from .liars import answer_dht, fall_silent, framed, reply_with

CREATOR = Identity.from_secret(bytes(range(1, 33)))
LAW = Cid.of(b"law")
NOW = int(time.time())


@pytest.fixture(autouse=True)
def quickly_in_touch(monkeypatch):
    monkeypatch.setattr("p2p.meeting.KEEP_IN_TOUCH_S", 0.05)


async def connect_all(hosts):
    for index, host in enumerate(hosts):
        for other in hosts[:index]:
            await host.connect(other.addresses[0], 60)
    for host in hosts:
        await eventually(lambda host=host: len(table_of(host)) == len(hosts) - 1)


def table_of(host):
    return {str(peer) for peer in host.dht._kademlia.routing_table.get_peer_ids()}


def value_at(host, name="law"):
    return host.dht._local_name(name_key(CREATOR.peer_id, name))


async def test_a_name_is_counted_once_for_each_peer_that_holds_it():
    async with open_hosts(5) as hosts:
        await connect_all(hosts)
        record = sign_name(CREATOR, "law", NOW, LAW)
        assert await hosts[0].dht.put_name(record) == 4
        assert all(value_at(host) == record for host in hosts)
        assert await hosts[0].dht.put_name(record) == 4
        assert await hosts[1].dht.put_name(record) == 4


async def test_silent_peers_cost_a_look_up_little_and_the_next_one_nothing(monkeypatch):
    monkeypatch.setattr("p2p.dht.PEER_TIMEOUT_S", 0.5)
    async with open_hosts(6) as hosts:
        await connect_all(hosts)
        asker, holder = hosts[:2]
        await holder.dht.put_name(sign_name(CREATOR, "law", NOW, LAW))
        assert await holder.dht.provide(LAW)
        streams = [fall_silent(host) for host in hosts[3:]]
        record = await asker.dht.find_name(CREATOR.peer_id, "law")
        assert record.target == LAW
        found = await asker.dht.find_providers(LAW)
        assert [provider.peer_id for provider in found] == [holder.peer_id]
        # a name that nobody has takes the whole way: everybody is asked
        assert await asker.dht.find_name(CREATOR.peer_id, "none") is None
        num_asked = [len(some) for some in streams]
        assert await asker.dht.find_name(CREATOR.peer_id, "none") is None
        assert [len(some) for some in streams] == num_asked


async def test_one_that_left_is_forgotten_by_everybody(monkeypatch):
    monkeypatch.setattr("p2p.routing.PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr("p2p.peers.GONE_S", 8.0)  # one that seemed slow is asked again after it
    async with open_hosts(3) as hosts:
        async with open_hosts(2) as leaving:
            await connect_all([*hosts, *leaving])
            for host in leaving:
                await host.dht.provide(LAW)
            assert len(await hosts[0].dht.find_providers(LAW)) == 2
        gone = {host.peer_id for host in leaving}
        for host in hosts:
            await eventually(lambda host=host: not gone & table_of(host))
            store = host._library.peerstore
            await eventually(lambda store=store: not gone & set(map(str, store.peer_ids())))
        assert await hosts[0].dht.find_providers(LAW) == []


async def test_a_provider_that_cannot_be_reached_is_not_named_again_beside_a_living_one():
    async with open_hosts(3) as hosts:
        await connect_all(hosts)
        asker, holder, witness = hosts
        await holder.dht.provide(LAW)
        dead = Identity.generate()
        place = Multiaddr("/ip4/127.0.0.1/tcp/1")
        store = witness.dht._kademlia.provider_store
        from libp2p.peer.peerinfo import PeerInfo

        key = bytes((0x12, 32)) + LAW.digest
        store.add_provider(key, PeerInfo(ID.from_base58(dead.peer_id), [place]))
        found = await asker.dht.find_providers(LAW)
        assert [one.peer_id for one in found] == [holder.peer_id, dead.peer_id]
        with pytest.raises(PeerUnreachable):
            await asker.connect_to(PeerAddress(dead.peer_id, (str(place),)), 5)
        found = await asker.dht.find_providers(LAW)
        assert [one.peer_id for one in found] == [holder.peer_id]
        await holder.disconnect(asker.peer_id)


# --- names that are old, new, or from the future ---


async def test_an_older_record_says_so_and_the_newest_is_what_everybody_sees():
    async with open_hosts(4) as hosts:
        await connect_all(hosts)
        await hosts[0].dht.put_name(sign_name(CREATOR, "law", NOW, Cid.of(b"new")))
        for host in hosts:
            with pytest.raises(StaleName, match=f"sequence {NOW}") as stale:
                await host.dht.put_name(sign_name(CREATOR, "law", NOW - 1, LAW))
            assert stale.value.sequence == NOW
            assert (await host.dht.find_name(CREATOR.peer_id, "law")).target == Cid.of(b"new")


async def test_a_peer_that_holds_an_older_record_is_told_of_the_newer_one():
    async with open_hosts(4) as hosts:
        await connect_all(hosts)
        old, new = (sign_name(CREATOR, "law", NOW + step, LAW) for step in (0, 1))
        for host in hosts:
            host.dht.learn_name(old)
        assert hosts[0].dht.learn_name(new)
        assert not hosts[0].dht.learn_name(old)
        assert await hosts[1].dht.find_name(CREATOR.peer_id, "law") == new
        await eventually(lambda: all(value_at(host) == new for host in hosts[2:]))


async def test_a_record_from_the_future_is_not_believed_and_the_one_who_pushes_it_hears_why():
    future = sign_name(CREATOR, "law", NOW + 2 * MAX_AHEAD_S, LAW)
    async with open_hosts(3) as hosts:
        await connect_all(hosts)
        with pytest.raises(InvalidNameRecord, match="ahead of this clock"):
            await hosts[0].dht.put_name(future)
        hosts[1].dht._clock = lambda: NOW + 3 * MAX_AHEAD_S
        with pytest.raises(NameRefused, match=r"clock says .* publish again"):
            await hosts[1].dht.put_name(future)
        assert [value_at(host) for host in hosts] == [None] * 3
        hosts[2].dht._kademlia.value_store.put_value(future.key.encode(), encode_name(future))
        assert await hosts[0].dht.find_name(CREATOR.peer_id, "law") is None
        today = sign_name(CREATOR, "law", NOW, LAW)
        assert await hosts[0].dht.put_name(today) == 1
        assert await hosts[0].dht.find_name(CREATOR.peer_id, "law") == today


# --- an eclipsed key ---


def place(data: bytes) -> int:
    return int.from_bytes(sha256(data).digest(), "big")


def grind(key: bytes, count: int, tries: int = 200) -> list[Identity]:
    """Identities whose places are next to a key, as anybody can make them."""
    made = [Identity.from_secret(coincurve.PrivateKey().secret) for _ in range(tries)]
    order = sorted(made, key=lambda one: place(ID.from_base58(one.peer_id).to_bytes()) ^ place(key))
    return order[:count]


FAKES = [ID.from_base58(Identity.generate().peer_id) for _ in range(20)]


def lie(question: Message) -> bytes:
    """Take everything, hold nothing; name false records, false providers and peers that are
    nowhere.
    """
    answer = Message(type=question.type, key=question.key)
    for named in (answer.closerPeers, answer.providerPeers):
        for fake in FAKES:
            peer = named.add()
            peer.id = fake.to_bytes()
            peer.addrs.append(Multiaddr("/ip4/127.0.0.1/tcp/1").to_bytes())
    if question.type == Message.GET_VALUE:
        forged = encode_name(sign_name(Identity.generate(), "law", NOW + 60, Cid.of(b"false")))
        answer.record.CopyFrom(Record(key=question.key, value=forged))
    return framed(answer)


async def test_a_key_surrounded_by_liars_still_resolves(monkeypatch):
    """Liars are the closest to both keys, and a record stands at the two closest."""
    monkeypatch.setattr("p2p.walk.CLOSEST", 2)
    record = sign_name(CREATOR, "law", NOW, LAW)
    value_key = record.key.encode()
    provider_key = bytes((0x12, 32)) + LAW.digest
    async with open_hosts(3) as honest, trio.open_nursery() as nursery:
        liars = []
        for identity in (*grind(value_key, 2), *grind(provider_key, 2)):
            liars.append(await nursery.start(serve_host, identity))
            reply_with(liars[-1], lie)
        await connect_all([*honest, *liars])
        publisher, seeker = honest[0], honest[2]
        await publisher.dht.put_name(record)
        await publisher.dht.provide(LAW)
        await seeker.disconnect(publisher.peer_id)
        with trio.fail_after(60):
            assert await seeker.dht.find_name(CREATOR.peer_id, "law") == record
            found = await seeker.dht.find_providers(LAW, limit=8)
        assert publisher.peer_id in [one.peer_id for one in found]
        nursery.cancel_scope.cancel()


async def serve_host(identity, task_status):
    async with open_host(identity, NetworkConfig()) as host:
        task_status.started(host)
        await trio.sleep_forever()


async def test_whoever_is_slow_as_a_whole_asks_again_more_patiently(monkeypatch):
    """As on a machine that is busy: every question takes longer than is waited for at first."""
    monkeypatch.setattr("p2p.dht.PEER_TIMEOUT_S", 0.02)
    monkeypatch.setattr("p2p.routing.TELL_TIMEOUT_S", 0.02)
    record = sign_name(CREATOR, "law", NOW, LAW)
    async with open_hosts(3) as (seeker, *holders):
        await connect_all([seeker, *holders])
        for holder in holders:
            holder.dht._store_name(record)
            serve_slowly(holder, 0.1)
        with trio.fail_after(60):
            assert await seeker.dht.find_name(CREATOR.peer_id, "law") == record


async def test_who_answered_in_time_is_told_though_others_are_silent_beyond_the_deadline(
    monkeypatch,
):
    monkeypatch.setattr("p2p.routing.WALK_DEADLINE_S", 1.0)
    async with open_hosts(3) as (publisher, silent, holder):
        await connect_all([publisher, silent, holder])
        fall_silent(silent)
        assert await publisher.dht.provide(LAW)
        record = sign_name(CREATOR, "law", NOW, LAW)
        assert await publisher.dht.put_name(record, deadline_s=1.0) == 1
        assert value_at(holder) == record


async def test_a_moment_in_which_nobody_answered_is_not_remembered(monkeypatch):
    async with open_hosts(3) as (publisher, *others):
        await connect_all([publisher, *others])
        handlers = [other.dht._kademlia.handle_stream for other in others]
        for other in others:
            fall_silent(other)
        with monkeypatch.context() as hasty:
            hasty.setattr("p2p.routing.TELL_TIMEOUT_S", 0.2)
            hasty.setattr("p2p.dht.TELL_TIMEOUT_S", 0.2)
            assert not await publisher.dht.provide(LAW)
        for other, handler in zip(others, handlers, strict=True):
            answer_dht(other, handler)
        assert await publisher.dht.provide(LAW)  # they are there again


async def test_what_a_peer_has_is_not_forgotten_because_it_was_slow(monkeypatch):
    monkeypatch.setattr("p2p.routing.PROBE_INTERVAL_S", 0.2)
    monkeypatch.setattr("p2p.peers.GONE_S", 2.0)
    async with open_hosts(2) as (holder, provider):
        await connect_all([holder, provider])
        assert await provider.dht.provide(LAW)
        monkeypatch.setattr("p2p.routing.TELL_TIMEOUT_S", 0.2)
        peer = ID.from_base58(provider.peer_id)
        for _ in range(2):
            holder.dht.routing.note_silent(peer, is_sure=False)
        assert holder.dht.is_gone(provider.peer_id)
        assert [one.peer_id for one in await holder.dht.find_providers(LAW)] == [provider.peer_id]
        fall_silent(provider)
        store = holder.dht._kademlia.provider_store
        await eventually(lambda: store.num_records == 0)  # asked once more, it said nothing


def serve_slowly(host, delay_s):
    """Have the DHT's part answer each question so much later."""
    handle = host.dht._kademlia.handle_stream

    async def wait(stream):
        await trio.sleep(delay_s)
        await handle(stream)

    answer_dht(host, wait)


# --- answers that are none ---

BAD_ANSWERS = {
    "a length that is none": b"\xff" * 12,
    "too long a length": b"\xff\xff\xff\x7f" + bytes(100),
    "no protobuf": b"\x03\xff\xff\xff",
    "another kind": framed(Message(type=Message.PING)),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
async def test_a_bad_answer_is_an_error_of_that_question_alone(what):
    async with open_hosts(2) as (asker, liar):
        await asker.connect(liar.addresses[0], 60)
        reply_with(liar, lambda question: BAD_ANSWERS[what])
        peer = ID.from_base58(liar.peer_id)
        with pytest.raises(StreamClosed):
            await asker.dht._queries.get_value(peer, b"/lorikeet/x/y", 2)
        assert asker.is_connected(liar.peer_id)


async def test_an_answer_without_an_end_is_over_at_its_deadline():
    async with open_hosts(3) as (asker, liar, deaf):
        for host in (liar, deaf):
            await asker.connect(host.addresses[0], 60)

        async def drip(stream):
            await stream.write(b"\x64")
            while True:
                await stream.write(b"x")
                await trio.sleep(0.1)

        answer_dht(liar, drip)
        fall_silent(deaf)
        for host in (liar, deaf):
            peer = ID.from_base58(host.peer_id)
            with pytest.raises(PeerTimeout):
                await asker.dht._queries.get_value(peer, b"/lorikeet/x/y", 0.3)


async def test_a_peer_that_serves_no_dht_is_asked_once_and_is_not_gone():
    async with open_hosts(1) as (asker,), open_hosts(1, dht_server=False) as (client,):
        await asker.connect(client.addresses[0], 60)
        peer = ID.from_base58(client.peer_id)
        with pytest.raises(ProtocolRefused):
            await asker.dht._queries.get_value(peer, b"/lorikeet/x/y", 2)
        assert await asker.dht.find_name(CREATOR.peer_id, "law") is None
        assert not asker.dht.is_gone(client.peer_id)
        await eventually(lambda: not table_of(asker))
