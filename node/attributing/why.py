"""Explains one receipt: on whose text its answer drew, how its fee was split, and whether that can
be computed again here.

    agrees     what the receipt says is what its answer drew on, or nothing was to be drawn
    differs    it is not
    unknown    its tokens are not remembered here, or an adapter's index is not open

Changes nothing and asks no chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from p2p.cid import Cid
from proofs.attribution.blend import BIT
from proofs.attribution.credit import Parts, credit, join, most_credited
from proofs.attribution.explain import Explanation, Span, explain
from proofs.attribution.listing import Listed
from proofs.attribution.shares import (
    CONTRIBUTOR,
    CREATOR,
    Share,
    split,
)
from proofs.errors import ProofError
from proofs.hextext import to_hex
from proofs.manifest import Manifest
from proofs.policies import Policies
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    Receipt,
    SignedReceipt,
    decode_body,
    derive_shares,
    digest_of,
)

from ..api.money import (
    AttributedInfo,
    CreditedInfo,
    QualityInfo,
    SourceInfo,
    SpanInfo,
    SplitInfo,
    WhyInfo,
)
from ..api.verifying import Verdict
from ..errors import NodeError
from ..threads import in_thread
from .answers import OwnAnswer, OwnAnswers
from .attributor import DRAW_DEADLINE_S, Attributor
from .texts import Texts, attribution_of

ROLES = {0: "node", CREATOR: "creator", CONTRIBUTOR: "data"}
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Measured:
    """What was computed of one adapter."""

    told: Explanation
    parts: Parts
    listed: tuple[Listed, ...]


class Why:
    """Explains the receipts that one daemon has; `decode` turns tokens into text."""

    def __init__(
        self,
        attributor: Attributor,
        answers: OwnAnswers,
        decode: Decode,
        policies: Callable[[], Policies],
    ) -> None:
        self._policies = policies
        self._attributor = attributor
        self._answers = answers
        self._decode = decode

    def find_disputed(self, receipt: bytes) -> SignedReceipt | None:
        """Return a receipt that this node did not sign, and kept as evidence."""
        own = self._answers.find(receipt)
        if own is None or not own.body:
            return None
        return SignedReceipt(own.body, own.node_signature, NO_SIGNATURE)

    async def explain(self, body: bytes) -> WhyInfo:
        """Explain the receipt with this body. Raises ReceiptError for what is none."""
        receipt = decode_body(body)
        adapters = self._attributor.parents(receipt.adapter)
        own = self._answers.find(digest_of(body))
        if receipt.adapter != BARE_BASE and not adapters:
            return self._tell(
                body, (), "unknown", "the adapter's manifest is not here; pull it", own
            )
        try:
            policy = self._policies().of(receipt.parameters)
            shares = derive_shares(receipt, self._attributor.terms(receipt.adapter), policy)
        except ProofError as error:
            return self._tell(body, (), "differs", str(error), own)
        verdict, reason, measured = await self._recompute(receipt, body, own)
        told = self._tell(body, shares, verdict, reason, own)
        infos = [
            self._adapter(cid, manifest, found, own)
            for (cid, manifest), found in zip(adapters, measured, strict=True)
        ]
        told.adapters.extend(infos)
        return told

    async def _recompute(
        self, receipt: Receipt, body: bytes, own: OwnAnswer | None
    ) -> tuple[Verdict, str, Sequence[Measured | None]]:
        parents = self._attributor.parents(receipt.adapter)
        nothing: list[Measured | None] = [None] * len(parents)
        if not any(attribution_of(manifest) for _, manifest in parents):
            return "agrees", "shares follow from the manifest alone", nothing
        standing = "it pays by standing weights: private, broken off, or an index was missing"
        if own is None:
            if not receipt.drawn:
                return "agrees", standing, nothing
            return "unknown", "the tokens of this answer are not remembered here", nothing
        if not own.fits(body):
            return "unknown", "the tokens remembered here are not those of this receipt", nothing
        try:
            texts = self._attributor.texts(receipt.adapter)
        except NodeError as error:
            self._attributor.want(receipt.adapter)
            return "unknown", str(error), nothing
        measured = await in_thread(
            partial(_measure, texts, own.prompt_ids, own.answer_ids), deadline_s=DRAW_DEADLINE_S
        )
        drawn = join([one.parts if one else () for one in measured])
        if receipt.drawn == drawn:
            return "agrees", "recomputed: the shares equal those of the receipt", measured
        if not receipt.drawn:
            return "agrees", standing, measured
        return "differs", "recomputed: the answer drew on others than the receipt says", measured

    def _tell(
        self,
        body: bytes,
        shares: Sequence[Share],
        verdict: Verdict,
        reason: str,
        own: OwnAnswer | None,
    ) -> WhyInfo:
        receipt = decode_body(body)
        names = {
            someone.address: someone.name
            for _, manifest in self._attributor.parents(receipt.adapter)
            for someone in manifest.contributors
        }
        paid = split(receipt.amount, shares)
        return WhyInfo(
            receipt=digest_of(body).hex(),
            verdict=verdict,
            reason=reason,
            tokens=receipt.completion_tokens,
            text=self._decode(own.answer_ids) if own else None,
            fee=receipt.amount,
            split=[
                SplitInfo(ROLES[one.role], to_hex(one.address), names.get(one.address, ""), amount)
                for one, amount in zip(shares, paid, strict=True)
            ],
            adapters=[],
        )

    def _adapter(
        self, cid: Cid, manifest: Manifest, found: Measured | None, own: OwnAnswer | None
    ) -> AttributedInfo:
        attribution = attribution_of(manifest)
        bits = found.told.drawn.bits if found else (None,) * len(manifest.contributors)
        drawn = dict(found.parts) if found else {}
        return AttributedInfo(
            adapter=f"{manifest.name}@{manifest.adapter_version}",
            cid=str(cid),
            lambda_eighths=attribution.lambda_eighths if attribution else 0,
            contributors=[
                CreditedInfo(
                    someone.name,
                    to_hex(someone.address),
                    None if mine is None else mine / BIT,
                    drawn.get(place, 0),
                    weight=someone.weight,
                )
                for place, (someone, mine) in enumerate(
                    zip(manifest.contributors, bits, strict=True)
                )
            ],
            spans=[
                self._span(one, manifest, own, _source(one, manifest, found.listed))
                for one in (found.told.spans if found else ())
                if found and own
            ],
            known_bits=found.told.known / BIT if found else None,
            quality=QualityInfo(
                attribution.r_bps / 10_000,
                tuple(one / 10_000 for one in attribution.r_interval),
                attribution.lds_bps / 10_000,
                tuple(one / 10_000 for one in attribution.lds_interval),
                answers=attribution.answers,
            )
            if attribution
            else None,
        )

    def _span(
        self, span: Span, manifest: Manifest, own: OwnAnswer, source: SourceInfo | None
    ) -> SpanInfo:
        return SpanInfo(
            start=span.start,
            end=span.end,
            text=self._decode(own.answer_ids[span.start : span.end]),
            contributor=manifest.contributors[span.place.contributor].name,
            contribution=span.place.contribution,
            document=span.place.document,
            bits=span.bits / BIT,
            source=source,
        )


def _measure(
    texts: Sequence[Texts | None], prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> list[Measured | None]:
    most = most_credited(sum(one is not None for one in texts))
    found: list[Measured | None] = []
    for one in texts:
        if one is None:
            found.append(None)
            continue
        told = explain(one.index, one.background, prompt_ids, answer_ids)
        parts = credit(told.drawn.bits, one.attribution.none_bits, most)
        found.append(Measured(told, parts, one.listed))
    return found


def _source(span: Span, manifest: Manifest, listed: Sequence[Listed]) -> SourceInfo | None:
    """Return where a span was given; None where the adapter does not say it."""
    origin = manifest.made_of
    if not listed or origin is None:
        return None
    one = listed[span.place.contribution]
    return SourceInfo(
        datanet=origin.datanets[one.datanet].datanet.hex(),
        contribution=one.contribution.hex(),
        title=one.title,
        document=one.documents[span.place.document],
    )
