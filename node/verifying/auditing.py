"""Audits a node: buys answers of it as a client whom it has never seen, and replays them.

    prompts → a plan, by lot → its hash is told → a fresh key, with money → each question in time
      → replayed here → consequences.py → told, and all of it opened in a report

The client is the same program as any gateway, with a key, a channel and a place in the network of
its own; only its address on the internet and who gave it money point to the auditor. Decides
neither what an answer is worth nor how it is paid.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from proofs.attestation.pledge import (
    CLOCK_S,
    MAX_CANARIES,
    MAX_PROMPT_CHARS,
    MAX_REPORT_BYTES,
    VERSION,
    Canary,
    Plan,
    Report,
    commitment_of,
    make_pledge,
    parse_report,
)
from proofs.attestation.record import prompt_in
from proofs.codec import encode
from proofs.digest import Network
from proofs.errors import AttestationError
from proofs.hextext import to_hex
from proofs.receipt import SignedReceipt
from proofs.signing import Signer

from ..api import (
    AuditInfo,
    AuditSaid,
    ChatMessage,
    CompletionEvent,
    CompletionRequest,
    Ended,
    RecheckInfo,
    Verdict,
    VerifyInfo,
)
from ..attributing.answers import OwnAnswer
from ..errors import BadRequest, NodeError
from ..telemetry import Telemetry
from .consequences import Consequences
from .replaying import Replayed, Verifier, name_adapter, opening_of

MAX_POOL_BYTES = 8 << 20
MIN_POOL = 16
MAX_WITHIN_S = 24 * 3600.0
LENGTHS = (64, 96, 128, 192)  # answers that are long enough to be judged
ANSWER_DEADLINE_S = 300.0


class Client(Protocol):
    """A client with a key of its own: implemented by app.Canaries."""

    def complete(
        self, request: CompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer a request."""

    def find(self, receipt: bytes) -> tuple[SignedReceipt, OwnAnswer] | None:
        """Return what is kept of an answer, by its receipt's digest."""


Open = Callable[[str, int], AbstractAsyncContextManager[Client]]
"""Opens a client for a node (its peer id) with so many dollars at most; takes back what is left."""


@dataclass(frozen=True)
class Asked:
    """A canary that was answered: its receipt, and what is kept of the answer."""

    number: int
    signed: SignedReceipt
    answer: OwnAnswer


class Auditor:
    """The audits of one daemon; their reports lie in `folder`. `most` is what a token of prompt and
    one of answer may cost, `text_of` decodes tokens.
    """

    def __init__(
        self,
        verifier: Verifier,
        consequences: Consequences,
        open_client: Open,
        signer: Signer,
        folder: Path,
        telemetry: Telemetry,
        *,
        tell_pledge: Callable[[bytes], None],
        most: tuple[int, int],
        dice: random.Random,
        text_of: Callable[[Sequence[int]], str],
    ) -> None:
        self._text_of = text_of
        self._verifier = verifier
        self._consequences = consequences
        self._open_client = open_client
        self._signer = signer
        self._folder = folder
        self._telemetry = telemetry
        self._tell_pledge = tell_pledge
        self._most = most
        self._dice = dice

    async def audit(
        self, said: AuditSaid, operator: bytes, adapter: bytes, pool: Sequence[str]
    ) -> AuditInfo:
        """Audit a node. Raises NodeError where nothing of it could be asked."""
        plan = draw_plan(said, operator, adapter, pool, self._dice)
        pledge = make_pledge(self._signer, plan, int(time.time()))
        self._tell_pledge(pledge)
        began = trio.current_time()
        failures: list[str] = []
        spent = 0
        asked = list[Asked]()
        async with self._open_client(said.node, self._cost(plan)) as client:
            for number, canary in enumerate(plan.canaries):
                await trio.sleep_until(began + canary.after_s)
                try:
                    one, cost = await self._ask(client, said, canary)
                except (NodeError, trio.TooSlowError) as error:
                    failures.append(f"canary {number + 1}: {error}")
                    continue
                spent += cost
                asked.append(Asked(number, *one))
        shown, told = await self._judge(plan, asked)
        report = Report(plan, pledge, tuple(shown))
        path = await trio.to_thread.run_sync(self._write, report)
        self._telemetry.count("audits_made")
        return AuditInfo(
            node=said.node,
            adapter=name_adapter(adapter),
            verdict=_sum_up(told),
            answers=tuple(told),
            failures=tuple(failures),
            commitment=commitment_of(plan).hex(),
            report=str(path),
            spent=spent,
            weight=self._consequences.trust.weight(operator, time.time()),
        )

    async def recheck(self, data: bytes, network: Network) -> RecheckInfo:
        """Recompute somebody's audit from its report. Raises BadRequest."""
        try:
            report, pledge, shown = parse_report(data, network)
        except AttestationError as error:
            raise BadRequest(f"this is no report of an audit: {error}") from error
        told = []
        for one, canary in zip(shown, report.plan.canaries, strict=True):
            if one is None:
                continue
            assert one.opening is not None, "a report shows its answers"
            if canary.prompt not in self._text_of(prompt_in(one.opening)):
                raise BadRequest(f"the report shows another question than {canary.prompt[:40]!r}…")
            told.append(await self._recompute(encode(one)))
        heard = self._consequences.heard.pledged_at(pledge.commitment)
        first = min((one.receipt.started_at for one in shown if one is not None), default=0)
        return RecheckInfo(
            pledge.auditor.hex(),
            to_hex(report.plan.operator),
            name_adapter(report.plan.adapter),
            pledge.commitment.hex(),
            pledged_at=heard if heard is not None and heard <= first + CLOCK_S else None,
            canaries=len(shown),
            verdict=_sum_up(told),
            answers=tuple(told),
        )

    async def _recompute(self, attestation: bytes) -> VerifyInfo:
        shown, found = await self._verifier.recompute(attestation)
        if not isinstance(found, Replayed):
            return found
        await self._consequences.recompute(shown, found)
        return found.told

    async def _ask(
        self, client: Client, said: AuditSaid, canary: Canary
    ) -> tuple[tuple[SignedReceipt, OwnAnswer], int]:
        request = CompletionRequest(
            said.model,
            (ChatMessage("user", canary.prompt),),
            max_tokens=canary.max_tokens,
            node=said.node,
        )
        ended = None
        with trio.fail_after(ANSWER_DEADLINE_S):
            async with client.complete(request) as events:
                async for event in events:
                    if isinstance(event, Ended):
                        ended = event
        if ended is None or ended.receipt is None:
            raise NodeError("it left no receipt")
        found = client.find(bytes.fromhex(ended.receipt))
        if found is None:
            raise NodeError("its tokens were not kept")
        return found, ended.amount

    async def _judge(
        self, plan: Plan, asked: Sequence[Asked]
    ) -> tuple[list[bytes | None], list[VerifyInfo]]:
        """Replay all answers once all are here: told before, they would give canaries away."""
        shown: list[bytes | None] = [None] * len(plan.canaries)
        told = []
        for one in asked:
            body = one.signed.body
            signature = one.signed.node_signature
            found = await self._verifier.replay(body, signature, one.answer)
            if isinstance(found, Replayed):
                opening = opening_of(one.answer)
                data = self._verifier.attest(found, body, signature, opening)
                shown[one.number] = data or None
                await self._consequences.take(found)
                found = found.told
            told.append(found)
        return shown, told

    def _cost(self, plan: Plan) -> int:
        prompt, completion = self._most
        return sum(
            len(one.prompt.encode()) * prompt + one.max_tokens * completion for one in plan.canaries
        )

    def _write(self, report: Report) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{commitment_of(report.plan).hex()[:16]}.audit"
        path.write_bytes(encode(report))
        return path


def draw_plan(
    said: AuditSaid, operator: bytes, adapter: bytes, pool: Sequence[str], dice: random.Random
) -> Plan:
    """Draw prompts, lengths and times by lot: times as those of somebody who asks at no time in
    particular. Raises BadRequest.
    """
    if not 1 <= said.canaries <= MAX_CANARIES:
        raise BadRequest(f"canaries is {said.canaries}; use 1 to {MAX_CANARIES}")
    if not 0 <= said.within_s <= MAX_WITHIN_S:
        raise BadRequest(f"within_s is {said.within_s}; use 0 to {MAX_WITHIN_S:.0f}")
    times = sorted(int(dice.uniform(0, said.within_s)) for _ in range(said.canaries))
    prompts = dice.sample(list(pool), min(said.canaries, len(pool)))
    canaries = tuple(
        Canary(at, prompts[number % len(prompts)], dice.choice(LENGTHS))
        for number, at in enumerate(times)
    )
    digest = hashlib.sha256("\n".join(pool).encode()).digest()
    return Plan(VERSION, operator, adapter, digest, canaries, salt=dice.randbytes(32))


def read_pool(path: Path) -> list[str]:
    """Read the private prompts, one a line. Raises BadRequest."""
    try:
        if path.stat().st_size > MAX_POOL_BYTES:
            raise BadRequest(f"{path} has more than {MAX_POOL_BYTES} bytes")
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"there are no prompts to audit with: {error}. Write some that you might ask yourself"
            f" into {path}, one a line, and keep them to yourself"
        ) from error
    pool = [line.strip()[:MAX_PROMPT_CHARS] for line in lines if line.strip()]
    if len(set(pool)) < MIN_POOL:
        raise BadRequest(
            f"{path} has {len(set(pool))} prompts; at least {MIN_POOL} are wanted, or a node soon"
            " knows them"
        )
    return list(dict.fromkeys(pool))


def read_report(path: Path) -> bytes:
    """Read the file of a report. Raises BadRequest."""
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise BadRequest(f"{path} has more than {MAX_REPORT_BYTES} bytes; no report has")
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"the report cannot be read: {error}") from error


def _sum_up(told: Sequence[VerifyInfo]) -> Verdict:
    verdicts = {one.verdict for one in told}
    if "differs" in verdicts:
        return "differs"
    return "agrees" if "agrees" in verdicts else "unknown"
