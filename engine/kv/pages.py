"""Decides which pages are free and which are taken. Moves no bytes, knows no sequence.

page 0: never handed out, always zero          pages 1 .. num_pages: free or taken, never both
"""

from __future__ import annotations

ZERO_PAGE = 0


class PagePool:
    """Hands out page numbers 1 .. num_pages.

    `can_allocate` asks, `allocate` does, `free` takes back.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages, 0, -1))
        self._taken: set[int] = set()
        self.most_taken = 0
        """The highest page that was ever handed out: none behind it was ever written."""

    @property
    def num_free(self) -> int:
        """Return the number of pages that can be allocated now."""
        return len(self._free)

    def can_allocate(self, count: int) -> bool:
        """Return whether `count` pages are free."""
        return count <= len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages.

        The caller asked `can_allocate` first, and must clean them before use (kv/cache.py).
        """
        assert 0 <= count <= len(self._free), f"{count} pages of {len(self._free)}"
        pages = [self._free.pop() for _ in range(count)]
        self._taken.update(pages)
        self.most_taken = max(self.most_taken, *pages) if pages else self.most_taken
        return pages

    def free(self, pages: list[int]) -> None:
        """Give pages back; each must be taken."""
        for page in pages:
            self._taken.remove(page)
            self._free.append(page)

    def check(self) -> None:
        """Assert that every page is free or taken, never both, and never the zero page."""
        assert len(self._free) == len(set(self._free)), "a page is free twice"
        assert set(self._free) | self._taken == set(range(1, self.num_pages + 1)), (
            "a page is lost or foreign"
        )
        assert len(self._free) + len(self._taken) == self.num_pages, "a page is free and taken"
