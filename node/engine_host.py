"""Keeps an engine process alive and speaks to it.

Knows the engine only by its border (engine/messages.py, engine/framing.py); knows no peers, no text
and no money.

    supervise:  start → Ready → hold again what was held → serve until it dies → every running
                request gets EngineLost → back off → start

One reader task and one writer task per engine process; a request is a bounded channel of the
engine's messages about it.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL

import msgspec
import trio

from engine import messages as m
from engine.errors import BorderError
from engine.framing import READ_BYTES, MessageDecoder, encode_frames

from .errors import AdapterError, BadRequest, EngineBusy, EngineFailed, EngineLost, NodeError

READY_DEADLINE_S = 120.0
HOLD_DEADLINE_S = 60.0
STATS_DEADLINE_S = 5.0
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0
STEADY_S = 10.0  # an engine that lived this long starts again without waiting
COMMANDS_QUEUED = 4096
END_DEADLINE_S = 2.0


@dataclass(frozen=True)
class EngineSettings:
    """How to start the engine; `command` is its program, without the options below.

    `vocabulary` is told to each process first.
    """

    base: Path
    dtype: str = "auto"
    threads: int = 0
    kv_tokens: int = 0
    max_adapters: int = 0
    draft_tokens: int = 0
    vocabulary: m.Vocabulary | None = None
    command: tuple[str, ...] = (sys.executable, "-m", "engine", "serve")

    def arguments(self, fd: int) -> list[str]:
        """The whole command line for an engine that speaks on socket `fd`."""
        options: dict[str, object] = {"--fd": fd, "--base": self.base, "--dtype": self.dtype}
        options |= {"--kv-tokens": self.kv_tokens} if self.kv_tokens else {}
        options |= {"--max-adapters": self.max_adapters} if self.max_adapters else {}
        options |= {"--draft-tokens": self.draft_tokens} if self.draft_tokens else {}
        options |= {"--threads": self.threads} if self.threads else {}
        return [*self.command, *(str(part) for option in options.items() for part in option)]


@dataclass(frozen=True)
class AdapterFiles:
    """Where an adapter's verified files lie."""

    adapter: bytes
    config: Path
    weights: Path


class EngineRun:
    """One request inside the engine: iterate it for `Tokens` and, last, `Finished`."""

    def __init__(self, host: EngineHost, request_id: int, room: int) -> None:
        self._host = host
        self.request_id = request_id
        self.ended = False
        self._over = False
        self._send, self._receive = trio.open_memory_channel[m.Tokens | m.Finished | Exception](
            room
        )

    def grant(self, credit: int) -> None:
        """Raise the tokens that may be produced in all."""
        self._host.tell(m.Grant(self.request_id, credit))

    def cancel(self) -> None:
        """Ask for an early end; `Finished(reason="cancelled")` still comes."""
        self._host.tell(m.Cancel(self.request_id))

    def __aiter__(self) -> EngineRun:
        """Iterate over the engine's messages until the request ended."""
        return self

    async def __anext__(self) -> m.Tokens | m.Finished:
        """The next message; raises EngineLost, EngineBusy, EngineFailed or BadRequest when the
        request failed.
        """
        if self._over:
            raise StopAsyncIteration
        event = await self._receive.receive()
        self._over = not isinstance(event, m.Tokens)
        if isinstance(event, Exception):
            raise event
        return event

    def put(self, event: m.Tokens | m.Finished | Exception) -> None:
        """Hand over one message; the room suffices for one token a message, so an engine that
        overflows it is broken.
        """
        self.ended = self.ended or not isinstance(event, m.Tokens)
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(event)


@dataclass
class _Waiter:
    """Somebody waits for one answer that is not a stream."""

    arrived: trio.Event = field(default_factory=trio.Event)
    answer: m.AdapterHeld | m.AdapterRefused | m.Replayed | m.Stats | Exception | None = None

    def put(
        self, answer: m.AdapterHeld | m.AdapterRefused | m.Replayed | m.Stats | Exception
    ) -> None:
        self.answer = answer
        self.arrived.set()


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
        self._ids = itertools.count(1)
        self._runs: dict[int, EngineRun] = {}
        self._holds: dict[bytes, _Waiter] = {}
        self._replays: dict[int, _Waiter] = {}
        self._stats: list[_Waiter] = []
        self._held: dict[bytes, AdapterFiles] = {}
        self._commands: trio.MemorySendChannel[m.ToEngine] | None = None
        self._serving = False
        self._up = trio.Event()
        self._process: trio.Process | None = None
        self.ready: m.Ready | None = None
        self.restarts = 0

    # --- what the daemon asks ---

    @property
    def pid(self) -> int | None:
        """The engine's process id, while there is one."""
        return self._process.pid if self._process else None

    @property
    def is_up(self) -> bool:
        """Whether the engine takes requests now."""
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
        run = EngineRun(self, next(self._ids), max_tokens + 2)
        self._runs[run.request_id] = run
        try:
            credit = min(credit, max_tokens)
            submit = m.Submit(
                run.request_id,
                list(prompt_ids),
                adapter,
                sampling,
                max_tokens=max_tokens,
                credit=credit,
                stop_ids=list(stop_ids),
                logprobs=logprobs,
            )
            if not self._serving or not self.tell(submit):
                raise EngineLost("the engine is starting again; ask again in some seconds")
            yield run
        finally:
            del self._runs[run.request_id]
            if not run.ended:
                run.cancel()

    async def hold(self, files: AdapterFiles) -> m.AdapterHeld:
        """Make an adapter servable now and after every restart; raises AdapterError with the
        engine's reason.
        """
        held = await self._hold(files)
        self._held[files.adapter] = files
        return held

    def holds(self, adapter: bytes) -> bool:
        """Whether the engine serves it, or will when it is up again; it refuses one whose files
        have broken since.
        """
        return adapter in self._held

    def release(self, adapter: bytes) -> None:
        """Forget an adapter."""
        if self._held.pop(adapter, None):
            self.tell(m.ReleaseAdapter(adapter))

    async def stats(self) -> m.Stats:
        """The engine's figures now."""
        waiter = _Waiter()
        self._stats.append(waiter)
        answer = await self._answer(waiter, m.GetStats(), STATS_DEADLINE_S)
        assert isinstance(answer, m.Stats)
        return answer

    async def replay(
        self,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
        adapter: bytes | None,
        sampling: m.Sampling,
        deadline_s: float = HOLD_DEADLINE_S,
    ) -> list[float]:
        """By how much each token of an answer missed winning under this seed (0 = it won)."""
        request_id = next(self._ids)
        waiter = _Waiter()
        self._replays[request_id] = waiter
        try:
            command = m.Replay(
                request_id, list(prompt_ids), list(answer_ids), adapter, sampling=sampling
            )
            answer = await self._answer(waiter, command, deadline_s)
        finally:
            del self._replays[request_id]
        assert isinstance(answer, m.Replayed)
        return answer.margins

    def tell(self, command: m.ToEngine) -> bool:
        """Queue a command for the engine, in order; False when there is no engine to take it."""
        if self._commands is None:
            return False
        try:
            self._commands.send_nowait(command)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True

    async def _hold(self, files: AdapterFiles) -> m.AdapterHeld:
        waiter = self._holds.get(files.adapter)
        first = False
        if waiter is None:
            waiter = _Waiter()
            first = True
            self._holds[files.adapter] = waiter
        command = (
            m.HoldAdapter(files.adapter, str(files.config), str(files.weights)) if first else None
        )
        try:
            answer = await self._answer(waiter, command, HOLD_DEADLINE_S)
        finally:
            if first:
                self._holds.pop(files.adapter, None)
        if isinstance(answer, m.AdapterRefused):
            raise AdapterError(f"the engine refused the adapter: {answer.message}")
        assert isinstance(answer, m.AdapterHeld)
        return answer

    async def _answer(
        self, waiter: _Waiter, command: m.ToEngine | None, deadline_s: float
    ) -> object:
        if command is not None and not self.tell(command):
            raise EngineLost("the engine is starting again; ask again in some seconds")
        with trio.move_on_after(deadline_s):
            await waiter.arrived.wait()
        if waiter.answer is None:
            raise EngineLost(f"the engine did not answer within {deadline_s:.0f} s")
        if isinstance(waiter.answer, Exception):
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
        """One engine process, from its start to its end."""
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        try:
            process = await self._start(theirs)
        except OSError as error:
            self._log(f"engine: cannot start {self._settings.command[0]}: {error}")
            await stream.aclose()
            return
        finally:
            theirs.close()
        self._process = process
        try:
            await self._converse(stream)
        except* (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            BorderError,
        ) as faults:
            self._log(
                "engine: "
                + "; ".join(f"{type(fault).__name__}: {fault}" for fault in faults.exceptions)
            )
        finally:
            self._lose()
            await self._end(process, stream)

    async def _start(self, theirs: socket.socket) -> trio.Process:
        log = self._stderr.open("ab") if self._stderr else None
        try:
            return await trio.lowlevel.open_process(
                self._settings.arguments(theirs.fileno()),
                stdin=DEVNULL,
                stdout=log or DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=_environment(self._settings.threads),
            )
        finally:
            if log:
                log.close()

    async def _converse(self, stream: trio.SocketStream) -> None:
        """Speak until the engine closes its end."""
        inbox = _Inbox(stream)
        first = None
        with trio.move_on_after(READY_DEADLINE_S):
            first = await inbox.receive()
        if not isinstance(first, m.Ready):
            self._log("engine: it did not become ready; its own words are in engine.log")
            return
        self.ready = first
        send, receive = trio.open_memory_channel[m.ToEngine](COMMANDS_QUEUED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write_commands, stream, receive)
            self._commands = send
            nursery.start_soon(self._come_up)
            while (message := await inbox.receive()) is not None:
                self._dispatch(message)
            nursery.cancel_scope.cancel()

    async def _come_up(self) -> None:
        """Hold again what was held before a restart, then let waiters in."""
        assert self.ready is not None
        if self._settings.vocabulary is not None:
            self.tell(self._settings.vocabulary)
        for files in list(self._held.values()):
            try:
                await self._hold(files)
            except (AdapterError, EngineLost) as error:
                self._log(f"engine: adapter {files.adapter.hex()[:12]} was not held again: {error}")
        self._log(
            f"engine: ready, base {self.ready.base.hex()[:12]}, {self.ready.dtype},"
            f" {self.ready.threads} threads"
        )
        self._serving = True
        self._up.set()
        self._up = trio.Event()

    def _dispatch(self, message: m.FromEngine) -> None:
        """Hand one message to whoever waits for it; nobody may have stayed."""
        match message:
            case m.Tokens() | m.Finished():
                self._to_run(message.request_id, message)
            case m.Failed():
                error = _error_of(message)
                self._to_run(message.request_id, error)
                if message.request_id in self._replays:
                    self._replays[message.request_id].put(error)
            case m.AdapterHeld() | m.AdapterRefused():
                if isinstance(message, m.AdapterRefused) and message.adapter in self._held:
                    del self._held[message.adapter]
                    self._log(
                        f"engine: adapter {message.adapter.hex()[:12]} is not served any more:"
                        f" {message.message}"
                    )
                if message.adapter in self._holds:
                    self._holds[message.adapter].put(message)
            case m.Replayed():
                if message.request_id in self._replays:
                    self._replays[message.request_id].put(message)
            case m.Stats():
                waiters = self._stats
                self._stats = []
                for waiter in waiters:
                    waiter.put(message)
            case m.Ready():
                raise BorderError("the engine said Ready twice")

    def _to_run(self, request_id: int, event: m.Tokens | m.Finished | Exception) -> None:
        run = self._runs.get(request_id)
        if run is not None:
            run.put(event)

    def _lose(self) -> None:
        """Tell everybody who waits that the engine is gone."""
        self._commands = None
        self._serving = False
        lost = EngineLost(
            "the engine process ended while it worked on this; it is being restarted, so ask again"
            " in some seconds"
        )
        for run in list(self._runs.values()):
            run.put(lost)
        for waiter in [*self._holds.values(), *self._replays.values(), *self._stats]:
            waiter.put(lost)
        self._holds = {}
        self._stats = []

    async def _end(self, process: trio.Process, stream: trio.SocketStream) -> None:
        """Close the socket, which ends a healthy engine; kill one that stays."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
            with trio.move_on_after(END_DEADLINE_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._process = None


class _Inbox:
    """The engine's messages off its socket, one by one."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._frames = MessageDecoder[m.FromEngine](m.FromEngine)

    async def receive(self) -> m.FromEngine | None:
        """Wait for the next message; None when the engine closed, inside a frame or not.

        Raises BorderError for bytes that are not a message.
        """
        while (message := self._frames.next_message()) is None:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return None
            self._frames.feed(bytes(data))
        return message


async def _write_commands(
    stream: trio.SocketStream, commands: trio.MemoryReceiveChannel[m.ToEngine]
) -> None:
    async for command in commands:
        await stream.send_all(encode_frames([command]))


def _environment(threads: int) -> dict[str, str]:
    """The daemon's environment.

    An engine that has the whole machine pins its threads; several on one machine would pin theirs
    to the same core.
    """
    return ({"OMP_PROC_BIND": "true"} if threads == 0 else {}) | os.environ


def to_plain_stats(
    ready: m.Ready | None, stats: m.Stats | None, restarts: int
) -> dict[str, object]:
    """The engine's figures as plain values, for people and JSON."""
    plain: dict[str, object] = {"restarts": restarts, "up": ready is not None and stats is not None}
    if ready is not None:
        plain |= {
            "dtype": ready.dtype,
            "threads": ready.threads,
            "max_context_tokens": ready.max_context_tokens,
            "load_ms": ready.load_ms,
        }
    if stats is not None:
        plain |= {
            name: value
            for name, value in msgspec.to_builtins(msgspec.structs.asdict(stats)).items()
            if name not in ("steps",)
        }
        plain["adapters_held"] = [adapter.hex() for adapter in stats.adapters_held]
        plain["adapters_ready"] = [adapter.hex() for adapter in stats.adapters_ready]
        plain["steps"] = [_plain_step(record) for record in stats.steps]
    return plain


def _plain_step(record: m.StepRecord) -> dict[str, object]:
    return {
        "step": record.step,
        "adapters": ["base" if adapter is None else adapter.hex() for adapter in record.adapters],
        "prefill_tokens": record.prefill_tokens,
        "decode_tokens": record.decode_tokens,
        "step_ms": record.step_ms if math.isfinite(record.step_ms) else 0.0,
    }


def _error_of(failed: m.Failed) -> NodeError:
    """Whose fault it is: a bad request is bad at any node."""
    match failed.code:
        case "busy":
            return EngineBusy(failed.message)
        case "bad_request":
            return BadRequest(failed.message)
        case _:
            return EngineFailed(f"{failed.code}: {failed.message}")
