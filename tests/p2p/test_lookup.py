"""Look-ups for a client that cannot walk the DHT: real hosts, real streams, peers that ask too
much.
"""

import time
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.cid import Cid
from p2p.errors import InvalidLookup, ProtocolRefused, StreamClosed
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.lookup import server
from p2p.lookup.kinds import NAME, PROVIDERS, Known
from p2p.lookup.messages import (
    BUSY,
    MALFORMED,
    MAX_ANSWER_BYTES,
    MAX_FOUND,
    MAX_FOUND_BYTES,
    MAX_LOOKUP_BYTES,
    PROTOCOL,
    UNKNOWN_KIND,
    Found,
    Lookup,
    Provider,
    Refused,
    decode_answer,
    decode_lookup,
    decode_provider,
    encode,
)
from p2p.lookup.server import Lookups
from p2p.names import decode_name, name_key, sign_name
from p2p.wire import encode_frame

from .helpers import connect, eventually, is_alive, open_hosts, raw_stream, settled

CID = Cid.of(b"what is looked for")
OWNER = Identity.generate()


@asynccontextmanager
async def network(num_others: int = 3):
    """A helper that knows some others, and a client that is connected to the helper alone and takes
    no part in the DHT.
    """
    async with open_hosts(1 + num_others) as (helper, *others):
        lookups = Lookups(helper)
        for one in others:
            await connect(one, helper)
        bare = NetworkConfig(listen=(), dht_server=False, relay=None, port_mapping=False)
        async with open_host(Identity.generate(), bare) as client:
            await connect(client, helper)
            yield client, helper, others, lookups


async def ask(client, helper, *lookups):
    """Send these, then read as many answers."""
    async with client.open_stream(helper.peer_id, PROTOCOL, 60) as stream:
        for one in lookups:
            await stream.send(one if isinstance(one, bytes) else encode(one), 60)
        frames = [await stream.receive(10, max_bytes=MAX_ANSWER_BYTES) for _ in lookups]
        return [decode_answer(frame) for frame in frames]


def name_lookup(name="law", max_age_s=0, owner=OWNER):
    return Lookup(NAME, name_key(owner.peer_id, name).encode(), max_age_s)


def record_of(sequence, name="law", target=CID):
    return sign_name(OWNER, name, sequence, target)


class Counted:
    """A kind that counts how often the network would be asked."""

    def __init__(self, found=(b"one",), seconds=0.0):
        self.found = found
        self.seconds = seconds
        self.num_searches = 0

    def recall(self, key, max_age_s):
        return None

    async def search(self, key):
        self.num_searches += 1
        await trio.sleep(self.seconds)
        return self.found


async def test_a_client_that_takes_no_part_learns_what_a_name_means_and_who_has_it():
    async with network() as (client, helper, others, _):
        now = int(time.time())
        await others[0].dht.put_name(record_of(now))
        for one in others[:2]:
            await one.dht.provide(CID)
        named, who = await ask(
            client, helper, name_lookup(), Lookup(PROVIDERS, CID.digest, max_age_s=0)
        )
        (record,) = map(decode_name, named.found)
        assert (record.owner, record.name, record.target) == (OWNER.peer_id, "law", CID)
        providers = [decode_provider(one) for one in who.found]
        assert {one.peer_id for one in providers} == {one.peer_id for one in others[:2]}
        for one in providers:  # with a place where it is found
            assert await client.connect(one.addresses[0], 60) == one.peer_id


async def test_the_helper_is_among_the_providers_of_what_it_provides_itself():
    async with network(1) as (client, helper, _, _lookups):
        helper.dht.provide_soon(CID)
        (who,) = await ask(client, helper, Lookup(PROVIDERS, CID.digest, 0))
        assert [decode_provider(one).peer_id for one in who.found] == [helper.peer_id]
        assert decode_provider(who.found[0]).addresses == list(helper.addresses)


@pytest.mark.parametrize("max_age_s", [0, 600])
async def test_providers_that_a_page_can_dial_come_first(max_age_s):
    async with network() as (client, helper, others, _):
        listen = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
        async with open_hosts(1, listen=listen) as (late,):
            await connect(late, helper)
            for one in (*others, late):
                await one.dht.provide(CID)
            (who,) = await ask(client, helper, Lookup(PROVIDERS, CID.digest, max_age_s))
            assert len(who.found) == len(others) + 1
            assert decode_provider(who.found[0]).peer_id == late.peer_id


async def test_what_is_known_here_is_told_at_once_if_it_is_young_enough(monkeypatch):
    async with network() as (client, helper, others, _):
        record = record_of(int(time.time()))
        helper.dht.learn_name(record)
        for one in others:
            await one.dht.provide(CID)
        num_walks = 0
        walk = helper.dht.routing.look_up

        async def counted(*args):
            nonlocal num_walks
            num_walks += 1
            return await walk(*args)

        monkeypatch.setattr(helper.dht.routing, "look_up", counted)
        lookups = name_lookup(max_age_s=600), Lookup(PROVIDERS, CID.digest, 600)
        named, who = await ask(client, helper, *lookups)
        assert num_walks == 0
        assert [decode_name(one) for one in named.found] == [record]
        assert len(who.found) == len(others)
        await ask(client, helper, name_lookup(max_age_s=0), Lookup(PROVIDERS, CID.digest, 0))
        assert num_walks == 2


async def test_a_newer_record_that_came_by_itself_wins_against_what_a_search_found_before():
    async with network() as (client, helper, others, _):
        now = int(time.time())
        await others[0].dht.put_name(record_of(now))
        (first,) = await ask(client, helper, name_lookup())
        helper.dht.learn_name(record_of(now + 1, target=None))
        (second,) = await ask(client, helper, name_lookup(max_age_s=600))
        assert [decode_name(one).sequence for one in (*first.found, *second.found)] == [
            now,
            now + 1,
        ]


async def test_what_was_found_is_remembered_for_as_long_as_the_asker_allows(autojump_clock):
    lookups, kind = lookups_alone(Counted())
    first = await lookups._answer("a", encode(Lookup("thing", b"key", 60)))
    assert first == Found(0, [b"one"])
    await trio.sleep(59)
    assert (await lookups._answer("b", encode(Lookup("thing", b"key", 60)))).age_s == 59
    assert kind.num_searches == 1
    await lookups._answer("b", encode(Lookup("thing", b"key", 58)))
    await lookups._answer("b", encode(Lookup("thing", b"other", 60)))
    assert kind.num_searches == 3


async def test_that_nothing_was_found_is_remembered_for_seconds_only(autojump_clock):
    lookups, kind = lookups_alone(Counted(found=()))
    for wait_s, num_searches in ((0, 1), (server.NOTHING_AGE_S, 1), (0.1, 2)):
        await trio.sleep(wait_s)
        assert (await lookups._answer("a", encode(Lookup("thing", b"k", 3600)))).found == []
        assert kind.num_searches == num_searches


async def test_a_question_that_many_ask_at_once_is_one_search(autojump_clock):
    lookups, kind = lookups_alone(Counted(seconds=1.0))
    answers = []

    async def one(peer):
        answers.append(await lookups._answer(peer, encode(Lookup("thing", b"key", 0))))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, f"peer {number}")
    assert kind.num_searches == 1
    assert [answer.found for answer in answers] == [[b"one"]] * 50
    assert not lookups._searching


async def test_searches_that_take_too_long_are_given_up_and_hold_no_place(autojump_clock):
    lookups, kind = lookups_alone(Counted(seconds=1000.0))
    began = trio.current_time()
    answers = []

    async def one(number):
        asked = encode(Lookup("thing", b"%d" % number, 0))
        answers.append(await lookups._answer(f"peer {number}", asked))

    async with trio.open_nursery() as nursery:
        for number in range(3 * server.MAX_SEARCHES):
            nursery.start_soon(one, number)
    assert {answer.code for answer in answers} == {BUSY}
    assert trio.current_time() - began == server.SEARCH_DEADLINE_S
    assert kind.num_searches == server.MAX_SEARCHES
    kind.seconds = 0.0
    assert (await lookups._answer("a", encode(Lookup("thing", b"now", 0)))).found == [b"one"]


async def test_one_peer_is_bounded_and_the_others_are_served(autojump_clock):
    lookups, kind = lookups_alone(Counted())
    answers = [
        await lookups._answer("greedy", encode(Lookup("thing", b"%d" % number, 0)))
        for number in range(server.BURST_LOOKUPS + 10)
    ]
    assert kind.num_searches == server.BURST_SEARCHES
    assert {answer.code for answer in answers[server.BURST_SEARCHES :]} == {BUSY}
    assert (await lookups._answer("other", encode(Lookup("thing", b"x", 0)))).found == [b"one"]
    await trio.sleep(1 / server.SEARCHES_PER_SECOND)
    assert (await lookups._answer("greedy", encode(Lookup("thing", b"y", 0)))).found == [b"one"]


async def test_what_is_remembered_is_bounded_in_number_and_bytes(monkeypatch):
    monkeypatch.setattr(server, "MAX_REMEMBERED", 10)
    monkeypatch.setattr(server, "MAX_REMEMBERED_BYTES", 5_000)
    lookups, kind = lookups_alone(Counted())
    for number in range(100):
        kind.found = (bytes(number),)
        await lookups._answer(f"{number}", encode(Lookup("thing", b"%d" % number, 0)))
        sizes = [memory.size_bytes for memory in lookups._memories.values()]
        assert len(sizes) <= 10
        assert sum(sizes) == lookups._num_remembered_bytes <= 5_000


async def test_an_answer_holds_no_more_than_its_bounds():
    lookups, kind = lookups_alone(Counted(found=[b"x"] * (MAX_FOUND + 5)))
    assert len((await lookups._answer("a", encode(Lookup("thing", b"many", 0)))).found) == MAX_FOUND
    kind.found = [bytes(MAX_FOUND_BYTES // 2)] * 3
    large = await lookups._answer("a", encode(Lookup("thing", b"large", 0)))
    assert len(large.found) == 2
    assert len(encode(large)) <= MAX_ANSWER_BYTES


async def test_what_is_no_lookup_is_refused_and_the_stream_goes_on():
    async with network(0) as (client, helper, _, lookups):
        lookups.add("thing", Counted())
        answers = await ask(
            client,
            helper,
            b"garbage",
            Lookup("nothing", b"", 0),
            Lookup(NAME, b"/lorikeet/nobody/law", 0),
            Lookup(NAME, b"/other/x/law", 0),
            Lookup(NAME, b"\xff", 0),
            Lookup(PROVIDERS, bytes(31), 0),
            Lookup("thing", b"", 0),
        )
        assert [one.code for one in answers[:-1]] == [MALFORMED, UNKNOWN_KIND, *[MALFORMED] * 4]
        assert "name, providers, thing" in answers[1].text
        assert answers[-1].found == [b"one"]


async def test_a_frame_over_the_bound_and_a_silent_stream_cost_that_stream(monkeypatch):
    monkeypatch.setattr(server, "IDLE_TIMEOUT_S", 0.2)
    async with network(0) as (client, helper, _, _lookups):
        raw = await raw_stream(client, helper, PROTOCOL)
        await raw.write((MAX_LOOKUP_BYTES + 1).to_bytes(4, "big"))
        silent = await raw_stream(client, helper, PROTOCOL)
        await silent.write(encode_frame(b"12345")[:-1])
        await settled()
        guard = helper._library.get_mux().handlers[PROTOCOL]
        await eventually(lambda: not guard._num_open)
        assert await is_alive(client, helper)


async def test_a_peer_has_a_few_streams_at_once():
    async with network(0) as (client, helper, _, _lookups):
        streams = [
            await raw_stream(client, helper, PROTOCOL) for _ in range(server.STREAMS_PER_PEER)
        ]
        with pytest.raises((ProtocolRefused, StreamClosed)):
            await ask(client, helper, name_lookup())
        for one in streams:
            await one.reset()
        guard = helper._library.get_mux().handlers[PROTOCOL]
        await eventually(lambda: not guard._num_open)
        assert isinstance((await ask(client, helper, name_lookup()))[0], Found)


class _Served:
    """What `Lookups` needs of a host where a test asks it directly."""

    dht = None

    def serve(self, protocol, handler, *, streams_per_peer):
        """Nothing comes in."""


def lookups_alone(kind):
    lookups = Lookups(_Served())
    lookups.add("thing", kind)
    return lookups, kind


# --- the codec ---

messages = st.one_of(
    st.builds(
        Lookup,
        st.from_regex(r"[a-z][a-z_-]{0,31}", fullmatch=True),
        st.binary(max_size=256),
        st.integers(0, (1 << 32) - 1),
    ),
    st.builds(
        Found,
        st.integers(0, (1 << 32) - 1),
        st.lists(st.binary(max_size=400), max_size=MAX_FOUND),
    ),
    st.builds(Refused, st.sampled_from([UNKNOWN_KIND, MALFORMED, BUSY]), st.text(max_size=70)),
    st.builds(Provider, st.text(max_size=60), st.lists(st.text(max_size=100), max_size=8)),
)


def decode_as(message, data):
    decoders = {Lookup: decode_lookup, Provider: decode_provider}
    return decoders.get(type(message), decode_answer)(data)


@given(messages)
def test_a_message_is_read_as_it_was_written(message):
    assert decode_as(message, encode(message)) == message


@given(messages, st.data())
def test_any_change_of_a_message_is_another_message_or_an_error(message, data):
    bad = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(bad[: data.draw(st.integers(0, len(bad)))])
    for one in (bytes(bad), cut):
        try:
            decode_as(message, one)
        except InvalidLookup:
            continue


@given(st.binary(max_size=MAX_LOOKUP_BYTES + 10))
def test_no_bytes_make_a_reader_fail_otherwise(data):
    for decode in (decode_lookup, decode_answer, decode_provider):
        try:
            decode(data)
        except InvalidLookup:
            continue


@pytest.mark.parametrize(
    "bad",
    [
        ["Lookup", "Name", b"", 0],
        ["Lookup", "name\n", b"", 0],
        ["Lookup", "n" * 33, b"", 0],
        ["Lookup", "name", bytes(257), 0],
        ["Lookup", "name", b"", -1],
        ["Lookup", "name", b"", 1 << 32],
        ["Lookup", "name", b"", 0, 0],
        ["lookup", "name", b"", 0],
    ],
)
def test_a_lookup_outside_its_bounds_is_none(bad):
    with pytest.raises(InvalidLookup):
        decode_lookup(msgspec.msgpack.encode(bad))


def test_an_age_is_told_in_whole_seconds_that_fit():
    assert server._tell(Known((), 1e30)).age_s == (1 << 32) - 1
    assert server._tell(Known((), 1.9)).age_s == 1
