"""Becomes the command that it is given, bound to die with its parent.

Run as a file, so that it starts in milliseconds; imports no package and knows no network.

A parent that is killed cannot clean up, but the kernel can: PR_SET_PDEATHSIG survives exec. It is
set here rather than between the parent's fork and exec, where Python allows nothing that may take a
lock.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run `child.py PARENT_PID COMMAND…`."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
