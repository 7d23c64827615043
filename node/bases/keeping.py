"""Keeps one daemon's base: finds it here, or brings it; gives its blocks to others, and says how it
stands.

Decides when it is brought whole. Does not know what the base is used for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import trio

from p2p.blocks.rate import Rate
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import Host
from p2p.identity import peer_id_of
from proofs.basecard import INDEX_FILE
from proofs.manifest import File
from proofs.signing import Signer

from ..api.status import BaseInfo, FilesInfo
from ..catalogue.hashing import FileHashes
from ..config import Config
from ..errors import AdapterError, BadRequest, NoBase
from ..telemetry import Telemetry
from .cards import CardKind, Cards
from .fetching import BaseFetcher
from .finding import card_of, find_base, load_fetched
from .loading import Base
from .progress import Progress
from .shelf import Dossier, Shelf

BARE = "base"
"""What means the base at every face, whatever its name is."""


class BaseKeeper:
    """The base of one daemon; `base` is None while it is on its way."""

    def __init__(
        self,
        config: Config,
        signer: Signer,
        host: Host,
        store: BlockStore,
        telemetry: Telemetry,
        *,
        rate: Rate,
    ) -> None:
        self._config = config
        self._signer = signer
        self._host = host
        self._store = store
        self._telemetry = telemetry
        self._rate = rate
        self._cards = Cards(host)
        self._shelf = Shelf(config.bases_path)
        self._hashes = FileHashes()
        self._lock = trio.Lock()
        self.progress = Progress(f"base {config.base[:16]}…" if config.base else "the base")
        self.base: Base | None = None

    async def find(self) -> Base | None:
        """Return the base that is here, and give it out; None where it must be brought. Raises
        ConfigError.
        """
        found = await trio.to_thread.run_sync(
            find_base, self._config, self._shelf, self._signer, self._telemetry.log
        )
        if found is not None:
            await self._take(found)
        return found

    async def bring(self) -> Base:
        """Bring what this role needs from others, however long it takes. Raises ConfigError."""
        return await self._bring(with_files=self._config.has_engine)

    async def files(self) -> FilesInfo:
        """Have all files of the base here, and say where they lie.

        Raises NoBase while it is on its way, AdapterError where it has no card.
        """
        base = self.base
        if base is None:
            raise NoBase(self.waits_for())
        if base.dossier is None:
            raise AdapterError(f"there is no card of {base.name}; the log says why")
        if base.dossier.files is None:
            async with self._lock:
                if self.base is base:
                    base = await self._bring(with_files=True)
        assert base.dossier is not None
        return await self._describe_files(base.dossier)

    async def _bring(self, *, with_files: bool) -> Base:
        fetcher = BaseFetcher(
            bytes.fromhex(self._config.base),
            card_of(self._config),
            self._cards.find,
            self._host,
            store=self._store,
            shelf=self._shelf,
            telemetry=self._telemetry,
            rate=self._rate,
            progress=self.progress,
        )
        dossier = await fetcher.bring(with_files=with_files)
        base = await trio.to_thread.run_sync(load_fetched, dossier)
        await self._take(base)
        return base

    async def _take(self, base: Base) -> None:
        if base.dossier is not None:
            await trio.to_thread.run_sync(base.dossier.give_out, self._store)
        self.base = base
        for cid in self.offered():
            self._host.dht.provide_soon(cid)
        self.progress.begin("")  # and from here to whoever waits no other task runs

    def offered(self) -> tuple[Cid, ...]:
        """Return what this node provides of the base: its card, where all of it is here."""
        dossier = self.base.dossier if self.base else None
        return (dossier.cid,) if dossier is not None and dossier.files is not None else ()

    def kind(self) -> CardKind:
        """Return what answers other nodes' look-ups for cards."""
        return CardKind(self._own_card, self._cards)

    def _own_card(self, base: bytes) -> tuple[bytes, ...] | None:
        here = self.base
        if here is None or here.identity.base != base:
            return None
        return (here.dossier.card_path.read_bytes(),) if here.dossier else ()

    # --- what the faces ask ---

    def waits_for(self) -> str:
        """Say what the base waits for; nothing where nothing is awaited."""
        return self.progress.text()

    def names(self, text: str) -> bool:
        """Say whether a text names this base."""
        return self.base is not None and text in (BARE, *self.base.texts())

    def describe(self) -> BaseInfo:
        """Describe the base as far as it is known."""
        base = self.base
        card = base.dossier.card if base and base.dossier else None
        dossier = base.dossier if base else None
        index = dossier.index if dossier else None
        return BaseInfo(
            name=base.name if base else "",
            digest=base.identity.base.hex() if base else self._config.base,
            origin=base.origin if base else "network",
            path=str(base.weights) if base and base.weights else "",
            card=str(dossier.cid) if dossier else self._config.base_card,
            signer=peer_id_of(card.signer) if card else "",
            format=card.format if card else "",
            licence=card.licence if card else "",
            source=card.source if card else "",
            size_bytes=card.size if card else 0,
            num_files=len(index.files) if index else 0,
            waits_for=self.waits_for(),
        )

    def weights(self) -> Path:
        """Return where the weights lie. Raises NoBase, BadRequest where they are not here."""
        if self.base is None:
            raise NoBase(self.waits_for())
        if self.base.weights is None:
            raise BadRequest(
                f"only the tokenizer of {self.base.name} is here, all that a gateway needs; set"
                " base_path, or ask a volunteer's home"
            )
        return self.base.weights

    def card_bytes(self) -> bytes:
        """Return the signed card. Raises NoBase, AdapterError."""
        if self.base is None:
            raise NoBase(self.waits_for())
        if self.base.dossier is None:
            raise AdapterError(f"there is no card of {self.base.name}; the log says why")
        return self.base.dossier.card_path.read_bytes()

    async def _describe_files(self, dossier: Dossier) -> FilesInfo:
        assert dossier.files is not None
        assert dossier.index is not None
        layout: dict[Path, File] = {
            dossier.files / file.name: File(file.name, file.size, file.blocks)
            for file in dossier.index.files
        }
        files = await self._hashes.describe(layout)
        if files is None:
            raise AdapterError(
                f"the files of {dossier.card.name} at {dossier.files} have changed since this"
                " daemon started; start it again"
            )
        index = (dossier.folder / INDEX_FILE).read_bytes()
        return FilesInfo(
            dossier.card.name,
            str(dossier.cid),
            hashlib.sha256(index).hexdigest(),
            peer_id_of(dossier.card.signer),
            dossier.card.licence,
            files=files,
            is_base=True,
        )
