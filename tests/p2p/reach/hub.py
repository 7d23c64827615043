"""An internet with a delay, in one process: a TUN device in each network namespace, and packets
passed between them some time later. Run as `python -m tests.p2p.reach.hub DELAY_S NAMESPACE=IP …`;
prints one line when all devices are there.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import selectors
import socket
import struct
import subprocess
import sys
import time

_TUNSETIFF = 0x400454CA
_IFF_TUN_WITHOUT_HEADER = 0x1001
_CLONE_NEWNET = 0x40000000


def enter(namespace: str) -> None:
    """Move this thread into a network namespace."""
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def open_tun(namespace: str, ip: str) -> int:
    """Make the device `net0` with this address in a namespace; return its descriptor."""
    enter(namespace)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", b"net0", _IFF_TUN_WITHOUT_HEADER))
    for command in (f"addr add {ip}/24 dev net0", "link set net0 txqueuelen 4000 up"):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def main() -> None:
    delay_s = float(sys.argv[1])
    ends = [argument.split("=") for argument in sys.argv[2:]]
    tuns = {socket.inet_aton(ip): open_tun(namespace, ip) for namespace, ip in ends}
    print("up", flush=True)
    selector = selectors.DefaultSelector()
    for tun in tuns.values():
        selector.register(tun, selectors.EVENT_READ)
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        timeout = None if not waiting else max(0.0, waiting[0][0] - time.monotonic())
        for key, _ in selector.select(timeout):
            for _ in range(64):
                try:
                    packet = os.read(key.fd, 2000)
                except BlockingIOError:
                    break
                target = tuns.get(packet[16:20])
                if target is not None and packet[0] >> 4 == 4:
                    count += 1
                    heapq.heappush(waiting, (time.monotonic() + delay_s, count, target, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, target, packet = heapq.heappop(waiting)
            os.write(target, packet)


if __name__ == "__main__":
    main()
