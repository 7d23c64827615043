"""The datanets that one daemon holds, and how its word gets into their logs: what every part of the
service stands on.

    an entry → signed → the sequencer, here (desk.py) or elsewhere (remote.py) → a row of our log

Finds datanets, people and texts. Knows no command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import InvalidInput, P2pError
from p2p.host import Host
from p2p.identity import Identity, peer_id_of, public_key_of
from p2p.peers import PeerAddress
from proofs.datanet.entries import NOTHING, Contribution, Entry, digest_of, sign_entry
from proofs.errors import DatanetError
from proofs.signing import Signer

from ..api.datanets import Progress, Tell
from ..errors import BadRequest, DatanetRefused, NodeError, NoProvider, NotHere
from ..telemetry import Telemetry
from ..wire import datanet as wire
from ..wire.infer import WireError
from .desk import OWN, Desk
from .examining import Around
from .ground import Held
from .heads import Heads
from .losses import Losses
from .remote import Remote

MIN_HEX_CHARS = 6
TEXT_DEADLINE_S = 120.0
CATCH_UP_S = 60.0


class Shelf:
    """What is held, by digest; `folder` has one folder for each. `base` and its template `tokens`
    come when the daemon has a base.
    """

    def __init__(
        self,
        identity: Identity,
        host: Host,
        store: BlockStore,
        telemetry: Telemetry,
        *,
        folder: Path,
        held: dict[bytes, Held],
        remote: Remote,
        desk: Desk,
        heads: Heads,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.signer = Signer(identity.secret)
        self.own = identity.public_key
        self.host = host
        self.held = held
        self.remote = remote
        self.telemetry = telemetry
        self.heads = heads
        self.base: bytes | None = None
        self.tokens: tuple[str, ...] = ()
        self.losses: Losses | None = None
        self._store = store
        self._folder = folder
        self._desk = desk
        self._clock = clock

    def now(self) -> int:
        """Return Unix seconds."""
        return int(self._clock())

    # --- which, and who ---

    async def hold(self, datanet: bytes, row: tuple[bytes, bytes], *, is_new: bool) -> Held:
        """Begin to hold a datanet; `is_new`: it begins here. DatanetError, DatanetRefused,
        OSError.
        """
        folder = self._folder / datanet.hex()
        held = await trio.to_thread.run_sync(Held.create, folder, self._store, row)
        held.is_newest = is_new
        self.held[datanet] = held
        self.host.dht.provide_soon(Cid(datanet))
        self.heads.moved(held)
        return held

    async def let_go(self, held: Held) -> None:
        """Hold a datanet no more, on the disk neither; whoever writes to it now is waited for.
        OSError, and it is held on.
        """
        async with held.lock:
            await trio.to_thread.run_sync(held.remove)
            del self.held[held.datanet]
        self.host.dht.withdraw(Cid(held.datanet))

    def find(self, text: str) -> Held:
        """Return the datanet of that name or digest. Raises BadRequest."""
        named = [one for one in self.held.values() if one.state.charter.name == text]
        if len(named) == 1:
            return named[0]
        if named:
            raise BadRequest(
                f"{len(named)} datanets are called {text!r}; name one by its digest, as `lorikeet"
                " datanet list` shows it"
            )
        return self.held[match(text, self.held, "datanet")]

    def find_person(self, held: Held, text: str) -> bytes:
        """Return the key of the person of that name or peer id. Raises BadRequest."""
        people = held.state.people
        named = [key for key, one in people.items() if one.name == text]
        if len(named) == 1:
            return named[0]
        try:
            key = public_key_of(text)
        except InvalidInput:
            key = b""
        if key not in people:
            raise BadRequest(
                f"nobody is called {text!r} here; `lorikeet datanet show` lists who is"
                if not named
                else f"{len(named)} people are called {text!r}; name one by the peer id"
            )
        return key

    def is_sequencer(self, held: Held) -> bool:
        """Return whether this node writes a log."""
        return held.state.charter.sequencer == self.own

    def around(self, held: Held) -> Around:
        """Return what this node knows besides a datanet that intake can use."""
        is_for_base = held.state.charter.base in (NOTHING, self.base)
        others = tuple(one for one in self.held.values() if one is not held)
        return Around(
            self.tokens if is_for_base else (), others, self.losses if is_for_base else None
        )

    # --- the log ---

    async def say(self, held: Held, draft: Entry) -> bytes:
        """Sign an entry and have it placed; return its digest. DatanetRefused, NoProvider."""
        held.refuse_if_forked()
        with translated():
            data = sign_entry(self.signer, draft)
            await self.submit(held, data)
        return digest_of(data)

    async def submit(self, held: Held, data: bytes) -> bytes:
        """Have an entry placed; return its registration once this node's log has it.

        Where the sequencer is gone or says that it is none, somebody else may be it by now: others
        are asked for the log, and it is tried once more. Raises DatanetRefused, DatanetError,
        NoProvider, OSError.
        """
        sequencer = held.state.charter.sequencer
        try:
            return await self._submit(held, data)
        except (DatanetRefused, NoProvider) as error:
            is_gone = isinstance(error, NoProvider) or error.reason == "sequencer"
            if is_gone:
                await self.catch_up(held)
            if not is_gone or held.state.charter.sequencer == sequencer:
                raise
        return await self._submit(held, data)

    async def _submit(self, held: Held, data: bytes) -> bytes:
        if self.is_sequencer(held):
            return await self._desk.submit(held, data, OWN)
        try:
            peer = await self._reach_sequencer(held)
            answer = await self.remote.ask(peer, wire.Submit(held.datanet, data))
            if isinstance(answer, wire.Refused):
                raise DatanetRefused(answer.code, answer.detail, answer.mend, answer.document)
            await self.remote.catch_up(held, peer)
        except (P2pError, WireError) as error:
            raise NoProvider(
                f"the node that writes this log does not answer ({error}); try again when it runs"
            ) from error
        placed = held.find_place(digest_of(data))
        if placed is None:
            raise DatanetRefused(
                "placed", "the sequencer's log does not have it", "look with `datanet show`"
            )
        return placed

    async def place_as_owner(self, held: Held, data: bytes) -> None:
        """Place the owner's own charter where the sequencer is gone. Raises DatanetError,
        OSError.
        """
        async with held.lock:
            await held.place(self.signer, data, self.now())
        held.is_newest = self.is_sequencer(held)
        self.heads.moved(held)

    async def catch_up(self, held: Held, *, everybody: bool = False) -> bool:
        """Take what the sequencer has beyond our log; where it does not answer, or `everybody` is
        to be asked, what others have. Nobody there is no fault; return whether anybody was.
        """
        if self.is_sequencer(held):
            return held.lost is None  # heads.py asks others, once
        sequencer = peer_id_of(held.state.charter.sequencer)
        answered = False
        with trio.move_on_after(CATCH_UP_S):
            is_gone = self.host.dht.is_gone(sequencer)
            answered = not is_gone and await self._catch_up(held, PeerAddress(sequencer))
            if answered and not everybody:
                return True
            for peer in await self._holders(held):
                if peer.peer_id != sequencer:
                    answered |= await self._catch_up(held, peer)
        return answered

    async def _catch_up(self, held: Held, peer: PeerAddress) -> bool:
        try:
            if peer.peer_id == peer_id_of(held.state.charter.sequencer):
                await self._reach_sequencer(held)
            await self.remote.catch_up(held, peer)
        except (P2pError, WireError, DatanetError, OSError) as error:
            self.telemetry.log(f"datanets: {held.state.charter.name}: {error}")
            return False
        return True

    async def _reach_sequencer(self, held: Held) -> PeerAddress:
        peer_id = peer_id_of(held.state.charter.sequencer)
        known = [one for one in peers_of(held.peers) if one.peer_id == peer_id]
        addresses = known[0].addresses if known else ()
        news = await self.remote.reach(held.datanet, peer_id, addresses)
        if news:
            whole = [one if "/p2p/" in one else f"{one}/p2p/{peer_id}" for one in news]
            await trio.to_thread.run_sync(held.note_peers, tuple(whole))
        return PeerAddress(peer_id)

    def _known_peers(self, held: Held) -> list[PeerAddress]:
        sequencer = peer_id_of(held.state.charter.sequencer)
        known = peers_of(held.peers)
        first = [one for one in known if one.peer_id == sequencer] or [PeerAddress(sequencer)]
        return first + [one for one in known if one.peer_id != sequencer]

    # --- texts ---

    async def need_text(self, held: Held, digest: bytes) -> Contribution:
        """Have a text here. NoProvider where nobody has it."""
        if held.texts.has(digest):
            return await trio.to_thread.run_sync(held.contribution, digest)
        return await self._bring(held, digest, await self._holders(held))

    async def need_texts(self, held: Held, digests: Sequence[bytes], tell: Tell) -> None:
        """Have these texts here, but those withdrawn since. Raises NoProvider for the first that is
        not to be had, when the others were asked for too.
        """
        wanted = [
            one
            for one in digests
            if held.state.given[one].withdrawn is None and not held.texts.has(one)
        ]
        holders = await self._holders(held) if wanted else []
        failed: NodeError | None = None
        for number, digest in enumerate(wanted):
            tell(Progress("fetch", number, len(wanted)))
            try:
                await self._bring(held, digest, holders)
            except NodeError as error:
                failed = failed or error
        tell(Progress("fetch", len(wanted), len(wanted)))
        if failed is not None:
            raise failed

    async def bring_for_council(self, held: Held) -> None:
        """Have here what the council judges and what it accepted, so that others get it here, where
        this node is on the council or writes the log. Raises NoProvider for what is not to be had
        now.
        """
        if self.own in held.state.council() or self.is_sequencer(held):
            upheld = [one.digest for one in held.state.in_log_order() if one.is_upheld]
            await self.need_texts(held, upheld, lambda progress: None)

    async def _holders(self, held: Held) -> list[PeerAddress]:
        return await self.remote.holders(held.datanet, self._known_peers(held))

    async def _bring(
        self, held: Held, digest: bytes, holders: Sequence[PeerAddress]
    ) -> Contribution:
        entry = await trio.to_thread.run_sync(held.contribution, digest)
        try:
            await self.remote.bring(held, digest, entry, holders, TEXT_DEADLINE_S)
        except (DatanetRefused, OSError) as error:
            raise NoProvider(f"the text {digest.hex()[:12]} was not to be had: {error}") from error
        return entry


@contextmanager
def translated() -> Iterator[None]:
    """What the rules or the disk refuse, as the faces know it."""
    try:
        yield
    except DatanetError as error:
        raise DatanetRefused(error.code, error.detail, error.mend, error.document) from error
    except OSError as error:
        raise DatanetRefused(
            "disk", f"this node's disk: {error.strerror or error}", "make room, and try again"
        ) from error


def peers_of(addresses: Iterable[str]) -> list[PeerAddress]:
    """Return who is at full addresses; what is none is left out."""
    found: dict[str, list[str]] = {}
    for address in addresses:
        peer_id = address.rpartition("/p2p/")[2]
        try:
            public_key_of(peer_id)
        except InvalidInput:
            continue
        found.setdefault(peer_id, []).append(address)
    return [PeerAddress(peer_id, tuple(listed)) for peer_id, listed in found.items()]


def match(text: str, known: Iterable[bytes], what: str) -> bytes:
    """Return the one digest that begins with a text. Raises NotHere, BadRequest."""
    text = text.lower()
    found = [one for one in known if one.hex().startswith(text)]
    if len(found) == 1 and len(text) >= MIN_HEX_CHARS:
        return found[0]
    listing = "lorikeet datanet list" if what == "datanet" else "lorikeet datanet show"
    if not (found and text):
        raise NotHere(f"no {what} {text!r}: there is none; `{listing}` lists them")
    many = f"{len(found)} begin with that"
    if len(text) < MIN_HEX_CHARS:
        many = f"say at least {MIN_HEX_CHARS} hex digits"
    raise BadRequest(f"no {what} {text!r}: {many}; `{listing}` lists them")
