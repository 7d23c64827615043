"""Replays a random part of the answers that this node buys, once they are settled and its engine
has nothing else to do, and tells Trust what came out.

    an answer is kept → drawn by lot, or its node is watched → queue → the engine is idle
      → replay → evidence → a conviction lowers the node's weight at the router

What is in the queue is bounded, and dropped when it is full: a replay is a sample, none is owed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from engine.verdict import MILLION
from proofs.errors import ReceiptError
from proofs.hextext import to_hex
from proofs.receipt import SignedReceipt, decode_body, decode_receipt

from ..telemetry import Telemetry
from .replaying import Replayed, Verifier
from .trust import Row, Trust

MAX_QUEUED = 64
QUIET_S = 0.5  # how long the engine has had nothing to do
LOOK_S = 0.25
LOOKS = 240  # a node that is never idle replays all the same: so little costs nobody much


@dataclass(frozen=True)
class Surroundings:
    """What the background needs of its daemon.

    `find` gives the signed receipt with a digest; `idle_s` for how long the engine has been idle;
    `name_of` what a node is called, by its address; `file` keeps what is known.
    """

    find: Callable[[bytes], bytes | None]
    idle_s: Callable[[], float]
    name_of: Callable[[bytes], str]
    file: Path


class Background:
    """The replays of one daemon; one in `one_in` answers is drawn, 0 draws none."""

    def __init__(
        self,
        verifier: Verifier,
        trust: Trust,
        around: Surroundings,
        telemetry: Telemetry,
        *,
        one_in: int,
        dice: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._trust = trust
        self._around = around
        self._telemetry = telemetry
        self._one_in = one_in
        self._dice = dice
        self._clock = clock
        self._send, self._receive = trio.open_memory_channel[SignedReceipt](MAX_QUEUED)

    def note(self, receipt: bytes) -> None:
        """Hear of an answer that is kept now, by its receipt's digest."""
        if not self._one_in:
            return
        found = self._around.find(receipt)
        if found is None:
            return
        signed = decode_receipt(found)
        body = decode_body(signed.body)
        is_drawn = self._dice.randrange(self._one_in) == 0
        if not is_drawn and not self._trust.is_watched(body.operator, body.adapter):
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
                found = await self._verifier.verify(signed.body, signed.node_signature)
            except ReceiptError as error:
                self._telemetry.log(f"verifying: a receipt in the ledger is none: {error}")
                continue
            if isinstance(found, Replayed):
                await self._learn(found)
            else:
                self._telemetry.count("answers_not_replayed")
                self._telemetry.log(f"verifying: {found.receipt[:16]}…: {found.reason}")

    async def _await_quiet(self) -> None:
        for _ in range(LOOKS):
            if self._around.idle_s() >= QUIET_S:
                return
            await trio.sleep(LOOK_S)

    async def _learn(self, found: Replayed) -> None:
        told = found.told
        differs = told.verdict == "differs"
        self._telemetry.count("answers_replayed")
        if differs:
            self._telemetry.count("answers_differing")
            self._telemetry.log(f"verifying: receipt {told.receipt[:16]}…: {told.reason}")
        cap = found.limits.thresholds.cap / MILLION
        row = self._trust.learn(
            found.receipt.operator,
            found.receipt.adapter,
            cap if differs and found.score <= told.limit else found.score,
            found.limits,
            self._clock(),
            is_suspicious=differs,
        )
        if row is not None:
            self._convict(row, told.adapter)
        try:
            await trio.to_thread.run_sync(self._trust.save, self._around.file)
        except OSError as error:
            self._telemetry.log(f"verifying: what replays said is not kept: {error}")

    def _convict(self, row: Row, adapter: str) -> None:
        evidence = row.evidence
        self._telemetry.reject(
            "answer",
            self._around.name_of(row.operator),
            f"not computed: of {evidence.answers} answers with {adapter or 'the bare base'} that"
            f" were replayed {evidence.differing} differ; {to_hex(row.operator)} is asked last",
        )
