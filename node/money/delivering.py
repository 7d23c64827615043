"""Delivers a node's receipts to the aggregator, and tells the network of its promises.

    receipt → (its voucher is claimed: claiming.py) → the aggregator → its promise → gossip

Only the node sends receipts; the client keeps its copies and sees them included. Whoever hears a
promise can hold the aggregator to it (watching.py). Knows no stream of an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import trio
from trio_typing import TaskStatus

from p2p.errors import P2pError
from p2p.gossip import Verdict
from p2p.host import Host
from proofs.digest import Network
from proofs.envelope import decode_envelope, open_envelope, seal_envelope
from proofs.errors import ProofError
from proofs.ledger import Outbox, OutboxEntry
from proofs.promise import Promise, verify_promise
from proofs.receipt import VerifiedReceipt, decode_body, decode_receipt

from ..survive import survive
from ..telemetry import Telemetry
from ..tracing import EARNED
from ..wire import receipts as wire
from ..wire.channels import ChannelRow

OUTBOX_INTERVAL_S = 5.0
MAX_PAUSE_S = 60.0  # between two tries to reach an aggregator that is away
IsClaimed = Callable[[bytes, int], bool]  # channel id, cumulative amount
Aggregator = Callable[[], bytes]
OnPromise = Callable[[Promise, bytes], None]  # and the envelope of the receipt that it is for


class Delivery:
    """The outbox of one daemon. `aggregator` is a peer id; `address` says whose promises count now.

    `is_claimed` tells whether a channel's vouchers are claimed so far, as the chain said last: what
    is not is not sent, for the aggregator would not take it. `on_promise` hears what the aggregator
    promises us.
    """

    def __init__(
        self,
        host: Host,
        outbox: Outbox,
        telemetry: Telemetry,
        network: Network,
        *,
        aggregator: str,
        address: Aggregator,
        is_claimed: IsClaimed,
        on_promise: OnPromise,
    ) -> None:
        self._host = host
        self._outbox = outbox
        self._telemetry = telemetry
        self._network = network
        self._aggregator = aggregator
        self._address = address
        self._is_claimed = is_claimed
        self._on_promise = on_promise
        self._refused: set[bytes] = set()  # for good, by the aggregator: digests
        self._said: dict[bytes, str] = {}  # what it said last of a receipt that it did not take
        self._wake = trio.Event()
        self._is_away = False

    def earned(self, receipt: VerifiedReceipt, row: ChannelRow) -> None:
        """Keep a receipt that pays us, with the voucher that covers it, and send it soon.

        One that both sides signed takes the place of the same receipt with our signature alone. On
        disk when this returns.
        """
        envelope = seal_envelope(receipt.signed, row.as_voucher, row.config)
        self._telemetry.traces.step(self._outbox.add(receipt.signed, envelope), "outbox")
        self._telemetry.count("receipts_earned" if receipt.is_cosigned else "receipts_unilateral")
        self._wake.set()

    def paid(self, receipt: VerifiedReceipt) -> None:
        """Keep our copy of a receipt that we signed as client."""
        self._telemetry.traces.step(self._outbox.add(receipt.signed, None), "outbox")
        self._telemetry.count("receipts_paid")

    def is_refused(self, digest: bytes) -> bool:
        """Whether the aggregator refused a receipt for good."""
        return digest in self._refused

    def last_words(self, digest: bytes) -> str | None:
        """What the aggregator said last of a receipt that it did not promise; None: it was not
        asked since this daemon started.
        """
        return self._said.get(digest)

    def send_soon(self) -> None:
        """Something was claimed: what waited for it can be sent."""
        self._wake.set()

    async def run(self, interval_s: float = OUTBOX_INTERVAL_S) -> None:
        """Send what has no promise yet, or one that ran out, at once and again every interval,
        until cancelled. An aggregator that is away is asked less and less often.
        """
        pause_s = interval_s
        while True:
            self._wake = trio.Event()
            self._is_away = False
            with survive(self._telemetry, "outbox"):
                self._outbox.queue_overdue(int(time.time()))
                while entries := self._outbox.unpromised(wire.MAX_DELIVERED):
                    if not await self._deliver([one for one in entries if self._is_ready(one)]):
                        break
            if self._is_away:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            pause_s = interval_s
            with trio.move_on_after(interval_s):
                await self._wake.wait()

    def _is_ready(self, entry: OutboxEntry) -> bool:
        if entry.digest in self._refused:
            return False
        receipt = decode_body(entry.signed.body)
        is_claimed = self._is_claimed(receipt.channel_id, receipt.cumulative)
        if is_claimed:
            self._telemetry.traces.step(entry.digest, EARNED)
        return is_claimed

    async def _deliver(self, entries: Sequence[OutboxEntry]) -> bool:
        """Hand receipts to the aggregator; True when all it may still take were promised."""
        if not entries or not self._aggregator or self._aggregator == self._host.peer_id:
            return False
        try:
            async with self._host.open_stream(
                self._aggregator, wire.PROTOCOL, wire.DELIVER_DEADLINE_S
            ) as stream:
                deliver = wire.Deliver(
                    [entry.envelope for entry in entries if entry.envelope is not None]
                )
                await stream.send(msgspec.msgpack.encode(deliver), wire.DELIVER_DEADLINE_S)
                answer = await stream.receive(wire.DELIVER_DEADLINE_S)
            taken = msgspec.msgpack.decode(answer, type=wire.Taken)
        except (P2pError, msgspec.MsgspecError, UnicodeError) as error:
            self._telemetry.trouble(
                "settlement", f"the aggregator takes no receipts now: {error}; they are sent again"
            )
            self._said |= {entry.digest: f"no answer: {error}" for entry in entries}
            self._is_away = True
            return False
        self._telemetry.clear("settlement")
        kept = [
            await self._keep(entry, outcome)
            for entry, outcome in zip(entries, taken.outcomes, strict=False)
        ]
        return len(kept) == len(entries) and all(kept)

    async def _keep(
        self, entry: OutboxEntry, outcome: wire.Accepted | wire.Waiting | wire.Rejected
    ) -> bool:
        """Take what the aggregator says to one receipt; True when it need not be sent again."""
        match outcome:
            case wire.Accepted():
                if self._holds(outcome.promise, entry):
                    self._outbox.keep_promise(entry.digest, outcome.promise)
                    assert entry.envelope is not None, "what was delivered has an envelope"
                    self._on_promise(outcome.promise, entry.envelope)
                    self._said.pop(entry.digest, None)
                    self._telemetry.count("receipts_promised")
                    self._telemetry.traces.step(entry.digest, "promise")
                    await self._tell(entry, outcome.promise)
                    return True
                self._note(entry, "its promise does not hold")
            case wire.Waiting():
                self._note(entry, outcome.reason)
            case wire.Rejected():
                self._note(entry, outcome.reason)
                if not outcome.retryable:
                    self._refused.add(entry.digest)
        return False

    def _note(self, entry: OutboxEntry, reason: str) -> None:
        """Remember why a receipt was not taken, and tell it where it is another reason."""
        if self._said.get(entry.digest) != reason:
            name = entry.digest.hex()[:12]
            self._telemetry.log(f"settlement: receipt {name} is not taken: {reason}")
        self._said[entry.digest] = reason

    def _holds(self, promise: Promise, entry: OutboxEntry) -> bool:
        return verify_promise(promise, entry.signed.body, self._address(), self._network)

    async def _tell(self, entry: OutboxEntry, promise: Promise) -> None:
        assert entry.envelope is not None, "what was delivered has an envelope"
        promised = wire.Promised(entry.envelope, promise)
        await self._host.gossip.publish(wire.TOPIC, msgspec.msgpack.encode(promised))


async def run_gossip(
    host: Host,
    network: Network | None,
    aggregator: Aggregator,
    on_promise: OnPromise,
    telemetry: Telemetry,
    *,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Forward promised receipts that hold and no others, until cancelled.

    Without a chain nothing can be checked, so nothing is forwarded.
    """

    def judge(data: bytes, from_peer: str) -> Verdict:
        if network is None:
            return Verdict.IGNORE
        try:
            read_promised(data, network, aggregator())
        except ProofError as error:
            telemetry.reject("receipt", from_peer, str(error))
            return Verdict.REJECT
        telemetry.count("receipts_verified")
        return Verdict.ACCEPT

    messages = await host.gossip.subscribe(wire.TOPIC, judge)
    task_status.started()
    async for message in messages:
        if network is not None:
            promised = msgspec.msgpack.decode(message.data, type=wire.Promised)
            on_promise(promised.promise, promised.envelope)


def read_promised(data: bytes, network: Network, aggregator: bytes) -> Promise:
    """Check a message of the topic from bytes nobody vouched for.

    The aggregator's signature first: what it did not sign costs one curve operation. Raises
    ProofError.
    """
    if len(data) > wire.MAX_PROMISED_BYTES:
        raise ProofError(f"size: {len(data)} bytes; at most {wire.MAX_PROMISED_BYTES}")
    try:
        promised = msgspec.msgpack.decode(data, type=wire.Promised)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProofError(f"schema: {error}") from error
    if msgspec.msgpack.encode(promised) != data:
        raise ProofError("form: not canonical")
    envelope = decode_envelope(promised.envelope)
    body = decode_receipt(envelope.receipt).body
    if not verify_promise(promised.promise, body, aggregator, network):
        raise ProofError("promise: not the aggregator's, or of another receipt")
    open_envelope(promised.envelope, network)
    return promised.promise
