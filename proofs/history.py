"""Recomputes all epochs so far from their batches: mirrors keep it, claims and explanations get
their proofs from its state.

Checkpoints let a restart verify only what is new: whoever wrote one signs it, and reads back none
but its own. Does not know whether a header is on the chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from .batch import recompute
from .checkpoint import MAX_CHECKPOINT_BYTES, read_checkpoint, write_checkpoint
from .codec import NotCanonical, Record, Signature, decode, encode
from .digest import Network, keccak
from .epoch import EpochHeader
from .errors import BadSignature, BatchError, LedgerError
from .policies import UNGOVERNED, Policies
from .signing import Signer, recover
from .state import EpochState, Transition

_DOMAIN = b"lorikeet checkpoint 2\0"


class _SignedCheckpoint(Record, frozen=True):
    state: Annotated[bytes, msgspec.Meta(max_length=MAX_CHECKPOINT_BYTES)]
    signature: Signature


class History:
    """A chain of epochs, of which the last ones can be taken back."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.state = EpochState(network)

    def append(
        self,
        batch: bytes,
        manifests: Mapping[bytes, bytes],
        posted: EpochHeader | None = None,
        policies: Policies = UNGOVERNED,
    ) -> Transition:
        """Recompute one more epoch; `manifests` has the bytes of those that are new, by digest,
        `policies` are those that its receipts may name.

        Raises BatchError, and changes nothing, when it does not hold, or when its header is another
        one than `posted` (None: it is not on the chain yet).
        """
        transition = recompute(batch, self.state, manifests, policies)
        if posted is not None and posted != transition.header:
            raise BatchError(
                "header", "the header on the chain is another one than its batch gives"
            )
        self.state.apply(transition)
        return transition

    def revert(self, epoch: int) -> bool:
        """Take epochs back until `epoch` is the last; false, with nothing done, when that is too
        long ago.
        """
        if self.state.epoch - epoch > self.state.num_undo:
            return False
        while self.state.epoch > epoch:
            self.state.revert()
        return True

    def write_checkpoint(self, signer: Signer) -> bytes:
        """Return the state as bytes that `restore` reads back from the same key."""
        state = write_checkpoint(self.state)
        return encode(_SignedCheckpoint(state, signer.sign_digest(_digest(state))))

    def restore(self, checkpoint: bytes, address: bytes) -> None:
        """Go on from a checkpoint that this address wrote, instead of from nothing.

        Raises LedgerError, and changes nothing, when somebody else wrote it or it is damaged.
        """
        try:
            signed = decode(checkpoint, _DECODER, MAX_CHECKPOINT_BYTES)
            author = recover(_digest(signed.state), signed.signature)
        except (NotCanonical, BadSignature) as error:
            raise LedgerError(f"this checkpoint cannot be read: {error}") from error
        if author != address:
            raise LedgerError(f"this checkpoint was written by {author.hex()}, not by this node")
        self.state = read_checkpoint(signed.state, self.network)


def _digest(state: bytes) -> bytes:
    return keccak(_DOMAIN + hashlib.sha256(state).digest())


_DECODER = msgspec.msgpack.Decoder(_SignedCheckpoint)
