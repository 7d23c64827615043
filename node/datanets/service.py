"""What one daemon does in datanets, as node/datanet_api.py promises it.

    create, invite, join · give, withdraw · queue, judge, appoint, make_version
    show, export, verify

Every word is signed by the node's own key and goes the same way: to the sequencer, here (desk.py)
or elsewhere (remote.py), and back as a row of the log.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import InvalidInput, P2pError
from p2p.host import Host
from p2p.identity import Identity, peer_id_of, public_key_of
from p2p.peers import PeerAddress
from proofs.datanet.entries import (
    FORM,
    NOTHING,
    Charter,
    Contribution,
    Entry,
    Joining,
    Limits,
    Member,
    Reason,
    Verdict,
    Version,
    Withdrawal,
    digest_of,
    sign_entry,
)
from proofs.datanet.invite import PREFIX, Token, admit, invite, read_token, write_token
from proofs.datanet.log import register
from proofs.datanet.version import contents
from proofs.errors import DatanetError
from proofs.signing import Signer

from ..datanet_api import (
    CharterSaid,
    ContributionInfo,
    DatanetDetail,
    DatanetInfo,
    DatanetVersionInfo,
    ExportInfo,
    FindingInfo,
    GivenInfo,
    GiveSaid,
    PersonInfo,
    Progress,
    Tell,
    VerifiedInfo,
)
from ..errors import BadRequest, DatanetRefused, NodeError, NoProvider
from ..telemetry import Telemetry
from ..wire import datanet as wire
from ..wire.infer import WireError
from . import showing
from .desk import OWN, Desk
from .examining import examine_files, finding_of, review_text, rules_of
from .exporting import check_new, export
from .giving import Giver
from .ground import Held
from .remote import Remote
from .verifying import verify

CONSENT = (
    "I may give these texts. Whoever takes part may train models on them and publish them; an index"
    " that shows whose words an answer drew on publishes them. I can take them back: then nothing"
    " new is trained on them and they are paid no more, but models and copies that exist stay."
)
MIN_HEX_CHARS = 6
VERSION_TRIES = 3
TEXT_DEADLINE_S = 120.0
COMPARE_DEADLINE_S = 60.0
MAX_COMPARED_BYTES = 256 << 20  # of others' texts, fetched to look at one's own
MAX_INVITE_DAYS = 3_650


class DatanetService:
    """The datanets of one daemon. `folder` holds one folder for each."""

    def __init__(
        self,
        identity: Identity,
        pay_to: bytes,
        host: Host,
        store: BlockStore,
        telemetry: Telemetry,
        *,
        folder: Path,
        held: dict[bytes, Held],
        remote: Remote,
        desk: Desk,
        on_held: Callable[[Held], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = Signer(identity.secret)
        self._own = identity.public_key
        self._host = host
        self._store = store
        self._telemetry = telemetry
        self._folder = folder
        self._held = held
        self._remote = remote
        self._desk = desk
        self._on_held = on_held
        self._clock = clock
        self._giver = Giver(self._signer, pay_to)

    # --- which there are ---

    def listing(self) -> list[DatanetInfo]:
        """List the datanets that are held here."""
        return [showing.info_of(one, self._own) for one in self._held.values()]

    async def create(self, said: CharterSaid) -> DatanetInfo:
        """Begin a datanet, whose owner and sequencer this node is."""
        if any(one.state.charter.name == said.name for one in self._held.values()):
            raise BadRequest(f"a datanet {said.name!r} is here already; give it another name")
        charter = Charter(
            FORM,
            said.name,
            owner=self._own,
            sequencer=self._own,
            created_at=self._now(),
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
            base=bytes.fromhex(said.base) if said.base else NOTHING,
            previous=NOTHING,
            signature=bytes(65),
        )
        with _translated():
            data = sign_entry(self._signer, charter)
            row = (register(None, self._signer, data, self._now()), data)
            held = await self._hold(digest_of(data), row)
        return showing.info_of(held, self._own)

    async def invite(self, datanet: str, uses: int, days: float) -> str:
        """Return a word with which others join."""
        held = self._find(datanet)
        if self._own not in held.state.council():
            raise DatanetRefused("role", "only the owner and curators invite", "ask one of them")
        if not 0 < days <= MAX_INVITE_DAYS:
            raise BadRequest(f"an invite lasts up to {MAX_INVITE_DAYS} days, not {days:g}")
        secret = secrets.token_bytes(32)
        until = self._now() + round(86_400 * days)
        with _translated():
            invitation = invite(self._signer, held.datanet, secret, uses=uses, until=until)
        here = self._host.addresses if self._is_sequencer(held) else ()
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
        with _translated():
            invited = _read_invite(token)
        held = self._held.get(invited.datanet)
        if held is None:
            known = _peers_of(invited.addresses)
            holders = await self._remote.holders(invited.datanet, known)
            row = await self._remote.first_row(invited.datanet, holders)
            with _translated():
                held = await self._hold(invited.datanet, row)
        await trio.to_thread.run_sync(held.note_peers, tuple(invited.addresses))
        await self.catch_up(held)
        if self._own not in held.state.people:
            admission = b""
            if invited.invitation is not None:
                admission = admit(invited.secret, held.datanet, self._own)
            draft = Joining(
                FORM,
                held.datanet,
                self._own,
                name or f"person-{self._host.peer_id[-6:]}",
                invitation=invited.invitation,
                admission=admission,
                signature=bytes(65),
            )
            await self._say(held, draft)
        return showing.info_of(held, self._own)

    async def show(self, datanet: str) -> DatanetDetail:
        """Describe a datanet, as new as it is to be had."""
        held = self._find(datanet)
        await self.catch_up(held)
        return await trio.to_thread.run_sync(showing.detail_of, held, self._own)

    # --- giving ---

    async def give(self, datanet: str, said: GiveSaid, tell: Tell) -> GivenInfo:
        """Examine files, claim what may be given, and give it."""
        held = self._find(datanet)
        await self.catch_up(held)
        self._check_may_give(held, said)
        rules = rules_of(held.state.charter, column=said.column, mask=said.mask)
        files = [Path(file) for file in said.files]
        await self._bring_to_compare(held, tell)
        examined = await examine_files(held, files, rules, self._own, tell)
        findings = tuple(finding_of(examined, finding) for finding in examined.findings)
        given: list[bytes] = []
        if examined.outcome != "refuse" and said.agreed:

            async def submit(data: bytes) -> bytes:
                return await self._submit(held, data)

            with _translated():
                given = await self._giver.give(held, examined, said, submit, tell)
        return GivenInfo(
            tuple(showing.contribution_of(held, held.state.given[one]) for one in given),
            findings,
            num_kept=len(examined.kept),
            num_refused=len(examined.documents) - len(examined.kept),
        )

    async def _bring_to_compare(self, held: Held, tell: Tell) -> None:
        """Have others' texts here, as far as they are to be had soon, so that who gives hears at
        once what was given before.
        """
        wanted = [
            one
            for one in held.state.in_log_order()
            if one.is_upheld and not held.texts.has(one.digest)
        ]
        room = MAX_COMPARED_BYTES
        with trio.move_on_after(COMPARE_DEADLINE_S), suppress(NodeError):
            for number, one in enumerate(wanted):
                tell(Progress("fetch", number, len(wanted)))
                room -= one.size
                if room < 0:
                    return
                await self._need_text(held, one.digest)

    async def withdraw(self, datanet: str, contribution: str) -> ContributionInfo:
        """Take back what was given."""
        held = self._find(datanet)
        digest = _match(contribution, held.state.given, "contribution")
        draft = Withdrawal(
            FORM, held.datanet, digest, self._own, at=self._now(), signature=bytes(65)
        )
        await self._say(held, draft)
        await trio.to_thread.run_sync(held.texts.drop, digest)
        return showing.contribution_of(held, held.state.given[digest])

    # --- the council ---

    async def queue(self, datanet: str, tell: Tell) -> list[ContributionInfo]:
        """List what waits for the council, with what the checks found."""
        held = self._find(datanet)
        await self.catch_up(held)
        waiting = [one for one in held.state.in_log_order() if showing.state_of(one) == "waiting"]
        listed = []
        for number, one in enumerate(waiting):
            tell(Progress("look", number, len(waiting), one.title))
            findings: list[FindingInfo] = []
            try:
                entry = await self._need_text(held, one.digest)
                examined = await review_text(held, one, entry)
                findings = [finding_of(examined, finding) for finding in examined.findings]
            except NodeError as error:
                findings = [
                    FindingInfo("text", 0, "", str(error), mend="try again", outcome="hold")
                ]
            listed.append(showing.contribution_of(held, one, tuple(findings)))
        proposals = held.state.proposals.items()
        return listed + [showing.proposal_of(held, *proposal) for proposal in proposals]

    async def text(self, datanet: str, contribution: str) -> bytes:
        """Return a contribution's text."""
        held = self._find(datanet)
        digest = _match(contribution, held.state.given, "contribution")
        await self._need_text(held, digest)
        return await trio.to_thread.run_sync(held.texts.read, digest)

    async def judge(
        self, datanet: str, subject: str, decision: str, reason: tuple[str, str, str]
    ) -> ContributionInfo:
        """Accept, refuse or hold a contribution or a proposed version."""
        held = self._find(datanet)
        await self.catch_up(held)
        digest = _match(subject, {**held.state.given, **held.state.proposals}, "contribution")
        if decision not in ("accept", "refuse", "hold"):
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
            at=max(self._now(), voices.get(self._own, (-1, ""))[0] + 1),
            by=self._own,
            signature=bytes(65),
        )
        await self._say(held, draft)
        if given is not None:
            return showing.contribution_of(held, given)
        assert proposal is not None
        return showing.proposal_of(held, digest, proposal)

    async def appoint(self, datanet: str, person: str, role: str) -> PersonInfo:
        """Say what somebody's role is from now on."""
        held = self._find(datanet)
        await self.catch_up(held)
        key = self._find_person(held, person)
        if role not in ("member", "curator", "barred"):
            raise BadRequest(f"{role!r}: say member, curator or barred")
        draft = Member(
            FORM,
            held.datanet,
            key,
            role,  # type: ignore[arg-type]  # looked at above
            at=max(self._now(), held.state.said_at.get((self._own, key), -1) + 1),
            by=self._own,
            signature=bytes(65),
        )
        await self._say(held, draft)
        known = held.state.people[key]
        return PersonInfo(peer_id_of(key), known.name, showing.role_of(held, key), 0)

    async def make_version(self, datanet: str) -> DatanetVersionInfo | ContributionInfo:
        """Make the next version; what is returned tells whether it counts already."""
        held = self._find(datanet)
        for number in range(VERSION_TRIES):
            await self.catch_up(held)
            with _translated():
                draft = self._next_version(held)
            try:
                digest = await self._say(held, draft)
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
        now = state.at if not self._is_sequencer(held) else max(self._now(), state.at)
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
            by=self._own,
            signature=bytes(65),
        )

    # --- reading ---

    async def export(
        self, datanet: str, version: int | None, folder: Path, tell: Tell
    ) -> ExportInfo:
        """Write a version's texts and owners into a new folder."""
        held = self._find(datanet)
        await self.catch_up(held)
        made = held.state.version(version)
        if made is None:
            raise BadRequest(
                f"there is no version {version or ''}".rstrip()
                + "; `lorikeet datanet show` lists them, and its council makes one with `lorikeet"
                " datanet version`"
            )
        check_new(folder)
        await self._need_texts(held, made.version.contributions, tell)

        def told(progress: Progress) -> None:
            trio.from_thread.run_sync(tell, progress)

        return await trio.to_thread.run_sync(export, held, made, folder, told)

    async def verify(self, datanet: str, tell: Tell) -> VerifiedInfo:
        """Recompute log, texts and versions, and run the checks again."""
        held = self._find(datanet)
        await self.catch_up(held)
        newest = held.state.version()
        if newest is not None:
            try:
                await self._need_texts(held, newest.version.contributions, tell)
            except NodeError as error:
                self._telemetry.log(f"datanets: {error}")  # it is found missing below
        return await verify(held, tell)

    async def bring_for_council(self, held: Held) -> None:
        """Have here what the council judges, where this node is on it, and what it accepted, so
        that others get it here. Raises NodeError for what is not to be had now.
        """
        if self._own in held.state.council():
            for one in held.state.in_log_order():
                if one.is_upheld:
                    await self._need_text(held, one.digest)

    async def _need_texts(self, held: Held, digests: Sequence[bytes], tell: Tell) -> None:
        wanted = [one for one in digests if held.state.given[one].withdrawn is None]
        for number, digest in enumerate(wanted):
            tell(Progress("fetch", number, len(wanted)))
            await self._need_text(held, digest)
        tell(Progress("fetch", len(wanted), len(wanted)))

    async def _need_text(self, held: Held, digest: bytes) -> Contribution:
        """Have a text here. NoProvider where nobody has it."""
        entry = await trio.to_thread.run_sync(held.contribution, digest)
        if held.texts.has(digest):
            return entry
        holders = await self._remote.holders(held.datanet, self._known_peers(held))
        try:
            await self._remote.bring(held, digest, entry, holders, TEXT_DEADLINE_S)
        except (DatanetRefused, OSError) as error:
            raise NoProvider(f"the text {digest.hex()[:12]} was not to be had: {error}") from error
        return entry

    # --- the log ---

    async def catch_up(self, held: Held) -> None:
        """Take what others have beyond our log, the sequencer first; nobody there is no fault."""
        if self._is_sequencer(held):
            return
        for peer in await self._remote.holders(held.datanet, self._known_peers(held)):
            try:
                await self._remote.catch_up(held, peer)
            except (P2pError, WireError, DatanetError, OSError) as error:
                self._telemetry.log(f"datanets: {held.state.charter.name}: {error}")
                continue
            if peer.peer_id == peer_id_of(held.state.charter.sequencer):
                return

    async def _say(self, held: Held, draft: Entry) -> bytes:
        """Sign an entry and have it placed; return its digest."""
        held.refuse_if_forked()
        with _translated():
            data = sign_entry(self._signer, draft)
            await self._submit(held, data)
        return digest_of(data)

    async def _submit(self, held: Held, data: bytes) -> bytes:
        """Have an entry placed; return its registration once this node's log has it.

        Raises DatanetRefused, DatanetError, NoProvider.
        """
        if self._is_sequencer(held):
            return await self._desk.submit(held, data, OWN)
        sequencer = peer_id_of(held.state.charter.sequencer)
        peers = await self._remote.holders(held.datanet, self._known_peers(held))
        peer = next((one for one in peers if one.peer_id == sequencer), PeerAddress(sequencer))
        try:
            answer = await self._remote.ask(peer, wire.Submit(held.datanet, data))
            if isinstance(answer, wire.Refused):
                raise DatanetRefused(answer.code, answer.detail, answer.mend, answer.document)
            await self._remote.catch_up(held, peer)
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

    async def _hold(self, datanet: bytes, row: tuple[bytes, bytes]) -> Held:
        folder = self._folder / datanet.hex()
        held = await trio.to_thread.run_sync(Held.create, folder, self._store, row)
        self._held[datanet] = held
        self._host.dht.provide_soon(Cid(datanet))
        self._on_held(held)
        return held

    # --- who and which ---

    def _check_may_give(self, held: Held, said: GiveSaid) -> None:
        held.refuse_if_forked()
        role = showing.role_of(held, self._own)
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

    def _find(self, text: str) -> Held:
        named = [one for one in self._held.values() if one.state.charter.name == text]
        if len(named) == 1:
            return named[0]
        return self._held[_match(text, self._held, "datanet")]

    def _find_person(self, held: Held, text: str) -> bytes:
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
                f"nobody is called {text!r} here"
                if not named
                else f"{len(named)} people are called {text!r}; name one by the peer id"
            )
        return key

    def _is_sequencer(self, held: Held) -> bool:
        return held.state.charter.sequencer == self._own

    def _known_peers(self, held: Held) -> list[PeerAddress]:
        sequencer = peer_id_of(held.state.charter.sequencer)
        known = _peers_of(held.peers)
        first = [one for one in known if one.peer_id == sequencer] or [PeerAddress(sequencer)]
        return first + [one for one in known if one.peer_id != sequencer]

    def _now(self) -> int:
        return int(self._clock())


@contextmanager
def _translated() -> Iterator[None]:
    """What the rules refuse, as the faces know it."""
    try:
        yield
    except DatanetError as error:
        raise DatanetRefused(error.code, error.detail, error.mend, error.document) from error
    except OSError as error:
        raise DatanetRefused(
            "disk", f"this node's disk: {error.strerror or error}", "make room, and try again"
        ) from error


def _read_invite(text: str) -> Token:
    text = text.strip()
    if not text.startswith(PREFIX) and len(text) == 64:
        try:
            return Token(bytes.fromhex(text), "", "", [], invitation=None, secret=b"")
        except ValueError:
            pass
    return read_token(text)


def _peers_of(addresses: Sequence[str]) -> list[PeerAddress]:
    found: dict[str, list[str]] = {}
    for address in addresses:
        peer_id = address.rpartition("/p2p/")[2]
        try:
            public_key_of(peer_id)
        except InvalidInput:
            continue
        found.setdefault(peer_id, []).append(address)
    return [PeerAddress(peer_id, tuple(listed)) for peer_id, listed in found.items()]


def _match(text: str, known: Iterable[bytes], what: str) -> bytes:
    """Return the one digest that begins with a text. Raises BadRequest."""
    text = text.lower()
    found = [one for one in known if one.hex().startswith(text)]
    if len(found) == 1 and len(text) >= MIN_HEX_CHARS:
        return found[0]
    many = f"{len(found)} begin with that" if found and text else "there is none"
    if 0 < len(text) < MIN_HEX_CHARS and found:
        many = f"say at least {MIN_HEX_CHARS} hex digits"
    listing = "lorikeet datanet list" if what == "datanet" else "lorikeet datanet show"
    raise BadRequest(f"no {what} {text!r}: {many}; `{listing}` lists them")
