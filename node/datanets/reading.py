"""What anybody reads of datanets: what there is, texts, versions as folders, and all of it anew;
and how a home that is older than its log comes back to it.
"""

from __future__ import annotations

from pathlib import Path

import trio

from ..api.datanets import (
    DatanetDetail,
    DatanetInfo,
    ExportInfo,
    Progress,
    RecoveredInfo,
    Tell,
    VerifiedInfo,
)
from ..errors import BadRequest, NodeError, NoProvider
from . import showing
from .exporting import check_new, export
from .part import Part
from .shelf import match, translated
from .verifying import verify

RECOVER_S = 300.0


class Readers(Part):
    """The commands that change nothing that others see."""

    def listing(self) -> list[DatanetInfo]:
        """List the datanets that are held here."""
        return [showing.info_of(one, self._shelf.own) for one in self._shelf.held.values()]

    async def show(self, datanet: str) -> DatanetDetail:
        """Describe a datanet, as new as it is to be had."""
        held = self._shelf.find(datanet)
        await self._shelf.catch_up(held)
        async with held.lock:
            return await trio.to_thread.run_sync(showing.detail_of, held, self._shelf.own)

    async def is_reached(self, datanet: str) -> bool:
        """Take what is new; return whether anybody who has the log answered, or it is this node's
        own, whole and of one word.
        """
        held = self._shelf.find(datanet)
        answered = await self._shelf.catch_up(held)
        return answered and held.lost is None and held.fork is None

    async def text(self, datanet: str, contribution: str) -> bytes:
        """Return a contribution's text."""
        held = self._shelf.find(datanet)
        digest = match(contribution, held.state.given, "contribution")
        if held.state.given[digest].withdrawn is not None:
            raise BadRequest(f"{contribution} was withdrawn: its text is given to nobody any more")
        await self._shelf.need_text(held, digest)
        with translated():
            return await trio.to_thread.run_sync(held.texts.read, digest)

    async def export(
        self, datanet: str, version: int | None, folder: Path, tell: Tell
    ) -> ExportInfo:
        """Write a version's texts and owners into a new folder."""
        held = self._shelf.find(datanet)
        await self._shelf.catch_up(held)
        made = held.state.version(version)
        if made is None:
            raise BadRequest(
                f"there is no version {version or ''}".rstrip()
                + "; `lorikeet datanet show` lists them, and its council makes one with `lorikeet"
                " datanet version`"
            )
        check_new(folder)
        await self._shelf.need_texts(held, made.version.contributions, tell)

        def told(progress: Progress) -> None:
            trio.from_thread.run_sync(tell, progress)

        return await trio.to_thread.run_sync(export, held, made, folder, told)

    async def verify(self, datanet: str, tell: Tell) -> VerifiedInfo:
        """Recompute log, texts and versions, and run the checks again."""
        held = self._shelf.find(datanet)
        await self._shelf.catch_up(held)
        newest = held.state.version()
        if newest is not None:
            earlier = [one.digest for one in held.state.in_log_order() if one.is_upheld]
            try:
                await self._shelf.need_texts(
                    held, list({*newest.version.contributions, *earlier}), tell
                )
            except NodeError as error:
                self._shelf.telemetry.log(f"datanets: {error}")  # it is found missing below
        return await verify(held, tell)

    async def recover(self, datanet: str, is_enough: bool, tell: Tell) -> RecoveredInfo:
        """Fetch what is missing here of a log and its texts. `is_enough`: where a head stays
        unknown, go on from what there is.
        """
        shelf = self._shelf
        held = shelf.find(datanet)
        if not shelf.host.has_peers():
            raise NoProvider("no other node is connected; `lorikeet peers` lists them")
        before = held.state.seq
        tell(Progress("log", 0, 0))
        if shelf.is_sequencer(held):
            held.doubt()
            await shelf.heads.read_back(held, RECOVER_S)
            if held.lost is not None and is_enough:
                with translated():
                    await shelf.heads.go_on(held)
        else:
            await shelf.catch_up(held)
        upheld = [one.digest for one in held.state.in_log_order() if one.is_upheld]
        try:
            await shelf.need_texts(held, upheld, tell)
        except NodeError as error:
            shelf.telemetry.log(f"datanets: {error}")  # it is counted below
        return RecoveredInfo(
            held.state.seq + 1,
            held.state.seq - before,
            sum(not held.texts.has(digest) for digest in upheld),
            "" if held.lost is None else held.lost.hex(),
        )
