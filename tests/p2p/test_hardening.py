"""Each way in which a peer (or our own mistake) takes an unhardened py-libp2p host down, and that
ours goes on.
"""

import gc
import logging
import os
from functools import partial

import coincurve
import pytest
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID
from libp2p.stream_muxer.mplex.mplex import MPLEX_PROTOCOL_ID
from libp2p.utils.varint import encode_uvarint

from p2p import hardened_gossip
from p2p.errors import HostFailed, PeerTimeout, PeerUnreachable
from p2p.gossip import Verdict
from p2p.host import NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress
from p2p.transport import MAX_WINDOW_BYTES

from .helpers import connect, eventually, is_alive, open_hosts, raw_stream, settled

MESHSUB = "/meshsub/1.2.0"


async def end_of(raw):
    """Wait until the other side ends a stream."""
    with trio.fail_after(60):
        try:
            while True:
                await raw.read(1000)
        except StreamError:
            return


async def test_an_exception_in_a_stream_handler_resets_only_its_stream():
    async with open_hosts(2) as (a, b):
        await connect(b, a)

        async def broken(stream):
            await stream.receive(60)
            raise ZeroDivisionError("our own bug")

        async def unframed(stream):
            await stream.read(1)
            raise ZeroDivisionError("a bug below the framing")

        a.serve("/broken", broken)
        a._library.set_stream_handler("/unframed", unframed)
        for protocol in ("/broken", "/unframed"):
            raw = await raw_stream(b, a, protocol)
            await raw.write(b"\x00\x00\x00\x01x")
            await end_of(raw)
        assert await is_alive(b, a)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 50,
        encode_uvarint(7) + b"garbage",
        encode_uvarint(2 << 20),
        encode_uvarint(1) + b"\x0a",
    ],
)
@pytest.mark.parametrize(
    "protocol", [MESHSUB, "/lorikeet-devnet/kad/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"]
)
async def test_garbage_on_a_library_protocol_ends_that_stream_at_most(protocol, garbage):
    async with open_hosts(2) as (a, b):
        await a.gossip.subscribe("t", lambda data, from_peer: Verdict.ACCEPT)
        await connect(b, a)
        raw = await raw_stream(b, a, protocol)
        await raw.write(garbage)
        await raw.close_write()
        await settled()
        assert await is_alive(b, a)
        assert await is_alive(a, b)


def signed(identity, topic, data, seqno=b"\x00" * 8, key=b""):
    keys = create_new_key_pair(identity.secret)
    message = rpc_pb2.Message(
        data=data, topicIDs=[topic], from_id=ID.from_pubkey(keys.public_key).to_bytes(), seqno=seqno
    )
    message.signature = keys.private_key.sign(
        PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    )
    if key:
        message.key = key
    return message


async def gossip_raw(raw, *messages):
    rpc = rpc_pb2.RPC(publish=messages).SerializeToString()
    await raw.write(encode_uvarint(len(rpc)) + rpc)


async def test_malformed_gossip_messages_are_dropped_and_good_ones_still_pass():
    author = Identity.generate()
    async with open_hosts(2) as (a, b):
        channel = await a.gossip.subscribe("t", lambda data, from_peer: Verdict.ACCEPT)
        await connect(b, a)
        await eventually(lambda: b._library.get_id() in a.gossip._pubsub.peers)
        raw = await raw_stream(b, a, MESHSUB)
        topic = "/lorikeet-devnet/t"
        rsa_like = rpc_pb2.Message(
            data=b"x",
            topicIDs=[topic],
            from_id=b"\x12\x20" + bytes(32),
            seqno=b"1",
            signature=b"s",
            key=b"garbage",
        )
        forged = signed(author, topic, b"forged", seqno=b"2")
        forged.data = b"changed"
        bad = [
            rsa_like,
            forged,
            rpc_pb2.Message(
                data=b"x", topicIDs=[topic], from_id=b"", seqno=b"", signature=b"s", key=b"\xff"
            ),
            rpc_pb2.Message(data=b"unsigned", topicIDs=[topic], from_id=b"x"),
            rpc_pb2.Message(
                data=b"two topics", topicIDs=[topic, topic + "2"], from_id=b"x", signature=b"s"
            ),
            signed(author, topic, b"x" * (hardened_gossip.MAX_MESSAGE_BYTES + 1), seqno=b"3"),
        ]
        for message in bad[:3]:
            await gossip_raw(raw, message)
        await gossip_raw(
            raw,
            signed(author, topic, b"good", seqno=b"9"),
            signed(author, topic, b"good", seqno=b"9"),
        )
        with trio.fail_after(60):
            message = await channel.receive()
        assert (message.data, message.from_peer) == (b"good", author.peer_id)
        assert a.gossip.score(b.peer_id, "t") < 0
        for message in bad[3:]:
            await gossip_raw(raw, message)
        await settled()
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()  # nothing bad, and the good one only once
        assert await is_alive(b, a)


async def test_a_raising_or_slow_validator_costs_the_message_not_the_host(monkeypatch, caplog):
    monkeypatch.setattr(hardened_gossip, "JUDGE_TIMEOUT_S", 0.2)
    author = Identity.generate()

    async def judge(data, from_peer):
        if data == b"slow":
            await trio.sleep_forever()
        if data == b"raise":
            raise ZeroDivisionError("our own bug")
        return Verdict.ACCEPT

    async with open_hosts(2) as (a, b):
        channel = await a.gossip.subscribe("t", judge)
        await connect(b, a)
        raw = await raw_stream(b, a, MESHSUB)
        with caplog.at_level(logging.CRITICAL):
            for seqno, data in enumerate((b"raise", b"slow", b"good")):
                await gossip_raw(
                    raw, signed(author, "/lorikeet-devnet/t", data, seqno=bytes([seqno]))
                )
            with trio.fail_after(60):
                assert (await channel.receive()).data == b"good"
            await eventually(lambda: a.gossip._pubsub._num_judging == 0)
        assert a.gossip.score(b.peer_id, "t") >= 0  # our failure is not the peer's guilt
        assert await is_alive(b, a)


async def test_a_flood_of_messages_is_cut_to_the_rate_and_the_host_answers_meanwhile():
    author = Identity.generate()
    seen = 0

    def judge(data, from_peer):
        nonlocal seen
        seen += 1
        return Verdict.IGNORE

    async with open_hosts(2) as (a, b):
        await a.gossip.subscribe("t", judge)
        await connect(b, a)
        raw = await raw_stream(b, a, MESHSUB)
        message = signed(author, "/lorikeet-devnet/t", b"x")
        flood = [
            rpc_pb2.Message(
                data=b"x", topicIDs=message.topicIDs, from_id=b"x", seqno=index.to_bytes(4, "big")
            )
            for index in range(5000)
        ]
        with trio.fail_after(60):
            await gossip_raw(raw, *flood)
            assert await is_alive(b, a)
        assert seen == 0
        real = [
            signed(author, "/lorikeet-devnet/t", b"x", seqno=b"n" + index.to_bytes(4, "big"))
            for index in range(100)
        ]
        await gossip_raw(raw, *real)
        await settled()
        assert seen <= hardened_gossip.MAX_JUDGING


async def test_plaintext_peers_and_the_old_muxer_are_refused():
    async with open_hosts(1) as (a,):
        upgrader = a._swarm.upgrader
        assert PLAINTEXT_PROTOCOL_ID not in upgrader.security_multistream.transports
        assert list(upgrader.muxer_multistream.transports) == ["/yamux/1.0.0"]
        assert MPLEX_PROTOCOL_ID not in upgrader.muxer_multistream.transports
        host = a.addresses[0].split("/")[2]
        port = int(a.addresses[0].split("/")[4])
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            await stream.send_all(
                b"\x13/multistream/1.0.0\n"
                + bytes([len(PLAINTEXT_PROTOCOL_ID) + 1])
                + PLAINTEXT_PROTOCOL_ID.encode()
                + b"\n"
            )
            with trio.fail_after(60):
                answer = b""
                while b"na\n" not in answer:
                    answer += await stream.receive_some()


async def test_garbage_on_the_listening_port_harms_nobody():
    async with open_hosts(2) as (a, b):
        host = a.addresses[0].split("/")[2]
        port = int(a.addresses[0].split("/")[4])
        for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000)):
            async with await trio.open_tcp_stream(host, port) as stream:
                await stream.send_all(garbage)
        await connect(b, a)
        assert await is_alive(b, a)


async def test_an_inbound_connection_gives_its_slot_back_when_it_ends():
    async with open_hosts(1) as (a,):
        for _ in range(3):
            async with open_hosts(1) as (b,):
                await connect(b, a)
        await eventually(lambda: a._swarm._inbound_limiter.borrowed_tokens == 0)


async def test_a_corrected_address_works_at_once_after_a_stale_one_failed():
    async with open_hosts(2) as (a, b):
        stale = PeerAddress(a.peer_id, ("/ip4/127.0.0.1/tcp/9",))
        with pytest.raises(PeerUnreachable):
            await b.connect_to(stale, 5)
        with trio.fail_after(60):
            await b.connect_to(
                PeerAddress(a.peer_id, (*stale.addresses, a.addresses[0])), 5
            )  # the stale one first
        assert b.is_connected(a.peer_id)
        await b.disconnect(a.peer_id)
        await eventually(lambda: not b.is_connected(a.peer_id))
        with trio.fail_after(60):
            await b.connect_to(PeerAddress(a.peer_id), 60)  # what was learned is kept


async def test_a_dial_that_is_given_up_in_its_handshake_leaves_no_socket():
    async with open_hosts(1) as (b,), trio.open_nursery() as nursery:

        async def silent(stream):
            await trio.sleep_forever()

        (listener,) = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with pytest.raises(PeerTimeout):
            await b.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{Identity.generate().peer_id}", 0.3)
        nursery.cancel_scope.cancel()
    gc.collect()  # an unclosed socket would warn, and warnings are errors


async def test_a_host_dials_nobody_by_itself():
    async with open_hosts(1) as (b,):
        async with open_hosts(1) as (a,):
            await connect(b, a)
        await eventually(lambda: not b.is_connected(a.peer_id))
        with trio.move_on_after(0.3):
            await b._swarm.auto_connector.maybe_connect()
        assert b._swarm._failed_until == {}


async def test_a_node_can_provide_many_cids_in_a_moment():
    from p2p.cid import Cid

    async with open_hosts(2) as (a, b):
        await connect(b, a)
        cids = [Cid.of(bytes([index])) for index in range(30)]  # the library takes 10 in 10 s
        for cid in cids:
            await b.dht.provide(cid)
        stored = a.dht._kademlia.provider_store
        await eventually(
            lambda: all(stored.get_providers(b"\x12\x20" + cid.digest) for cid in cids)
        )


async def test_a_topic_subscribed_at_the_moment_of_meeting_is_known_to_the_other_side():
    async with open_hosts(2) as (a, b):
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect, b, a)
                for index in range(3):
                    for _ in range(100):  # while the other two shake hands
                        await trio.lowlevel.checkpoint()
                    topic = f"t{len(a.gossip._subscriptions)}-{index}"
                    await a.gossip.subscribe(topic, lambda data, from_peer: Verdict.ACCEPT)
            await eventually(
                lambda: len(b.gossip._pubsub.peer_topics) == len(a.gossip._subscriptions), 2
            )
            await b.disconnect(a.peer_id)
            await eventually(lambda: not a.is_connected(b.peer_id))


async def test_a_stream_buffer_is_bounded():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        raw = await raw_stream(b, a, "/ipfs/ping/1.0.0")
        stream = raw.muxed_stream
        while stream.recv_window:
            stream.take(memoryview(bytes(min(stream.recv_window, 50_000))))
        assert len(stream.queue) == MAX_WINDOW_BYTES
        stream.take(memoryview(b"x"))
        assert len(stream.queue) == 0
        with pytest.raises(StreamError):
            await raw.read(1)


async def test_a_peer_that_ignores_the_window_loses_its_stream_and_memory_stays_bounded():
    async with open_hosts(2) as (a, b):
        await connect(b, a)

        async def sleepy(stream):
            await trio.sleep_forever()

        a.serve("/sleepy", sleepy)
        raw = await raw_stream(b, a, "/sleepy")
        with trio.move_on_after(60):
            for _ in range(400):
                raw.muxed_stream.send_window = 1 << 20  # what an honest peer would not do
                try:
                    await raw.write(bytes(60_000))
                except StreamError:  # lost already
                    break
        (connection,) = a._swarm.get_connections()
        await settled()
        assert (
            sum(len(buffer) for buffer in connection.muxed_conn.stream_buffers.values())
            <= MAX_WINDOW_BYTES
        )
        assert await is_alive(b, a)


async def test_a_failing_background_task_of_the_library_is_survived():
    async with open_hosts(2) as (a, b):
        num_failed = 0

        async def fail():
            nonlocal num_failed
            num_failed += 1
            raise ZeroDivisionError("a bug in the library")

        for service in (a._swarm, a.gossip._pubsub, a.gossip._pubsub.router, a.dht._kademlia):
            service.manager.run_task(fail)
            service.manager.run_daemon_task(fail)
        await eventually(lambda: num_failed >= 8)
        await connect(b, a)
        assert await is_alive(b, a)


async def test_a_port_that_another_node_has_and_an_address_of_another_machine_are_named():
    async with open_hosts(1) as (a,):
        taken = a.addresses[0].rpartition("/p2p/")[0]
        for address in (taken, taken.replace("127.0.0.1", "192.0.2.77")):
            with pytest.raises(HostFailed, match=address):
                async with open_host(Identity.generate(), NetworkConfig(listen=(address,))):
                    pass


async def test_an_error_in_the_block_comes_out_as_itself_and_leaves_no_socket_open():
    with pytest.raises(ZeroDivisionError):
        async with open_hosts(2) as (a, b):
            await connect(b, a)
            raise ZeroDivisionError
    gc.collect()  # an unclosed socket would warn, and warnings are errors


def test_keys_of_libp2p_are_made_by_a_library_that_agrees_with_ours():
    identity = Identity.generate()
    library = create_new_key_pair(identity.secret)
    signature = library.private_key.sign(b"message")
    assert coincurve.PublicKey(identity.public_key).verify(signature, b"message")


async def test_two_tasks_that_open_gossip_to_one_peer_open_one_stream():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        pubsub = b.gossip._pubsub
        (peer,) = b._library.get_connected_peers()
        await eventually(lambda: peer in pubsub.peers)
        pubsub._handle_dead_peer(peer)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pubsub._handle_new_peer, peer)

        def opened():
            (connection,) = b._swarm.get_connections()
            streams = [one for one in connection.get_streams() if one.get_protocol() == MESHSUB]
            return len([one for one in streams if one.muxed_stream.is_initiator])

        await settled()
        assert opened() == 2  # the one that died unsaid, and one more


async def test_no_gossip_is_opened_to_who_serves_none(caplog):
    async with open_hosts(3) as (node, browser, other):
        for protocol in browser._library.protocols_served():
            if protocol.startswith("/meshsub/"):
                browser._library.remove_stream_handler(protocol)
        await connect(browser, node)
        await connect(other, node)
        gossip = node.gossip._pubsub
        await eventually(lambda: other._library.get_id() in gossip.peers)
        await eventually(lambda: node._library.protocols_of(browser._library.get_id()))
        gossip.heal(all_again=True)
        await gossip._handle_new_peer(browser._library.get_id())
        assert browser._library.get_id() not in gossip.peers
    assert not [one for one in caplog.records if "Failed to open stream" in one.getMessage()]


async def test_a_connection_that_ends_as_it_begins_is_not_listed(monkeypatch):
    async def end_at_once(connection):
        await connection.close()
        connection.event_started.set()

    async with open_hosts(2) as (a, b):
        with monkeypatch.context() as patched:
            patched.setattr(SwarmConn, "start", end_at_once)
            with pytest.raises(PeerUnreachable):
                await connect(b, a)
            await settled()
        assert a._swarm.get_connections() == b._swarm.get_connections() == []
        b._swarm.forget_failures(ID.from_base58(a.peer_id))
        await connect(b, a)
        assert await is_alive(b, a)


async def test_who_waited_for_a_dial_that_failed_tries_every_address_anew(monkeypatch):
    async with open_hosts(2) as (a, b):
        dial_one = b._swarm._dial_one
        fails = trio.Event()

        async def fail_once(*arguments: object) -> object:
            monkeypatch.setattr(b._swarm, "_dial_one", dial_one)
            await fails.wait()
            raise SwarmException("nobody answers")

        monkeypatch.setattr(b._swarm, "_dial_one", fail_once)
        async with trio.open_nursery() as nursery:

            async def dial() -> None:
                with pytest.raises(PeerUnreachable):
                    await connect(b, a)

            nursery.start_soon(dial)
            await settled()
            nursery.start_soon(connect, b, a)
            await settled()
            fails.set()
        assert await is_alive(b, a)


async def end_late(deed):
    """Do it where the deadline is over before anything that it waits for comes to pass."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() - 1.0) as scope:
        await deed()
    assert scope.cancelled_caught


async def test_a_stream_that_is_ended_by_a_process_that_is_late_is_not_kept():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        (connection,) = b._swarm.get_connections()
        for end in ("close", "reset"):
            stream = await b._swarm.new_stream(a._library.get_id())
            await end_late(getattr(stream, end))
            assert stream not in connection.get_streams()
            assert stream.muxed_stream.send_closed


async def test_a_stream_that_is_opened_by_a_process_that_is_late_is_not_kept():
    async with open_hosts(2) as (a, b):
        await connect(b, a)
        (connection,) = b._swarm.get_connections()
        muxed = await connection.muxed_conn.open_stream()
        await end_late(partial(connection._add_stream, muxed))
        assert muxed not in [one.muxed_stream for one in connection.get_streams()]
        assert muxed.closed
        assert muxed.stream_id not in connection.muxed_conn.streams
