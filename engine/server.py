"""The engine's process: frames in on one thread, steps on this one, frames out on a third.

Ends when the socket closes.

reader ──▶ inbox ──▶ loop: handle, step ──▶ outbox ──▶ writer
loader, copier, grammars ──▶ ┘  (no work: sleep on the inbox)
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import traceback
from queue import Empty, Full, Queue, SimpleQueue

import msgspec

from .engine import Engine
from .errors import BorderError, DeviceLost, OutOfDeviceMemory
from .grammar import GrammarDone
from .lora.adapters import CopyDone, LoadDone
from .messages import MAX_FRAME_BYTES, FromEngine, ToEngine

IDLE_WAKE_S = 1.0
MAX_OUTBOX_STEPS = 16384
MAX_CRASHES_IN_A_ROW = 3

Inbound = ToEngine | LoadDone | CopyDone | GrammarDone | DeviceLost | BorderError | None
"""None: the socket closed."""


def read_frame(connection: socket.socket) -> bytes | None:
    """The next frame's body; None at a clean end.

    Raises BorderError on a torn or oversized frame.
    """
    header = _read_exactly(connection, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if length > MAX_FRAME_BYTES:
        raise BorderError(f"a frame of {length} bytes; the limit is {MAX_FRAME_BYTES}")
    body = _read_exactly(connection, length)
    if body is None:
        raise BorderError("the connection ended inside a frame")
    return body


def _read_exactly(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        try:
            piece = connection.recv(min(count - len(data), 1 << 20))
        except ConnectionError:
            return None
        if not piece:
            if data:
                raise BorderError("the connection ended inside a frame")
            return None
        data += piece
    return bytes(data)


def write_frames(connection: socket.socket, messages: list[FromEngine]) -> None:
    """Send messages in one go, a frame each: one system call a step, not one a token."""
    bodies = [msgspec.msgpack.encode(message) for message in messages]
    connection.sendall(
        b"".join(part for body in bodies for part in (struct.pack(">I", len(body)), body))
    )


class Server:
    """Ties one engine to one socket."""

    def __init__(self, connection: socket.socket, inbox: SimpleQueue[Inbound]) -> None:
        self._connection = connection
        self._inbox = inbox
        self._outbox: Queue[list[FromEngine]] = Queue(MAX_OUTBOX_STEPS)
        self._crashes = 0

    def serve(self, engine: Engine, greeting: FromEngine) -> int:
        """Run until the socket closes (0), the daemon breaks the border (2) or stops reading (3),
        steps keep crashing (4), or the device is lost (5).

        A device that hangs ends the process from cuda/watchdog.py (6).
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

    def _take(
        self, engine: Engine, item: ToEngine | LoadDone | CopyDone | GrammarDone | DeviceLost
    ) -> None:
        if isinstance(item, LoadDone | CopyDone | GrammarDone | DeviceLost):
            engine.receive(item)
        else:
            engine.handle(item)

    def _step(self, engine: Engine) -> bool:
        """One step; a bug of ours, or a step too large for the device's memory, costs the running
        requests an error, not the process.
        """
        try:
            worked = engine.step()
        except DeviceLost:
            raise
        except OutOfDeviceMemory as error:
            _log(str(error))
            engine.fail_all(str(error), "busy")
            return True
        except Exception as error:
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
        decoder = msgspec.msgpack.Decoder(ToEngine)
        try:
            while (frame := read_frame(self._connection)) is not None:
                self._inbox.put(decoder.decode(frame))
            self._inbox.put(None)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._inbox.put(BorderError(f"a frame is no message: {error}"))
        except BorderError as error:
            self._inbox.put(error)

    def _write(self) -> None:
        try:
            while True:
                write_frames(self._connection, self._outbox.get())
        except OSError:
            self._inbox.put(None)


def _log(text: str) -> None:
    print(f"engine: {text}", file=sys.stderr, flush=True)
