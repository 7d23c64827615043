"""What an adapter changes outside the layers: the embedding and the head. Runs in torch at the rim of a step, on the few rows that have it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from ..model.layers import bmm


@dataclass(frozen=True)
class Ends:
    """Low-rank changes in float32, the scale already in the second factor; each pair may be missing.

    embedding_a: [vocab, rank], embedding_b: [rank, hidden]; head_a: [hidden, rank], head_b: [rank, vocab].
    """

    embedding_a: torch.Tensor | None = None
    embedding_b: torch.Tensor | None = None
    head_a: torch.Tensor | None = None
    head_b: torch.Tensor | None = None

    @property
    def changes_embedding(self) -> bool:
        """Whether `embed` does anything."""
        return self.embedding_a is not None

    @property
    def changes_logits(self) -> bool:
        """Whether `logits` does anything."""
        return self.head_a is not None

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def embed(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The base's embeddings `rows [n, hidden]` float32 of `tokens [n]` → the adapter's."""
        if self.embedding_a is None or self.embedding_b is None:
            return rows
        return rows + bmm(self.embedding_a[tokens][None], self.embedding_b[None])[0]

    def logits(self, logits: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
        """The base's `logits [n, vocab]` float32 of the head's inputs `final [n, hidden]` → the adapter's."""
        if self.head_a is None or self.head_b is None:
            return logits
        return logits + bmm(bmm(final.float()[None], self.head_a[None]), self.head_b[None])[0]

    def digest(self) -> bytes:
        """Of the content."""
        parts = [hashlib.sha256(tensor.contiguous().numpy().data).digest() for tensor in self._tensors()]
        return hashlib.sha256(bytes([self.changes_embedding, self.changes_logits]) + b"".join(parts)).digest()

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """All four, in the order of the fields."""
        return self.embedding_a, self.embedding_b, self.head_a, self.head_b

    def _tensors(self) -> list[torch.Tensor]:
        return [tensor for tensor in self.tensors() if tensor is not None]
