"""Makes the card of a base whose files are here: reads them once, lists their blocks, and writes
its tokenizer as any client can load it.

Remembers what it read until a file changes. Decides what a card says; asks nobody.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.base_files import identity_of as identity_of_weights
from engine.base_files import read_gguf_fields, weight_files
from engine.errors import ModelError
from p2p.cid import Cid
from proofs.basecard import INDEX_FILE, TOKENIZER_FILE, Described, build_card
from proofs.baseindex import BLOCK_BYTES, BaseFile, build_index, is_side_file, parse_index
from proofs.errors import BaseCardError, BaseIndexError
from proofs.manifest import File
from proofs.signing import Signer

from ..answering.tokenizer import BaseTokenizer, load_tokenizer
from ..api.status import BaseOrigin
from ..catalogue.book import write_whole
from ..errors import ConfigError
from .loading import Base, identity_of
from .shelf import CARD_FILE, Place, Shelf, stamps_of

MAX_TEXT_CHARS = 512
MAX_README_BYTES = 64 << 10
LICENCE_LINE = re.compile(r"^license:\s*(\S[^\n]*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Hashed:
    """A file that was read: its blocks, and the sha-256 of the whole."""

    file: BaseFile
    digest: bytes


def load_own(
    path: Path, origin: BaseOrigin, shelf: Shelf, signer: Signer, log: Callable[[str], None]
) -> Base:
    """Read a base at a path of one's own, and its card, which is made the first time.

    Reading the weights takes a few tenths of a second per 100 MB. Raises ConfigError.
    """
    tokenizer = load_tokenizer(path)
    try:
        place = shelf.find_place(path)
        if place is None:
            place = _look_at(path, tokenizer, shelf=shelf, signer=signer, log=log)
    except (ModelError, OSError) as error:
        raise ConfigError(f"cannot read the base at {path}: {error}; set base_path") from error
    dossier = shelf.find_own(place.base, path)
    return Base(identity_of(place.base, tokenizer), tokenizer, origin, path, dossier)


def _look_at(
    path: Path,
    tokenizer: BaseTokenizer,
    *,
    shelf: Shelf,
    signer: Signer,
    log: Callable[[str], None],
) -> Place:
    """Read all files of a base, describe it, and remember both."""
    paths = files_of(path)
    stamps = stamps_of(path, [file.name for file in paths])  # before: what changes is read again
    hashed = [_hash(file) for file in paths]
    weights = {file.name for file in weight_files(path)}
    base = identity_of_weights(
        [(one.file.name, one.digest) for one in hashed if one.file.name in weights]
    )
    shelf.forget_own(base)
    try:
        _describe(path, base, [one.file for one in hashed], tokenizer, shelf=shelf, signer=signer)
    except (BaseCardError, BaseIndexError) as error:
        log(f"base: there is no card of {path}, so nobody can fetch it from here: {error}")
    place = Place(str(path.absolute()), base, stamps)
    shelf.note_place(place)
    return place


def files_of(path: Path) -> list[Path]:
    """List the files of a base, weights and what belongs to them. Raises ModelError."""
    weights = weight_files(path)
    if not path.is_dir():
        return weights
    beside = [file for file in path.iterdir() if is_side_file(file.name) and file.is_file()]
    return sorted({*weights, *(file for file in beside if file.stat().st_size)})


def _hash(path: Path) -> Hashed:
    """Hash a file's blocks and the whole of it, in one pass."""
    whole = hashlib.sha256()
    digests = bytearray()
    size_bytes = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            whole.update(block)
            digests += hashlib.sha256(block).digest()
            size_bytes += len(block)
    return Hashed(BaseFile(path.name, size_bytes, bytes(digests)), whole.digest())


def _describe(
    path: Path,
    base: bytes,
    files: Sequence[BaseFile],
    tokenizer: BaseTokenizer,
    *,
    shelf: Shelf,
    signer: Signer,
) -> None:
    """Write card, index and tokenizer. Raises BaseCardError, BaseIndexError."""
    index = build_index(files)
    folder = shelf.own_folder(base)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / TOKENIZER_FILE)
    licence, source = _origin_of(path)
    about = Described(
        name=_plain(tokenizer.name),
        base=base,
        format=parse_index(index).format,
        licence=licence[:MAX_TEXT_CHARS],
        source=source[:MAX_TEXT_CHARS],
        size_bytes=sum(file.size for file in files),
        index=cut(INDEX_FILE, index),
        tokenizer=cut(TOKENIZER_FILE, (folder / TOKENIZER_FILE).read_bytes()),
        tokenizer_hash=tokenizer.tokenizer_hash,
        template=tokenizer.template,
        tool_template=tokenizer.tool_template,
        specials=tokenizer.specials,
        stop_ids=tokenizer.stop_ids,
    )
    card = build_card(signer, about, int(time.time()))
    write_whole(folder / INDEX_FILE, index)
    write_whole(folder / CARD_FILE, card)


def cut(name: str, data: bytes) -> File:
    """Return a small file as a card lists it."""
    pieces = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
    return File(name, len(data), [(Cid.of(piece).digest, len(piece)) for piece in pieces])


def _plain(name: str) -> str:
    """Return a name as a card may hold it."""
    return re.sub("[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:64] or "base"


def _origin_of(path: Path) -> tuple[str, str]:
    """Return licence and source, as far as the base's own files say them."""
    if path.is_dir():
        readme = path / "README.md"
        text = readme.read_bytes()[:MAX_README_BYTES] if readme.is_file() else b""
        found = LICENCE_LINE.search(text.decode(errors="replace"))
        return (found[1] if found else ""), ""
    fields = read_gguf_fields(path)
    sources = ("general.source.url", "general.url", "general.base_model.0.repo_url")
    source = next((str(fields[name]) for name in sources if name in fields), "")
    return str(fields.get("general.license", "")), source
