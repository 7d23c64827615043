"""Keeps an engine process alive, and sends it what it is told.

    run:  start → Ready → load again what was loaded before → serve until it dies →
          waiters get EngineLost → back off → start

A base that the engine refuses would be refused again: before the first engine is ready that ends
the daemon, later whoever waits is told why at once.

One reader task and one writer task per engine process. Decides when an engine is given up and
another is started; does not know what the daemon asks (engine_host.py) or who receives which
message (engine_link.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from engine import messages as m
from engine.errors import BorderError

from .engine_link import EngineLink, Files, Waiter
from .engine_process import EngineProcess, ProcessSettings, start_engine
from .errors import AdapterError, ConfigError, EngineLost, NodeError

READY_DEADLINE_S = 120.0
LOAD_DEADLINE_S = 60.0
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0
FAILED_STARTS = 3  # so many in a row, and nobody waits for the next one
STEADY_S = 10.0  # an engine that lived this long starts again without waiting
COMMANDS_QUEUED = 4096
STARTING = "the engine is starting again; ask again in some seconds"

T = TypeVar("T")


class EngineSupervisor:
    """One engine after the other, for the whole life of a daemon.

    `run` supervises them until cancelled; everything else may be called from any task meanwhile.
    `log` is told what happens to them; what they print goes to the file `stderr`.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        link: EngineLink,
        log: Callable[[str], None],
        stderr: Path | None,
    ) -> None:
        self._settings = settings
        self._link = link
        self._log = log
        self._stderr = stderr
        self._commands: trio.MemorySendChannel[m.ToEngine] | None = None
        self._changed = trio.Event()
        self.is_up = False
        """Whether the engine takes requests now."""
        self.pid: int | None = None
        self.ready: m.Ready | None = None
        """What the latest engine said of itself."""
        self.restarts = 0
        self._fault = ""
        """Why waiting for an engine is in vain now."""
        self._failed_starts = 0

    async def wait_up(self, deadline_s: float = READY_DEADLINE_S) -> m.Ready:
        """Wait until the engine takes requests.

        Raises EngineLost after the deadline, or at once where waiting is in vain.
        """
        with trio.move_on_after(deadline_s):
            while not self.is_up and not self._fault:
                await self._changed.wait()
        if self._fault:
            raise EngineLost(self._fault)
        if not self.is_up or self.ready is None:
            raise EngineLost(
                f"the engine did not start within {deadline_s:.0f} s; see the log beside it"
            )
        return self.ready

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

    async def load(self, files: Files) -> m.AdapterHeld:
        """Have this engine serve an adapter. Raises AdapterError with the engine's reason."""
        return await self.ask(partial(self._link.ask_load, files), LOAD_DEADLINE_S)

    async def ask(self, note: Callable[[Waiter[T]], m.ToEngine | None], deadline_s: float) -> T:
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

    async def run(self) -> None:
        """Keep one engine process running, until cancelled.

        Raises ConfigError for a base that no engine ever served and that is refused.
        """
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
            self._start_failed(f"cannot start {self._settings.command[0]}: {error}")
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
            try:
                first = await engine.receive()
            except trio.BrokenResourceError:  # it died
                first = None
        if isinstance(first, m.BaseRefused):
            self._refuse(first.reason)
            return False
        if not isinstance(first, m.Ready):
            self._start_failed("it did not become ready; its own words are in engine.log")
            return False
        self.ready = first
        self._fault = ""
        self._failed_starts = 0
        return True

    def _refuse(self, reason: str) -> None:
        """Settle that the base is not served. Raises ConfigError when it never was."""
        if self.ready is None:
            raise ConfigError(
                f"the engine does not serve this base: {reason} (settings: base_path, engine)"
            )
        self._log(f"engine: it does not serve this base any more: {reason}")
        self._fault = f"the engine does not serve this base any more: {reason}"
        self._tell_waiters()

    def _start_failed(self, reason: str) -> None:
        self._log(f"engine: {reason}")
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            self._fault = f"the engine failed {self._failed_starts} times to start: {reason}"
            self._tell_waiters()

    def _tell_waiters(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _come_up(self) -> None:
        """Load again what the engine served before a restart, then let waiters in."""
        assert self.ready is not None
        if self._settings.vocabulary is not None:
            self.tell(self._settings.vocabulary)
        for files in self._link.kept():
            try:
                await self.load(files)
            except (AdapterError, EngineLost) as error:
                name = files.adapter.hex()[:12]
                self._log(f"engine: adapter {name} is not served again: {error}")
        threads = f", {self.ready.threads} threads" if self.ready.threads else ""
        self._log(f"engine: ready, base {self.ready.base.hex()[:12]}, {self.ready.dtype}{threads}")
        self.is_up = True
        self._tell_waiters()

    def _lose(self) -> None:
        self.pid = None
        self._commands = None
        self.is_up = False
        self._link.lose()
