"""Writes the systemd unit that runs a daemon. Pure; starts and installs nothing.

What the unit forbids its daemon does not need. It keeps the machine's /tmp, in which a lock keeps
two daemons from signing with one key, and leaves memory writable and executable: Triton and
torch compile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NAME = "lorikeet"
STOP_DEADLINE_S = 15  # the daemon ends within 5
# What an unprivileged manager can grant too.
HARDENED = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
# documents are taken in by processes without a network
RestrictNamespaces=user net
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""
OF_THE_SYSTEM = """\
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home_access}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ReadWritePaths={paths}
"""


@dataclass(frozen=True)
class Unit:
    """What is to run. `user` None: the unit of whoever installs it (systemctl --user); else one of
    the system's that runs as that user.
    """

    python: Path
    home: Path
    user: str | None = None


def unit_text(unit: Unit) -> str:
    """The whole unit. ValueError for a path that a unit cannot name."""
    command = " ".join(
        quoted(word) for word in (str(unit.python), "-m", "node", "up", "--home", str(unit.home))
    )
    hardened = HARDENED
    as_user = ""
    if unit.user is not None:
        as_user = f"User={_user(unit.user)}\n"
        below_home = unit.home.is_relative_to("/home") or unit.home.is_relative_to("/root")
        hardened += OF_THE_SYSTEM.format(
            home_access="read-only" if below_home or _is_in_a_home(unit.python) else "yes",
            paths=" ".join(quoted(path) for path in (str(unit.home), "/tmp")),
        )
    return f"""\
[Unit]
Description=Lorikeet, a node that serves adapters
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
{as_user}ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Environment=PYTHONUNBUFFERED=1
Restart=on-failure
RestartSec=5
TimeoutStopSec={STOP_DEADLINE_S}
LimitNOFILE=65536
# HOME/log turns over by itself; of what is printed the journal keeps some
LogRateLimitIntervalSec=30
LogRateLimitBurst=1000
{hardened}
[Install]
WantedBy={"default.target" if unit.user is None else "multi-user.target"}
"""


def quoted(word: str) -> str:
    """Write a word so that systemd reads the same. ValueError for one with a line's end in it."""
    if not word or re.search(r"[\x00-\x1f\x7f]", word):
        raise ValueError(f"{word!r} cannot stand in a unit; use another path")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + escaped.replace("$", "$$") + '"'


def _user(name: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_-]{0,30}", name):
        raise ValueError(f"{name!r} is no user's name")
    return name


def _is_in_a_home(path: Path) -> bool:
    return path.is_relative_to("/home") or path.is_relative_to("/root")
