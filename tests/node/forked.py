"""Engines and chains for tests without two seconds of imports each: one process has imported what
all of them import, and each is a fork of it.

    python -m tests.node.forked SOCKET                  the one that forks, until its stdin closes
    python -I -S tests/node/forked.py SOCKET MODULE …   as `python -m MODULE …` is

The second hands its input, output, environment and command line to the first, ends as the fork
ends, and the fork ends when it is killed. Real engines and chains otherwise: own process, own
sockets, own memory.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

MOST_BYTES = 1 << 20  # of an environment and a command line
PRELOADED = {
    "engine": ("engine.__main__", "engine.build", "engine.server"),
    "proofs.chain.devchain": ("proofs.chain.devchain",),
}
"""Of each program, the module that has its `main`, and what else it imports while it runs."""
_KEPT: list[subprocess.Popen[bytes]] = []  # the forker's stdin stays open while this process lives


def stand_in(path: str, arguments: list[str]) -> int:
    """Have a program forked, and end as it ends."""
    passed = [int(arguments[arguments.index("--fd") + 1])] if "--fd" in arguments else []
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    parts = ["\0".join(arguments), "\0".join(variables), os.getcwd()]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.connect(path)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        socket.send_fds(link, ["\1".join(parts).encode()], [0, 1, 2, *passed])
        for descriptor in (0, *passed):
            os.close(descriptor)
        status = int(link.recv(16) or b"1")
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


class Forker:
    """Forks a program for each connection; its end is told there, and its fork killed when the
    connection closes.
    """

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen(64)
        self._ended, self._tell_ended = os.pipe()
        os.set_blocking(self._tell_ended, False)
        self._links: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Serve until stdin closes."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._tell_ended, warn_on_full_buffer=False)
        while True:
            watched = [sys.stdin, self._listener, self._ended, *self._links.values()]
            ready, _, _ = select.select(watched, [], [])
            if sys.stdin in ready:
                return
            if self._ended in ready:
                os.read(self._ended, 512)
                self._reap()
            for pid, link in list(self._links.items()):
                if link in ready and link.fileno() >= 0:
                    os.kill(pid, signal.SIGKILL)  # its stand-in was killed
                    self._links.pop(pid).close()
            if self._listener in ready:
                self._fork(self._listener.accept()[0])

    def _reap(self) -> None:
        while self._links:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            link = self._links.pop(pid, None)
            if link is not None:
                link.send(b"%d" % os.waitstatus_to_exitcode(status))
                link.close()

    def _fork(self, link: socket.socket) -> None:
        data, descriptors, _, _ = socket.recv_fds(link, MOST_BYTES, 4)
        told, variables, folder = data.decode().split("\1")
        module, *arguments = told.split("\0")
        program, *_ = [import_module(name) for name in PRELOADED[module]]
        pid = os.fork()
        if pid == 0:
            os.environ.clear()
            os.environ.update(one.split("=", 1) for one in variables.split("\0"))
            os.chdir(folder)
            become(program, arguments, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._links[pid] = link


def become(program: ModuleType, arguments: list[str], descriptors: list[int]) -> None:
    """Run a program in this fork, to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in range(3):
        os.dup2(descriptors[number], number)
    if descriptors[3:]:
        arguments[arguments.index("--fd") + 1] = str(descriptors[3])
    os.closerange(max(descriptors) + 1, 4096)
    status = 1
    try:
        status = program.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@cache
def forking() -> tuple[str, ...]:
    """The command that starts a program through a process of our own, which ends with us."""
    path = Path(tempfile.mkdtemp(prefix="forked-")) / "socket"
    command = [sys.executable, "-m", "tests.node.forked", str(path)]
    forker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert forker.stdout is not None
    assert forker.stdout.readline() == b"ready\n"
    _KEPT.append(forker)
    return (sys.executable, "-I", "-S", __file__, str(path))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(stand_in(sys.argv[1], sys.argv[2:]))
    forker = Forker(sys.argv[1])
    print("ready", flush=True)
    try:
        forker.run()
    finally:
        shutil.rmtree(Path(sys.argv[1]).parent)
