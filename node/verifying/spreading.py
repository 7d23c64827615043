"""Tells others the attestations made here and the audits to come, and hears theirs, over gossip.

    heard:  bounded → parses → timely → its auditor within his rate → forwarded, kept and weighed

Decides what is forwarded; consequences.py decides what it is worth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import trio
from trio_typing import TaskStatus

from p2p.errors import P2pError
from p2p.gossip import GossipMessage, RateLimit, Validate, Verdict
from proofs.attestation.pledge import parse_pledge
from proofs.attestation.record import parse_attestation
from proofs.digest import Network
from proofs.errors import AttestationError

from ..telemetry import Telemetry
from ..wire.attestation import MAX_SKEW_S, PLEDGES_TOPIC, TOPIC, is_timely, read_told
from .consequences import Consequences

MAX_UNTOLD = 64
AUDITOR_PER_SECOND = 1.0
AUDITOR_BURST = 64.0


class Topics(Protocol):
    """The gossip topics: implemented by p2p.gossip.Gossip."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to every subscriber."""

    async def subscribe(
        self, topic: str, validate: Validate
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Receive the messages that `validate` accepts."""


class Spreading:
    """The topics of attestations and pledges, of one daemon; where nothing is paid (`network` None)
    it forwards no attestation. `consequences` is None at daemons that forward only.
    """

    def __init__(
        self,
        topics: Topics,
        network: Network | None,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.consequences: Consequences | None = None
        self._topics = topics
        self._network = network
        self._telemetry = telemetry
        self._clock = clock
        self._rates = RateLimit(AUDITOR_PER_SECOND, AUDITOR_BURST)
        self._send, self._receive = trio.open_memory_channel[tuple[str, bytes]](MAX_UNTOLD)

    def tell(self, data: bytes) -> None:
        """Tell everybody an attestation, soon; one too many is not told."""
        self._say(TOPIC, data)

    def tell_pledge(self, data: bytes) -> None:
        """Tell everybody that an audit is to come."""
        self._say(PLEDGES_TOPIC, data)

    def _say(self, topic: str, data: bytes) -> None:
        try:
            self._send.send_nowait((topic, data))
        except trio.WouldBlock:
            self._telemetry.count("attestations_not_told")

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear and tell until cancelled."""
        messages = await self._topics.subscribe(TOPIC, self.judge)
        pledges = await self._topics.subscribe(PLEDGES_TOPIC, self.judge_pledge)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            nursery.start_soon(self._hear_pledges, pledges)
            task_status.started()
            async for message in messages:
                if self.consequences is not None and self._network is not None:
                    found = parse_attestation(message.data, self._network)
                    await self.consequences.hear(message.data, found)

    def judge(self, data: bytes, from_peer: str) -> Verdict:
        """Decide whether a message is forwarded."""
        if self._network is None:
            return Verdict.IGNORE
        try:
            found = read_told(data, self._network)
        except AttestationError as error:
            self._telemetry.reject("attestation", from_peer, str(error))
            return Verdict.REJECT
        now = self._clock()
        if not is_timely(found, now) or not self._rates.allow((found.auditor.hex(), TOPIC), now):
            return Verdict.IGNORE
        here = self.consequences
        if here is not None and (here.heard.knows(found) or here.heard.is_liar(found.auditor)):
            return Verdict.IGNORE
        return Verdict.ACCEPT

    def judge_pledge(self, data: bytes, from_peer: str) -> Verdict:
        """Decide whether a pledge is forwarded."""
        try:
            pledge = parse_pledge(data)
        except AttestationError as error:
            self._telemetry.reject("attestation", from_peer, str(error))
            return Verdict.REJECT
        now = self._clock()
        is_timely = abs(pledge.made_at - now) <= MAX_SKEW_S
        source = (pledge.auditor.hex(), PLEDGES_TOPIC)
        return Verdict.ACCEPT if is_timely and self._rates.allow(source, now) else Verdict.IGNORE

    async def _hear_pledges(self, messages: trio.MemoryReceiveChannel[GossipMessage]) -> None:
        async for message in messages:
            if self.consequences is not None:
                pledge = parse_pledge(message.data)
                self.consequences.heard.learn_pledge(pledge.commitment, self._clock())

    async def _tell(self) -> None:
        async for topic, data in self._receive:
            try:
                await self._topics.publish(topic, data)
                self._telemetry.count(f"{topic}_told")
            except P2pError as error:
                self._telemetry.log(f"verifying: one of the {topic} was not told: {error}")
