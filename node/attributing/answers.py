"""Remembers the answers that this node asked for and paid, so that what their receipts say can be
computed again: what was asked, the answer's ids, both halves of the seed, and the salt of the
receipt's commitments.

Bounded, the oldest goes first; on this disk alone, and not for private answers. A receipt that its
node signed and this one did not, because it says what is not so, is kept beside its answer as
evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from proofs.codec import Digest, NotCanonical, Record, decode, encode
from proofs.receipt import MAX_BODY_BYTES, commit, decode_body

from ..wire.infer import Ask, WireError, decode_from_client, expect
from ..wire.infer import encode as encode_frame
from ..wire.metering import Deal

MAX_ASK_BYTES = 512 << 10
MAX_ANSWER_BYTES = 640 << 10
MAX_DISPUTED = 64
VERSION = 2

TokenIds = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)], ...], msgspec.Meta(max_length=1 << 16)
]


class OwnAnswer(Record, frozen=True):
    """One answer. `asked` is the question's frame, with the terms of sampling; `body` and
    `node_signature` are a disputed receipt's, else empty.
    """

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    receipt: Digest
    asked: Annotated[bytes, msgspec.Meta(max_length=MAX_ASK_BYTES)]
    client_seed: Digest
    node_seed: Digest
    answer_ids: TokenIds
    salt: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)] = b""
    node_signature: Annotated[bytes, msgspec.Meta(max_length=65)] = b""

    @property
    def ask(self) -> Ask:
        """Return what was asked."""
        return expect(decode_from_client(self.asked), Ask)

    @property
    def prompt_ids(self) -> Sequence[int]:
        """Return the prompt that was paid for: where the answer goes on that another node began,
        with what that one made.
        """
        return self.ask.prompt_ids

    def fits(self, body: bytes) -> bool:
        """Return whether these are the tokens that a receipt commits to."""
        receipt = decode_body(body)
        return (
            commit(self.salt, self.prompt_ids) == receipt.prompt_commitment
            and commit(self.salt, self.answer_ids) == receipt.answer_commitment
        )


class OwnAnswers:
    """The last `most` answers, in a folder; 0 remembers none."""

    def __init__(self, folder: Path, most: int, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._most = most
        self._log = log

    def keep(self, answer: OwnAnswer) -> None:
        """Remember an answer; what the disk refuses is told, and costs nothing else."""
        if self._most:
            self._write(self._folder, answer, self._most)

    def accuse(self, answer: OwnAnswer) -> None:
        """Keep a receipt that this node did not sign, as evidence."""
        path = self._write(self._folder / "disputed", answer, MAX_DISPUTED)
        if path is not None:
            self._log(f"attributing: a receipt that says what is not so is kept: {path}")

    def find(self, receipt: bytes) -> OwnAnswer | None:
        """Return the answer whose receipt has this digest, if it is remembered or disputed."""
        for folder in (self._folder, self._folder / "disputed"):
            path = folder / receipt.hex()
            try:
                found = decode(path.read_bytes(), _DECODER, MAX_ANSWER_BYTES)
                expect(decode_from_client(found.asked), Ask)
                return found
            except FileNotFoundError:
                continue
            except (OSError, NotCanonical, WireError) as error:
                self._log(f"attributing: {path} cannot be read: {error}")
        return None

    def _write(self, folder: Path, answer: OwnAnswer, most: int) -> Path | None:
        path = folder / answer.receipt.hex()
        part = path.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.write_bytes(encode(answer))
            part.replace(path)
            kept = [one for one in folder.iterdir() if one.is_file()]
            if len(kept) > most:
                for old in sorted(kept, key=lambda one: one.stat().st_mtime_ns)[: len(kept) - most]:
                    old.unlink(missing_ok=True)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self._log(f"attributing: an answer is not remembered: {error}")
            return None
        return path


def remember(
    deal: Deal, answer_ids: Sequence[int], receipt: bytes, body: bytes = b"", signature: bytes = b""
) -> OwnAnswer:
    """Return what is kept of an answer whose receipt has this digest; of one that is disputed, with
    its body and its node's signature.
    """
    return OwnAnswer(
        VERSION,
        receipt,
        encode_frame(deal.ask),
        deal.client_seed,
        deal.offer.node_seed,
        answer_ids=tuple(answer_ids),
        salt=deal.salt,
        body=body,
        node_signature=signature,
    )


_DECODER = msgspec.msgpack.Decoder(OwnAnswer)
