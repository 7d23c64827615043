"""One datanet as this node has it: the log on the disk and the state that follows from it.

A row is written first and believed then, and the state moves in the event loop alone; who reads
much of it in a thread holds the lock. Speaks to nobody.
"""

from __future__ import annotations

import shutil
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
GONE = "."  # before a folder's name: what is left of it goes at the next start
MAX_PEERS = 16


class Held:
    """A datanet that is held here.

    `lock` is for who writes, or reads all of it in a thread. `is_newest`: since the start somebody
    was asked whether our log goes on elsewhere; `lost` is a head that somebody signed with the
    sequencer's key and that is not here.
    """

    def __init__(self, folder: Path, store: BlockStore) -> None:
        self.folder = folder
        self.lock = trio.Lock()
        self.asking = trio.Lock()
        self.texts = Texts(folder / TEXTS, store)
        self.fork: tuple[bytes, bytes] | None = None
        self.is_newest = False
        self.asked_at = float("-inf")  # on the event loop's clock
        self.lost: bytes | None = None
        self.peers: tuple[str, ...] = ()
        self._file = LogFile(folder / LOG)
        self._places: dict[bytes, int] = {}
        self._verdicts: dict[bytes, list[bytes]] = {}
        self.state = self._fold()
        self._load_notes()

    @classmethod
    def create(cls, folder: Path, store: BlockStore, first: Row) -> Held:
        """Begin to hold a datanet by its log's first row.

        DatanetError, OSError; DatanetRefused where a log lies that could not be opened.
        """
        begin(*first)
        if (folder / LOG).exists():
            raise DatanetRefused(
                "there",
                f"{folder} has a log that could not be read, as this node's log says",
                "move that folder away, and join again",
            )
        try:
            (folder / TEXTS).mkdir(parents=True, exist_ok=True)
            (folder / GIVING).mkdir(exist_ok=True)
            LogFile.create(folder / LOG, first)
            return cls(folder, store)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)  # what was refused is not there
            raise

    @property
    def datanet(self) -> bytes:
        """Return its name."""
        return self.state.datanet

    # --- the log ---

    async def append(self, row: Row) -> Entry:
        """Write a row and move the state; the caller has the lock.

        DatanetError, OSError; then nothing has changed.
        """
        entry, placed = check_row(self.state, *row)
        await trio.to_thread.run_sync(self._file.append, row)  # not to be cancelled
        take_row(self.state, entry, placed, row)
        self._note(entry, placed.entry)
        return entry

    async def place(self, signer: Signer, entry: bytes, now: int) -> bytes:
        """Give an entry the next place, as the sequencer; return its registration. The caller has
        the lock.

        DatanetError, OSError; then it has none.
        """
        registration = register(self.state, signer, entry, now)
        await self.append((registration, entry))
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

    def has_registration(self, digest: bytes) -> bool:
        """Return whether a registration of that digest stands in the log. Reads the disk."""
        return any(digest_of(one) == digest for one in self._file.registrations())

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

    def remove(self) -> None:
        """Delete all of it; half of it is never left to be opened. OSError, and it is all there."""
        gone = self.folder.with_name(f"{GONE}{self.folder.name}")
        self.folder.rename(gone)
        self.texts.forget_all()
        shutil.rmtree(gone, ignore_errors=True)

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

    def doubt(self) -> None:
        """Have others asked anew whether our log goes on elsewhere, before the next entry."""
        self.is_newest = False
        self.asked_at = float("-inf")

    def refuse_if_forked(self) -> None:
        """Raise DatanetRefused where the sequencer signed two logs, or would if it went on."""
        if self.fork is not None:
            raise DatanetRefused(
                "forked",
                "its sequencer signed two entries for one place",
                "look with `lorikeet datanet show`, and agree with the others on who goes on",
            )
        if self.lost is not None:
            raise DatanetRefused(
                "behind",
                f"the newest head that this node's key signed, {self.lost.hex()[:16]}, is not here:"
                " this home is older than the log",
                "have another member's node run, which gives what is missing within a minute, or at"
                f" once: lorikeet datanet recover {self.datanet.hex()[:16]}",
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
            entry: Entry
            if state is None:
                state = begin(*row)
                entry = state.charter
            else:
                entry = apply(state, *row)
            self._note(entry, digest_of(row[1]), state.seq)
        if state is None:
            raise DatanetError("chain", f"{self.folder / LOG} is empty", "join again")
        return state

    def _load_notes(self) -> None:
        there = {one.digest for one in self.state.given.values() if one.withdrawn is None}
        self.texts.restore(there, self.contribution)
        if (path := self.folder / FORK).exists():
            first, second = msgspec.msgpack.decode(path.read_bytes(), type=tuple[bytes, bytes])
            self.note_fork(first, second)
        if (path := self.folder / PEERS).exists():
            self.peers = msgspec.msgpack.decode(path.read_bytes(), type=tuple[str, ...])


def open_all(folder: Path, store: BlockStore, log: Callable[[str], None]) -> dict[bytes, Held]:
    """Open every datanet that is held under a folder; one that cannot be read is told and left."""
    found: dict[bytes, Held] = {}
    for path in folder.glob(f"{GONE}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted(folder.glob(f"*/{LOG}")):
        try:
            held = Held(path.parent, store)
        except (DatanetError, OSError, msgspec.MsgspecError) as error:
            log(f"datanets: {path.parent} was not opened: {error}")
            continue
        found[held.datanet] = held
    return found
