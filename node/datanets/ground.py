"""One datanet as this node has it: the log on the disk and the state that follows from it.

A row is written first and believed then. Speaks to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import trio

from p2p.blocks.store import BlockStore
from proofs.datanet.entries import Contribution, Entry, Verdict, digest_of, parse_entry
from proofs.datanet.log import apply, begin, check_fork, check_row, register, take_row
from proofs.datanet.state import State
from proofs.errors import DatanetError
from proofs.signing import Signer

from ..catalogue.book import write_whole
from ..errors import DatanetRefused
from .store import GIVING, LOG, TEXTS, LogFile, Row, Texts

FORK, PEERS = "fork", "peers"
MAX_PEERS = 16


class Held:
    """A datanet that is held here. `lock` is for who writes."""

    def __init__(self, folder: Path, store: BlockStore) -> None:
        self.folder = folder
        self.lock = trio.Lock()
        self.texts = Texts(folder / TEXTS, store)
        self.fork: tuple[bytes, bytes] | None = None
        self.peers: tuple[str, ...] = ()
        self._file = LogFile(folder / LOG)
        self._places: dict[bytes, int] = {}
        self._verdicts: dict[bytes, list[bytes]] = {}
        self.state = self._fold()
        self._load_notes()

    @classmethod
    def create(cls, folder: Path, store: BlockStore, first: Row) -> Held:
        """Begin to hold a datanet by its log's first row. DatanetError, OSError."""
        begin(*first)
        (folder / TEXTS).mkdir(parents=True, exist_ok=True)
        (folder / GIVING).mkdir(exist_ok=True)
        LogFile.create(folder / LOG, first)
        return cls(folder, store)

    @property
    def datanet(self) -> bytes:
        """Return its name."""
        return self.state.datanet

    # --- the log ---

    def append(self, row: Row) -> Entry:
        """Write a row and move the state. DatanetError, OSError; then nothing has changed."""
        entry, placed = check_row(self.state, *row)
        self._file.append(row)
        take_row(self.state, entry, placed, row)
        self._note(entry, placed.entry)
        return entry

    def place(self, signer: Signer, entry: bytes, now: int) -> bytes:
        """Give an entry the next place, as the sequencer; return its registration.

        DatanetError, OSError; then it has none.
        """
        registration = register(self.state, signer, entry, now)
        self.append((registration, entry))
        return registration

    def rows(self, first: int, count: int, max_bytes: int) -> list[Row]:
        """Return rows from a place on. Reads the disk."""
        return self._file.read(first, count, max_bytes)

    def all_rows(self) -> Iterator[Row]:
        """Yield every row. Reads the disk."""
        for seq in range(self.state.seq + 1):
            yield from self._file.read(seq, 1, 1 << 30)

    def find_place(self, entry: bytes) -> bytes | None:
        """Return the registration of an entry, by the entry's digest; None: it has none here."""
        seq = self._places.get(entry)
        return None if seq is None else self._file.read(seq, 1, 1 << 30)[0][0]

    def entry(self, digest: bytes) -> Entry:
        """Return an entry that stands in the log, by its digest. Reads the disk."""
        return parse_entry(self._file.read(self._places[digest], 1, 1 << 30)[0][1])

    def contribution(self, digest: bytes) -> Contribution:
        """Return a contribution by its digest. DatanetRefused where there is none."""
        entry = self.entry(digest) if digest in self.state.given else None
        if not isinstance(entry, Contribution):
            raise DatanetRefused(
                "known", "there is no such contribution", "look with `lorikeet datanet show`"
            )
        return entry

    # --- what is beside the log ---

    def note_fork(self, first: bytes, second: bytes) -> bool:
        """Keep two registrations that convict the sequencer; False where they show nothing."""
        try:
            check_fork(self.state, first, second)
        except DatanetError:
            return False
        if self.fork is None:
            self.fork = (first, second)
            write_whole(self.folder / FORK, msgspec.msgpack.encode(self.fork))
        return True

    def note_peers(self, addresses: tuple[str, ...]) -> None:
        """Remember where the datanet was to be had."""
        both = tuple(dict.fromkeys((*addresses, *self.peers)))[:MAX_PEERS]
        if both != self.peers:
            self.peers = both
            write_whole(self.folder / PEERS, msgspec.msgpack.encode(both))

    def refuse_if_forked(self) -> None:
        """Raise DatanetRefused where the sequencer signed two logs."""
        if self.fork is not None:
            raise DatanetRefused(
                "forked",
                "its sequencer signed two entries for one place",
                "look with `lorikeet datanet show`, and agree with the others on who goes on",
            )

    def verdicts_on(self, subject: bytes) -> list[bytes]:
        """Return the digests of what was said of a contribution or version."""
        return self._verdicts.get(subject, [])

    def _note(self, entry: Entry, digest: bytes, seq: int | None = None) -> None:
        self._places[digest] = self.state.seq if seq is None else seq
        if isinstance(entry, Verdict):
            self._verdicts.setdefault(entry.subject, []).append(digest)

    def _fold(self) -> State:
        state: State | None = None
        for row in self._file.load():
            if state is None:
                state = begin(*row)
            else:
                apply(state, *row)
            self._note(parse_entry(row[1]), digest_of(row[1]), state.seq)
        if state is None:
            raise DatanetError("chain", f"{self.folder / LOG} is empty", "join again")
        return state

    def _load_notes(self) -> None:
        contributions = {digest: self.contribution(digest) for digest in self.state.given}
        for digest, given in self.state.given.items():
            if given.withdrawn is not None:
                self.texts.drop(digest)
        self.texts.restore(contributions)
        if (path := self.folder / FORK).exists():
            first, second = msgspec.msgpack.decode(path.read_bytes(), type=tuple[bytes, bytes])
            self.note_fork(first, second)
        if (path := self.folder / PEERS).exists():
            self.peers = msgspec.msgpack.decode(path.read_bytes(), type=tuple[str, ...])


def open_all(folder: Path, store: BlockStore, log: Callable[[str], None]) -> dict[bytes, Held]:
    """Open every datanet that is held under a folder; one that cannot be read is told and left."""
    found: dict[bytes, Held] = {}
    for path in sorted(folder.glob(f"*/{LOG}")):
        try:
            held = Held(path.parent, store)
        except (DatanetError, OSError, msgspec.MsgspecError) as error:
            log(f"datanets: {path.parent} was not opened: {error}")
            continue
        found[held.datanet] = held
    return found
