"""The child's side: takes its limits upon itself, reads its job, does it, leaves the result.

    python -m factory.intake.worker parse|check|trace MEMORY CPU OUTPUT

In a folder with `job.msgpack`. What it may still do: read files that the daemon's user may read.
Where the system lets it, it has no network.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
from pathlib import Path

from .child import NO_MEMORY, NO_ROOM

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MAX_OPEN_FILES = 64


def confine(memory_bytes: int, cpu_s: int, output_bytes: int) -> bool:
    """Give up what this process will not need. Returns whether the network is off."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a daemon that was killed leaves nobody behind
    isolated = any(libc.unshare(flag) == 0 for flag in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output_bytes, output_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    return isolated


def main() -> None:
    """Do one task."""
    task = sys.argv[1]
    isolated = confine(*map(int, sys.argv[2:5]))
    try:
        job = Path("job.msgpack").read_bytes()
        if task == "parse":
            from .parse import parse_job

            result = parse_job(job, isolated)
        elif task == "trace":
            from .judge import trace_job

            result = trace_job(job)
        else:
            from .judge import judge_job

            result = judge_job(job)
        Path("result.msgpack.part").write_bytes(result)
    except MemoryError:
        os._exit(NO_MEMORY)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os._exit(NO_ROOM)
    Path("result.msgpack.part").rename("result.msgpack")


if __name__ == "__main__":
    main()
