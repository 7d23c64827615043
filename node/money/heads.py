"""Looks at the chain's newest block once for all that watch the chain, and says whose turn it is to
look at more: as long as that block is the same, no contract says anything else than before.

    the newest block is another one, or cannot be had │ something is under way that time alone
    decides │ the last look failed │ so many intervals passed without a look       → a turn

So a node that stands still, or lies about its newest block, hides nothing for longer than
`LOOK_ANYWAY` intervals. Knows no contract; a part that looks tells its own trouble.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from proofs.chain.answers import Block
from proofs.chain.errors import ChainError

from ..threads import in_thread

if TYPE_CHECKING:  # it brings web3: a daemon without a chain must not wait for it
    from proofs.chain.rpc import Rpc

LOOK_ANYWAY = 10  # intervals after which everything is looked at, new or not
HEAD_DEADLINE_S = 20.0
SLACK_S = 1.0  # blocks have whole seconds


class Heads:
    """The newest block of one chain, asked for once however many want to know."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._head: Block | None = None  # None where that was not told
        self._read_at = -math.inf
        self._known: tuple[Block, float] | None = None  # the last one told, and when it came
        self._reading = trio.Lock()

    async def newest(self, max_age_s: float) -> Block | None:
        """Return the newest block as it was at most so long ago; None where nobody tells it."""
        async with self._reading:
            if trio.current_time() - self._read_at > max_age_s:
                self._head = await self._read()
                self._read_at = trio.current_time()
            return self._head

    def has_come(self, timestamp: float) -> bool:
        """Return whether the chain's clock may show this time (Unix seconds): development chains'
        goes on where no block comes.
        """
        if self._known is None:
            return True
        head, came_at = self._known
        return timestamp <= head.timestamp + trio.current_time() - came_at + SLACK_S

    async def _read(self) -> Block | None:
        try:
            head = await in_thread(self._rpc.get_block, deadline_s=HEAD_DEADLINE_S)
        except (ChainError, trio.TooSlowError):  # whoever looks meets it, and tells it
            return None
        if self._known is None or self._known[0] != head:
            self._known = (head, trio.current_time())
        return head

    def turns(self, interval_s: float, is_under_way: Callable[[], bool]) -> Turns:
        """Make the turns of one part. `is_under_way` says whether it waits for what no block
        brings: time, a disk, another part.
        """
        return Turns(self, interval_s, is_under_way)


class Turns:
    """When one part looks at the chain. One owner."""

    def __init__(self, heads: Heads, interval_s: float, is_under_way: Callable[[], bool]) -> None:
        self._heads = heads
        self._interval_s = interval_s
        self._is_under_way = is_under_way
        self._seen: bytes | None = None  # the newest block's hash at the last look that went well
        self._head: Block | None = None
        self._is_first = True
        self._passed = 0  # intervals since the last turn

    async def next(self) -> Block | None:
        """Wait for the next turn; the first comes at once, later ones at the beats that all parts
        of one interval have in common. Gives the newest block, or None where that is not known.
        """
        while True:
            if not self._is_first:
                await trio.sleep(self._interval_s - trio.current_time() % self._interval_s)
            self._head = await self._heads.newest(self._interval_s / 2)
            self._passed += 1
            if self._is_first or self._is_turn():
                self._is_first = False
                self._seen = None
                self._passed = 0
                return self._head

    def looked(self) -> None:
        """Note that the look of this turn went well: until something is new there is no other."""
        self._seen = None if self._head is None else self._head.hash

    def _is_turn(self) -> bool:
        head = self._head
        return (
            head is None
            or head.hash != self._seen
            or self._passed >= LOOK_ANYWAY
            or self._is_under_way()
        )
