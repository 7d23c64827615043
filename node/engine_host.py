"""Gives the daemon the calls that its engine answers: requests, adapters, replays, figures.

Each request is a bounded channel of the engine's messages about it. Knows the engine only by its
messages, and no peers, text or money. Decides neither who receives which message (engine_link.py)
nor when another engine is started (engine_supervisor.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from engine import messages as m
from engine.errors import BorderError

from .engine_link import EngineLink, Files, RunEvent
from .engine_load import EngineLoad
from .engine_process import ProcessSettings
from .engine_supervisor import READY_DEADLINE_S, STARTING, EngineSupervisor
from .errors import EngineFailed, EngineLost, NodeError

REPLAY_DEADLINE_S = 60.0
EMBED_DEADLINE_S = 300.0
STATS_DEADLINE_S = 5.0
LOCATE_DEADLINE_S = 0.5


class EngineRun:
    """One request inside the engine: iterate it for `Tokens` and, last, `Finished`."""

    def __init__(
        self, tell: Callable[[m.ToEngine], bool], request_id: int, max_tokens: int
    ) -> None:
        self._tell = tell
        self._room = max_tokens  # each message brings a token at least
        self._send, self._receive = trio.open_memory_channel[m.Tokens | m.Finished | NodeError](
            max_tokens + 1
        )
        self._is_over = False
        self.request_id = request_id

    def grant(self, credit: int) -> None:
        """Raise the total number of tokens that may be produced."""
        self._tell(m.Grant(self.request_id, credit))

    def cancel(self) -> None:
        """Ask for an early end; `Finished(reason="cancelled")` still comes."""
        self._tell(m.Cancel(self.request_id))

    def __aiter__(self) -> EngineRun:
        """Iterate over the engine's messages until the request ends."""
        return self

    async def __anext__(self) -> m.Tokens | m.Finished:
        """Wait for the next message.

        Raises EngineLost, EngineBusy, EngineFailed or BadRequest when the request failed.
        """
        if self._is_over:
            raise StopAsyncIteration
        event = await self._receive.receive()
        self._is_over = not isinstance(event, m.Tokens)
        if isinstance(event, NodeError):
            raise event
        return event

    def hear(self, event: RunEvent) -> None:
        """Accept one message. Raises BorderError when there are more than tokens were asked for.

        There is always room for the end, which comes once.
        """
        is_full = self._send.statistics().current_buffer_used >= self._room
        if isinstance(event, m.Tokens) and is_full:
            raise BorderError(f"the engine says too much about request {self.request_id}")
        if isinstance(event, m.Embedded):
            event = EngineFailed("the engine gave a vector where tokens were asked for")
        self._send.send_nowait(event)


class EngineHost:
    """The engine as the daemon sees it.

    `run` supervises it until cancelled; everything else may be called from any task meanwhile.
    """

    def __init__(
        self, settings: ProcessSettings, log: Callable[[str], None], *, stderr: Path | None = None
    ) -> None:
        self._link = EngineLink(log)
        self._supervisor = EngineSupervisor(settings, self._link, log, stderr)
        self.load_now = EngineLoad()
        """What it is at, and how fast it was lately."""

    async def run(self) -> None:
        """Keep one engine process running, until cancelled."""
        await self._supervisor.run()

    @property
    def is_up(self) -> bool:
        """Return whether the engine takes requests now."""
        return self._supervisor.is_up

    @property
    def pid(self) -> int | None:
        """Return the engine's process id; None while there is no engine."""
        return self._supervisor.pid

    @property
    def ready(self) -> m.Ready | None:
        """Return what the latest engine said of itself; None before the first one is ready."""
        return self._supervisor.ready

    @property
    def restarts(self) -> int:
        """Count the engines that ended."""
        return self._supervisor.restarts

    async def wait_up(self, deadline_s: float = READY_DEADLINE_S) -> m.Ready:
        """Wait until the engine takes requests. Raises EngineLost after the deadline."""
        return await self._supervisor.wait_up(deadline_s)

    @asynccontextmanager
    async def generate(
        self,
        prompt_ids: Sequence[int],
        adapter: bytes | None,
        sampling: m.Sampling,
        max_tokens: int,
        credit: int,
        stop_ids: Sequence[int],
        logprobs: int | None = None,
        num_answered: int = 0,
    ) -> AsyncIterator[EngineRun]:
        """Run one request; leaving the block before its end cancels it.

        The last `num_answered` of `prompt_ids` are the beginning of its answer.
        """
        run = EngineRun(self._supervisor.tell, self._link.new_id(), max_tokens)

        def hear(event: RunEvent) -> None:
            self.load_now.hear(run.request_id, event)
            run.hear(event)

        self._link.listen(run.request_id, hear)
        context = self.ready.max_context_tokens if self.ready else max_tokens
        room = max(min(max_tokens, context - len(prompt_ids)), 1)
        self.load_now.begin(run.request_id, len(prompt_ids), room)
        try:
            submit = m.Submit(
                run.request_id,
                list(prompt_ids),
                adapter,
                sampling,
                max_tokens=max_tokens,
                credit=min(credit, max_tokens),
                stop_ids=list(stop_ids),
                logprobs=logprobs,
                num_answered=num_answered,
            )
            if not self.is_up or not self._supervisor.tell(submit):
                raise EngineLost(STARTING)
            yield run
        finally:
            self.load_now.end(run.request_id)
            cancel = self._link.stop_listening(run.request_id)
            if cancel is not None:
                self._supervisor.tell(cancel)

    async def embed(self, prompt_ids: Sequence[int], adapter: bytes | None) -> bytes:
        """Compute the last hidden state of a prompt's last token: [hidden] float32, little-endian.

        Cancelling this cancels it in the engine.
        """
        send, receive = trio.open_memory_channel[m.Embedded | NodeError](1)
        request_id = self._link.new_id()

        def hear(event: RunEvent) -> None:
            self.load_now.hear(request_id, event)
            if isinstance(event, m.Tokens):
                raise BorderError(f"the engine gives tokens to request {request_id}, for a vector")
            if isinstance(event, m.Finished):
                event = EngineFailed("the engine ended without a vector")
            send.send_nowait(event)

        self._link.listen(request_id, hear)
        self.load_now.begin(request_id, len(prompt_ids), 0)
        try:
            embed = m.Embed(request_id, list(prompt_ids), adapter)
            if not self.is_up or not self._supervisor.tell(embed):
                raise EngineLost(STARTING)
            with trio.fail_after(EMBED_DEADLINE_S):
                event = await receive.receive()
        except trio.TooSlowError:
            raise EngineFailed(
                f"the engine gave no embedding within {EMBED_DEADLINE_S:.0f} s; ask again later"
            ) from None
        finally:
            self.load_now.end(request_id)
            cancel = self._link.stop_listening(request_id)
            if cancel is not None:
                self._supervisor.tell(cancel)
        if isinstance(event, NodeError):
            raise event
        return event.vector

    async def load(self, files: Files) -> m.AdapterHeld:
        """Have the engine serve an adapter, now and after every restart.

        Raises AdapterError with the engine's reason.
        """
        held = await self._supervisor.load(files)
        self._link.keep(files)
        self.load_now.load_ms.take(held.load_ms)
        return held

    def serves(self, adapter: bytes) -> bool:
        """Return whether the engine serves an adapter, or will once it is up again.

        It stops serving an adapter whose files turn out to be broken.
        """
        return self._link.keeps(adapter)

    def release(self, adapter: bytes) -> None:
        """Have the engine stop serving an adapter."""
        command = self._link.release(adapter)
        if command is not None:
            self._supervisor.tell(command)

    async def residency(self, adapter: bytes) -> m.Residency:
        """Ask where an adapter's bytes are, within LOCATE_DEADLINE_S. Raises EngineLost."""
        located: m.Located = await self._supervisor.ask(
            partial(self._link.ask_residency, adapter), LOCATE_DEADLINE_S
        )
        return located.residency

    async def stats(self) -> m.Stats:
        """Ask for the engine's current figures."""
        return await self._supervisor.ask(self._link.ask_stats, STATS_DEADLINE_S)

    async def replay(
        self,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
        adapter: bytes | None,
        sampling: m.Sampling,
        deadline_s: float = REPLAY_DEADLINE_S,
    ) -> list[float]:
        """Ask by how many logits each token of an answer missed winning under this seed (0: it
        won).
        """
        replay = m.Replay(
            self._link.new_id(), list(prompt_ids), list(answer_ids), adapter, sampling=sampling
        )
        answer: m.Replayed = await self._supervisor.ask(
            partial(self._link.ask_replay, replay), deadline_s
        )
        return answer.margins

    async def score(
        self,
        token_ids: Sequence[int],
        adapter: bytes | None,
        logprobs: int,
        deadline_s: float = REPLAY_DEADLINE_S,
    ) -> list[m.TokenLogprobs]:
        """Return the log-probabilities of each token but the first, which nothing foretells, with
        so many likely others beside each.
        """
        if len(token_ids) < 2:
            return []
        first, *rest = token_ids
        sampling = m.Sampling(bytes(32))
        replay = m.Replay(
            self._link.new_id(), [first], rest, adapter, sampling=sampling, logprobs=logprobs
        )
        answer: m.Replayed = await self._supervisor.ask(
            partial(self._link.ask_replay, replay), deadline_s
        )
        return answer.logprobs
