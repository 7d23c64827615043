"""What anybody does in datanets: begin, invite, join, leave, give texts and take them back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trio

from factory.intake import Examined, Finding
from p2p.identity import peer_id_of
from proofs.datanet.entries import (
    FORM,
    NOTHING,
    Charter,
    Joining,
    Limits,
    Withdrawal,
    digest_of,
    sign_entry,
)
from proofs.datanet.invite import PREFIX, Token, admit, invite, read_token, write_token
from proofs.datanet.log import register

from ..api.datanets import (
    CharterSaid,
    DatanetInfo,
    DroppedInfo,
    DropSaid,
    FindingInfo,
    GivenInfo,
    GiveSaid,
    LeftInfo,
    Tell,
    WithdrawnInfo,
)
from ..errors import BadRequest, DatanetRefused, NodeError
from . import showing
from .examining import examine_files, finding_of, rules_of
from .giving import Giver
from .ground import Held
from .part import Part
from .shelf import match, peers_of, translated

CONSENT = (
    "I may give these texts. Whoever takes part may train models on them and publish them; an index"
    " that shows whose words an answer drew on publishes them. I can take them back: then nothing"
    " new is trained on them and they are paid no more, but models and copies that exist stay."
)
COMPARE_DEADLINE_S = 60.0
MAX_COMPARED_BYTES = 256 << 20  # of others' texts, fetched to look at one's own
MAX_INVITE_DAYS = 3_650
MAX_USES = 4_096


class Members(Part):
    """The commands of everybody who takes part."""

    async def create(self, said: CharterSaid) -> DatanetInfo:
        """Begin a datanet, whose owner and sequencer this node is."""
        shelf = self._shelf
        if any(one.state.charter.name == said.name for one in shelf.held.values()):
            raise BadRequest(f"a datanet {said.name!r} is here already; give it another name")
        charter = Charter(
            FORM,
            said.name,
            owner=shelf.own,
            sequencer=shelf.own,
            created_at=shelf.now(),
            purpose=said.purpose,
            consent=said.consent or CONSENT,
            languages=list(said.languages),
            licences=list(said.licences),
            limits=Limits(
                said.max_document_bytes,
                said.max_contribution_bytes,
                said.max_person_bytes,
                said.min_words,
            ),
            novelty_floor_bps=said.novelty_floor_bps,
            quorum=said.quorum,
            is_open=said.is_open,
            base=_read_base(said.base),
            previous=NOTHING,
            signature=bytes(65),
        )
        with translated():
            data = sign_entry(shelf.signer, charter)
            row = (register(None, shelf.signer, data, shelf.now()), data)
            held = await shelf.hold(digest_of(data), row, is_new=True)
        return showing.info_of(held, shelf.own)

    async def invite(self, datanet: str, uses: int, days: float) -> str:
        """Return a word with which others join."""
        shelf = self._shelf
        held = shelf.find(datanet)
        if shelf.own not in held.state.council():
            raise DatanetRefused("role", "only the owner and curators invite", "ask one of them")
        if not 0 < days <= MAX_INVITE_DAYS:
            raise BadRequest(f"an invite lasts up to {MAX_INVITE_DAYS} days, not {days:g}")
        if not 1 <= uses <= MAX_USES:
            raise BadRequest(f"an invite is for 1 to {MAX_USES} people, not {uses}")
        secret = secrets.token_bytes(32)
        until = shelf.now() + round(86_400 * days)
        with translated():
            invitation = invite(shelf.signer, held.datanet, secret, uses=uses, until=until)
        here = shelf.host.addresses if shelf.is_sequencer(held) else ()
        return write_token(
            Token(
                held.datanet,
                held.state.charter.name,
                peer_id_of(held.state.charter.sequencer),
                [*here, *held.peers][:8],
                invitation=invitation,
                secret=secret,
            )
        )

    async def join(self, token: str, name: str) -> DatanetInfo:
        """Take part in a datanet by an invite, or by the digest of an open one."""
        shelf = self._shelf
        with translated():
            invited = _read_invite(token)
        held = shelf.held.get(invited.datanet)
        if held is None:
            held = await self._hold(invited)
        await trio.to_thread.run_sync(held.note_peers, tuple(invited.addresses))
        await shelf.catch_up(held)
        if shelf.own not in held.state.people:
            admission = b""
            if invited.invitation is not None:
                admission = admit(invited.secret, held.datanet, shelf.own)
            draft = Joining(
                FORM,
                held.datanet,
                shelf.own,
                name or f"person-{shelf.host.peer_id[-6:]}",
                invitation=invited.invitation,
                admission=admission,
                signature=bytes(65),
            )
            await shelf.say(held, draft)
        return showing.info_of(held, shelf.own)

    async def _hold(self, invited: Token) -> Held:
        """Begin to hold what somebody was invited to."""
        shelf = self._shelf
        holders = await shelf.remote.holders(invited.datanet, peers_of(invited.addresses))
        row = await shelf.remote.first_row(invited.datanet, holders)
        with translated():
            return await shelf.hold(invited.datanet, row, is_new=False)

    # --- giving ---

    async def drop(self, said: DropSaid, data: bytes) -> DroppedInfo:
        """Keep a piece of a file until it is given, or for an hour."""
        with translated():
            return await trio.to_thread.run_sync(self._drops.add, said, data, time.time())

    async def give(self, datanet: str, said: GiveSaid, tell: Tell) -> GivenInfo:
        """Examine files, claim what may be given, and give it. Dropped ones are deleted then,
        whatever became of them: the page has them still.
        """
        try:
            return await self._give(datanet, said, tell)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._drops.forget, said.files)

    async def _give(self, datanet: str, said: GiveSaid, tell: Tell) -> GivenInfo:
        shelf = self._shelf
        held = shelf.find(datanet)
        await shelf.catch_up(held)
        self._check_may_give(held, said)
        await self._bring_to_compare(held, tell)
        given: list[bytes] = []
        with translated():
            examined, findings, good = await self._examine(held, said, tell)
            said = replace(said, files=tuple(map(str, good)))
            if examined.outcome != "refuse" and said.agreed:

                async def submit(data: bytes) -> bytes:
                    return await shelf.submit(held, data)

                giver = Giver(shelf.signer, self._pay_to)
                given = await giver.give(held, examined, said, submit, tell)
        return GivenInfo(
            tuple(showing.contribution_of(held, held.state.given[one]) for one in given),
            findings,
            num_kept=len(examined.kept),
            num_refused=len(examined.documents) - len(examined.kept),
        )

    async def _examine(
        self, held: Held, said: GiveSaid, tell: Tell
    ) -> tuple[Examined, tuple[FindingInfo, ...], list[Path]]:
        """Look at the files; where some are refused as a whole, at the others alone, which are
        returned too.
        """
        around = self._shelf.around(held)
        rules = rules_of(
            held.state.charter, tokens=around.tokens, column=said.column, mask=said.mask
        )

        async def look(files: list[Path]) -> Examined:
            own = self._shelf.own
            return await examine_files(held, files, rules, own, around=around, tell=tell)

        files = [Path(file) for file in said.files]
        examined = await look(files)
        refused = _refused_files(files, examined)
        good = [file for file in files if file not in refused]
        told = list[FindingInfo]()
        if refused and good:
            told = [finding_of(examined, one) for found in refused.values() for one in found]
            examined = await look(good)
        told += [finding_of(examined, one) for one in examined.findings]
        return examined, tuple(told), good

    async def _bring_to_compare(self, held: Held, tell: Tell) -> None:
        """Have others' texts here, as far as they are to be had soon, so that who gives hears at
        once what was given before.
        """
        wanted = []
        room = MAX_COMPARED_BYTES
        for one in held.state.in_log_order():
            if one.is_upheld and not held.texts.has(one.digest):
                room -= one.size
                if room < 0:
                    break
                wanted.append(one.digest)
        with trio.move_on_after(COMPARE_DEADLINE_S):
            try:
                await self._shelf.need_texts(held, wanted, tell)
            except NodeError as error:
                self._shelf.telemetry.log(f"datanets: not compared with all: {error}")

    def _check_may_give(self, held: Held, said: GiveSaid) -> None:
        held.refuse_if_forked()
        role = showing.role_of(held, self._shelf.own)
        if role == "none":
            raise DatanetRefused("joined", "this node has not joined", "join with an invite")
        if role == "barred":
            raise DatanetRefused("barred", "this node is barred here", "ask the owner")
        charter = held.state.charter
        if said.licence and said.licence not in charter.licences:
            raise DatanetRefused(
                "licence",
                f"{said.licence} is not taken",
                f"use {' or '.join(charter.licences)}",
            )

    async def withdraw(self, datanet: str, contribution: str) -> WithdrawnInfo:
        """Take back what was given."""
        shelf = self._shelf
        held = shelf.find(datanet)
        digest = match(contribution, held.state.given, "contribution")
        draft = Withdrawal(
            FORM, held.datanet, digest, shelf.own, at=shelf.now(), signature=bytes(65)
        )
        await shelf.say(held, draft)
        await trio.to_thread.run_sync(held.texts.drop, digest)
        return WithdrawnInfo(
            showing.contribution_of(held, held.state.given[digest]),
            showing.paying_for(held, digest, self._adapters()),
        )

    async def leave(self, datanet: str) -> LeftInfo:
        """Hold a datanet no more: its log and texts go from this node.

        Its log keeps this node's key and what it gave. Raises DatanetRefused where this node writes
        the log.
        """
        shelf = self._shelf
        held = shelf.find(datanet)
        if shelf.is_sequencer(held) and held.fork is None:
            raise DatanetRefused(
                "sequencer",
                "this node writes its log, which would end for everybody",
                f"have another member write it first: lorikeet datanet hand-on"
                f" {held.datanet.hex()[:16]} NAME",
            )
        own = [one for one in held.state.given.values() if one.contributor == shelf.own]
        with translated():
            await shelf.let_go(held)
        given = sum(one.withdrawn is None for one in own)
        return LeftInfo(held.datanet.hex(), held.state.charter.name, given)


def _refused_files(files: Sequence[Path], examined: Examined) -> dict[Path, list[Finding]]:
    """Return which files are refused as a whole, and why; intake names them in what it says."""
    of_files = [one for one in examined.findings if one.document is None]
    found = dict[Path, list[Finding]]()
    for file in files:
        own = [one for one in of_files if one.detail.startswith(f"{file.name}: ")]
        if any(one.outcome == "refuse" for one in own):
            found[file] = own
    return found


def _read_invite(text: str) -> Token:
    text = text.strip()
    if not text.startswith(PREFIX) and len(text) == 64:
        try:
            return Token(bytes.fromhex(text), "", "", [], invitation=None, secret=b"")
        except ValueError:
            pass
    return read_token(text)


def _read_base(text: str) -> bytes:
    try:
        base = bytes.fromhex(text) if text else NOTHING
    except ValueError:
        base = b""
    if len(base) != len(NOTHING):
        raise BadRequest(f"{text!r} is no base; name one by its digest, 64 hex digits")
    return base
