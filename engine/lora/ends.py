"""Applies what an adapter changes outside the layers: the embedding and the head.

Runs in torch at the rim of a step, on the few rows that have it. Knows no slot and no file.

Each is changed by a low-rank pair (LoRA), or some of its rows are replaced (trainable tokens), or
all of them (modules_to_save).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import torch
from torch.nn import functional

from ..model.layers import bmm

COLUMN_STEP = 4
"""Columns of a replaced head are padded to it: in float32 an odd width makes a row's bits depend on
its place among the rows (measured).
"""


@dataclass(frozen=True)
class Ends:
    """The changes of one adapter to the embedding and the head; any may be missing.

    Pairs in float32, the scale already in the second factor: embedding_a [vocab, rank], embedding_b
    [rank, hidden]; head_a [hidden, rank], head_b [rank, vocab]. Replaced rows in the model's dtype:
    embedding_rows [n, hidden] for the tokens embedding_ids [n] int64, ascending, and head_rows
    [hidden, n padded to COLUMN_STEP] for head_ids [n]; without ids, for the whole vocabulary.
    DoRA, in float32: embedding_gain [hidden] and head_gain [vocab] multiply what the base or
    replaced rows give, head_shift [vocab] is added; their pairs have the gain in them.
    """

    embedding_a: torch.Tensor | None = None
    embedding_b: torch.Tensor | None = None
    head_a: torch.Tensor | None = None
    head_b: torch.Tensor | None = None
    embedding_ids: torch.Tensor | None = None
    embedding_rows: torch.Tensor | None = None
    head_ids: torch.Tensor | None = None
    head_rows: torch.Tensor | None = None
    embedding_gain: torch.Tensor | None = None
    head_gain: torch.Tensor | None = None
    head_shift: torch.Tensor | None = None

    @property
    def changes_embedding(self) -> bool:
        """Return whether `embed` does anything."""
        return self.embedding_a is not None or self.embedding_rows is not None

    @property
    def changes_logits(self) -> bool:
        """Return whether `logits` does anything."""
        return any(each is not None for each in (self.head_a, self.head_rows, self.head_shift))

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors() if tensor is not None)

    def embed(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Change the base's embeddings `rows [n, hidden]` float32 of `tokens [n]` into the
        adapter's.
        """
        rows = self._own_rows(rows, tokens)
        if self.embedding_gain is not None:
            rows = rows * self.embedding_gain
        if self.embedding_a is not None and self.embedding_b is not None:
            rows = rows + bmm(self.embedding_a[tokens][None], self.embedding_b[None])[0]
        return rows

    def _own_rows(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        if self.embedding_rows is None:
            return rows
        if self.embedding_ids is None:
            return self.embedding_rows[tokens].float()
        # A token above all ids would be found behind them; clamped, it compares unequal below.
        at = torch.searchsorted(self.embedding_ids, tokens).clamp_(max=len(self.embedding_ids) - 1)
        return torch.where(
            (self.embedding_ids[at] == tokens)[:, None], self.embedding_rows[at].float(), rows
        )

    def logits(self, logits: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
        """Change the base's `logits [n, vocab]` float32 of the head's inputs `final [n, hidden]`
        into the adapter's.
        """
        logits = self._own_logits(logits, final)
        if self.head_gain is not None:
            logits = logits * self.head_gain
        if self.head_a is not None and self.head_b is not None:
            logits = logits + bmm(bmm(final.float()[None], self.head_a[None]), self.head_b[None])[0]
        return logits if self.head_shift is None else logits + self.head_shift

    def _own_logits(self, logits: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
        if self.head_rows is None:
            return logits
        replaced = bmm(final.to(self.head_rows.dtype)[None], self.head_rows[None])[0].float()
        if self.head_ids is None:
            return replaced[:, : logits.shape[1]]
        return logits.index_copy(1, self.head_ids, replaced[:, : len(self.head_ids)])

    def digest(self) -> bytes:
        """Return the SHA-256 of the content."""
        whole = hashlib.sha256()
        for field, tensor in zip(fields(self), self.tensors(), strict=True):
            if tensor is not None:
                whole.update(
                    field.name.encode()
                    + hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().data).digest()
                )
        return whole.digest()

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """Return all tensors, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))


def head_of(rows: torch.Tensor) -> torch.Tensor:
    """Lay out rows of a head [n, hidden] as `head_rows` wants them."""
    return functional.pad(rows, (0, 0, 0, -len(rows) % COLUMN_STEP)).T.contiguous()
