"""What a datanet's council does: look at what waits, judge, say who is who, sign versions; and what
its owner does: change the charter, and hand the log on to another node.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from p2p.identity import peer_id_of
from proofs.datanet.entries import (
    FORM,
    NOTHING,
    Charter,
    Decision,
    Limits,
    Member,
    Reason,
    Role,
    Verdict,
    Version,
    sign_entry,
)
from proofs.datanet.version import contents

from ..api.datanets import (
    CharterChange,
    ContributionInfo,
    DatanetInfo,
    DatanetVersionInfo,
    FindingInfo,
    PersonInfo,
    Progress,
    Tell,
)
from ..errors import BadRequest, DatanetRefused, NodeError, NoProvider
from . import showing
from .examining import findings_on
from .ground import Held
from .part import Part
from .shelf import match, translated

VERSION_TRIES = 3


class Council(Part):
    """The commands of the owner and the curators."""

    async def queue(self, datanet: str, tell: Tell) -> list[ContributionInfo]:
        """List what waits for the council, with what the checks found."""
        held = self._shelf.find(datanet)
        await self._shelf.catch_up(held)
        waiting = [one for one in held.state.in_log_order() if showing.state_of(one) == "waiting"]
        around = self._shelf.around(held)
        listed = []
        for number, one in enumerate(waiting):
            tell(Progress("look", number, len(waiting), one.title))
            try:
                entry = await self._shelf.need_text(held, one.digest)
                with translated():
                    findings = await findings_on(held, one, entry, around)
            except NodeError as error:
                findings = (
                    FindingInfo("text", 0, "", str(error), mend="try again", outcome="hold"),
                )
            listed.append(showing.contribution_of(held, one, findings))
        proposals = held.state.proposals.items()
        return listed + [showing.proposal_of(held, *proposal) for proposal in proposals]

    async def judge(
        self, datanet: str, subject: str, decision: str, reason: tuple[str, str, str]
    ) -> ContributionInfo:
        """Accept, refuse or hold a contribution or a proposed version."""
        shelf = self._shelf
        held = shelf.find(datanet)
        await shelf.catch_up(held)
        digest = match(subject, {**held.state.given, **held.state.proposals}, "contribution")
        if decision not in get_args(Decision):
            raise BadRequest(f"{decision!r}: say accept, refuse or hold")
        given = held.state.given.get(digest)
        proposal = held.state.proposals.get(digest)
        voices = given.voices if given else proposal.voices if proposal else {}
        draft = Verdict(
            FORM,
            held.datanet,
            digest,
            decision,  # type: ignore[arg-type]  # looked at above
            reasons=[Reason(reason[0], 0, reason[1], reason[2])] if reason[0] else [],
            report=given.report if given else NOTHING,
            at=max(shelf.now(), voices.get(shelf.own, (-1, ""))[0] + 1),
            by=shelf.own,
            signature=bytes(65),
        )
        await shelf.say(held, draft)
        if given is not None:
            return showing.contribution_of(held, given)
        assert proposal is not None
        return showing.proposal_of(held, digest, proposal)

    async def appoint(self, datanet: str, person: str, role: str) -> PersonInfo:
        """Say what somebody's role is from now on."""
        shelf = self._shelf
        held = shelf.find(datanet)
        await shelf.catch_up(held)
        key = shelf.find_person(held, person)
        if role not in get_args(Role):
            raise BadRequest(f"{role!r}: say member, curator or barred")
        draft = Member(
            FORM,
            held.datanet,
            key,
            role,  # type: ignore[arg-type]  # looked at above
            at=max(shelf.now(), held.state.said_at.get((shelf.own, key), -1) + 1),
            by=shelf.own,
            signature=bytes(65),
        )
        await shelf.say(held, draft)
        known = held.state.people[key]
        return PersonInfo(peer_id_of(key), known.name, showing.role_of(held, key), 0)

    # --- versions ---

    async def make_version(self, datanet: str) -> DatanetVersionInfo | ContributionInfo:
        """Make the next version; what is returned tells whether it counts already."""
        shelf = self._shelf
        held = shelf.find(datanet)
        for number in range(VERSION_TRIES):
            await shelf.catch_up(held)
            with translated():
                draft = self._next_version(held)
            try:
                digest = await shelf.say(held, draft)
                break
            except DatanetRefused as error:
                if error.reason != "head" or number + 1 == VERSION_TRIES:
                    raise
        proposal = held.state.proposals.get(digest)
        if proposal is not None:
            return showing.proposal_of(held, digest, proposal)
        return showing.version_of(held, held.state.versions[-1])

    def _next_version(self, held: Held) -> Version:
        state = held.state
        last = state.version()
        is_here = self._shelf.is_sequencer(held)
        now = max(self._shelf.now(), state.at) if is_here else state.at
        found = contents(state, now)
        if last is not None and found.contributions == last.version.contributions:
            raise DatanetRefused(
                "same", f"nothing changed since version {last.version.number}", "use that one"
            )
        return Version(
            FORM,
            state.datanet,
            last.version.number + 1 if last else 1,
            last.digest if last else NOTHING,
            head=state.head,
            created_at=now,
            contributions=found.contributions,
            totals=list(found.totals),
            held_out=found.held_out,
            by=self._shelf.own,
            signature=bytes(65),
        )

    # --- the owner ---

    async def change_charter(self, datanet: str, said: CharterChange) -> DatanetInfo:
        """Replace the charter, and with it who writes the log, where that is said."""
        shelf = self._shelf
        held = shelf.find(datanet)
        await shelf.catch_up(held)
        held.refuse_if_forked()
        if shelf.own != held.state.charter.owner:
            raise DatanetRefused("owner", "only the owner changes the charter", "ask the owner")
        draft = self._next_charter(held, said)
        try:
            await shelf.say(held, draft)
        except NoProvider as error:
            if not said.is_lost:
                raise NoProvider(
                    f"{error}. Where it is gone for good: lorikeet datanet hand-on {datanet} PERSON"
                    " --lost"
                ) from error
            await self._place_past(held, said)
        return showing.info_of(held, shelf.own)

    async def _place_past(self, held: Held, said: CharterChange) -> None:
        """Place a charter without the sequencer, which is gone, on top of what is to be had."""
        draft = self._next_charter(held, said)
        if draft.sequencer == held.state.charter.sequencer:
            raise BadRequest("name who writes the log from now on: it is gone who did")
        with translated():
            await self._shelf.place_as_owner(held, sign_entry(self._shelf.signer, draft))

    def _next_charter(self, held: Held, said: CharterChange) -> Charter:
        charter = held.state.charter
        rules = said.rules()
        of_limits = {name: rules.pop(name) for name in Limits.__struct_fields__ if name in rules}
        limits = msgspec.structs.replace(charter.limits, **of_limits)
        changes = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in rules.items()
        }
        if said.sequencer:
            changes["sequencer"] = self._shelf.find_person(held, said.sequencer)
        changed = msgspec.structs.replace(charter, limits=limits, **changes)
        if changed == charter:
            raise BadRequest("nothing is said to be otherwise; `lorikeet datanet charter -h` lists")
        return msgspec.structs.replace(
            changed, previous=held.state.charter_digest, created_at=self._shelf.now()
        )
