"""Publishes on topics, and subscribes with a validator that decides what is delivered here and
forwarded to others.

Does not know what any message means.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from .errors import MessageTooLarge
from .hardened_gossip import MAX_MESSAGE_BYTES, HardenedPubsub, Verdict

GOSSIP_QUEUE_MESSAGES = (
    1024  # undelivered messages of one subscription; the newest are dropped beyond it
)
MESSAGES_PER_SECOND = 100.0  # of one forwarder on one topic, in the long run
BURST_MESSAGES = 400
MAX_TRACKED_SOURCES = 4_000

logger = logging.getLogger(__name__)

__all__ = ["MAX_MESSAGE_BYTES", "Gossip", "GossipMessage", "RateLimit", "Validate", "Verdict"]


@dataclass(frozen=True)
class GossipMessage:
    """An accepted message.

    `from_peer` published it (its signature is checked); it may have come through others.
    """

    data: bytes
    from_peer: str


Validate = Callable[[bytes, str], "Verdict | Awaitable[Verdict]"]


class RateLimit:
    """A token bucket for each source.

    Pure: time comes in. Forgets all sources when too many are tracked.
    """

    def __init__(
        self,
        per_second: float = MESSAGES_PER_SECOND,
        burst: float = BURST_MESSAGES,
        max_sources: int = MAX_TRACKED_SOURCES,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_sources = max_sources
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def allow(self, source: tuple[str, str], now: float) -> bool:
        """Count one more message of this source and return whether it is within its rate."""
        tokens, then = self._buckets.get(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        if len(self._buckets) >= self._max_sources and source not in self._buckets:
            # Fills every bucket again; tracking more would let new sources take our memory.
            self._buckets.clear()
        self._buckets[source] = (max(tokens - 1.0, 0.0) if tokens >= 1.0 else tokens, now)
        return tokens >= 1.0


@dataclass
class _Subscription:
    validate: Validate
    send: trio.MemorySendChannel[GossipMessage]
    num_dropped: int = 0


class Gossip:
    """A node's topics.

    - `publish` reaches subscribers everywhere, this node's own included; it promises nothing:
    publish again what matters.
    - A subscription's validator runs once per message. A raising one counts as IGNORE: our bug is
    not the peer's guilt.
    """

    def __init__(self, network: str) -> None:
        self._prefix = f"/{network}/"
        self._subscriptions: dict[str, _Subscription] = {}
        self._rates = RateLimit()
        self._pubsub: HardenedPubsub | None = None

    def attach(self, pubsub: HardenedPubsub) -> None:
        """Take the pubsub; called once, by the host that built it."""
        self._pubsub = pubsub

    @property
    def _library(self) -> HardenedPubsub:
        assert self._pubsub is not None, "gossip is attached before the host is handed out"
        return self._pubsub

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to all subscribers of this topic.

        Waits up to a second while peers take in what was sent before. Raises MessageTooLarge.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"{len(data)} bytes on {topic!r} are over the gossip limit of {MAX_MESSAGE_BYTES};"
                " publish a CID instead"
            )
        await self._library.make_room()
        await self._library.publish(self._prefix + topic, data)

    async def subscribe(
        self, topic: str, validate: Validate
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Return a channel of the messages of this topic that `validate(data, from_peer)` accepts.

        One subscription per topic; close the channel to stop receiving.
        """
        full_topic = self._prefix + topic
        if full_topic in self._subscriptions:
            raise ValueError(f"{topic!r} is subscribed already; share its channel")
        send, receive = trio.open_memory_channel[GossipMessage](GOSSIP_QUEUE_MESSAGES)
        self._subscriptions[full_topic] = _Subscription(validate, send)
        await self._library.subscribe(full_topic)
        return receive

    def peers_on(self, topic: str) -> tuple[str, ...]:
        """Return the connected peers that subscribe to this topic."""
        return tuple(str(peer) for peer in self._library.peer_topics.get(self._prefix + topic, ()))

    def score(self, peer_id: str, topic: str) -> float:
        """Return how well a peer behaved on a topic; below zero it sent rejected messages."""
        scorer = self._library.router.scorer
        peers = {str(peer): peer for peer in self._library.peers}
        if scorer is None or peer_id not in peers:
            return 0.0
        return scorer.score(peers[peer_id], [self._prefix + topic])

    async def judge(self, full_topic: str, data: bytes, from_peer: str, forwarder: str) -> Verdict:
        """Judge a message from outside; called by the pubsub once for each."""
        subscription = self._subscriptions.get(full_topic)
        if subscription is None or not self._rates.allow(
            (forwarder, full_topic), trio.current_time()
        ):
            return Verdict.IGNORE
        try:
            verdict = subscription.validate(data, from_peer)
            return await verdict if inspect.isawaitable(verdict) else verdict
        except Exception:  # a subscriber's bug is not the peer's guilt, nor pubsub's end
            logger.exception("the validator of %s failed; the message is ignored", full_topic)
            return Verdict.IGNORE

    def deliver(self, full_topic: str, data: bytes, from_peer: str) -> None:
        """Hand an accepted message to its subscriber; called by the pubsub."""
        subscription = self._subscriptions.get(full_topic)
        if subscription is None:
            return
        try:
            subscription.send.send_nowait(GossipMessage(data, from_peer))
        except trio.WouldBlock:
            subscription.num_dropped += 1
            logger.warning(
                "%s: %d messages dropped, the subscriber is too slow",
                full_topic,
                subscription.num_dropped,
            )
        except trio.BrokenResourceError:
            pass  # the subscriber closed its channel
