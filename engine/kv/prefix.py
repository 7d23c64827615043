"""Decides which full pages are shared: a prompt that begins like an earlier one under its adapter
starts behind what is computed.

A page's key is a link of a hash chain, so it stands for everything before it as well; the chain is
seeded by the adapter's *content*, never by a name, so that other weights never meet these pages.

    free ──allocate──▶ private ──publish (full)──▶ cached, used by n ──release──▶ cached, idle
    ──allocate (oldest first)──▶ free
                          └────────release────────▶ free                 ▲───────────match─────────┘

Moves no bytes, and does not know what a token says.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Sequence

from .pages import PagePool


def first_key(adapter_digest: bytes | None, angle_offset: int = 0) -> bytes:
    """Return the key with which a chain begins: of the content of the adapter, or of the bare base,
    and of the angles by which it rotates.
    """
    turned = b"" if angle_offset == 0 else b"from" + struct.pack("<Q", angle_offset)
    return hashlib.sha256(b"lorikeet prefix 1" + (adapter_digest or b"") + turned).digest()


def next_key(key: bytes, tokens: Sequence[int]) -> bytes:
    """Return the key of a full page that follows `key` and holds `tokens`."""
    return hashlib.sha256(key + struct.pack(f"<{len(tokens)}I", *tokens)).digest()


class PrefixCache:
    """Owns the pool's pages on behalf of sequences. Pages that no sequence uses stay cached until
    room is needed.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self._pages: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        self._uses: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Return the number of pages that can be allocated now, idle cached ones among them."""
        return self.pool.num_free + len(self._idle)

    def allocate(self, count: int) -> list[int]:
        """Take `count` private pages; forgets the longest idle ones for it.

        The caller asked `num_available` first.
        """
        assert 0 <= count <= self.num_available, f"{count} pages of {self.num_available}"
        while self.pool.num_free < count:
            page, _ = self._idle.popitem(last=False)
            del self._pages[self._keys.pop(page)]
            del self._uses[page]
            self.pool.free([page])
        return self.pool.allocate(count)

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """Start using the cached pages of the longest beginning of `keys`; `release` gives them
        back.
        """
        found: list[int] = []
        for key in keys:
            page = self._pages.get(key)
            if page is None:
                break
            self._uses[page] += 1
            self._idle.pop(page, None)
            found.append(page)
        return found

    def publish(self, key: bytes, page: int) -> None:
        """Let others match a private page that is full and will not change.

        A second page of the same key stays private.
        """
        if key not in self._pages and page not in self._keys:
            self._pages[key] = page
            self._keys[page] = key
            self._uses[page] = 1

    def release(self, pages: Sequence[int]) -> None:
        """End one use of each page.

        The last pages of a sequence become idle first, so that beginnings stay longest.
        """
        for page in reversed(pages):
            if page not in self._keys:
                self.pool.free([page])
                continue
            self._uses[page] -= 1
            if self._uses[page] == 0:
                self._idle[page] = None

    def check(self, owned: Sequence[Sequence[int]] = ()) -> None:
        """Assert that every page is free, private to one owner, or cached with as many uses as
        owners hold it.
        """
        self.pool.check()
        assert {page: key for key, page in self._pages.items()} == self._keys, (
            "a key leads to another page"
        )
        assert set(self._keys) == set(self._uses), "a cached page is not counted"
        assert set(self._idle) == {page for page, uses in self._uses.items() if uses == 0}, (
            "idle and unused differ"
        )
        held: dict[int, int] = {}
        for pages in owned:
            for page in pages:
                held[page] = held.get(page, 0) + 1
        private = [page for page in held if page not in self._keys]
        assert all(held[page] == 1 for page in private), "a private page has two owners"
        assert all(held.get(page, 0) == uses for page, uses in self._uses.items()), (
            "uses and owners differ"
        )
        assert self.pool.num_free + len(private) + len(self._keys) == self.pool.num_pages, (
            "a page is lost"
        )
