"""Checks a published adapter against its recipe, and trains it again where that is wanted.

Brings adapter and texts here; comparing.py says what agrees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from factory.errors import FactoryError
from factory.training.journal import read_steps
from factory.training.recipe import Recipe
from proofs.errors import ManifestError
from proofs.manifest import parse_manifest

from ..api.datanets import Datanets, Progress, Tell
from ..api.training import AdapterVerifiedInfo, ComparedInfo, VerifySaid
from ..bases.loading import Base
from ..errors import AdapterError, BadRequest, NodeError
from .comparing import (
    Published,
    compare_base,
    compare_datanets,
    compare_evaluation,
    compare_learnt,
    compare_versions,
    compare_weights,
    outcome_of,
    read_published,
    worst_of,
)
from .making import make_ready, write
from .network import Network
from .publishing import scratch_in
from .runs import work
from .texts import Source, bring

LOOK_EVERY_S = 0.5


class Verifying:
    """Checks published adapters, in `folder`; `command` is the program that trains."""

    def __init__(
        self,
        folder: Path,
        datanets: Datanets,
        base: Callable[[], Base],
        command: Sequence[str],
    ) -> None:
        self._folder = folder
        self._datanets = datanets
        self._base = base
        self._command = tuple(command)

    async def verify(self, said: VerifySaid, network: Network, tell: Tell) -> AdapterVerifiedInfo:
        """Check an adapter. Raises NodeError where it is not to be had."""
        tell(Progress("fetch", 0, 0))
        files = await network.files(said.model)
        try:
            manifest = parse_manifest(await network.block(files.digest))
        except ManifestError as error:
            raise AdapterError(f"{said.model} is no valid adapter manifest: {error}") from error
        origin = manifest.made_of
        folder = files.files[0].path.parent
        if origin is None or not origin.recipe:
            compared = [outcome_of("recipe", "unknown", "its manifest names none")]
        else:
            with scratch_in(self._folder, "verify") as scratch:
                published = Published(manifest, folder, origin)
                compared = await self._compare(published, said, scratch, tell)
        return AdapterVerifiedInfo(
            manifest.name,
            manifest.adapter_version,
            files.cid,
            files.creator,
            outcome=worst_of(compared),
            compared=tuple(compared),
        )

    async def _compare(
        self, published: Published, said: VerifySaid, scratch: Path, tell: Tell
    ) -> list[ComparedInfo]:
        compared = [await trio.to_thread.run_sync(compare_evaluation, published)]
        read = await trio.to_thread.run_sync(read_published, published)
        if isinstance(read, ComparedInfo):
            return [read, *compared]
        base = self._base()
        compared = [
            outcome_of("recipe", "agrees", f"it has the digest {published.origin.recipe.hex()}"),
            *compare_base(read, published.manifest, base),
            compare_versions(read, published.origin),
            *compared,
        ]
        try:
            sources = await bring(self._datanets, read.datanets, scratch, tell)
        except NodeError as error:
            compared.append(outcome_of("datanets", "unknown", f"{error}"))
            return compared
        compared.append(compare_datanets(read, sources))
        compared += await trio.to_thread.run_sync(compare_learnt, published, sources, base)
        if said.train:
            compared.append(await self._train(published, read, sources, said, scratch, tell=tell))
        return compared

    async def _train(
        self,
        published: Published,
        recipe: Recipe,
        sources: Sequence[Source],
        said: VerifySaid,
        scratch: Path,
        *,
        tell: Tell,
    ) -> ComparedInfo:
        """Train by the recipe again, and compare what comes of it."""
        if any(source.left or source.dropped for source in sources):
            return outcome_of("weights", "unknown", "not trained again: some of its texts are gone")
        run = scratch / "run"
        threads = said.threads or len(os.sched_getaffinity(0))
        try:
            ready = await trio.to_thread.run_sync(
                make_ready, recipe, sources, self._base(), threads
            )
            if ready.recipe != recipe:
                return outcome_of("weights", "differs", "its texts make another recipe")
            await trio.to_thread.run_sync(write, ready, run)
            await self._work(run, ready.steps.total, tell)
            return await trio.to_thread.run_sync(compare_weights, published, run, threads)
        except (FactoryError, NodeError, OSError) as error:
            return outcome_of("weights", "unknown", f"it could not be trained again: {error}")

    async def _work(self, run: Path, num_steps: int, tell: Tell) -> None:
        """Have a process train; leaving ends it. Raises BadRequest."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell_steps, run, num_steps, tell)
            failed: BadRequest | None = None
            try:
                await work([*self._command, str(run)], "the training")
            except BadRequest as error:  # raised outside, where no group is made of it
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed


async def _tell_steps(run: Path, num_steps: int, tell: Tell) -> None:
    while True:
        steps = await trio.to_thread.run_sync(read_steps, run)
        tell(Progress("train", steps[-1].step if steps else 0, num_steps))
        await trio.sleep(LOOK_EVERY_S)
