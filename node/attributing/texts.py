"""Opens the token files of an adapter, and the caches that were made of them, as memory maps.

Decides that they belong to the manifest that names them. Reads the disk; builds nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proofs.attribution.background import Background
from proofs.attribution.credit import Parts, credit
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import Tokens, read_tokens
from proofs.errors import TokensError
from proofs.manifest import Manifest
from proofs.origin import BACKGROUND_FILE, TOKENS_FILE, Attribution

INDEX_CACHE = "attribution.index"
BACKGROUND_CACHE = "background.index"


@dataclass(frozen=True, eq=False)
class Texts:
    """What one adapter's contributors wrote, and what everybody writes, ready to be asked."""

    index: Index
    background: Background
    attribution: Attribution

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
    return Texts(
        Index.open(caches / INDEX_CACHE, tokens),
        Background.open(caches / BACKGROUND_CACHE, background),
        attribution,
    )


def check_tokens(
    manifest: Manifest, attribution: Attribution, tokens: Tokens, background: Tokens
) -> None:
    """Raise TokensError unless these are the texts of that manifest."""
    if background.digest != attribution.background:
        raise TokensError("background", f"{BACKGROUND_FILE} is not the one that was measured with")
    if tokens.num_contributors != len(manifest.contributors):
        raise TokensError(
            "contributors",
            f"{TOKENS_FILE} has {tokens.num_contributors}, the manifest"
            f" {len(manifest.contributors)}",
        )
    for text in (tokens, background):
        if text.tokenizer_hash != manifest.tokenizer_hash:
            raise TokensError("tokenizer", "its ids are of another tokenizer than the manifest's")


def map_tokens(path: Path, max_tokens: int) -> Tokens:
    """Read a token file without a copy of it. Raises TokensError, OSError."""
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    tokens = read_tokens(data)
    if len(tokens.ranks) > max_tokens:
        raise TokensError(
            "size",
            f"{path.name} has {len(tokens.ranks)} tokens; this node sorts {max_tokens}"
            " (attribution_tokens)",
        )
    return tokens
