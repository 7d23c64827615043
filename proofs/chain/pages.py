"""How many blocks of logs a node is asked for at a time: as many as it allows, learnt from its
refusals. Asks nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from .errors import ContractReverted, OversizedAnswer, RpcRefused

FIRST_PAGE_BLOCKS = 5_000
LARGEST_PAGE_BLOCKS = 100_000
STATED_LIMIT = re.compile(r"\b(\d{1,6})[ -]?blocks?\b", re.IGNORECASE)

T = TypeVar("T")


class LogPages:
    """A page's size, for one chain's nodes.

    It doubles while nobody minds; after a refusal it stays below what was refused.
    """

    def __init__(self) -> None:
        self._page = FIRST_PAGE_BLOCKS
        self._ceiling = LARGEST_PAGE_BLOCKS

    def read(self, ask: Callable[[int, int], list[T]], first: int, last: int) -> Iterator[T]:
        """Everything between two blocks, both included; `ask` is given the first and the last block
        of each page.

        RpcRefused or OversizedAnswer when a single block is too much.
        """
        start = first
        while start <= last:
            num_blocks = min(self._page, last - start + 1)
            try:
                found = ask(start, start + num_blocks - 1)
            except ContractReverted:
                raise
            except (RpcRefused, OversizedAnswer) as error:
                if num_blocks == 1:
                    self._forget()
                    raise
                self._shrink(num_blocks, str(error))
                continue
            yield from found
            start += num_blocks
            if num_blocks == self._page:
                self._page = min(2 * self._page, self._ceiling)

    def _forget(self) -> None:
        """Begin anew: who refuses one block has another reason than how many were asked for."""
        self._page = FIRST_PAGE_BLOCKS
        self._ceiling = LARGEST_PAGE_BLOCKS

    def _shrink(self, refused: int, words: str) -> None:
        """Below what was refused; to what the node says that it allows, if it says so."""
        self._ceiling = refused - 1
        stated = [int(number) for number in STATED_LIMIT.findall(words)]
        fitting = [number for number in stated if 0 < number < refused]
        self._page = max(fitting) if fitting else max(refused // 2, 1)
        if fitting:
            self._ceiling = self._page
