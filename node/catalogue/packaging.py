"""Turns a PEFT folder on disk into a signed manifest and its blocks.

Decides what a folder must contain. Reads files; knows no network and no engine.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine.messages import MAX_ADAPTER_CONFIG_BYTES, MAX_ADAPTER_WEIGHTS_BYTES
from engine.verdict import Calibration
from p2p.blocks.limits import BLOCK_BYTES
from p2p.cid import Cid
from p2p.errors import InvalidInput
from p2p.names import check_name, version_name
from proofs.hextext import from_hex
from proofs.manifest import (
    Contributor,
    File,
    Manifest,
    ManifestError,
    build_manifest,
    parse_manifest,
)
from proofs.registration import Registration
from proofs.royalty import find_unpaid, pay_parents
from proofs.signing import Signer

from ..api.adapters import PushTold
from ..errors import AdapterError
from .about import ABOUT_FILE, MAX_ABOUT_BYTES, About
from .origins import MAX_ORIGIN_BYTES, find_ancestors, find_origin_files, read_origin, read_parents
from .royalties import unpaid_by
from .texts import check_texts

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
DESCRIPTION_FILE = "lorikeet.toml"
VERIFICATION_FILE = "verification.json"
"""Of `python -m engine calibrate`: how far honest answers miss when they are replayed.

A package may lack it.
"""
MAX_FILE_BYTES: Mapping[str, int] = {
    CONFIG_FILE: MAX_ADAPTER_CONFIG_BYTES,
    WEIGHTS_FILE: MAX_ADAPTER_WEIGHTS_BYTES,
    VERIFICATION_FILE: 4096,
    ABOUT_FILE: MAX_ABOUT_BYTES,
    **MAX_ORIGIN_BYTES,
}
"""The files that an adapter may have, and the most bytes of each (docs/protocols/manifest.md)."""


@dataclass(frozen=True)
class BaseIdentity:
    """The base that an adapter is made for."""

    base: bytes
    tokenizer_hash: bytes
    template_hash: bytes


@dataclass(frozen=True)
class Package:
    """An adapter ready to be offered. `states_version`: its folder says which version it is."""

    manifest_bytes: bytes
    manifest: Manifest
    paths: tuple[Path, ...]
    about_bytes: bytes = b""
    states_version: bool = False

    def blocks(self) -> Iterator[bytes]:
        """Yield every block of every file, in order."""
        for path in self.paths:
            yield from _blocks(path)
        if self.about_bytes:
            yield self.about_bytes

    def equals(self, other: Manifest) -> bool:
        """Return whether another manifest says the same, but for its version and its date."""
        own = self.manifest
        return type(own) is type(other) and all(
            getattr(own, field) == getattr(other, field)
            for field in own.__struct_fields__
            if field not in ("adapter_version", "created_at", "signature")
        )

    def signed_before(self, manifest_bytes: bytes) -> Package:
        """Return this package under a manifest that says the same and was published before."""
        manifest = parse_manifest(manifest_bytes)
        return replace(self, manifest_bytes=manifest_bytes, manifest=manifest)


def load_package(
    folder: Path,
    secret: bytes,
    base: BaseIdentity,
    told: PushTold | None = None,
    *,
    next_version: Callable[[str], str] = lambda name: "1",
    owed: Sequence[Registration] = (),
) -> Package:
    """Read and sign a folder with adapter_config.json, adapter_model.safetensors and lorikeet.toml;
    what it was made of, too, where it says that (origins.py).

    `next_version` gives a name's version where the folder states none. `owed`: the registrations of
    what it is made of; who they belong to become contributors, as far as nothing pays them yet.
    Raises AdapterError that names what is missing.
    """
    paths: tuple[Path, ...] = (folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    for path in paths:
        if not path.is_file():
            raise AdapterError(
                f"{path} is missing; a PEFT folder has {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
        _check_size(path)
    _check_config(paths[0])
    if (folder / VERIFICATION_FILE).is_file():
        read_calibration(folder / VERIFICATION_FILE)
        paths = (*paths, folder / VERIFICATION_FILE)
    for path in find_origin_files(folder):
        _check_size(path)
        paths = (*paths, path)
    about = _describe(folder, told or PushTold())
    try:
        name = check_name(str(about["name"]))
        version = str(about["version"]) if "version" in about else next_version(name)
        version_name(name, version)
        page = _about(about)
        sign = partial(
            build_manifest,
            Signer(secret),
            name=name,
            adapter_version=version,
            base=base.base,
            tokenizer_hash=base.tokenizer_hash,
            template_hash=base.template_hash,
            licence=str(about.get("licence", "")),
            source=str(about.get("source", "")),
            created_at=int(time.time()),
            files=[*(_file(path) for path in paths), *_page_file(page)],
            origin=read_origin(folder, about),
            parents=read_parents(folder),
        )
        contributors = [_contributor(entry) for entry in about.get("contributors", [])]
        data = sign(contributors=contributors)
        manifest = parse_manifest(data)
        if find_unpaid(manifest, owed) is not None:
            data = _pay_parents(manifest, contributors, owed, sign)
            manifest = parse_manifest(data)
        check_texts(manifest, folder)
        return Package(data, manifest, paths, page, states_version="version" in about)
    except (ManifestError, InvalidInput, msgspec.ValidationError) as error:
        raise AdapterError(f"{folder / DESCRIPTION_FILE}: {error}") from error


def made_of(folder: Path, told: PushTold) -> tuple[bytes, ...]:
    """Return the digests of the manifests of what a folder's adapter was made of, as the folder
    says it. Raises AdapterError.
    """
    return find_ancestors(folder, _describe(folder, told))


def _pay_parents(
    manifest: Manifest,
    contributors: Sequence[Contributor],
    owed: Sequence[Registration],
    sign: Callable[..., bytes],
) -> bytes:
    """Sign a manifest anew so that it pays what it owes. Raises AdapterError where only its creator
    can see to that: whose texts it names, and what was merged with which weights, nobody adds to.
    """
    is_attributed = manifest.made_of is not None and manifest.made_of.attribution is not None
    if not manifest.merged_of and not is_attributed:
        data = sign(contributors=pay_parents(contributors, manifest.creator_address, owed))
        manifest = parse_manifest(data)
        assert find_unpaid(manifest, owed) is None, "what was written pays everybody"
        return data
    unpaid = find_unpaid(manifest, owed)
    assert unpaid is not None
    raise unpaid_by(manifest, unpaid)


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{path} describes no LoRA adapter (peft_type)")


def read_calibration(path: Path) -> Calibration:
    """Read how far honest answers of an adapter miss in a replay.

    Raises AdapterError when the file is malformed.
    """
    _check_size(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise AdapterError(
            f"{path} holds no limits ({error}); write it again: python -m engine calibrate"
        ) from error


def check_files(manifest: Manifest) -> None:
    """Raise AdapterError for a file that an adapter does not have, or that is too large.

    A manifest chooses no path: only the names in MAX_FILE_BYTES pass.
    """
    for file in manifest.files:
        if file.name not in MAX_FILE_BYTES:
            raise AdapterError(
                f"the manifest names a file {file.name!r}; an adapter has"
                f" {', '.join(MAX_FILE_BYTES)}"
            )
        if file.size > MAX_FILE_BYTES[file.name]:
            raise AdapterError(
                f"{file.name} of adapter {manifest.name!r} has {file.size} bytes; the limit is"
                f" {MAX_FILE_BYTES[file.name]}"
            )


def _check_size(path: Path) -> None:
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES[path.name]:
        raise AdapterError(
            f"{path} has {size_bytes} bytes; the limit is {MAX_FILE_BYTES[path.name]}"
        )


def _describe(folder: Path, told: PushTold) -> dict[str, Any]:
    path = folder / DESCRIPTION_FILE
    try:
        about = tomllib.loads(path.read_text())
    except FileNotFoundError:
        about = {"name": folder.name.lower()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path}: {error}") from error
    said = {
        "description": told.description,
        "languages": list(told.languages),
        "licence": told.licence,
        "name": told.name,
        "source": told.source,
    }
    about |= {field: value for field, value in said.items() if value}
    if not about.get("name"):
        raise AdapterError(f"{path} gives the adapter no name")
    return about


def _about(about: Mapping[str, Any]) -> bytes:
    """Write the page that describes the adapter; nothing where there is nothing to say."""
    said = {field: about[field] for field in ("description", "languages") if about.get(field)}
    return msgspec.json.encode(msgspec.convert(said, About)) if said else b""


def _page_file(page: bytes) -> list[File]:
    return [File(ABOUT_FILE, len(page), [(Cid.of(page).digest, len(page))])] if page else []


def _contributor(entry: dict[str, Any]) -> Contributor:
    try:
        address = from_hex(str(entry["address"]))
        name, source, licence = (str(entry.get(key, "")) for key in ("name", "source", "licence"))
        return Contributor(address, name, source, licence, int(entry.get("weight", 1)))
    except (KeyError, ValueError, TypeError) as error:
        raise AdapterError(
            f"a contributor needs an address (0x…) and a whole weight: {error}"
        ) from error


def _file(path: Path) -> File:
    blocks = [(Cid.of(block).digest, len(block)) for block in _blocks(path)]
    return File(path.name, sum(size for _, size in blocks), blocks)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
