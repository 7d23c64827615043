"""A run goes on over the bytes of the base that it began with, or not at all.

    base.json     each file's name, size, time and sha-256, written before the first step

Files whose size and time are as they were are not read again. Loads nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from ..errors import BadRun
from ..keeping import keep

FILE = "base.json"
CONFIG = "config.json"
WEIGHTS = (".safetensors", ".bin")
MOST_BYTES = 1 << 20


class Pinned(msgspec.Struct, frozen=True):
    """A file of a base."""

    name: str
    size: int
    time_ns: int
    sha256: str = ""


def pin(run: Path, base: Path) -> None:
    """Remember the base's files, or check that they are what was remembered. Raises BadRun."""
    known = _remembered(run)
    files = [_hashed(path, known) for path in _files(base)]
    if known:
        before = {each.name: (each.size, each.sha256) for each in known}
        now = {each.name: (each.size, each.sha256) for each in files}
        names = sorted(name for name in before | now if before.get(name) != now.get(name))
        if names:
            raise BadRun(_changed(base, names))
    if tuple(files) != known:
        keep(run / FILE, msgspec.json.encode(files))


def check(run: Path, base: Path) -> None:
    """Check by sizes and times that nobody changed the base since `pin`. Raises BadRun."""
    now = {each.name: each for each in map(_seen, _files(base))}
    names = [
        each.name
        for each in _remembered(run)
        if (found := now.get(each.name)) is None
        or (found.size, found.time_ns) != (each.size, each.time_ns)
    ]
    if names:
        raise BadRun(_changed(base, names))


def _changed(base: Path, names: list[str]) -> str:
    return (
        f"the base {base} is not what this run began with ({', '.join(names)} changed); put that"
        " one back and start the run again, which goes on from its last checkpoint, or make a new"
        " run over this base"
    )


def _files(base: Path) -> list[Path]:
    if base.is_dir():
        found = sorted(
            path for path in base.iterdir() if path.suffix in WEIGHTS or path.name == CONFIG
        )
    else:
        found = [base] if base.is_file() else []
    if not found:
        raise BadRun(
            f"the base {base} is not there; put it back and start the run again, or make a new run"
            " over the base where it lies now"
        )
    return found


def _seen(path: Path) -> Pinned:
    about = path.stat()
    return Pinned(path.name, about.st_size, about.st_mtime_ns)


def _hashed(path: Path, known: tuple[Pinned, ...]) -> Pinned:
    """Return a file with its digest, the one known where neither size nor time changed."""
    seen = _seen(path)
    for each in known:
        if (each.name, each.size, each.time_ns) == (seen.name, seen.size, seen.time_ns):
            return each
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return msgspec.structs.replace(seen, sha256=digest)


def _remembered(run: Path) -> tuple[Pinned, ...]:
    path = run / FILE
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MOST_BYTES), type=tuple[Pinned, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        raise BadRun(f"{path}: {error}; delete it, if the base is the one it was") from error
