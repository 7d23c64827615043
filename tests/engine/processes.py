"""The engine as a process of its own, and a test's end of its socket."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from engine.messages import FromEngine, ToEngine
from tests.node.forked import forked_python

DEADLINE_S = 60.0


class Daemon:
    """A test's end of the socket. `prefix`: a command that becomes the engine, which is then no
    fork of one that has imported everything. As a context it does not outlive its block.
    """

    def __init__(self, base: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(DEADLINE_S)
        command = [
            *prefix,
            sys.executable if prefix else forked_python(),
            "-m",
            "engine",
            "serve",
            "--fd",
            str(theirs.fileno()),
            "--base",
            str(base),
            "--threads",
            "1",
            *arguments,
        ]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.end()

    def send(self, message: ToEngine) -> None:
        self.send_raw(msgspec.msgpack.encode(message))

    def send_raw(self, body: bytes) -> None:
        self.socket.sendall(struct.pack(">I", len(body)) + body)

    def receive(self) -> FromEngine:
        return self._decoder.decode(self._read(struct.unpack(">I", self._read(4))[0]))

    def receive_until(self, *kinds: type) -> list[FromEngine]:
        messages = [self.receive()]
        while not isinstance(messages[-1], kinds):
            messages.append(self.receive())
        return messages

    def has_arrived(self) -> bool:
        """Whether `receive` would find something at once: a message, or the end of the stream."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def kill(self) -> list[FromEngine]:
        """End the engine in the middle of whatever it does; what it had said until then."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        said = []
        with suppress(AssertionError, ConnectionError):
            while True:
                said.append(self.receive())
        return said

    def end(self) -> tuple[int, str]:
        """The exit status, and what was logged."""
        self.socket.close()
        _, log = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, log.decode()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, "the engine closed the socket"
            data += piece
        return data
