"""Reads the token files of an adapter, and decides that they belong to the manifest that names
them: before it is signed (packaging.py), and where answers are measured (node/attributing).

Reads the disk; builds no index.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from proofs.attribution.listing import MAX_LISTING_BYTES, Listed, read_listing
from proofs.attribution.tokens import MAX_RANKS, Tokens, read_tokens
from proofs.errors import TokensError
from proofs.manifest import Manifest
from proofs.origin import BACKGROUND_FILE, TOKENS_FILE, Attribution

from ..errors import AdapterError
from .origins import CONTRIBUTORS_FILE


def map_tokens(path: Path, max_tokens: int = MAX_RANKS) -> Tokens:
    """Read a token file without a copy of it. Raises TokensError, OSError."""
    with path.open("rb") as file:
        try:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise TokensError("size", f"{path.name} is empty") from error
    return read_tokens(data, max_tokens)


def check_tokens(
    manifest: Manifest, attribution: Attribution, tokens: Tokens, background: Tokens
) -> None:
    """Raise TokensError unless these are the texts of that manifest."""
    if background.digest != attribution.background:
        raise TokensError("background", f"{BACKGROUND_FILE} is not the one that was measured with")
    if background.num_contributors:
        raise TokensError("background", f"{BACKGROUND_FILE} has contributors, and it is nobody's")
    if tokens.num_contributors != len(manifest.contributors):
        raise TokensError(
            "contributors",
            f"{TOKENS_FILE} has {tokens.num_contributors}, the manifest"
            f" {len(manifest.contributors)}",
        )
    for text in (tokens, background):
        if text.tokenizer_hash != manifest.tokenizer_hash:
            raise TokensError("tokenizer", "its ids are of another tokenizer than the manifest's")


def find_listing(manifest: Manifest, folder: Path, tokens: Tokens) -> tuple[Listed, ...]:
    """Read which contributions an adapter's text was; nothing where its manifest has no such file.

    Raises TokensError, OSError.
    """
    if manifest.find_file(CONTRIBUTORS_FILE) is None:
        return ()
    with (folder / CONTRIBUTORS_FILE).open("rb") as file:
        data = file.read(MAX_LISTING_BYTES + 1)
    origin = manifest.made_of
    return read_listing(data, tokens, len(origin.datanets) if origin else 0)


def check_texts(manifest: Manifest, folder: Path) -> None:
    """Raise AdapterError for token files that nobody could measure an answer with."""
    origin = manifest.made_of
    if origin is None or origin.attribution is None:
        if manifest.find_file(CONTRIBUTORS_FILE) is not None:
            raise AdapterError(
                f"{folder / CONTRIBUTORS_FILE} says whose {TOKENS_FILE} is, which is not there; add"
                " it, or leave both out"
            )
        return
    try:
        tokens = map_tokens(folder / TOKENS_FILE)
        background = map_tokens(folder / BACKGROUND_FILE)
        check_tokens(manifest, origin.attribution, tokens, background)
        find_listing(manifest, folder, tokens)
    except (TokensError, OSError, ValueError) as error:
        raise AdapterError(
            f"{folder}: {error}; write the file again, or mend lorikeet.toml"
        ) from error
