"""Merges adapters into one, whose folder can be published and whose parents are paid for it.

    merges/NAME/    adapter_config.json, adapter_model.safetensors, recipe.toml, lorikeet.toml, and
                    parents.msgpack, by which the manifest is of version 3
                    (docs/protocols/manifest.md)

Decides which adapters can be merged, before a process of its own does it by peft. Publishes
nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from engine.errors import BadAdapter
from engine.lora.adapter_config import AdapterConfig, parse_config
from factory import merged
from factory.errors import FactoryError
from factory.merged import METHODS, ORDER_FILE, Order, Part, normalised
from p2p.cid import Cid
from p2p.errors import InvalidInput
from p2p.names import check_name
from proofs.attribution.shares import POLICY, shares_for, terms_of
from proofs.cocktail import make_cocktail, parse_cocktail
from proofs.errors import ManifestError
from proofs.hextext import to_hex
from proofs.manifest import MAX_PARENTS, MIN_MERGED, WEIGHT_UNIT, Manifest, parse_manifest

from ..api.datanets import Progress, Tell
from ..api.training import MergedFrom, MergedInfo, MergePaid, MergeSaid
from ..bases.loading import Base
from ..catalogue.leaving_out import write_toml
from ..catalogue.origins import PARENTS_FILE, RECIPE_FILE
from ..catalogue.packaging import CONFIG_FILE, DESCRIPTION_FILE, WEIGHTS_FILE
from ..errors import BadRequest
from .learnt import MAX_TEXT
from .making import shared
from .network import Network
from .publishing import scratch_in
from .runs import work

PROGRAM = "factory.merging"
DEADLINE_S = 1800.0
NOBODY = bytes(20)
ROLES = {1: "creator", 2: "data"}


@dataclass(frozen=True)
class Found:
    """A parent that is here."""

    text: str
    manifest: Manifest
    data: bytes
    folder: Path
    config: AdapterConfig
    has_ranks: bool
    """Modules have ranks of their own."""

    @property
    def digest(self) -> bytes:
        """Its manifest's digest."""
        return Cid.of(self.data).digest


class Merging:
    """The merges of one daemon; `command` is the runs' program, whose last word is its module."""

    def __init__(self, folder: Path, base: Callable[[], Base], command: Sequence[str]) -> None:
        self._folder = folder
        self._base = base
        self._command = (*command[:-1], PROGRAM)
        self._making = trio.Lock()

    async def merge(self, said: MergeSaid, network: Network, tell: Tell) -> MergedInfo:
        """Merge adapters by their names. Raises NodeError."""
        out = self._folder / _checked_name(said)
        if out.exists():
            raise BadRequest(f"{out} is there already; take another name, or delete that folder")
        weights = _normalised(said)
        base = self._base()
        if base.weights is None:
            raise BadRequest("the base's weights are not here; this daemon can merge nothing")
        found = []
        for number, one in enumerate(said.parents):
            tell(Progress("parents", number, len(said.parents), one.model))
            found.append(await _find(one.model, network))
        check(found, said.method)
        cocktail = _cocktail(found, weights)
        order = Order(
            said.name,
            base.identity.base.hex(),
            str(base.weights),
            said.method,
            tuple(
                Part(_name_of(one.manifest), one.digest.hex(), str(one.folder), weight)
                for one, weight in zip(found, weights, strict=True)
            ),
            density=said.density,
            seed=said.seed,
        )
        tell(Progress("merge", 0, 0))
        async with self._making:
            with scratch_in(self._folder, f"merge.{said.name}") as scratch:
                await self._run(order, scratch)
                put = partial(write, order, found, cocktail, scratch=scratch, out=out)
                await trio.to_thread.run_sync(put)
        return _info(order, said, found, cocktail, out)

    async def _run(self, order: Order, scratch: Path) -> None:
        """Have a process merge. Raises BadRequest."""
        (scratch / ORDER_FILE).write_bytes(msgspec.json.encode(order))
        with trio.move_on_after(DEADLINE_S):
            await work([*self._command, str(scratch)], "the merge")
            return
        raise BadRequest(f"the merge was not done within {DEADLINE_S / 60:.0f} minutes")


async def _find(model: str, network: Network) -> Found:
    """Have a parent here. Raises NodeError."""
    files = await network.files(model)
    if files.is_base:
        raise BadRequest(f"{model!r} is the base, which a merge changes and does not take in")
    paths = {file.name: file.path for file in files.files}
    data = await network.block(files.digest)
    try:
        text = paths[CONFIG_FILE].read_bytes()
        config = parse_config(text)
        has_ranks = bool(json.loads(text).get("rank_pattern"))
        folder = paths[CONFIG_FILE].parent
        return Found(model, parse_manifest(data), data, folder, config, has_ranks=has_ranks)
    except (BadAdapter, ManifestError, KeyError, OSError) as error:
        raise BadRequest(f"{model}: {error}") from error


def check(found: Sequence[Found], method: str) -> None:
    """Raise BadRequest for adapters that peft's methods cannot merge, and say which and why."""
    for place, one in enumerate(found):
        first = next(other for other in found if other.digest == one.digest)
        if first is not found[place]:
            raise BadRequest(
                f"{first.text} and {one.text} are the same adapter; name it once, with the sum of"
                " its weights"
            )
        own = one.config
        if own.dora:
            raise BadRequest(f"{one.text} is a DoRA, which is no sum of pairs; merge LoRAs")
        if own.bias != "none" or own.lora_bias or own.saved or own.tokens or own.parameters:
            raise BadRequest(
                f"{one.text} has more than pairs for linears (biases, whole modules or tokens of"
                " its own), which these methods do not merge"
            )
    ranks = {one.text: one.config.rank for one in found}
    if len(set(ranks.values())) > 1 or any(one.has_ranks for one in found):
        told = ", ".join(
            f"{one.text} {one.config.rank}{' and others' if one.has_ranks else ''}" for one in found
        )
        raise BadRequest(
            f"{method} needs one rank for all, and for all modules: {told}; train them with one, or"
            f" ask for a cocktail of them, which needs none: {'+'.join(ranks)}"
        )


def _checked_name(said: MergeSaid) -> str:
    if said.method not in METHODS:
        raise BadRequest(f"{said.method!r} is no method; there are {', '.join(METHODS)}")
    if not 0 < said.density <= 1:
        raise BadRequest(f"the density is {said.density:g}; it must be above 0, and at most 1")
    if not MIN_MERGED <= len(said.parents) <= MAX_PARENTS:
        raise BadRequest(
            f"{len(said.parents)} adapters were named; {MIN_MERGED} to {MAX_PARENTS} are merged"
        )
    try:
        return check_name(said.name)
    except InvalidInput as error:
        raise BadRequest(str(error)) from error


def _normalised(said: MergeSaid) -> tuple[int, ...]:
    try:
        return normalised([one.weight for one in said.parents])
    except FactoryError as error:
        raise BadRequest(str(error)) from error


def _cocktail(found: Sequence[Found], weights: Sequence[int]) -> bytes:
    """Return the cocktail of the parents: who is paid for it is paid for the merged one."""
    parts = {one.data: weight for one, weight in zip(found, weights, strict=True)}
    try:
        return make_cocktail(parts)
    except ManifestError as error:
        raise BadRequest(f"these adapters cannot be merged: {error}") from error


def write(order: Order, found: Sequence[Found], cocktail: bytes, scratch: Path, out: Path) -> None:
    """Write the folder that can be published, whole or not at all. Blocks; raises BadRequest."""
    draft = scratch / "folder"
    names = [_name_of(one.manifest) for one in found]
    about = {
        "name": order.name,
        "licence": shared((one.manifest.licence for one in found), MAX_TEXT),
        "source": f"merged of {', '.join(names)}"[:MAX_TEXT],
        "description": f"{', '.join(names)} in one, by {order.method}.",
    }
    try:
        draft.mkdir()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (scratch / merged.ADAPTER / name).rename(draft / name)
        (draft / RECIPE_FILE).write_text(merged.recipe_of(order))
        (draft / PARENTS_FILE).write_bytes(cocktail)
        (draft / DESCRIPTION_FILE).write_text(write_toml(about))
        shutil.rmtree(out, ignore_errors=True)
        draft.rename(out)
    except OSError as error:
        raise BadRequest(f"{out} cannot be written: {error}") from error


def _info(
    order: Order, said: MergeSaid, found: Sequence[Found], cocktail: bytes, out: Path
) -> MergedInfo:
    parsed = parse_cocktail(cocktail)
    shares = shares_for(POLICY, NOBODY, terms_of(parsed))
    whole = sum(share.weight for share in shares)
    given = [1.0 if one.weight is None else one.weight for one in said.parents]
    total = sum(given)
    note = ""
    if abs(total - 1) > 1 / WEIGHT_UNIT:
        parts = ", ".join(f"{part.weight / WEIGHT_UNIT:g}" for part in order.parents)
        note = f"the weights sum to {total:g} and are divided by it: {parts}"
    return MergedInfo(
        name=order.name,
        folder=str(out),
        method=order.method,
        rank=found[0].config.rank,
        note=note,
        parents=tuple(
            MergedFrom(part.name, str(Cid(one.digest)), part.weight / WEIGHT_UNIT)
            for part, one in zip(order.parents, found, strict=True)
        ),
        paid=tuple(
            MergePaid(ROLES[share.role], to_hex(share.address), share.weight / whole)
            for share in shares
            if share.role in ROLES
        ),
    )


def _name_of(manifest: Manifest) -> str:
    return f"{manifest.name}@{manifest.adapter_version}"
