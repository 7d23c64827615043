"""Checks what a request asked of its choices, and keeps what they depend on beside the logits.

Makes no choice; executor/draw.py does.

logits → bias → repetition, presence, frequency → grammar → draw → token
    → (counts, grammar) for the next
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidRequest
from .executor.draw import Draw
from .grammar import Matcher
from .messages import Choosing, ChoosingError, Sampling, TokenLogprobs, check_choosing
from .noise import SEED_BYTES, derive_key

Floats = NDArray[np.float64]


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """Raise InvalidRequest that names the first field that makes no sense.

    The grammar is checked by compiling it.
    """
    if len(sampling.seed) != SEED_BYTES:
        raise InvalidRequest(f"seed has {len(sampling.seed)} bytes; it must have {SEED_BYTES}")
    try:
        check_choosing(sampling.choosing)
    except ChoosingError as error:
        raise InvalidRequest(str(error)) from None
    for token, _ in sampling.choosing.logit_bias:
        if token >= vocab_size:
            raise InvalidRequest(f"logit_bias names id {token}; ids lie in [0, {vocab_size})")


class Chooser:
    """Makes the draws of one answer, token after token. `matcher` None: any text."""

    def __init__(
        self, sampling: Sampling, prompt_ids: list[int], matcher: Matcher | None = None
    ) -> None:
        self._choosing = sampling.choosing
        self._matcher = matcher
        self._key = derive_key(sampling.seed)
        self._changes = _Changes(sampling.choosing, prompt_ids)

    @property
    def takes_best(self) -> bool:
        """Return whether the highest logit simply wins."""
        return self._choosing.temperature == 0 and self._matcher is None and not self._changes.any

    @property
    def remembers(self) -> bool:
        """Return whether earlier choices change later ones."""
        return self._matcher is not None or self._changes.counts_answer

    @property
    def is_over(self) -> bool:
        """Return whether the grammar lets nothing follow."""
        return self._matcher is not None and self._matcher.is_over

    @property
    def changed_ids(self) -> NDArray[np.int32]:
        """Return the ids whose logits something here changes, ascending; `draw` must be given these
        logits.
        """
        return self._changes.ids

    def draw(
        self, logits: NDArray[np.float32], row: int, position: int, token: int | None = None
    ) -> Draw:
        """Make the draw of the next token from a row of the step's logits.

        `logits` are those of the `changed_ids`. Raises InvalidRequest (see Matcher).
        """
        choosing = self._choosing
        return Draw(
            row=row,
            position=position,
            temperature=choosing.temperature,
            key=self._key,
            top_k=choosing.top_k,
            top_p=choosing.top_p,
            min_p=choosing.min_p,
            changed=self._changes.ids,
            values=self._changes.values(logits),
            allowed=None if self._matcher is None else self._matcher.allowed(),
            token=token,
        )

    def accept(self, token: int) -> None:
        """Record that `token` was chosen."""
        self._changes.count(token)
        if self._matcher is not None:
            self._matcher.accept(token)


class _Changes:
    """The ids whose logits are changed, ascending, and by what."""

    def __init__(self, choosing: Choosing, prompt_ids: list[int]) -> None:
        self._choosing = choosing
        self._repeats = choosing.repetition_penalty != 1.0
        self.counts_answer = (
            self._repeats or choosing.presence_penalty != 0.0 or choosing.frequency_penalty != 0.0
        )
        biases = dict(choosing.logit_bias)
        prompt = set(prompt_ids) if self._repeats else set()
        self.ids = np.array(sorted(biases.keys() | prompt), np.int32)
        self._bias = np.array([biases.get(int(token), 0.0) for token in self.ids], np.float64)
        self._seen = np.array([int(token) in prompt for token in self.ids], np.bool_)
        self._counts = np.zeros(len(self.ids), np.float64)

    @property
    def any(self) -> bool:
        return self.counts_answer or len(self.ids) > 0

    def values(self, logits: NDArray[np.float32]) -> Floats:
        """Return the changed logits of `ids`, from their own `logits`, in binary64."""
        choosing = self._choosing
        values: Floats = logits.astype(np.float64) + self._bias
        if self._repeats:
            factor = choosing.repetition_penalty
            values = np.where(
                self._seen, np.where(values > 0, values / factor, values * factor), values
            )
        if self.counts_answer:
            values = (
                values - choosing.presence_penalty * (self._counts > 0)
            ) - choosing.frequency_penalty * self._counts
        return values

    def count(self, token: int) -> None:
        if not self.counts_answer:
            return
        at = int(np.searchsorted(self.ids, token))
        if at == len(self.ids) or self.ids[at] != token:
            self.ids = np.insert(self.ids, at, token)
            self._bias = np.insert(self._bias, at, 0.0)
            self._seen = np.insert(self._seen, at, False)
            self._counts = np.insert(self._counts, at, 0.0)
        self._counts[at] += 1
        self._seen[at] = True


def report_logprobs(logits: NDArray[np.float32], token: int, num_top: int) -> TokenLogprobs:
    """Compute the model's own log-probabilities for one row of finite `logits [vocab]`."""
    highest = float(logits.max())
    total = highest + math.log(float(np.exp(logits - np.float32(highest)).sum(dtype=np.float64)))
    top = (
        np.argpartition(-logits, num_top)[:num_top]
        if num_top < len(logits)
        else np.arange(len(logits))
    )
    ranked = sorted(
        ((int(token), float(logits[token])) for token in top), key=lambda each: (-each[1], each[0])
    )
    return TokenLogprobs(
        float(logits[token]) - total, [(token, logit - total) for token, logit in ranked]
    )
