"""A hub's cache as huggingface_hub lays it out: blobs, and snapshots of links to them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def add_repo(cache: Path, repo: str, source: Path, *, revision: str = "a" * 40) -> Path:
    """Put a folder's files into a cache; returns the snapshot."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    for inner in ("blobs", "refs"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    snapshot = folder / "snapshots" / revision
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        blob = folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def disk_bytes(*folders: Path) -> int:
    """What files take of the disk, each one once however many names it has."""
    files = {}
    for folder in folders:
        for path in folder.rglob("*"):
            status = path.lstat()
            if path.is_file() and not path.is_symlink():
                files[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(files.values())
