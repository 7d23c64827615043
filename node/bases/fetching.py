"""Brings a base here from the nodes that have it: its card, its tokenizer and, where it is to be
computed on or given on, all its files.

    digest, perhaps a card's CID → the card → tokenizer.json → the index → room on the disk? →
    each block where it belongs in its file, from all providers at once → does the whole hash to
    the digest? → the shelf

What was written stays over a crash, and the next run goes on. Does not know what a base is for.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from engine.base_files import base_id
from engine.errors import ModelError
from p2p.blocks.client import BlockEvent, fetch_block, fetch_blocks
from p2p.blocks.draft import Draft, Layout
from p2p.blocks.exchange import BlockRef
from p2p.blocks.rate import Rate
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import FetchFailed, P2pError
from p2p.host import Host
from p2p.identity import peer_id_of
from p2p.peers import PeerAddress
from proofs.basecard import INDEX_FILE, MAX_CARD_BYTES, TOKENIZER_FILE, BaseCard, parse_card
from proofs.baseindex import BaseIndex, parse_index
from proofs.errors import BaseCardError, BaseIndexError
from proofs.manifest import File

from ..answering.tokenizer import load_tokenizer
from ..errors import ConfigError, NoProvider
from ..telemetry import Telemetry
from .loading import tokenizer_of
from .progress import Progress, tell
from .shelf import Dossier, Shelf

MAX_PROVIDERS = 8
PROVIDERS_DEADLINE_S = 4.0
CARD_DEADLINE_S = 15.0
SMALL_FILE_DEADLINE_S = 120.0
ROUND_DEADLINE_S = 300.0
"""After this, providers are looked for again: there may be more of them."""
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
ROOM_BEYOND_BYTES = 64 << 20
FindCards = Callable[[bytes], Awaitable[Sequence[bytes]]]
"""Asks the network for cards of a base's digest, the likeliest first. Raises P2pError."""


class BaseRefused(Exception):
    """A card, or what it leads to, is not the base that is wanted."""


class BaseFetcher:
    """Brings one base, of that digest, to the shelf.

    `pinned` is the CID of the one card to believe; without it any card of that digest will do, as
    far as `find_cards` finds some.
    """

    def __init__(
        self,
        base: bytes,
        pinned: Cid | None,
        find_cards: FindCards,
        host: Host,
        *,
        store: BlockStore,
        shelf: Shelf,
        telemetry: Telemetry,
        rate: Rate,
        progress: Progress,
    ) -> None:
        self._base = base
        self._pinned = pinned
        self._find_cards = find_cards
        self._host = host
        self._store = store
        self._shelf = shelf
        self._telemetry = telemetry
        self._rate = rate
        self._progress = progress
        self._refused: set[Cid] = set()

    async def bring(self, *, with_files: bool) -> Dossier:
        """Bring the base, or its card and tokenizer alone, however long it takes.

        Raises ConfigError for what will not mend itself: a pinned card that is no card of this
        base, or too little room on the disk.
        """
        pause_s = FIRST_PAUSE_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, self._progress, self._telemetry.log)
            while True:
                had = self._progress.fetched_bytes
                try:
                    dossier = await self._try(with_files=with_files)
                    break
                except BaseRefused as error:
                    self._telemetry.log(f"base: {error}")
                    if self._pinned is not None:
                        raise ConfigError(f"{error}; ask for another invite") from error
                except (NoProvider, P2pError, OSError) as error:
                    self._note_trouble(error)
                pause_s = FIRST_PAUSE_S if self._progress.fetched_bytes > had else 2 * pause_s
                await trio.sleep(min(pause_s, MAX_PAUSE_S))
            nursery.cancel_scope.cancel()
        self._telemetry.clear("base")
        self._progress.begin("reading")
        return dossier

    def _note_trouble(self, error: Exception) -> None:
        self._progress.trouble = str(error)
        self._telemetry.trouble("base", f"{error}; it is tried again")

    async def _try(self, *, with_files: bool) -> Dossier:
        self._progress.begin("looking for who has")
        dossier = self._shelf.find_fetched(self._base, self._pinned)
        if dossier is None:
            dossier = await self._bring_card()
        self._progress.name = dossier.card.name
        if not with_files or dossier.files is not None:
            return dossier
        if dossier.index is None:
            dossier = await self._bring_index(dossier)
        assert dossier.index is not None
        return await self._bring_files(dossier, dossier.index)

    # --- the card ---

    async def _bring_card(self) -> Dossier:
        """Bring a card and its tokenizer."""
        cid, data, card = await self._fetch_card()
        await trio.to_thread.run_sync(self._shelf.put_card, self._base, data)
        self._progress.name = card.name
        await self._bring_small(cid, card.tokenizer, TOKENIZER_FILE)
        try:
            tokenizer_of(card, self._shelf.fetched_folder(self._base) / TOKENIZER_FILE)
        except ConfigError as error:
            raise self._refuse(cid, card, f"names a tokenizer that is none: {error}") from error
        dossier = self._shelf.find_fetched(self._base, cid)
        if dossier is None:
            raise NoProvider(f"the card {cid} does not stay whole on this disk")
        return dossier

    async def _fetch_card(self) -> tuple[Cid, bytes, BaseCard]:
        if self._pinned is not None:
            return await self._fetch_pinned(self._pinned)
        for data in await self._find_cards(self._base):
            cid = Cid.of(data)
            if cid not in self._refused:
                return cid, data, parse_card(data)
        raise NoProvider(f"nobody has a card of base {self._base.hex()[:16]}… that is believed")

    async def _fetch_pinned(self, cid: Cid) -> tuple[Cid, bytes, BaseCard]:
        data = await fetch_block(
            self._host,
            self._store,
            cid,
            MAX_CARD_BYTES,
            providers=await self._find_providers(cid),
            deadline_s=CARD_DEADLINE_S,
        )
        try:
            card = parse_card(data)
        except BaseCardError as error:
            self._store.delete(cid)
            raise BaseRefused(f"{cid} is no card of a base: {error}") from error
        if card.base != self._base:
            self._store.delete(cid)
            raise self._refuse(cid, card, f"is of base {card.base.hex()[:16]}…")
        return cid, data, card

    def _refuse(self, cid: Cid, card: BaseCard, what: str) -> BaseRefused:
        """Believe a card no more."""
        self._refused.add(cid)
        return BaseRefused(
            f"the card {cid}, signed by {peer_id_of(card.signer)}, {what}; this network computes"
            f" on {self._base.hex()[:16]}…"
        )

    async def _bring_index(self, dossier: Dossier) -> Dossier:
        card = dossier.card
        await self._bring_small(dossier.cid, card.index, INDEX_FILE)
        path = dossier.folder / INDEX_FILE
        try:
            index = parse_index(path.read_bytes())
        except BaseIndexError as error:
            self._shelf.drop(self._base)
            raise self._refuse(dossier.cid, card, f"names a bad index ({error})") from error
        if (index.size_bytes, index.format) != (card.size, card.format):
            self._shelf.drop(self._base)
            raise self._refuse(
                dossier.cid,
                card,
                f"says {card.size} bytes of {card.format}, and its index {index.size_bytes} of"
                f" {index.format}",
            )
        return Dossier(dossier.folder, dossier.cid, card, index)

    async def _bring_small(self, cid: Cid, file: File, name: str) -> None:
        """Bring a file that the card lists, whole or not at all."""
        folder = self._shelf.fetched_folder(self._base)
        part = folder / f".{name}"
        self._progress.begin(f"fetching the {name.removesuffix('.json')} of")
        with Draft({part: file.blocks}) as draft:
            self._progress.expect(file.size, 0)
            await self._fetch(draft, {part: file.blocks}, cid, SMALL_FILE_DEADLINE_S)
        part.replace(folder / name)

    # --- the files ---

    async def _bring_files(self, dossier: Dossier, index: BaseIndex) -> Dossier:
        base = self._base
        await trio.to_thread.run_sync(self._shelf.reopen, base)
        folder = self._shelf.draft(base)
        layout = {folder / file.name: file.blocks for file in index.files}
        self._progress.begin("looking through what is here of")
        await trio.to_thread.run_sync(self._check_room, folder, index.size_bytes)
        with await trio.to_thread.run_sync(Draft, layout) as draft:
            self._progress.begin("fetching")
            sizes = {Cid(digest): size for blocks in layout.values() for digest, size in blocks}
            missing_bytes = sum(sizes[cid] for cid in draft.missing)
            self._progress.expect(index.size_bytes, index.size_bytes - missing_bytes)
            self._log_begin(dossier, missing_bytes)
            began = trio.current_time()
            while draft.missing:
                await self._fetch(draft, layout, dossier.cid, ROUND_DEADLINE_S)
            took_s = trio.current_time() - began
        await self._check_whole(dossier, index)
        await trio.to_thread.run_sync(self._shelf.finish, base, index)
        found = self._shelf.find_fetched(base, dossier.cid)
        if found is None or found.files is None:
            raise NoProvider(f"base {dossier.card.name} does not stay whole on this disk")
        fetched_mb = missing_bytes / 1e6
        self._telemetry.log(
            f"base: {dossier.card.name} is here, checked; {fetched_mb:,.1f} MB in {took_s:.1f} s"
            f" ({fetched_mb / max(took_s, 1e-3):,.1f} MB/s); it lies in {found.files}"
        )
        return found

    def _log_begin(self, dossier: Dossier, missing_bytes: int) -> None:
        card = dossier.card
        self._telemetry.log(
            f"base: {card.name}, {card.size / 1e6:,.1f} MB, licence {card.licence or 'not said'},"
            f" described by {peer_id_of(card.signer)}; {missing_bytes / 1e6:,.1f} MB are missing"
        )

    def _check_room(self, folder: Path, size_bytes: int) -> None:
        """Raise ConfigError where the disk has not the room for what is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        written = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
        wanted = size_bytes - written + ROOM_BEYOND_BYTES
        free = shutil.disk_usage(folder).free
        if wanted > free:
            raise ConfigError(
                f"the base {self._progress.name} needs {wanted / 1e6:,.0f} MB more on the disk of"
                f" {folder.parent}, which has {free / 1e6:,.0f} MB free: make room, use a --home on"
                " another disk, or set base_path"
            )

    async def _check_whole(self, dossier: Dossier, index: BaseIndex) -> None:
        """See whether the files are the base, or delete them."""
        self._progress.begin("checking")
        card = dossier.card
        folder = self._shelf.draft(self._base)
        weights = folder / index.files[0].name if index.format == "gguf" else folder
        for path in folder.iterdir():
            if path.name not in {file.name for file in index.files}:
                path.unlink()  # of another card of this base
        try:
            found = (await trio.to_thread.run_sync(base_id, weights)).hex()
        except ModelError as error:
            found = str(error)
        if found != self._base.hex():
            await trio.to_thread.run_sync(self._shelf.drop, self._base)
            raise self._refuse(
                dossier.cid, card, f"leads to other files (base {found[:16]}…), now deleted"
            )
        tokenizer = await trio.to_thread.run_sync(load_tokenizer, weights)
        if (tokenizer.tokenizer_hash, tokenizer.template_hash) != (
            card.tokenizer_hash,
            card.template_hash,
        ):
            await trio.to_thread.run_sync(self._shelf.drop, self._base)
            raise self._refuse(
                dossier.cid, card, "states another tokenizer or template than its files have"
            )

    # --- blocks ---

    async def _fetch(self, draft: Draft, layout: Layout, cid: Cid, deadline_s: float) -> None:
        """Fetch what is missing of a draft; returns early where something came. NoProvider where
        nothing does.
        """
        sizes = {Cid(digest): size for blocks in layout.values() for digest, size in blocks}
        wanted = [BlockRef(missing, sizes[missing]) for missing in draft.missing]
        if not wanted:
            return
        had = self._progress.fetched_bytes
        providers = await self._find_providers(cid)
        try:
            report = await fetch_blocks(
                self._host,
                draft,
                wanted,
                providers,
                deadline_s=deadline_s,
                on_event=self._note,
                rate=self._rate,
            )
        except FetchFailed as error:
            if self._progress.fetched_bytes == had:
                raise NoProvider(str(error)) from error
            return
        for peer, count in report.blocks_by_peer.items():
            self._telemetry.count(f"blocks_fetched:{peer}", count)

    def _note(self, event: BlockEvent) -> None:
        if event.kind == "kept":
            self._progress.add(event.num_bytes)
        elif event.kind == "rejected":
            self._telemetry.reject("block", event.peer_id, f"{event.detail}: a base's")

    async def _find_providers(self, cid: Cid) -> list[PeerAddress]:
        """Find peers that have all of the base, or compute on it."""
        found: dict[Cid, list[PeerAddress]] = {}

        async def find(key: Cid) -> None:
            found[key] = await self._host.dht.find_providers(
                key, limit=MAX_PROVIDERS, deadline_s=PROVIDERS_DEADLINE_S
            )

        async with trio.open_nursery() as nursery:
            for key in {cid, Cid(self._base)}:
                nursery.start_soon(find, key)
        providers = [*found[cid], *found[Cid(self._base)]]
        if not providers:
            raise NoProvider(f"no node provides base {self._base.hex()[:16]}… or its card")
        return list({peer.peer_id: peer for peer in providers}.values())
