"""Finds how much memory this process may still take: the least of what the system has free and what
each control group above it allows.

Both versions of cgroups count a file's pages to whoever read them first and take them back when
room is needed, so those count as free here. Reads files, decides nothing (executor/memory.py does).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED_BYTES = 1 << 62
"""Version 1 writes the largest whole number of pages where there is no limit."""
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
"""Kinds of file systems whose files are memory."""


@dataclass(frozen=True)
class Free:
    """Bytes that may be taken, and which limit says so. None: nothing here tells."""

    free_bytes: int | None
    reason: str


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: one file system and its mount point.

    `root`: the folder of the file system that lies at `point`.
    """

    device: str
    root: str
    point: str
    kind: str
    options: frozenset[str]


@dataclass(frozen=True)
class Group:
    """The memory of one control group.

    `limit_bytes` None: it sets none. `idle_bytes` of what is used are pages of files.
    """

    limit_bytes: int | None
    used_bytes: int
    idle_bytes: int

    @property
    def free_bytes(self) -> int | None:
        """Return what may be taken below its limit; None without one."""
        return (
            None
            if self.limit_bytes is None
            else max(0, self.limit_bytes - max(0, self.used_bytes - self.idle_bytes))
        )


def free_memory(root: Path = Path("/")) -> Free:
    """Measure the free memory as it is now; `root` is where the system's files are looked for."""
    available = parse_available(_read(root / "proc/meminfo"))
    found = [Free(available, "the system has no more")] if available is not None else []
    for folder, group in find_groups(root):
        if group.free_bytes is not None and group.limit_bytes is not None:
            found.append(
                Free(group.free_bytes, f"{folder} limits it to {group.limit_bytes >> 20} MiB")
            )
    return min(
        found, key=lambda each: each.free_bytes or 0, default=Free(None, "this system does not say")
    )


def find_groups(root: Path = Path("/")) -> Iterator[tuple[str, Group]]:
    """Yield the control groups of this process that count memory, with their folders.

    Its own comes first, then those around it.
    """
    mounts = parse_mounts(_read(root / "proc/self/mountinfo"))
    paths = parse_paths(_read(root / "proc/self/cgroup"))
    for mount in mounts:
        if mount.kind == "cgroup" and "memory" in mount.options:
            controller = "memory"
            parse = parse_version_1
        elif mount.kind == "cgroup2":
            controller = ""
            parse = parse_version_2
        else:
            continue
        for folder in folders_above(mount, paths[controller]) if controller in paths else ():
            group = parse(_files(root / folder.lstrip("/")))
            if group is not None:
                yield folder, group


def lies_in_memory(path: Path, root: Path = Path("/")) -> bool:
    """Return whether a file there takes memory instead of a disk's room."""
    try:
        device = path.stat().st_dev
    except OSError:
        return False
    name = f"{device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00}"
    return any(
        mount.device == name and mount.kind in IN_MEMORY
        for mount in parse_mounts(_read(root / "proc/self/mountinfo"))
    )


# --- parsing ---


def parse_available(meminfo: str) -> int | None:
    """Parse the bytes of MemAvailable in /proc/meminfo."""
    found = re.search(r"^MemAvailable:\s+(\d{1,15}) kB$", meminfo, re.MULTILINE | re.ASCII)
    return int(found[1]) << 10 if found else None


def parse_paths(cgroup: str) -> dict[str, str]:
    """Parse /proc/self/cgroup: the path of this process by controller; "" is version 2."""
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths |= dict.fromkeys(parts[1].split(","), parts[2])
    return paths


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Parse /proc/self/mountinfo; lines of another form are left out."""
    mounts = []
    for line in mountinfo.splitlines():
        before, found, after = line.partition(" - ")
        first = before.split(" ")
        last = after.split(" ")
        if found and len(first) >= 6 and len(last) >= 3:
            mounts.append(
                Mount(
                    first[2],
                    _unescaped(first[3]),
                    _unescaped(first[4]),
                    last[0],
                    options=frozenset(last[2].split(",")),
                )
            )
    return mounts


def folders_above(mount: Mount, path: str) -> list[str]:
    """List the folders of a group and those around it, as far as the mount shows them."""
    inside = PurePosixPath(path)
    if ".." in inside.parts or not inside.is_relative_to(mount.root):
        return [mount.point]  # a container sees its own group at the top of the mount
    below = PurePosixPath(mount.point) / inside.relative_to(mount.root)
    return [str(folder) for folder in (below, *below.parents) if folder.is_relative_to(mount.point)]


def parse_version_1(file: Callable[[str], str]) -> Group | None:
    """Read a version 1 group from the texts of its files."""
    limit = _number(file("memory.limit_in_bytes"))
    used = _number(file("memory.usage_in_bytes"))
    if limit is None or used is None:
        return None
    statistics = parse_statistics(file("memory.stat"))
    idle = sum(statistics.get(f"total_{kind}_file", 0) for kind in ("active", "inactive"))
    return Group(limit if limit < UNLIMITED_BYTES else None, used, idle)


def parse_version_2(file: Callable[[str], str]) -> Group | None:
    """Read a version 2 group from the texts of its files.

    memory.high counts as a limit too: above it the process would only crawl.
    """
    used = _number(file("memory.current"))
    if used is None:
        return None
    statistics = parse_statistics(file("memory.stat"))
    idle = sum(
        statistics.get(kind, 0) for kind in ("active_file", "inactive_file", "slab_reclaimable")
    )
    limits = [
        limit
        for name in ("memory.max", "memory.high")
        if (limit := _number(file(name))) is not None
    ]
    return Group(min(limits, default=None), used, idle)


def parse_statistics(text: str) -> dict[str, int]:
    """Parse memory.stat: a name and a number a line."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return {name: number for name, _, value in pairs if (number := _number(value)) is not None}


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,20}\s*", text, re.ASCII) else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), text)


def _files(folder: Path) -> Callable[[str], str]:
    return lambda name: _read(folder / name)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
