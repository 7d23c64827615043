"""Stands in for `python -m MODULE …`: has the module forked by forked.py, hands it its input,
output, environment and command line, passes signals on, and ends as the fork ends. The fork is
killed when this process is. Imports next to nothing: it is to start in milliseconds.

    python -I -S stand_in.py SOCKET PYTHON MODULES …what python was told

What is no `-m` of one of the MODULES (names, with commas between) is done by PYTHON itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

MOST_BYTES = 1 << 20  # of an environment and a command line
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stand_in(path: str, arguments: list[str]) -> int:
    """Have a module forked; its exit status, or minus the signal that ended it."""
    passed = [int(arguments[arguments.index("--fd") + 1])] if "--fd" in arguments else []
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    parts = ["\0".join(arguments), "\0".join(variables), os.getcwd()]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.connect(path)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        socket.send_fds(link, ["\1".join(parts).encode()], [0, 1, 2, *passed])
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _: link.send(b"%d" % number) and None)
        for descriptor in (0, *passed):
            os.close(descriptor)
        return int(link.recv(16) or b"1")


def main() -> None:
    """Become the interpreter, or stand in for it."""
    path, python, modules, *told = sys.argv[1:]
    if told[:1] != ["-m"] or told[1] not in modules.split(","):
        os.execv(python, [python, *told])
    status = stand_in(path, told[1:])
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
