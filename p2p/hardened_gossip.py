"""The gossip half of the hardening: a router without the library's surprises, and a Pubsub that no
message can take down.

- A message with garbage protobuf, a malformed key, or a validator that raises or is slow is dropped
  (or its stream is), and the sender's score falls.
- A message is judged once, by its topic's validator, before it is delivered or forwarded; it has
  one topic, and we subscribe to it.
- Judging runs in parallel only up to a bound; beyond it messages are dropped, and gossip brings
  them again.

Knows no topic's name and no message's meaning.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import libp2p.pubsub.pubsub as pubsub_module
import trio
from libp2p.abc import INetStream
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.pubsub.validators import signature_validator

from .swarm import is_relayed

MAX_MESSAGE_BYTES = 64 << 10
MAX_RPC_BYTES = 512 << 10
MAX_JUDGING = 256  # messages judged at once
JUDGE_TIMEOUT_S = 5.0
OUTBOUND_QUEUE_RPCS = 256
MAKE_ROOM_TIMEOUT_S = 1.0
IDENTIFY_TIMEOUT_S = 2.0  # how long a peer's word on what it serves is waited for
HEARTBEAT_S = 1
GREETINGS = 3  # of a new peer, in case one is lost
_ENDS = (StreamError, IncompleteReadError)  # a peer that leaves is not to blame
PUBLISH_SCORE = -40.0  # a peer below this is not listened to

logger = logging.getLogger(__name__)

setattr(pubsub_module, "RpcQueue", partial(RpcQueue, max_size=OUTBOUND_QUEUE_RPCS))  # noqa: B010  # the default of 32 loses bursts


class Verdict(enum.Enum):
    """A validator's word on a message.

    Only an accepted one is delivered and forwarded; a rejected one costs its forwarder score.
    """

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


Judge = Callable[[str, bytes, str, str], Awaitable[Verdict]]
Deliver = Callable[[str, bytes, str], None]


class HardenedGossipSub(GossipSub):
    """Keeps its mesh: the library's opportunistic grafting collapses it when there are more
    connections than the degree.
    """

    def _perform_opportunistic_grafting(
        self, topic: str, peers_to_graft: defaultdict[ID, list[str]]
    ) -> int:
        return 0


def new_router() -> HardenedGossipSub:
    """Make a router with a heartbeat of a second, our own limits instead of its spam filter, and
    scores that mean something.
    """
    return HardenedGossipSub(
        protocols=[PROTOCOL_ID_V12, PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=HEARTBEAT_S,
        prune_back_off=10,
        score_params=_score_params(),
        adaptive_gossip_enabled=False,
        # counts our own messages too; our limit is per peer and topic, before the validator
        spam_protection_enabled=False,
        # grafts by address diversity, which a network on one machine has not
        eclipse_protection_enabled=False,
    )


def _score_params() -> ScoreParams:
    return ScoreParams(
        p1_time_in_mesh=TopicScoreParams(weight=0.05, cap=100, decay=1.0),
        p2_first_message_deliveries=TopicScoreParams(weight=0.5, cap=20, decay=0.95),
        p4_invalid_messages=TopicScoreParams(weight=10.0, cap=20, decay=0.98),
        p5_behavior_penalty_weight=1.0,
        p5_behavior_penalty_decay=0.9,
        p5_behavior_penalty_threshold=6.0,
        publish_threshold=PUBLISH_SCORE,
        gossip_threshold=PUBLISH_SCORE / 2,
        graylist_threshold=PUBLISH_SCORE * 2,
    )


class HardenedPubsub(Pubsub):
    """Pubsub that asks `judge` about every message from outside and hands accepted ones to
    `deliver`.
    """

    router: HardenedGossipSub

    def __init__(
        self, host: Any, router: HardenedGossipSub, judge: Judge, deliver: Deliver
    ) -> None:
        super().__init__(host, router, max_inbound_rpc_size=MAX_RPC_BYTES)
        self.counter = (
            time.time_ns()
        )  # the library starts at seconds: a quick restart would reuse sequence numbers
        self._protocols_of: Callable[[ID], tuple[str, ...]] = host.protocols_of
        self._judge = judge
        self._deliver = deliver
        self._num_judging = 0
        self._opening_to: set[ID] = set()
        self._greeted: dict[ID, int] = {}  # how often each connected peer was

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Register a peer, then send our topics again.

        A topic subscribed while the first greeting was under way would never be told. Of two tasks
        that open a stream to one peer, the library would forget one stream and leave it open. Who
        serves no gossip, such as a browser, is left alone.
        """
        if peer_id in self._opening_to:
            return
        self._opening_to.add(peer_id)
        try:
            await self._wait_identified(peer_id)
            if not self._may_gossip(peer_id):
                return
            await super()._handle_new_peer(peer_id)
        finally:
            self._opening_to.discard(peer_id)
        self._greet(peer_id)

    async def _wait_identified(self, peer_id: ID) -> None:
        with trio.move_on_after(IDENTIFY_TIMEOUT_S):
            while not self._protocols_of(peer_id) and self._peer_is_connected(peer_id):  # noqa: ASYNC110  # the library tells nobody
                await trio.sleep(0.02)

    def _may_gossip(self, peer_id: ID) -> bool:
        """Return whether a peer serves gossip, or has not said what it serves."""
        told = self._protocols_of(peer_id)
        return not told or any(protocol in told for protocol in self.protocols)

    def _greet(self, peer_id: ID) -> None:
        queue = self.peer_queues.get(peer_id)
        if queue is not None and self.topic_ids:
            queue.push(self.get_hello_packet())

    def heal(self, all_again: bool) -> None:
        """Open the streams that failed to open, and send our topics again: to a new peer a few
        times, to all others if `all_again`. Repeated by the host.
        """
        connected = self.host.get_connected_peers()
        for peer_id in connected:
            if peer_id not in self.peers:
                if self._may_gossip(peer_id):
                    self._schedule_peer_stream_retry(peer_id)
            elif self._is_left(self.peers[peer_id]):
                self.manager.run_task(self._move, peer_id)
            if all_again or self._greeted.get(peer_id, 0) < GREETINGS:
                self._greet(peer_id)
        self._greeted = {
            peer_id: min(GREETINGS, self._greeted.get(peer_id, 0) + 1) for peer_id in connected
        }

    def _is_left(self, stream: INetStream) -> bool:
        """Return whether a relay carries a stream to a peer that is connected directly by now."""
        connection: Any = stream.muxed_conn  # yamux says as well how it leads there
        swarm: Any = self.host.get_network()
        return is_relayed(connection) and swarm.has_direct(connection.peer_id)

    async def _move(self, peer_id: ID) -> None:
        """Send to a peer over its direct connection from now on, so that the relay gets its circuit
        back. What its mesh knows of the peer stays.
        """
        left = self.peers.pop(peer_id, None)
        queue = self.peer_queues.pop(peer_id, None)
        if queue is not None:
            queue.close()
        try:
            await self._handle_new_peer(peer_id)
        finally:
            if left is not None:
                await left.reset()

    async def make_room(self) -> None:
        """Wait at most a second until the queues to all peers are half empty, so that our own burst
        is not dropped.
        """
        with trio.move_on_after(MAKE_ROOM_TIMEOUT_S):
            while any(len(queue) > OUTBOUND_QUEUE_RPCS // 2 for queue in self.peer_queues.values()):  # noqa: ASYNC110  # it has no event
                await trio.sleep(0.005)

    async def stream_handler(self, stream: INetStream) -> None:
        """Read one peer's messages; whatever the peer sends, only its stream ends."""
        peer_id = stream.muxed_conn.peer_id
        try:
            await self.continuously_read_stream(stream)
        except _ENDS as error:
            logger.debug("gossip of %s has ended: %r", peer_id, error)
        except Exception as error:  # the top of one stream: any bytes may come, any parser fail
            logger.info("gossip of %s is unreadable: %r", peer_id, error)
            self.penalise(peer_id)
            answering = self.peers.get(peer_id)
            if answering is not None:  # the library would forget it open, and open another
                await answering.reset()
        await stream.reset()
        if not self._is_left(stream):  # else it only came to the direct connection
            self._handle_dead_peer(peer_id)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Judge, deliver and forward one message, our own or a peer's. Raises nothing."""
        # Dropped, not queued: gossip brings it again, and a queue would grow under a flood.
        if self._num_judging >= MAX_JUDGING:
            return
        self._num_judging += 1
        try:
            if await self._admit(msg_forwarder, msg):
                self._deliver(msg.topicIDs[0], msg.data, str(ID(msg.from_id)))
                await self.router.publish(msg_forwarder, msg)
        except Exception as error:  # the top of one message's task, which the library starts
            logger.info("a gossip message from %s failed: %r", msg_forwarder, error)
            self._invalid(msg_forwarder, msg)
        finally:
            self._num_judging -= 1

    async def _admit(self, forwarder: ID, msg: rpc_pb2.Message) -> bool:
        if self._is_msg_seen(msg):
            return False
        if forwarder == self.my_id:
            self._mark_msg_seen(msg)
            return True
        if ID(msg.from_id) == self.my_id or not self._may_speak(forwarder, msg):
            return False
        if not self._is_well_formed(msg):
            self._invalid(forwarder, msg)
            return False
        self._mark_msg_seen(
            msg
        )  # before the verdict: copies that arrive meanwhile are not judged again
        verdict = await self._ask_judge(forwarder, msg)
        if verdict is Verdict.REJECT:
            self._invalid(forwarder, msg)
        elif verdict is Verdict.ACCEPT and self.router.scorer is not None:
            self.router.scorer.on_first_delivery(forwarder, msg.topicIDs[0])
        return verdict is Verdict.ACCEPT

    def _may_speak(self, forwarder: ID, msg: rpc_pb2.Message) -> bool:
        scorer = self.router.scorer
        return scorer is None or scorer.allow_publish(forwarder, list(msg.topicIDs))

    def _is_well_formed(self, msg: rpc_pb2.Message) -> bool:
        if (
            len(msg.data) > MAX_MESSAGE_BYTES
            or len(msg.topicIDs) != 1
            or len(msg.from_id) > 64
            or len(msg.seqno) > 16
        ):
            return False
        return signature_validator(msg)

    async def _ask_judge(self, forwarder: ID, msg: rpc_pb2.Message) -> Verdict:
        with trio.move_on_after(JUDGE_TIMEOUT_S):
            return await self._judge(
                msg.topicIDs[0], msg.data, str(ID(msg.from_id)), str(forwarder)
            )
        return Verdict.IGNORE

    def _invalid(self, forwarder: ID, msg: rpc_pb2.Message) -> None:
        if self.router.scorer is not None and forwarder != self.my_id:
            for topic in msg.topicIDs[:1]:
                self.router.scorer.on_invalid_message(forwarder, topic)

    def penalise(self, peer_id: ID) -> None:
        """Lower a peer's score on every topic."""
        if self.router.scorer is not None:
            self.router.scorer.penalize_behavior(peer_id, 5.0)
