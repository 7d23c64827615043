"""Has a random part of the answers that this node buys replayed, once they are settled and its
engine has nothing else to do.

    an answer is kept → drawn by lot, or its node is watched → queue → the engine is idle
      → replay → consequences.py

What is in the queue is bounded, and dropped when it is full: a replay is a sample, none is owed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from proofs.errors import ReceiptError
from proofs.receipt import SignedReceipt, decode_body, decode_receipt

from ..api.verifying import VerifyInfo
from ..telemetry import Telemetry
from .consequences import Consequences
from .replaying import Replayed

MAX_QUEUED = 64
QUIET_S = 0.5  # how long the engine has had nothing to do
LOOK_S = 0.25
LOOKS = 240  # a node that is never idle replays all the same: so little costs nobody much


class Replays(Protocol):
    """Who replays: implemented by replaying.Verifier."""

    async def verify(self, body: bytes, node_signature: bytes) -> VerifyInfo | Replayed:
        """Replay the answer of a receipt. Raises ReceiptError."""


@dataclass(frozen=True)
class Supply:
    """Where answers to replay come from: `find` gives the signed receipt with a digest; `idle_s`
    for how long the engine has been idle; at least one in `one_in()` is
    drawn by `dice`, 0 draws none.
    """

    find: Callable[[bytes], bytes | None]
    idle_s: Callable[[], float]
    one_in: Callable[[], int]
    dice: random.Random


class Background:
    """The replays of one daemon."""

    def __init__(
        self,
        replays: Replays,
        consequences: Consequences,
        supply: Supply,
        telemetry: Telemetry,
    ) -> None:
        self._replays = replays
        self._consequences = consequences
        self._supply = supply
        self._telemetry = telemetry
        self._send, self._receive = trio.open_memory_channel[SignedReceipt](MAX_QUEUED)

    def note(self, receipt: bytes) -> None:
        """Hear of an answer that is kept now, by its receipt's digest."""
        most = self._supply.one_in()
        if not most:
            return
        found = self._supply.find(receipt)
        if found is None:
            return
        signed = decode_receipt(found)
        body = decode_body(signed.body)
        one_in = self._consequences.one_in(body.operator, body.adapter, most)
        is_drawn = self._supply.dice.randrange(one_in) == 0
        if not is_drawn and not self._consequences.is_watched(body.operator, body.adapter):
            return
        try:
            self._send.send_nowait(signed)
        except trio.WouldBlock:
            self._telemetry.count("answers_not_replayed")

    async def run(self) -> None:
        """Replay what was drawn, one after the other, until cancelled."""
        async for signed in self._receive:
            await self._await_quiet()
            try:
                found = await self._replays.verify(signed.body, signed.node_signature)
            except ReceiptError as error:
                self._telemetry.log(f"verifying: a receipt in the ledger is none: {error}")
                continue
            if isinstance(found, Replayed):
                await self._consequences.take(found)
            else:
                self._telemetry.count("answers_not_replayed")
                self._telemetry.log(f"verifying: {found.receipt[:16]}…: {found.reason}")

    async def _await_quiet(self) -> None:
        for _ in range(LOOKS):
            if self._supply.idle_s() >= QUIET_S:
                return
            await trio.sleep(LOOK_S)
