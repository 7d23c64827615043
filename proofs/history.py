"""Recomputes all epochs so far from their batches: mirrors keep it, claims and explanations get
their proofs from it.

Does not know whether a header is on the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from .batch import EpochState, decode_batch, recompute
from .digest import Network
from .merkle import Log, leaf_hash, verify_consistency, verify_inclusion
from .sumtree import PayoutProof


@dataclass(frozen=True)
class InclusionProof:
    """The proof that an entry is number `index` in the log of `size` entries."""

    index: int
    size: int
    path: tuple[bytes, ...]

    def verify(self, entry: bytes, receipts_root: bytes) -> bool:
        """Return whether these bytes (a signed receipt) are in the log with this root."""
        return verify_inclusion(
            leaf_hash(entry), self.index, self.size, self.path, root=receipts_root
        )


class History:
    """A chain of epochs. Append batches in order; proofs are for the last epoch's header."""

    def __init__(self, network: Network) -> None:
        self.state = EpochState(network)
        self.log = Log()
        self._index: dict[bytes, int] = {}  # leaf hash → place in the log

    def append(self, batch: bytes) -> EpochState:
        """Recompute one more epoch. Raises BatchError, and changes nothing, when it does
        not hold.
        """
        return self.extend(batch, recompute(batch, self.state))

    def extend(self, batch: bytes, state: EpochState) -> EpochState:
        """Append an epoch that the caller has recomputed already.

        Checks on the way, with the proof that a stranger would ask for, that the log before is the
        beginning of the one whose root the new header names.
        """
        leaves = [leaf_hash(entry) for entry in decode_batch(batch).receipts]
        size = self.log.size
        self._index.update(zip(leaves, range(size, size + len(leaves)), strict=True))
        self.log.append(leaves)
        root = state.log.root
        proof = self.log.prove_consistency(size)
        assert verify_consistency(size, self.state.log.root, self.log.size, root, path=proof), (
            f"epoch {state.epoch} rewrites the log of receipts"
        )
        self.state = state
        return state

    def prove_receipt(self, entry: bytes) -> InclusionProof:
        """Prove that a signed receipt is in the log. Raises KeyError when it is not."""
        index = self._index[leaf_hash(entry)]
        return InclusionProof(index, self.log.size, tuple(self.log.prove_inclusion(index)))

    def prove_payout(self, account: bytes) -> PayoutProof:
        """Prove what an account was awarded in all. Raises KeyError when nothing was."""
        return self.state.payout_tree.prove(account)
