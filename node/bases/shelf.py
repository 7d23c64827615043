"""Where a daemon keeps what it knows of bases, under <home>/bases:

    own/DIGEST/    card, index, tokenizer.json of a base whose files lie elsewhere; and `place`:
                   where, and the stamps by which a change is seen
    DIGEST/        the same of a base that came from other nodes, and `files/`; `.files/` while
                   they are on their way

Reads and writes the disk; asks nobody, and does not know which base is wanted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from p2p.blocks.draft import Layout
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.basecard import INDEX_FILE, TOKENIZER_FILE, BaseCard, parse_card
from proofs.baseindex import BaseIndex, parse_index
from proofs.errors import BaseCardError, BaseIndexError

from ..catalogue.book import write_whole

CARD_FILE = "card"
PLACE_FILE = "place"
FILES = "files"
DRAFT = ".files"

Stamp = tuple[str, int, int, int]
"""A file's name, number, size and time of change: another content has another one."""


class Place(msgspec.Struct, frozen=True):
    """Where a base's files lie, and how they were when they were hashed."""

    path: str
    base: bytes
    stamps: list[Stamp]


@dataclass(frozen=True)
class Dossier:
    """What is here of one base: its card and tokenizer in `folder`; its index and, in `files`, its
    files, or None.
    """

    folder: Path
    cid: Cid
    card: BaseCard
    index: BaseIndex | None = None
    files: Path | None = None

    @property
    def tokenizer_path(self) -> Path:
        """Return where the card's tokenizer lies."""
        return self.folder / TOKENIZER_FILE

    @property
    def card_path(self) -> Path:
        """Return where the card lies."""
        return self.folder / CARD_FILE

    @property
    def weights(self) -> Path | None:
        """Return what an engine loads: a GGUF file, or a folder."""
        if self.index is None or self.files is None:
            return None
        is_one_file = self.index.format == "gguf"
        return self.files / self.index.files[0].name if is_one_file else self.files

    def layout(self) -> Layout:
        """Return the blocks that are here, by file."""
        layout = {self.tokenizer_path: self.card.tokenizer.blocks}
        if self.index is not None and self.files is not None:
            layout[self.folder / INDEX_FILE] = self.card.index.blocks
            layout |= {self.files / file.name: file.blocks for file in self.index.files}
        return layout

    def give_out(self, store: BlockStore) -> None:
        """Give all its blocks to others, out of the files where they lie."""
        store.put(self.card_path.read_bytes())
        store.adopt(self.layout())


class Shelf:
    """The folder of one daemon's bases."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # --- bases whose files lie elsewhere ---

    def find_place(self, path: Path) -> Place | None:
        """Return what was hashed at a path, if it is still as it was then."""
        for known in self._folder.glob(f"own/*/{PLACE_FILE}"):
            place = _read_place(known)
            if place is None:
                continue
            if place.path == str(path.absolute()) and has_stamps(path, place.stamps):
                return place
        return None

    def note_place(self, place: Place) -> None:
        """Remember what was hashed."""
        folder = self.own_folder(place.base)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PLACE_FILE, msgspec.msgpack.encode(place))

    def forget_own(self, base: bytes) -> None:
        """Have nothing of what was said of a base before."""
        shutil.rmtree(self.own_folder(base), ignore_errors=True)

    def own_folder(self, base: bytes) -> Path:
        """Return where card, index and tokenizer of a base of one's own lie."""
        return self._folder / "own" / base.hex()

    def find_own(self, base: bytes, path: Path) -> Dossier | None:
        """Return what is known of a base at a path of one's own; None where it has no card yet."""
        dossier = _read(self.own_folder(base), base)
        if dossier is None or dossier.index is None:
            return None
        return replace(dossier, files=path if path.is_dir() else path.parent)

    # --- bases that came from other nodes ---

    def fetched_folder(self, base: bytes) -> Path:
        """Return where a base from others lies."""
        return self._folder / base.hex()

    def find_fetched(self, base: bytes, cid: Cid | None = None) -> Dossier | None:
        """Return what is here of a base from others, under that card or any; None without one."""
        folder = self.fetched_folder(base)
        dossier = _read(folder, base)
        if dossier is None or cid not in (None, dossier.cid):
            return None
        place = _read_place(folder / PLACE_FILE)
        is_whole = (
            dossier.index is not None
            and place is not None
            and [name for name, *_ in place.stamps] == names_of(dossier.index)
            and has_stamps(folder / FILES, place.stamps)
        )
        return replace(dossier, files=folder / FILES) if is_whole else dossier

    def put_card(self, base: bytes, data: bytes) -> None:
        """Keep a card, and what it shares with the one before."""
        folder = self.fetched_folder(base)
        self.reopen(base)  # its index may name other files
        (folder / INDEX_FILE).unlink(missing_ok=True)
        (folder / TOKENIZER_FILE).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / CARD_FILE, data)

    def finish(self, base: bytes, index: BaseIndex) -> None:
        """Make the draft of a base's files, which was found right, the files."""
        draft = self.draft(base)
        for path in draft.iterdir():
            if path.name not in {file.name for file in index.files}:
                path.unlink()
        folder = self.fetched_folder(base)
        shutil.rmtree(folder / FILES, ignore_errors=True)
        place = Place(str(folder / FILES), base, stamps_of(draft, names_of(index)))
        draft.rename(folder / FILES)
        write_whole(folder / PLACE_FILE, msgspec.msgpack.encode(place))

    def draft(self, base: bytes) -> Path:
        """Return where a base's files are put together."""
        return self.fetched_folder(base) / DRAFT

    def reopen(self, base: bytes) -> None:
        """Have files that broke, or were never found right, mended block by block."""
        folder = self.fetched_folder(base)
        if (folder / FILES).is_dir() and not (folder / DRAFT).exists():
            (folder / FILES).rename(folder / DRAFT)

    def drop(self, base: bytes) -> None:
        """Leave nothing of a base from others."""
        shutil.rmtree(self.fetched_folder(base), ignore_errors=True)


def _read(folder: Path, base: bytes) -> Dossier | None:
    """Read card, tokenizer and index. What does not hold together is not there."""
    try:
        data = (folder / CARD_FILE).read_bytes()
        card = parse_card(data)
        if card.base != base or not _fits(folder / TOKENIZER_FILE, card.tokenizer.blocks):
            return None
        dossier = Dossier(folder, Cid.of(data), card)
        if not _fits(folder / INDEX_FILE, card.index.blocks):
            return dossier
        return replace(dossier, index=parse_index((folder / INDEX_FILE).read_bytes()))
    except (OSError, BaseCardError, BaseIndexError):
        return None


def _read_place(path: Path) -> Place | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Place)
    except (OSError, msgspec.DecodeError):
        return None


def _fits(path: Path, blocks: Sequence[tuple[bytes, int]]) -> bool:
    """Say whether a small file is made of these blocks."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    at = 0
    for digest, size in blocks:
        if not Cid(digest).matches(data[at : at + size]):
            return False
        at += size
    return at == len(data)


def names_of(index: BaseIndex) -> list[str]:
    """List the names of a base's files."""
    return [file.name for file in index.files]


def stamps_of(path: Path, names: Iterable[str]) -> list[Stamp]:
    """Return the stamps of files in a folder, or of that one file. Raises OSError."""
    folder = path if path.is_dir() else path.parent
    return [_stamp(folder / name) for name in sorted(names)]


def has_stamps(path: Path, stamps: Sequence[Stamp]) -> bool:
    """Say whether files are as they were."""
    try:
        return stamps_of(path, [name for name, *_ in stamps]) == list(stamps)
    except OSError:
        return False


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns
