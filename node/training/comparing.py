"""Compares what a published adapter says with what recipe, datanets, base and training make.

Each thing agrees, differs, or cannot be known here; nothing is taken from what the creator says
where it can be computed. Everything here blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from factory.errors import FactoryError
from factory.training.folder import WEIGHTS
from factory.training.judging import FILE as EVALUATED
from factory.training.judging import Evaluation, unpack, verdict_of
from factory.training.recipe import Recipe, read_recipe
from proofs.attribution.blend import WHOLE_BPS
from proofs.attribution.listing import Listed, read_listing
from proofs.attribution.tokens import Tokens, read_tokens
from proofs.errors import TokensError
from proofs.hextext import to_hex
from proofs.manifest import Manifest
from proofs.origin import TOKENS_FILE, Origin

from ..api.training import Agreement, ComparedInfo
from ..bases.loading import Base
from ..catalogue.origins import EVALUATION_FILE, RECIPE_FILE
from ..catalogue.packaging import WEIGHTS_FILE
from ..catalogue.texts import check_texts, find_listing, map_tokens
from ..errors import AdapterError, BadRequest
from .encoding import BaseEncoder
from .learnt import Learnt, learnt_of
from .texts import Source

NEAR = 0.02
"""Two trainings whose hold-out losses differ by a smaller part may differ by rounding alone."""


@dataclass(frozen=True)
class Published:
    """A published adapter whose files are here."""

    manifest: Manifest
    folder: Path
    origin: Origin


@dataclass(frozen=True)
class Piece:
    """One contribution's text in an adapter: whose it is, and its documents by their numbers."""

    pay_to: str
    documents: tuple[tuple[int, tuple[int, ...]], ...]


def outcome_of(what: str, outcome: Agreement, why: str) -> ComparedInfo:
    """Say how one thing came out."""
    return ComparedInfo(what, outcome, why)


def worst_of(compared: Sequence[ComparedInfo]) -> Agreement:
    """Return how all of it came out."""
    outcomes = {one.outcome for one in compared}
    return "differs" if "differs" in outcomes else "unknown" if "unknown" in outcomes else "agrees"


def read_published(published: Published) -> Recipe | ComparedInfo:
    """Return the recipe that a manifest means, or why there is none."""
    try:
        data = (published.folder / RECIPE_FILE).read_bytes()
        if hashlib.sha256(data).digest() != published.origin.recipe:
            return outcome_of("recipe", "differs", "recipe.toml is not the one of the manifest")
        recipe = read_recipe(data)
    except (OSError, FactoryError) as error:
        return outcome_of("recipe", "differs", f"recipe.toml cannot be read: {error}")
    if not recipe.is_resolved:
        return outcome_of("recipe", "differs", "recipe.toml leaves open what a run has decided")
    return recipe


def compare_base(recipe: Recipe, manifest: Manifest, base: Base) -> list[ComparedInfo]:
    """Compare base, tokenizer and template of recipe and manifest with what is served here."""
    identity = base.identity
    rows = (
        ("base", recipe.base, manifest.base, identity.base),
        ("tokenizer", recipe.tokenizer, manifest.tokenizer_hash, identity.tokenizer_hash),
        ("template", recipe.template, manifest.template_hash, identity.template_hash),
    )
    found = []
    for what, trained, said, served in rows:
        if not trained == said.hex() == served.hex():
            why = (
                f"trained with {trained[:16]}…, the manifest says {said.hex()[:16]}…, served with"
                f" {served.hex()[:16]}… here"
            )
            found.append(outcome_of(what, "differs", why))
        else:
            found.append(outcome_of(what, "agrees", f"{trained[:16]}…, as it is served here"))
    return found


def compare_versions(recipe: Recipe, origin: Origin) -> ComparedInfo:
    """Compare the datanets that manifest and recipe name."""
    said = [(one.datanet.hex(), one.number, one.digest.hex()) for one in origin.datanets]
    if said != [(one.id, one.version, one.digest) for one in recipe.datanets]:
        return outcome_of("versions", "differs", "manifest and recipe name other datanets")
    return outcome_of("versions", "agrees", f"manifest and recipe name the same {len(said)}")


def compare_datanets(recipe: Recipe, sources: Sequence[Source]) -> ComparedInfo:
    """Compare the versions that a recipe names with those of the datanets themselves."""
    for wanted, source in zip(recipe.datanets, sources, strict=True):
        if wanted.digest != source.about.digest:
            why = (
                f"version {wanted.version} of {source.about.name} is {source.about.digest[:16]}…,"
                f" not {wanted.digest[:16]}…"
            )
            return outcome_of("datanets", "differs", why)
    named = ", ".join(f"{one.about.name} {one.about.version}" for one in sources)
    old = [one.about.name for one in sources if not one.is_newest]
    if old:
        named += f"; whether {', '.join(old)} went on since is not to be had"
    return outcome_of("datanets", "agrees", named)


def compare_evaluation(published: Published) -> ComparedInfo:
    """Check that what was measured is whole, and that its verdict follows from it."""
    if not published.origin.evaluation:
        return outcome_of("evaluation", "unknown", "its manifest names none")
    try:
        data = (published.folder / EVALUATION_FILE).read_bytes()
        if hashlib.sha256(data).digest() != published.origin.evaluation:
            why = "evaluation.msgpack is not the one of the manifest"
            return outcome_of("evaluation", "differs", why)
        found = unpack(data)
    except (OSError, FactoryError) as error:
        return outcome_of("evaluation", "differs", f"evaluation.msgpack: {error}")
    follows = verdict_of(found.held_out, found.learnt, found.forgetting, found.memorised)
    if follows != (found.is_good, found.verdict):
        return outcome_of("evaluation", "differs", f"from its figures follows: {follows[1]}")
    return outcome_of("evaluation", "agrees", found.verdict)


# ── whose text ──


def compare_learnt(
    published: Published, sources: Sequence[Source], base: Base
) -> list[ComparedInfo]:
    """Compare the published text, and who is paid for it, with what the datanets' texts make."""
    manifest = published.manifest
    attribution = published.origin.attribution
    if attribution is None:
        return [outcome_of("text", "unknown", "its manifest says nothing of whose text it learnt")]
    try:
        check_texts(manifest, published.folder)
        tokens = map_tokens(published.folder / TOKENS_FILE)
        listed = find_listing(manifest, published.folder, tokens)
        learnt = learnt_of(sources, BaseEncoder(base.tokenizer), base.identity.tokenizer_hash)
    except (AdapterError, TokensError, OSError) as error:
        return [outcome_of("text", "differs", str(error))]
    except BadRequest as error:
        return [outcome_of("text", "unknown", str(error))]
    if not listed:
        return [outcome_of("text", "unknown", "it does not say which contributions it learnt")]
    theirs = pieces_of(tokens, listed, [to_hex(one.address) for one in manifest.contributors])
    made = read_tokens(learnt.tokens)
    ours = pieces_of(
        made,
        read_listing(learnt.listing, made, len(sources)),
        [one.pay_to for one in learnt.givers],
    )
    gone = {digest for source in sources for digest in source.gone}
    is_same = tokens.digest == made.digest
    return [
        compare_texts(theirs, ours, gone, is_same),
        compare_payees(theirs, ours),
        compare_weighing(manifest, attribution.answers, learnt, is_same),
    ]


def pieces_of(
    tokens: Tokens, listed: Sequence[Listed], addresses: Sequence[str]
) -> dict[str, Piece]:
    """Return a text by its contributions' digests."""
    pieces = {}
    first = 0
    for one in listed:
        numbers = one.documents
        texts = [tuple(tokens.document(first + n).tolist()) for n in range(len(numbers))]
        documents = tuple(zip(numbers, texts, strict=True))
        pieces[one.contribution.hex()] = Piece(addresses[one.contributor].lower(), documents)
        first += len(numbers)
    return pieces


def compare_texts(
    theirs: dict[str, Piece], ours: dict[str, Piece], gone: set[str], is_same: bool
) -> ComparedInfo:
    """Compare texts by contribution; those that are gone from their datanet cannot be."""
    other = [one for one in ours if one in theirs and theirs[one].documents != ours[one].documents]
    added = [one for one in theirs if one not in ours and one not in gone]
    lacking = [one for one in ours if one not in theirs]
    for what, found in (
        ("is not what its datanet has", other),
        ("is no contribution that its recipe learns from", added),
        ("is learnt from, and not in attribution.tokens", lacking),
    ):
        if found:
            more = f" ({len(found)} in all)" if len(found) > 1 else ""
            return outcome_of("text", "differs", f"contribution {found[0][:12]} {what}{more}")
    left = [one for one in theirs if one not in ours]
    if left:
        why = f"{len(left)} contributions are gone from their datanet; the others agree"
        return outcome_of("text", "unknown", why)
    if not is_same:
        why = "the same contributions in another order, or under other contributors"
        return outcome_of("text", "differs", why)
    count = sum(len(ids) for piece in ours.values() for _, ids in piece.documents)
    return outcome_of("text", "agrees", f"{count:,} tokens of {len(ours)} contributions")


def compare_payees(theirs: dict[str, Piece], ours: dict[str, Piece]) -> ComparedInfo:
    """Compare who is paid for each contribution."""
    both = [one for one in ours if one in theirs]
    wrong = [one for one in both if theirs[one].pay_to != ours[one].pay_to]
    if wrong:
        why = (
            f"contribution {wrong[0][:12]} pays {theirs[wrong[0]].pay_to}, and who gave it asks for"
            f" {ours[wrong[0]].pay_to}"
        )
        return outcome_of("contributors", "differs", why)
    people = {piece.pay_to for piece in theirs.values()}
    return outcome_of("contributors", "agrees", f"{len(people)} addresses, each its giver's")


def compare_weighing(
    manifest: Manifest, answers: int, learnt: Learnt, is_same: bool
) -> ComparedInfo:
    """Compare standing weights with the tokens that count, where nothing else was measured."""
    weights = tuple(one.weight for one in manifest.contributors)
    if answers:
        why = f"measured by its creator on {answers} answers, which is not measured again here"
        return outcome_of("weights of people", "agrees", why)
    if not is_same or sum(weights) != WHOLE_BPS:
        why = "of a text of which something was withdrawn, they are carried over"
        return outcome_of("weights of people", "unknown", why)
    if weights != learnt.weights:
        why = f"{list(weights)}, and by the tokens that count {list(learnt.weights)}"
        return outcome_of("weights of people", "differs", why)
    return outcome_of("weights of people", "agrees", "by the tokens that count for each")


# ── the weights ──


def compare_weights(published: Published, run: Path, threads: int) -> ComparedInfo:
    """Compare the published weights with those of a training again. Raises OSError."""
    if _digest(run / WEIGHTS) == _digest(published.folder / WEIGHTS_FILE):
        return outcome_of("weights", "agrees", f"bit for bit, by {threads} threads here")
    try:
        said = unpack((published.folder / EVALUATION_FILE).read_bytes())
        found = msgspec.json.decode((run / EVALUATED).read_bytes(), type=Evaluation)
    except (OSError, FactoryError, msgspec.DecodeError) as error:
        return outcome_of("weights", "differs", f"other bits; losses cannot be compared: {error}")
    if said.held_out is None or found.held_out is None:
        return outcome_of("weights", "differs", "other bits, and nothing was held out")
    one, other = said.held_out.adapter, found.held_out.adapter
    apart = abs(one - other) / one if one else 0.0
    why = (
        f"other bits: what was held out loses {one:.4f} nats a token by the published adapter and"
        f" {other:.4f} by this training, {apart:.2%} apart"
    )
    if apart >= NEAR:
        return outcome_of("weights", "differs", why)
    hint = "; another kind of machine or number of threads rounds otherwise (card.md has theirs)"
    return outcome_of("weights", "unknown", why + hint)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
