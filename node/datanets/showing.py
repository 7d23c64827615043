"""Says what a datanet is, in the plain values of node/api/datanets.py. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from p2p.identity import peer_id_of
from proofs.datanet.entries import Contribution, Verdict
from proofs.datanet.state import Given, Proposal, Signed
from proofs.hextext import to_hex
from proofs.manifest import Manifest

from ..api.datanets import (
    ContributionInfo,
    ContributionState,
    DatanetDetail,
    DatanetInfo,
    DatanetVersionInfo,
    FindingInfo,
    OwnRole,
    PersonInfo,
    TotalInfo,
)
from .ground import Held

VOICES = {"accept": "accepts", "refuse": "refuses", "hold": "holds"}


def info_of(held: Held, own: bytes) -> DatanetInfo:
    """Describe a datanet to somebody."""
    state, charter = held.state, held.state.charter
    return DatanetInfo(
        held.datanet.hex(),
        charter.name,
        charter.purpose,
        peer_id_of(charter.owner),
        peer_id_of(charter.sequencer),
        role=role_of(held, own),
        is_open=charter.is_open,
        quorum=charter.quorum,
        languages=tuple(charter.languages),
        licences=tuple(charter.licences),
        consent=charter.consent,
        num_people=len(state.people),
        num_by_state=dict(Counter(state_of(one) for one in state.given.values())),
        num_versions=len(state.versions),
        seq=state.seq,
        head=state.head.hex(),
        at=state.at,
        fork=tuple(one.hex() for one in held.fork or ()),
        lost="" if held.lost is None else held.lost.hex(),
    )


def detail_of(held: Held, own: bytes) -> DatanetDetail:
    """Describe all of a datanet to somebody."""
    accepted = Counter(
        one.contributor for one in held.state.given.values() if state_of(one) == "accepted"
    )
    people = tuple(
        PersonInfo(peer_id_of(key), one.name, role_of(held, key), accepted[key])
        for key, one in held.state.people.items()
    )
    contributions = tuple(contribution_of(held, one) for one in held.state.in_log_order())
    versions = tuple(version_of(held, one) for one in held.state.versions)
    return DatanetDetail(info_of(held, own), people, contributions, versions)


def role_of(held: Held, key: bytes) -> OwnRole:
    """Return what somebody is in a datanet."""
    if key == held.state.charter.owner:
        return "owner"
    known = held.state.people.get(key)
    return "none" if known is None else known.role


def state_of(one: Given) -> ContributionState:
    """Return how far a contribution came."""
    return "withdrawn" if one.withdrawn is not None else one.status


def contribution_of(
    held: Held, one: Given, findings: tuple[FindingInfo, ...] = ()
) -> ContributionInfo:
    """Describe a contribution."""
    entry: Contribution = held.contribution(one.digest)
    return ContributionInfo(
        one.digest.hex(),
        "contribution",
        one.title,
        name_of(held, one.contributor),
        peer_id_of(one.contributor),
        pay_to=to_hex(one.pay_to),
        documents=one.num_documents,
        words=one.words,
        size_bytes=one.size,
        state=state_of(one),
        place=one.claimed.seq,
        given_at=one.at,
        licence=entry.licence,
        source=entry.source,
        is_here=held.texts.has(one.digest),
        voices=tuple(
            (name_of(held, key), VOICES[decision]) for key, (_, decision) in one.voices.items()
        ),
        needed=held.state.needed(held.state.judges(one.contributor)),
        findings=findings or reasons_of(held, one),
    )


def paying_for(
    held: Held, digest: bytes, adapters: Iterable[Manifest]
) -> tuple[tuple[str, str, str], ...]:
    """Return name, version and maker of the adapters that were made of a version with a
    contribution in it.
    """
    made_of = {
        made.digest: made.version.number
        for made in held.state.versions
        if digest in made.version.contributions
    }
    return tuple(
        (one.name, one.adapter_version, peer_id_of(one.creator))
        for one in adapters
        if one.made_of is not None
        and any(source.digest in made_of for source in one.made_of.datanets)
    )


def reasons_of(held: Held, one: Given) -> tuple[FindingInfo, ...]:
    """Return what the council said against a contribution."""
    found = []
    for digest in held.verdicts_on(one.digest):
        verdict = held.entry(digest)
        if isinstance(verdict, Verdict) and one.voices.get(verdict.by, (0,))[0] == verdict.at:
            for reason in verdict.reasons:
                found.append(
                    FindingInfo(
                        reason.code,
                        reason.document,
                        name_of(held, verdict.by),
                        reason.detail,
                        mend=reason.mend,
                        outcome="refuse" if verdict.decision == "refuse" else "hold",
                    )
                )
    return tuple(found)


def proposal_of(held: Held, digest: bytes, proposal: Proposal) -> ContributionInfo:
    """Describe a version that waits for voices."""
    version = proposal.version
    return ContributionInfo(
        digest.hex(),
        "version",
        f"version {version.number}",
        name_of(held, version.by),
        peer_id_of(version.by),
        pay_to="",
        documents=sum(total.documents for total in version.totals),
        words=sum(total.words for total in version.totals),
        size_bytes=sum(total.size for total in version.totals),
        state="waiting",
        place=held.state.seq,
        given_at=version.created_at,
        licence="",
        source="",
        is_here=True,
        voices=tuple(
            (name_of(held, key), VOICES[decision]) for key, (_, decision) in proposal.voices.items()
        ),
        needed=held.state.needed(held.state.council()),
    )


def version_of(held: Held, made: Signed) -> DatanetVersionInfo:
    """Describe a version that counts."""
    left = [
        digest
        for digest in made.version.contributions
        if held.state.given[digest].withdrawn is not None
    ]
    totals = tuple(
        TotalInfo(
            peer_id_of(one.person),
            name_of(held, one.person),
            to_hex(one.pay_to),
            one.contributions,
            one.documents,
            words=one.words,
            size_bytes=one.size,
            held_out=one.held_out,
        )
        for one in made.version.totals
    )
    return DatanetVersionInfo(
        made.version.number,
        made.digest.hex(),
        made.version.created_at,
        len(made.version.contributions),
        left=len(left),
        totals=totals,
    )


def name_of(held: Held, key: bytes) -> str:
    """Return the name under which somebody joined."""
    known = held.state.people.get(key)
    return known.name if known is not None else peer_id_of(key)
