"""Which pages each sequence has, and which of them it shares.

Decides what can be shared: pages are keyed by the content of the adapter and of all tokens before
their end (kv/prefix.py). Moves no bytes, and does not know who gives way when pages run out.

Where all layers slide, pages before the window are given back while the sequence goes on; the zero
page stands in their place, which is read and masked:

    pages  0 0 0 17 4 9     tokens of the first three are before what the next token sees
"""

from __future__ import annotations

from collections.abc import Callable

from .count import ceil_div
from .kv.pages import ZERO_PAGE
from .kv.prefix import PrefixCache, first_key, next_key
from .sequence import Sequence


class PageTables:
    """`begin` gives a sequence what it can share, `grow` what it needs, `give_back` takes all."""

    def __init__(
        self,
        pages: PrefixCache,
        page_tokens: int,
        digest: Callable[[bytes], bytes],
        window: int | None = None,
    ) -> None:
        """`digest`: of the content of a prepared adapter. window: how many tokens a token sees,
        itself among them, in whatever layer; None: all.
        """
        self._window = window
        self._pages = pages
        self._page_tokens = page_tokens
        self._digest = digest

    @property
    def num_available(self) -> int:
        """Return how many pages can be had now."""
        return self._pages.num_available

    def missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Return how many pages more than it has `num_tokens` of it take; may be less than 0."""
        return ceil_div(num_tokens, self._page_tokens) - len(sequence.pages)

    def room_tokens(self, sequence: Sequence) -> int:
        """Return how many tokens fit its pages and all that can be had now."""
        return (len(sequence.pages) + self._pages.num_available) * self._page_tokens

    def begin(self, sequence: Sequence) -> None:
        """Give a sequence that has no pages those that others have filled with its beginning."""
        num_shareable = sequence.num_shareable // self._page_tokens
        sequence.page_keys = []
        for index in range(num_shareable):
            sequence.page_keys.append(self._key(sequence, index))
        sequence.pages = self._pages.match(sequence.page_keys)
        sequence.computed = len(sequence.pages) * self._page_tokens
        sequence.num_published = len(sequence.pages)

    def grow(self, sequence: Sequence, num_tokens: int, fresh: list[int]) -> None:
        """Give a sequence pages for `num_tokens`, of which there are enough.

        A page that must be cleaned before the next step is added to `fresh`. That is the last one
        unless it is filled: the others are written whole in that step, before anybody reads them.
        """
        missing = self.missing(sequence, num_tokens)
        if missing > 0:
            pages = self._pages.allocate(missing)
            sequence.pages += pages
            if num_tokens % self._page_tokens:
                fresh.append(pages[-1])

    def publish(self, sequence: Sequence) -> None:
        """Let others share the pages that `sequence` has filled."""
        full = sequence.computed // self._page_tokens
        for index in range(sequence.num_published, full):
            if index == len(sequence.page_keys):
                sequence.page_keys.append(self._key(sequence, index))
            self._pages.publish(sequence.page_keys[index], sequence.pages[index])
        sequence.num_published = max(sequence.num_published, full)

    def leave_behind(self, sequence: Sequence) -> None:
        """Give back the pages that nothing of a sequence will see any more."""
        if self._window is None:
            return
        first_seen = sequence.computed + 1 - self._window
        passed = min(max(0, first_seen), sequence.computed) // self._page_tokens
        left = []
        while passed > 0 and sequence.pages[passed - 1] != ZERO_PAGE:
            passed -= 1
            left.append(sequence.pages[passed])
            sequence.pages[passed] = ZERO_PAGE
        self._pages.release(left[::-1])

    def num_held(self, sequence: Sequence) -> int:
        """Return how many pages a sequence would give back."""
        return len(_held(sequence))

    def give_back(self, sequence: Sequence) -> None:
        """Take all pages of a sequence; nothing of it is computed then."""
        self._pages.release(_held(sequence))
        sequence.pages = []
        sequence.page_keys = []
        sequence.computed = 0
        sequence.num_published = 0

    def check(self, running: list[Sequence], waiting: list[Sequence]) -> None:
        """Pages belong to running sequences only and cover what is computed."""
        self._pages.check([_held(sequence) for sequence in running])
        for sequence in running:
            assert sequence.computed <= len(sequence.pages) * self._page_tokens, (
                "computed beyond its pages"
            )
        assert all(not s.pages and s.computed == 0 for s in waiting), (
            "a waiting sequence owns pages"
        )

    def _key(self, sequence: Sequence, index: int) -> bytes:
        if index == 0:
            digest = None if sequence.adapter is None else self._digest(sequence.adapter)
            before = first_key(digest, sequence.angle_offset)
        else:
            before = sequence.page_keys[index - 1]
        size = self._page_tokens
        return next_key(before, sequence.tokens[index * size : (index + 1) * size])


def _held(sequence: Sequence) -> list[int]:
    """Return the pages that are a sequence's own or shared with it."""
    return [page for page in sequence.pages if page != ZERO_PAGE]
