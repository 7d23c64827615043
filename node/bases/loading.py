"""Reads what a daemon must know of a base without loading it: its identity and its tokenizer, from
the base's own files or from its card.

Reads files; imports no tensors and asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2p.identity import peer_id_of
from proofs.basecard import BaseCard

from ..answering.tokenizer import BaseTokenizer, read_vocabulary
from ..api.status import BaseOrigin
from ..catalogue.packaging import BaseIdentity
from .shelf import Dossier


@dataclass(frozen=True)
class Base:
    """One base model, as this node has it.

    `weights` is a GGUF file or a folder, None where only card and tokenizer are here; `dossier` is
    None where no card can be made of it.
    """

    identity: BaseIdentity
    tokenizer: BaseTokenizer
    origin: BaseOrigin
    weights: Path | None
    dossier: Dossier | None

    @property
    def name(self) -> str:
        """Return what the base is called."""
        return self.dossier.card.name if self.dossier else self.tokenizer.name

    def texts(self) -> Iterator[str]:
        """Yield every text that means this base."""
        if self.origin != "network":
            yield self.tokenizer.name
        yield self.identity.base.hex()
        if self.dossier:
            card = self.dossier.card
            yield card.name
            yield f"{peer_id_of(card.signer)}/{card.name}"
            yield str(self.dossier.cid)


def identity_of(base: bytes, tokenizer: BaseTokenizer) -> BaseIdentity:
    """Return a base's identity as manifests state it."""
    return BaseIdentity(base, tokenizer.tokenizer_hash, tokenizer.template_hash)


def load_from_card(dossier: Dossier) -> Base:
    """Read a base of which only card and tokenizer are here. Raises ConfigError."""
    tokenizer = tokenizer_of(dossier.card, dossier.tokenizer_path)
    identity = identity_of(dossier.card.base, tokenizer)
    return Base(identity, tokenizer, "network", weights=None, dossier=dossier)


def tokenizer_of(card: BaseCard, path: Path) -> BaseTokenizer:
    """Read the tokenizer that a card names. Raises ConfigError for a file that is none."""
    return BaseTokenizer(
        read_vocabulary(path.read_bytes(), path),
        card.template,
        card.tokenizer_hash,
        dict(card.specials),
        stop_ids=card.stop_ids,
        name=card.name,
        tool_template=card.tool_template,
    )
