"""Daemons, commands, engines and chains for tests without seconds of imports each: one process has
imported what all of them import, and each is a fork of it. Real ones otherwise: own process, own
sockets, own memory, and what `python -m MODULE` does.

    python -m tests.node.forked SOCKET    the one that forks, until its stdin closes

`forked_python()` is a program to start them with, as sys.executable is; stand_in.py is what runs.
"""

from __future__ import annotations

import gc
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

from . import stand_in

NODE = (
    "node.cli.app",
    "node.cli.serving",
    "proofs.chain.client",
    "proofs.chain.rpc",
    "proofs.chain.wallet",
)
PRELOADED = {
    "engine": ("engine.build", "engine.server"),
    "proofs.chain.devchain": ("proofs.chain.devchain",),
    "node": NODE,
    "tests.proofs.chain.post_once": ("tests.proofs.chain.post_once",),
}
"""Of each module that is run, what it imports while it runs."""
LATE = {
    "demo": ("demo.story",),
    "demo.attacker": (),
    "demo.cheating": (),
    "demo.cheating.engine": ("engine.build", "engine.calibrate", "engine.server"),
    "factory.influence": ("factory.influence.making", "factory.influence.result"),
    "factory.merging": ("factory.learning", "peft"),
    "factory.training": ("factory.training.trainer",),
    "tests.fuzz.target": (),
    "tests.node.money.dying": (),
    "tests.p2p.provider": (),
}
"""The same of modules that few tests run: imported before the first of them."""
FRESH = ("node.cli", "proofs.chain.devchain", "tests.proofs.chain.post_once")
"""What is imported again in each fork: it looks at its terminal when it is imported, or is run."""
_KEPT: list[subprocess.Popen[bytes]] = []  # the forker's stdin stays open while this process lives


class Forker:
    """Forks a module for each connection; its end is told there, signals come from there, and its
    fork is killed when the connection closes.
    """

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen(64)
        self._ended, self._tell_ended = os.pipe()
        os.set_blocking(self._tell_ended, False)
        self._links: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Serve until stdin closes; no fork goes on then."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._tell_ended, warn_on_full_buffer=False)
        while True:
            watched = [sys.stdin, self._listener, self._ended, *self._links.values()]
            ready, _, _ = select.select(watched, [], [])
            if sys.stdin in ready:
                for pid in self._links:
                    os.kill(pid, signal.SIGKILL)
                return
            if self._ended in ready:
                os.read(self._ended, 512)
                self._reap()
            for pid, link in list(self._links.items()):
                if link in ready and link.fileno() >= 0:
                    self._pass_on(pid, link)
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

    def _pass_on(self, pid: int, link: socket.socket) -> None:
        """The signal that came; a stand-in that is gone was killed, and so is its fork."""
        number = link.recv(16)
        os.kill(pid, int(number or signal.SIGKILL))
        if not number:
            self._links.pop(pid).close()

    def _fork(self, link: socket.socket) -> None:
        data, descriptors, _, _ = socket.recv_fds(link, stand_in.MOST_BYTES, 4)
        told, variables, folder = data.decode().split("\1")
        module, *arguments = told.split("\0")
        for name in LATE.pop(module, ()):
            import_module(name)
        pid = os.fork()
        if pid == 0:
            os.environ.clear()
            os.environ.update(one.split("=", 1) for one in variables.split("\0"))
            os.chdir(folder)
            become(module, arguments, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._links[pid] = link


def preload(module: str) -> None:
    """Import what a module will import, once."""
    for name in PRELOADED[module]:
        import_module(name)
    for name in [name for name in sys.modules if name.startswith(FRESH)]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # no fork looks at all that again


def become(module: str, arguments: list[str], descriptors: list[int]) -> None:
    """Run a module in this fork as `python -m` does, to its end."""
    status = 1
    try:
        settle_in(arguments, descriptors)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # the top of this process: told as the interpreter tells it
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def settle_in(arguments: list[str], descriptors: list[int]) -> None:
    """Take the descriptors that were handed over, and let go of the forker's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in range(3):
        os.dup2(descriptors[number], number)
    if descriptors[3:]:
        arguments[arguments.index("--fd") + 1] = str(descriptors[3])
    for number in {*map(int, os.listdir("/proc/self/fd"))} - {0, 1, 2, *descriptors[3:]}:
        with suppress(OSError):  # the one with which the folder was read
            os.close(number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)


@cache
def forked_python() -> str:
    """A program that starts modules as the interpreter does, through a process of our own, which
    ends with us. The first call takes as long as all the imports do: make it under no deadline.
    """
    folder = Path(tempfile.mkdtemp(prefix="forked-"))
    path = folder / "socket"
    forker = subprocess.Popen(
        [sys.executable, "-m", "tests.node.forked", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert forker.stdout is not None
    assert forker.stdout.readline() == b"ready\n"
    _KEPT.append(forker)
    return str(folder / "python")


def write_program(folder: Path) -> Path:
    """The program that stands in for the interpreter; in forks it is their sys.executable."""
    told = [str(folder / "socket"), sys.executable, ",".join([*PRELOADED, *LATE])]
    program = folder / "python"
    source = (
        Path(stand_in.__file__)
        .read_text()
        .replace("import sys\n", f"import sys\n\nsys.argv[1:1] = {told}\n", 1)
    )
    program.write_text(f"#!{sys.executable} -IS\n{source}")
    program.chmod(0o700)
    return program


if __name__ == "__main__":
    home = Path(sys.argv[1]).parent
    forker = Forker(sys.argv[1])
    sys.executable = str(write_program(home))
    for module in PRELOADED:
        preload(module)
    print("ready", flush=True)
    try:
        forker.run()
    finally:
        shutil.rmtree(home)
