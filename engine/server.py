"""Runs the engine's process: frames in on one thread, steps on this one, frames out on a third.

Ends when the socket closes. Knows no message's meaning and schedules nothing.

reader ──▶ inbox ──▶ loop: handle, step ──▶ outbox ──▶ writer
loader, copier, grammars ──▶ ┘  (no work: sleep on the inbox)
"""

from __future__ import annotations

import math
import socket
import sys
import threading
import time
import traceback
from queue import Empty, Full, Queue, SimpleQueue

from .engine import Engine
from .errors import BorderError, DeviceLost, OutOfDeviceMemory
from .framing import READ_BYTES, MessageDecoder, encode_frames
from .grammar import GrammarDone
from .lora.bank import CopyDone
from .lora.loader import LoadDone
from .messages import FromEngine, ToEngine

IDLE_WAKE_S = 1.0
MAX_OUTBOX_STEPS = 16384
MAX_CRASHES_IN_A_ROW = 3
IDLE_BEFORE_CHECK_S = 5.0
CHECK_EVERY_S = 60.0

Inbound = ToEngine | LoadDone | CopyDone | GrammarDone | DeviceLost | BorderError | None
"""None: the socket closed."""


class Checkup:
    """When the engine's own tables are checked: after some seconds without work, and rarely, so
    that nobody waits for it.
    """

    def __init__(self) -> None:
        self._busy_s = -math.inf
        self._checked_s = -math.inf

    def visit(self, engine: Engine, worked: bool, now_s: float) -> None:
        """After each turn of the loop. A broken invariant is raised, as AssertionError."""
        if worked:
            self._busy_s = now_s
        elif now_s - self._busy_s >= IDLE_BEFORE_CHECK_S and (
            now_s - self._checked_s >= CHECK_EVERY_S
        ):
            self._checked_s = now_s
            engine.check()


class Server:
    """Ties one engine to one socket."""

    def __init__(self, connection: socket.socket, inbox: SimpleQueue[Inbound]) -> None:
        self._connection = connection
        self._inbox = inbox
        self._outbox: Queue[list[FromEngine]] = Queue(MAX_OUTBOX_STEPS)
        self._crashes = 0
        self._checkup = Checkup()

    def serve(self, engine: Engine, greeting: FromEngine) -> int:
        """Run until the socket closes (0), the daemon breaks the border (2) or stops reading (3),
        steps keep crashing (4), the device is lost (5), or the engine's tables contradict one
        another (7).

        0: the socket closed. 2: the daemon broke the border. 3: it stopped reading. 4: steps kept
        crashing. 5: the device is lost. A device that hangs ends the process from cuda/watchdog.py
        (6).
        """
        self._outbox.put([greeting])
        for target, name in ((self._read, "reader"), (self._write, "writer")):
            threading.Thread(target=target, name=name, daemon=True).start()
        try:
            return self._loop(engine)
        except Full:
            _log(f"the daemon left the messages of {MAX_OUTBOX_STEPS} steps unread; giving up")
            return 3
        except DeviceLost as error:
            _log(f"{error}; this process ends, so that another can start")
            return 5
        # a step's own failures are taken in _step: what comes here was found by a check
        except AssertionError as error:
            traceback.print_exc()
            _log(f"a broken invariant ({error}); this process ends, so that another can start")
            return 7

    def _loop(self, engine: Engine) -> int:
        worked = False
        while True:
            for item in self._received(wait=not worked):
                if item is None:
                    return 0
                if isinstance(item, BorderError):
                    _log(f"closing: {item}")
                    return 2
                self._take(engine, item)
            worked = self._step(engine)
            if self._crashes >= MAX_CRASHES_IN_A_ROW:
                return 4
            messages = engine.take_messages()
            if messages:
                self._outbox.put_nowait(messages)
            self._checkup.visit(engine, worked, time.monotonic())

    def _take(
        self, engine: Engine, item: ToEngine | LoadDone | CopyDone | GrammarDone | DeviceLost
    ) -> None:
        if isinstance(item, LoadDone | CopyDone | GrammarDone | DeviceLost):
            engine.receive(item)
        else:
            engine.handle(item)

    def _step(self, engine: Engine) -> bool:
        """Run one step; return whether there was work.

        A bug of ours, or a step too large for the device's memory, costs the running requests an
        error, not the process.
        """
        try:
            worked = engine.step()
        except DeviceLost:
            raise
        except OutOfDeviceMemory as error:
            _log(str(error))
            engine.fail_all(str(error), "busy")
            return True
        except Exception as error:  # a bug of ours costs those that run, not those that wait
            traceback.print_exc()
            self._crashes += 1
            engine.fail_all(f"the engine's step failed ({type(error).__name__}); retry")
            return True
        self._crashes = 0
        return worked

    def _received(self, wait: bool) -> list[Inbound]:
        items: list[Inbound] = []
        try:
            if wait:
                items.append(self._inbox.get(timeout=IDLE_WAKE_S))
            while True:
                items.append(self._inbox.get_nowait())
        except Empty:
            return items

    def _read(self) -> None:
        frames = MessageDecoder[ToEngine](ToEngine)
        try:
            while data := self._receive():
                frames.feed(data)
                while (message := frames.next_message()) is not None:
                    self._inbox.put(message)
            if not frames.is_empty:
                raise BorderError("the connection ended inside a frame")
            self._inbox.put(None)
        except BorderError as error:
            self._inbox.put(error)

    def _receive(self) -> bytes:
        """Wait for the next bytes; none when the socket closed or broke."""
        try:
            return self._connection.recv(READ_BYTES)
        except ConnectionError:
            return b""

    def _write(self) -> None:
        try:
            while True:
                # A step's messages in one system call, not one a token.
                self._connection.sendall(encode_frames(self._outbox.get()))
        except OSError:
            self._inbox.put(None)


def _log(text: str) -> None:
    print(f"engine: {text}", file=sys.stderr, flush=True)
