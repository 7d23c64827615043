"""Says whose an adapter's weights are: digests them, asks a registry, and refuses what is somebody
else's under another's manifest.

A registry says who registered weights first (docs/protocols/registry.md). Without one, and where it
does not answer, everything is served. What lay on this disk before it was registered stays: else
whoever registers first what others published would have nodes drop it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from p2p.cid import Cid
from proofs.manifest import Manifest
from proofs.registration import Registration
from proofs.royalty import find_unpaid
from proofs.signing import Signer
from proofs.weights import WeightsDigest

from ..api.adapters import AlikeInfo
from ..errors import AdapterError, BadRequest, NodeError, RegisteredElsewhere
from .royalties import unpaid_by
from .weighing import compare, weigh

MAX_REMEMBERED = 4096
MAX_COMPARED = 64
"""With how many held adapters one is compared, the newest first; each takes a part of a second."""
LEAST_COSINE = 0.5
"""Adapters that are less alike than this are not shown: of one base and different texts they are at
most 0.1 (docs/protocols/registry.md).
"""
AdapterPaths = tuple[Path, Path]
"""Configuration and weights."""
Digests = tuple[bytes, ...]


class Registry(Protocol):
    """Where weights are registered: implemented by money.registering.ChainRegistry."""

    async def find(self, weights: WeightsDigest) -> Registration | None:
        """Return the earliest registration under one of the digests, None where there is none.

        Raises NodeError where it can't be asked.
        """

    async def register(
        self,
        creator: Signer,
        weights: WeightsDigest,
        manifest: bytes,
        *,
        royalty_bps: int,
        parents: tuple[bytes, ...],
    ) -> Registration:
        """Register weights to a creator; takes a while. Raises AdapterError, NodeError."""


class Ownership:
    """The digests of adapters that are here, and what a registry says of them."""

    def __init__(self, log: Callable[[str], None], registry: Registry | None = None) -> None:
        self._log = log
        self._lock = trio.Lock()
        self._known: dict[Cid, WeightsDigest] = {}
        self._registry = registry

    @property
    def has_registry(self) -> bool:
        """Return whether a registry is asked here."""
        return self._registry is not None

    async def weigh(self, cid: Cid, files: AdapterPaths) -> WeightsDigest:
        """Return the digests of an adapter whose files are here; one adapter is read at a time.

        Raises AdapterError.
        """
        async with self._lock:
            found = self._known.get(cid)
            if found is None:
                found = await trio.to_thread.run_sync(partial(_weigh, *files))
                while len(self._known) >= MAX_REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[cid] = found
            return found

    def find_weighed(self, cid: Cid) -> WeightsDigest | None:
        """Return the digests of an adapter that was weighed lately, or None."""
        return self._known.get(cid)

    async def find(self, weights: WeightsDigest) -> Registration | None:
        """Return what the registry says of weights; None where there is none, or none is asked."""
        return None if self._registry is None else await self._registry.find(weights)

    async def admit(self, cid: Cid, manifest: Manifest, files: AdapterPaths) -> None:
        """Raise RegisteredElsewhere where an adapter's weights are registered to somebody else,
        RoyaltyUnpaid where the adapters that it was made of are not paid, if that was registered
        before it came here.
        """
        if self._registry is None:
            return
        try:
            found = await self._registry.find(await self.weigh(cid, files))
            refusal = None if found is None else await self._refusal_by(manifest, found)
        except AdapterError:
            return  # the engine has the word on what cannot be read
        except NodeError as error:
            self._log(f"registry: {manifest.name}: not looked up, so served: {error}")
            return
        if found is None or refusal is None:
            return
        if os.stat(files[1]).st_mtime < found.registered_at:
            self._log(
                f"registry: {manifest.name} was here before its weights were registered to"
                f" 0x{found.creator.hex()}; it stays"
            )
            return
        raise refusal

    async def find_refusal(self, manifest: Manifest, weights: WeightsDigest) -> AdapterError | None:
        """Return why an adapter of these weights is not to be had, None where it is. Raises
        NodeError.
        """
        found = await self.find(weights)
        return None if found is None else await self._refusal_by(manifest, found)

    async def _refusal_by(self, manifest: Manifest, found: Registration) -> AdapterError | None:
        """Return why an adapter is not served that is registered so. Raises NodeError."""
        if not found.allows(manifest.creator_address):
            return RegisteredElsewhere(
                f"the weights of {manifest.name!r} are registered to 0x{found.creator.hex()} since"
                f" block {found.first_block}, and its manifest is signed by"
                f" 0x{manifest.creator_address.hex()}; ask for the adapter of who registered them"
            )
        unpaid = find_unpaid(manifest, await self.find_parents(found.parents))
        return None if unpaid is None else unpaid_by(manifest, unpaid)

    async def find_parents(self, digests: Digests) -> list[Registration]:
        """Return what the registry says of adapters that another is made of, by a digest of their
        weights each. Raises BadRequest for one that is not registered, NodeError.
        """
        assert self._registry is not None, "only who is registered somewhere has parents there"
        parents = []
        for digest in digests:
            found = await self._registry.find(WeightsDigest(digest, digest))
            if found is None:
                raise BadRequest(
                    f"no weights with the digest 0x{digest.hex()} are registered; `lorikeet show`"
                    " tells an adapter's"
                )
            parents.append(found)
        return parents

    async def register(
        self, cid: Cid, files: AdapterPaths, creator: Signer, *, royalty_bps: int, parents: Digests
    ) -> Registration:
        """Register the weights of an adapter that is here to who signed its manifest.

        Raises BadRequest, AdapterError, NodeError.
        """
        if self._registry is None:
            raise BadRequest("no registry is set; name one as registry in lorikeet.toml")
        weights = await self.weigh(cid, files)
        return await self._registry.register(
            creator, weights, cid.digest, royalty_bps=royalty_bps, parents=parents
        )

    async def find_alike(
        self, files: AdapterPaths, others: Sequence[tuple[AlikeInfo, AdapterPaths]]
    ) -> tuple[AlikeInfo, ...]:
        """Return those of the others that are alike in what they add, the most alike first.

        The others come without their figures.
        """
        async with self._lock:
            compared = await trio.to_thread.run_sync(_compare_all, files, others[:MAX_COMPARED])
        alike = [one for one in compared if abs(one.cosine) >= LEAST_COSINE]
        return tuple(sorted(alike, key=lambda one: -abs(one.cosine)))


def _weigh(config: Path, weights: Path) -> WeightsDigest:
    try:
        return weigh(config, weights)
    except OSError as error:
        raise AdapterError(f"{error.filename}: {error.strerror}") from error


def _compare_all(
    files: AdapterPaths, others: Sequence[tuple[AlikeInfo, AdapterPaths]]
) -> list[AlikeInfo]:
    found = []
    for info, paths in others:
        try:
            likeness = compare(files, paths)
        except (AdapterError, OSError):
            continue  # one that cannot be read is like nothing
        found.append(
            AlikeInfo(
                info.name,
                info.cid,
                info.creator,
                cosine=likeness.whole,
                least=likeness.least,
                modules=likeness.modules,
                strength=likeness.strength,
            )
        )
    return found
