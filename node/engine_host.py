"""Keeps an engine process alive, and gives the daemon calls that wait for its answers.

    supervise:  start → Ready → load again what was loaded before → serve until it dies →
                waiters get EngineLost → back off → start

One reader task and one writer task per engine process; each request is a bounded channel of the
engine's messages about it. Knows the engine only by its messages, and no peers, text or money;
engine_link.py decides who receives which message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from engine import messages as m
from engine.errors import BorderError

from .engine_link import AdapterFiles, EngineLink, RunEvent, Waiter
from .engine_process import EngineProcess, EngineSettings, start_engine
from .errors import AdapterError, EngineLost, NodeError

READY_DEADLINE_S = 120.0
LOAD_DEADLINE_S = 60.0
REPLAY_DEADLINE_S = 60.0
STATS_DEADLINE_S = 5.0
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0
STEADY_S = 10.0  # an engine that lived this long starts again without waiting
COMMANDS_QUEUED = 4096
STARTING = "the engine is starting again; ask again in some seconds"

T = TypeVar("T")


class EngineRun:
    """One request inside the engine: iterate it for `Tokens` and, last, `Finished`."""

    def __init__(
        self, tell: Callable[[m.ToEngine], bool], request_id: int, max_tokens: int
    ) -> None:
        self._tell = tell
        self._room = max_tokens  # each message brings a token at least
        self._send, self._receive = trio.open_memory_channel[RunEvent](max_tokens + 1)
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
        self._send.send_nowait(event)


class EngineHost:
    """The engine as the daemon sees it.

    `run` supervises it until cancelled; everything else may be called from any task meanwhile.
    """

    def __init__(
        self, settings: EngineSettings, log: Callable[[str], None], *, stderr: Path | None = None
    ) -> None:
        self._settings = settings
        self._log = log
        self._stderr = stderr
        self._link = EngineLink(log)
        self._commands: trio.MemorySendChannel[m.ToEngine] | None = None
        self._serving = False
        self._up = trio.Event()
        self.pid: int | None = None
        self.ready: m.Ready | None = None
        self.restarts = 0

    # --- what the daemon asks ---

    @property
    def is_up(self) -> bool:
        """Return whether the engine takes requests now."""
        return self._serving

    async def wait_up(self, deadline_s: float = READY_DEADLINE_S) -> m.Ready:
        """Wait until the engine takes requests."""
        with trio.move_on_after(deadline_s):
            while not self._serving:
                await self._up.wait()
        if not self._serving or self.ready is None:
            raise EngineLost(
                f"the engine did not start within {deadline_s:.0f} s; see the log beside it"
            )
        return self.ready

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
    ) -> AsyncIterator[EngineRun]:
        """Run one request; leaving the block before its end cancels it."""
        run = EngineRun(self.tell, self._link.new_id(), max_tokens)
        self._link.listen(run.request_id, run.hear)
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
            )
            if not self._serving or not self.tell(submit):
                raise EngineLost(STARTING)
            yield run
        finally:
            cancel = self._link.stop_listening(run.request_id)
            if cancel is not None:
                self.tell(cancel)

    async def load(self, files: AdapterFiles) -> m.AdapterHeld:
        """Have the engine serve an adapter, now and after every restart.

        Raises AdapterError with the engine's reason.
        """
        held = await self._load(files)
        self._link.keep(files)
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
            self.tell(command)

    async def stats(self) -> m.Stats:
        """Ask for the engine's current figures."""
        return await self._ask(self._link.ask_stats, STATS_DEADLINE_S)

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
        answer: m.Replayed = await self._ask(partial(self._link.ask_replay, replay), deadline_s)
        return answer.margins

    def tell(self, command: m.ToEngine) -> bool:
        """Queue a command for the engine, in order; return False when there is no engine to take
        it.
        """
        if self._commands is None:
            return False
        try:
            self._commands.send_nowait(command)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True

    async def _load(self, files: AdapterFiles) -> m.AdapterHeld:
        return await self._ask(partial(self._link.ask_load, files), LOAD_DEADLINE_S)

    async def _ask(self, note: Callable[[Waiter[T]], m.ToEngine | None], deadline_s: float) -> T:
        """Wait for one answer; `note` registers the waiter with the link and returns the
        command.
        """
        arrived = trio.Event()
        waiter = Waiter[T](arrived.set)
        command = note(waiter)
        try:
            if command is not None and not self.tell(command):
                raise EngineLost(STARTING)
            with trio.move_on_after(deadline_s):
                await arrived.wait()
        finally:
            self._link.leave(waiter)
        if waiter.answer is None:
            raise EngineLost(f"the engine did not answer within {deadline_s:.0f} s")
        if isinstance(waiter.answer, NodeError):
            raise waiter.answer
        return waiter.answer

    # --- supervising ---

    async def run(self) -> None:
        """Keep one engine process running, until cancelled."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            started = trio.current_time()
            await self._live_once()
            backoff_s = (
                FIRST_BACKOFF_S
                if trio.current_time() - started > STEADY_S
                else min(2 * backoff_s, MAX_BACKOFF_S)
            )
            self.restarts += 1
            self._log(f"engine: it ended; starting another in {backoff_s:.1f} s")
            await trio.sleep(backoff_s)

    async def _live_once(self) -> None:
        """Run one engine process from start to end."""
        try:
            engine = await start_engine(self._settings, self._stderr)
        except OSError as error:
            self._log(f"engine: cannot start {self._settings.command[0]}: {error}")
            return
        async with engine:
            self.pid = engine.pid
            try:
                await self._converse(engine)
            finally:
                self._lose()

    async def _converse(self, engine: EngineProcess) -> None:
        """Exchange messages until the engine closes its end, dies or sends what no engine may
        send.
        """
        try:
            if await self._wait_ready(engine):
                async with trio.open_nursery() as nursery:
                    send, receive = trio.open_memory_channel[m.ToEngine](COMMANDS_QUEUED)
                    self._commands = send
                    nursery.start_soon(engine.write, receive)
                    nursery.start_soon(self._come_up)
                    while (message := await engine.receive()) is not None:
                        self._link.receive(message)
                    nursery.cancel_scope.cancel()
        except* (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            BorderError,
        ) as faults:
            said = [f"{type(fault).__name__}: {fault}" for fault in faults.exceptions]
            self._log("engine: " + "; ".join(said))

    async def _wait_ready(self, engine: EngineProcess) -> bool:
        first = None
        with trio.move_on_after(READY_DEADLINE_S):
            first = await engine.receive()
        if not isinstance(first, m.Ready):
            self._log("engine: it did not become ready; its own words are in engine.log")
            return False
        self.ready = first
        return True

    async def _come_up(self) -> None:
        """Load again what the engine served before a restart, then let waiters in."""
        assert self.ready is not None
        if self._settings.vocabulary is not None:
            self.tell(self._settings.vocabulary)
        for files in self._link.kept():
            try:
                await self._load(files)
            except (AdapterError, EngineLost) as error:
                name = files.adapter.hex()[:12]
                self._log(f"engine: adapter {name} is not served again: {error}")
        self._log(
            f"engine: ready, base {self.ready.base.hex()[:12]}, {self.ready.dtype},"
            f" {self.ready.threads} threads"
        )
        self._serving = True
        self._up.set()
        self._up = trio.Event()

    def _lose(self) -> None:
        self.pid = None
        self._commands = None
        self._serving = False
        self._link.lose()
