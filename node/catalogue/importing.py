"""Finds adapters that lie on this disk already: in a hub's cache, or one PEFT folder.

    CACHE/models--ORG--NAME/refs/main → snapshots/REVISION/… → ../../blobs/HASH

Decides what is there, under which name each could be offered, and why one cannot be. Publishes
nothing and copies nothing: publishing.py does that with those that were chosen.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..api.adapters import FoundInfo, FoundState, PushTold
from ..errors import BadRequest
from .card import load_card
from .fitting import BaseShape, fit
from .packaging import CONFIG_FILE, DESCRIPTION_FILE, WEIGHTS_FILE

MAX_REPOS = 10_000
MAX_ADAPTERS_PER_REPO = 64
MAX_NAME_CHARS = 48
REPO_PREFIX = "models--"
BASE_CONFIG = "config.json"


def find_all(path: Path, base: BaseShape) -> list[FoundInfo]:
    """List what a hub's cache, one of its repositories, or a PEFT folder holds.

    Reads the disk. Raises BadRequest where it is none of these.
    """
    if (path / CONFIG_FILE).is_file():
        return [_describe(path, path.name, "", base)]
    repos = [path] if path.name.startswith(REPO_PREFIX) else _repos(path)
    if not repos:
        raise BadRequest(
            f"{path} is no hub's cache ({REPO_PREFIX}ORG--NAME) and no PEFT folder ({CONFIG_FILE})"
        )
    found = [one for repo in repos[:MAX_REPOS] for one in _find_in_repo(repo, base)]
    times = Counter(one.name for one in found)
    return [one if times[one.name] == 1 else _renamed(one) for one in found]


def _repos(path: Path) -> list[Path]:
    folders = (path, path / "hub")  # HF_HUB_CACHE, HF_HOME
    lists = [sorted(one for one in at.glob(f"{REPO_PREFIX}*") if one.is_dir()) for at in folders]
    return lists[0] or lists[1]


def _find_in_repo(repo: Path, base: BaseShape) -> Iterator[FoundInfo]:
    snapshot = _snapshot(repo)
    if snapshot is None:
        return
    name = repo.name.removeprefix(REPO_PREFIX).replace("--", "/")
    levels = (CONFIG_FILE, f"*/{CONFIG_FILE}", f"*/*/{CONFIG_FILE}")
    configs = [path for level in levels for path in sorted(snapshot.glob(level))]
    for config in configs[:MAX_ADAPTERS_PER_REPO]:
        inside = config.parent.relative_to(snapshot).as_posix()
        text = name if inside == "." else f"{name}/{inside}"
        yield _describe(config.parent, text, snapshot.name, base)
    if not configs:
        yield _describe_other(snapshot, name)


def _snapshot(repo: Path) -> Path | None:
    """Return the snapshot that `main` means, else the newest."""
    try:
        revision = (repo / "refs" / "main").read_text()[:80].strip()
        if revision and "/" not in revision and (repo / "snapshots" / revision).is_dir():
            return repo / "snapshots" / revision
    except OSError:
        pass
    snapshots = [path for path in (repo / "snapshots").glob("*") if path.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def _describe(folder: Path, repo: str, revision: str, base: BaseShape) -> FoundInfo:
    fits = fit(folder, base)
    state: FoundState = "fits" if not fits.reason else "refused" if fits.is_sure else "doubtful"
    told = PushTold()
    described = _described_name(folder)
    if described is None:  # else lorikeet.toml says everything
        card = load_card(folder)
        source = f"{repo}@{revision}" if revision else ""
        told = PushTold(
            languages=card.languages, licence=card.licence, name=name_of(repo), source=source
        )
    return FoundInfo(
        repo,
        revision,
        state,
        str(folder),
        name=told.name if described is None else described,
        size_bytes=_size_of([folder / CONFIG_FILE, folder / WEIGHTS_FILE]),
        reason=fits.reason,
        told=told,
    )


def _described_name(folder: Path) -> str | None:
    """Return the name in a folder's lorikeet.toml, None where there is none."""
    try:
        return str(tomllib.loads((folder / DESCRIPTION_FILE).read_text()).get("name", ""))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ""  # publishing says what is wrong with it


def _describe_other(snapshot: Path, repo: str) -> FoundInfo:
    weights = [*snapshot.glob("*.safetensors"), *snapshot.glob("*.gguf")]
    files = [path for path in snapshot.rglob("*") if path.is_file()][:MAX_REPOS]
    state: FoundState = "other"
    reason = "neither an adapter nor a base"
    where = snapshot
    if weights and (weights[0].suffix == ".gguf" or (snapshot / BASE_CONFIG).is_file()):
        where = weights[0] if weights[0].suffix == ".gguf" else snapshot
        state = "base"
        reason = f"to serve it, base_path = {where}"
    return FoundInfo(
        repo,
        snapshot.name,
        state,
        str(where),
        name="",
        size_bytes=_size_of(files),
        reason=reason,
        told=PushTold(licence=load_card(snapshot).licence),
    )


def name_of(repo: str) -> str:
    """Return a name under which a repository's adapter can be published."""
    last = repo.rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).lstrip("._-")[:MAX_NAME_CHARS] or "adapter"


def _renamed(one: FoundInfo) -> FoundInfo:
    """Put more of the repository into a name that another one has too."""
    if not one.told.name:
        return one
    name = name_of(one.repo.replace("/", "-"))
    return replace(one, name=name, told=replace(one.told, name=name))


def _size_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())
