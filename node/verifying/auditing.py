"""Audits a node: buys answers of it as a client whom it has never seen, and replays them.

    a client, by lot → what it asks, of private prompts → the plan's hash is told
      → a fresh key, with money → each question in time → replayed here → consequences.py
      → told, and all of it opened in a report

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

from engine.messages import Choosing
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

from ..api.answers import ChatMessage, CompletionEvent, CompletionRequest, Delta, Ended
from ..api.verifying import AuditInfo, AuditSaid, RecheckInfo, Verdict, VerifyInfo
from ..attributing.answers import OwnAnswer
from ..errors import BadRequest, NodeCheated, NodeError
from ..telemetry import Telemetry
from .clientele import Clientele
from .consequences import Consequences
from .habits import Drawn, draw_client
from .replaying import Replayed, Verifier, name_adapter, opening_of

MAX_POOL_BYTES = 8 << 20
MIN_POOL = 16
SYSTEM = "system:"
"""How a line of the private prompts begins that is a system prompt."""
MAX_WITHIN_S = 28 * 86_400.0  # what is shown of an answer counts for thirty days
AWAY_S = 900.0  # the client of an audit goes away where it asks nothing for so long
ANSWER_DEADLINE_S = 300.0
MAX_TALK_TOKENS = 1_024
"""A conversation that is longer begins anew: people do so, too, and some bases have little room."""
TURN_TOKENS = 64  # of a template around a turn, at most


class Client(Protocol):
    """A client with a key of its own: implemented by node/audits.py."""

    def complete(
        self, request: CompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer a request."""

    def find(self, receipt: bytes) -> tuple[SignedReceipt, OwnAnswer] | None:
        """Return what is kept of an answer, by its receipt's digest."""


@dataclass(frozen=True)
class Visit:
    """One stay of an audit's client in the network: its name on this disk, the node that it asks
    (a peer id), the most dollars that the whole audit may cost, what it puts into its channel
    (None: what we would), and what it asks now.
    """

    client: str
    node: str
    most: int
    deposit: int | None
    asks: tuple[tuple[int, Canary], ...]
    is_first: bool
    is_last: bool


Open = Callable[[Visit], AbstractAsyncContextManager[Client]]
"""Opens the client for a visit: with a fresh key and money at the first, with the same key later;
takes back what is left after the last."""


@dataclass(frozen=True)
class Pool:
    """The private prompts that audits ask, and the system prompts before some of them."""

    prompts: tuple[str, ...]
    systems: tuple[str, ...] = ()

    @property
    def digest(self) -> bytes:
        """Return what a plan says of it."""
        return hashlib.sha256("\n".join((*self.prompts, *self.systems)).encode()).digest()


@dataclass(frozen=True)
class Asked:
    """A canary that was answered: its receipt, what is kept of the answer, what it cost, and the
    conversation up to it.
    """

    number: int
    signed: SignedReceipt
    answer: OwnAnswer
    amount: int
    talk: tuple[ChatMessage, ...]

    @property
    def goes_on(self) -> bool:
        """Return whether another question may follow in the conversation."""
        read = len(self.answer.ask.prompt_ids) + len(self.answer.answer_ids)
        return read <= MAX_TALK_TOKENS


class Auditor:
    """The audits of one daemon; their reports lie in `folder`. `most` is what a token of prompt and
    one of answer may cost, `most_tokens` bounds an answer, `text_of` decodes tokens. `clientele`:
    how this node's own clients ask.
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
        most_tokens: int,
        dice: random.Random,
        text_of: Callable[[Sequence[int]], str],
        clientele: Clientele,
    ) -> None:
        self._clientele = clientele
        self._text_of = text_of
        self._verifier = verifier
        self._consequences = consequences
        self._open_client = open_client
        self._signer = signer
        self._folder = folder
        self._telemetry = telemetry
        self._tell_pledge = tell_pledge
        self._most = most
        self._most_tokens = most_tokens
        self._dice = dice

    async def audit(
        self, said: AuditSaid, operator: bytes, adapter: bytes, pool: Pool
    ) -> AuditInfo:
        """Audit a node. Raises NodeError where nothing of it could be asked."""
        now = time.time()
        drawn = draw_like(self._clientele, said, self._dice, now)
        plan = draw_plan(drawn, operator, adapter, pool, self._dice, most_tokens=self._most_tokens)
        pledge = make_pledge(self._signer, plan, int(now))
        self._tell_pledge(pledge)
        began = trio.current_time()
        failures: list[str] = []
        asked = list[Asked]()
        for visit in visits_of(plan, said.node, self._cost(plan), drawn.deposit):
            await trio.sleep_until(began + visit.asks[0][1].after_s)
            try:
                async with self._open_client(visit) as client:
                    await self._ask_all(
                        client, said, plan, visit, began, asked=asked, failures=failures
                    )
            except NodeError as error:
                if visit.is_first:
                    raise
                failures.append(f"canaries from {visit.asks[0][0] + 1}: {error}")
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
            spent=sum(one.amount for one in asked),
            weight=self._consequences.trust.weight(operator, time.time()),
            against=self._consequences.trust.reason(operator, time.time()),
        )

    async def _ask_all(
        self,
        client: Client,
        said: AuditSaid,
        plan: Plan,
        visit: Visit,
        began: float,
        *,
        asked: list[Asked],
        failures: list[str],
    ) -> None:
        for number, canary in visit.asks:
            await trio.sleep_until(began + canary.after_s)
            before: tuple[ChatMessage, ...] = ()
            if canary.follows and asked and asked[-1].goes_on:
                before = asked[-1].talk
            elif plan.system:
                before = (ChatMessage("system", plan.system),)
            try:
                asked.append(await self._ask(client, said, number, canary, before))
            except (NodeError, trio.TooSlowError) as error:
                failures.append(f"canary {number + 1}: {error}")
                if isinstance(error, NodeCheated):  # its client is a daemon with a trust of its own
                    await self._consequences.blame(plan.operator, plan.adapter, str(error))

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
        self,
        client: Client,
        said: AuditSaid,
        number: int,
        canary: Canary,
        before: tuple[ChatMessage, ...],
    ) -> Asked:
        talk = (*before, ChatMessage("user", canary.prompt))
        request = CompletionRequest(
            said.model,
            talk,
            max_tokens=canary.max_tokens,
            choosing=Choosing(canary.temperature / 1000, top_p=canary.top_p / 1000),
            node=said.node,
        )
        ended = None
        said_back = ""
        with trio.fail_after(ANSWER_DEADLINE_S):
            async with client.complete(request) as events:
                async for event in events:
                    if isinstance(event, Ended):
                        ended = event
                    elif isinstance(event, Delta):
                        said_back += event.text
        if ended is None or ended.receipt is None:
            raise NodeError("it left no receipt")
        found = client.find(bytes.fromhex(ended.receipt))
        if found is None:
            raise NodeError("its tokens were not kept")
        return Asked(
            number, *found, ended.amount, talk=(*talk, ChatMessage("assistant", said_back))
        )

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
        total = 0
        first = len(plan.system.encode()) + TURN_TOKENS
        read = first
        for one in plan.canaries:
            read = (read if one.follows else first) + len(one.prompt.encode()) + TURN_TOKENS
            total += read * prompt + one.max_tokens * completion
            read += one.max_tokens
        return total

    def _write(self, report: Report) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{commitment_of(report.plan).hex()[:16]}.audit"
        path.write_bytes(encode(report))
        return path


def draw_like(clientele: Clientele, said: AuditSaid, dice: random.Random, now: float) -> Drawn:
    """Draw a client by lot: its terms, and when it asks. Raises BadRequest."""
    count = said.canaries
    if count is not None and not 1 <= count <= MAX_CANARIES:
        raise BadRequest(f"canaries is {count}; use 1 to {MAX_CANARIES}")
    if not 0 <= said.within_s <= MAX_WITHIN_S:
        raise BadRequest(f"within_s is {said.within_s}; use 0 to {MAX_WITHIN_S:.0f}")
    drawn = clientele.draw(dice, count, now) or draw_client(dice, count, MAX_CANARIES)
    return drawn.within(MAX_CANARIES, said.within_s, dice)


def draw_plan(
    client: Drawn,
    operator: bytes,
    adapter: bytes,
    pool: Pool,
    dice: random.Random,
    *,
    most_tokens: int,
) -> Plan:
    """Draw what this client asks; for no more than `most_tokens` at once. Where the pool has no
    system prompt, there is none before its questions.
    """
    count = len(client.turns)
    prompts = dice.sample(pool.prompts, min(count, len(pool.prompts)))
    habits = client.habits
    canaries = tuple(
        Canary(
            turn.after_s,
            prompts[number % len(prompts)],
            min(habits.max_tokens, most_tokens),
            habits.temperature,
            top_p=habits.top_p,
            follows=turn.follows,
        )
        for number, turn in enumerate(client.turns)
    )
    system = dice.choice(pool.systems) if client.has_system and pool.systems else ""
    return Plan(
        VERSION, operator, adapter, pool.digest, system, canaries=canaries, salt=dice.randbytes(32)
    )


def visits_of(plan: Plan, node: str, most: int, deposit: int | None) -> list[Visit]:
    """Part an audit where its client asks nothing for longer than AWAY_S."""
    parts: list[list[tuple[int, Canary]]] = []
    for number, canary in enumerate(plan.canaries):
        if not parts or canary.after_s - parts[-1][-1][1].after_s > AWAY_S:
            parts.append([])
        parts[-1].append((number, canary))
    name = commitment_of(plan).hex()[:16]
    last = len(parts) - 1
    return [
        Visit(name, node, most, deposit, tuple(asks), is_first=at == 0, is_last=at == last)
        for at, asks in enumerate(parts)
    ]


def read_pool(path: Path) -> Pool:
    """Read the private prompts, one a line, in which `\\n` is a new line; a line that begins with
    `system:` is a system prompt. Raises BadRequest.
    """
    try:
        if path.stat().st_size > MAX_POOL_BYTES:
            raise BadRequest(f"{path} has more than {MAX_POOL_BYTES} bytes")
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"there are no prompts to audit with: {error}. Write some that you might ask yourself"
            f" into {path}, one a line, and keep them to yourself"
        ) from error
    plain = dict.fromkeys(line.strip().replace("\\n", "\n") for line in lines)
    systems = [line.removeprefix(SYSTEM).strip() for line in plain if line.startswith(SYSTEM)]
    prompts = [line[:MAX_PROMPT_CHARS] for line in plain if not line.startswith(SYSTEM)]
    pool = Pool(
        tuple(prompt for prompt in prompts if prompt),
        tuple(system[:MAX_PROMPT_CHARS] for system in systems if system),
    )
    if len(pool.prompts) < MIN_POOL:
        raise BadRequest(
            f"{path} has {len(pool.prompts)} prompts; at least {MIN_POOL} are wanted, or a node"
            " soon knows them"
        )
    return pool


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
