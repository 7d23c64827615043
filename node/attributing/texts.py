"""Opens the token files of an adapter, and the caches that were made of them, as memory maps.

Whether they belong to the manifest that names them is decided in catalogue/texts.py. Reads the
disk; builds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proofs.attribution.background import Background
from proofs.attribution.credit import Parts, credit
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.listing import Listed
from proofs.errors import TokensError
from proofs.manifest import Manifest
from proofs.origin import BACKGROUND_FILE, TOKENS_FILE, Attribution

from ..catalogue.texts import check_tokens, find_listing, map_tokens

INDEX_CACHE = "attribution.index"
BACKGROUND_CACHE = "background.index"


@dataclass(frozen=True, eq=False)
class Texts:
    """What one adapter's contributors wrote, and what everybody writes, ready to be asked.

    `listed`: which contribution of a datanet each contribution is; empty where nobody says it, or
    where that is not to be read, for the reason in `unlisted`. Nothing is paid by it.
    """

    index: Index
    background: Background
    attribution: Attribution
    listed: tuple[Listed, ...] = ()
    unlisted: str = ""

    def draw(self, prompt_ids: Sequence[int], answer_ids: Sequence[int], most: int) -> Parts:
        """Return what a receipt says of this adapter: at most so many contributors."""
        bits = measure(self.index, self.background, prompt_ids, answer_ids).bits
        return credit(bits, self.attribution.none_bits, most)


def attribution_of(manifest: Manifest) -> Attribution | None:
    """Return how fees for an adapter follow its answers; None where they do not."""
    origin = manifest.made_of
    attribution = origin.attribution if origin else None
    return attribution if attribution and attribution.lambda_eighths else None


def open_texts(manifest: Manifest, files: Path, caches: Path, max_tokens: int) -> Texts:
    """Open what was built of an adapter's files, which lie in `files` and match its blocks.

    Raises TokensError for what its manifest does not mean, StaleIndex and OSError where the caches
    are to be built again.
    """
    attribution = attribution_of(manifest)
    assert attribution is not None, "an adapter without attribution has no index"
    tokens = map_tokens(files / TOKENS_FILE, max_tokens)
    background = map_tokens(files / BACKGROUND_FILE, max_tokens)
    check_tokens(manifest, attribution, tokens, background)
    listed: tuple[Listed, ...] = ()
    unlisted = ""
    try:
        listed = find_listing(manifest, files, tokens)
    except (TokensError, OSError) as error:
        unlisted = str(error)
    return Texts(
        Index.open(caches / INDEX_CACHE, tokens),
        Background.open(caches / BACKGROUND_CACHE, background),
        attribution,
        listed,
        unlisted,
    )
