"""The bridge as a process of its own, and a test's end of its socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from engine.framing import MessageDecoder, encode_frames
from engine.messages import FromEngine, ToEngine

DEADLINE_S = 60.0


class Daemon:
    """A test's end of the socket."""

    def __init__(self, url: str, base: Path, *, key: str = "") -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(DEADLINE_S)
        command = [sys.executable, "-m", "bridge", "vllm", "--fd", str(theirs.fileno())]
        command += ["--url", url, "--base", str(base), "--digest", "ab" * 32]
        command += ["--here", str(base.parent)]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            env={**os.environ, "LORIKEET_ENGINE_KEY": key},
        )
        theirs.close()
        self._frames = MessageDecoder[FromEngine](FromEngine)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        if self.process.stderr is not None and not self.process.stderr.closed:
            self.end()

    def send(self, *messages: ToEngine) -> None:
        self.socket.sendall(encode_frames(messages))

    def receive(self) -> FromEngine:
        while (message := self._frames.next_message()) is None:
            data = self.socket.recv(1 << 16)
            assert data, "the bridge closed the socket: " + self.end()[1]
            self._frames.feed(data)
        return message

    def receive_until(self, *kinds: type) -> list[FromEngine]:
        messages = [self.receive()]
        while not isinstance(messages[-1], kinds):
            messages.append(self.receive())
        return messages

    def end(self) -> tuple[int, str]:
        """The exit status, and what was logged."""
        self.socket.close()
        _, log = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, log.decode()
