"""Walks along the posted headers, each once and in order, as deep as the network's finality asks.

Remembers in which blocks they stand, so that it reads only new blocks and notices when the chain
takes some back. Knows no header's content.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile

from .answers import Block
from .contract import DeployedContract
from .errors import WrongChain
from .finality import Finality
from .structs import PostedHeader, read_posted

MAX_TRAIL = 4096
"""How many headers can be walked back one by one; a deeper reorganisation begins at the start."""


@dataclass(frozen=True)
class Reorganised:
    """The chain took headers back; those up to `epoch` still stand, what follows comes anew."""

    epoch: int


@dataclass(frozen=True)
class _Step:
    posted: PostedHeader
    block_hash: bytes


class HeaderWalk:
    """One walk, from the first header on. One owner at a time.

    `first_block` is the contract's own, and `first_hash` that block's hash: where it changes, the
    chain was started anew.
    """

    def __init__(
        self, contract: DeployedContract, finality: Finality, first_block: int, first_hash: bytes
    ) -> None:
        self._contract = contract
        self._finality = finality
        self._first_block = first_block
        self._first_hash = first_hash
        self._next_block = first_block
        self._ahead = deque[_Step]()
        self._trail = deque[_Step](maxlen=MAX_TRAIL)
        self._taken_back: int | None = None
        self._read_up_to: Block | None = None

    def next(self) -> PostedHeader | Reorganised | None:
        """The next header; None when the chain has none yet. ChainError."""
        if not self._ahead:
            last = self._finality.read()
            if last == self._read_up_to:
                return None
            back = self._walk_back() or self._read_on(last)
            if back is not None:
                return back
        if not self._ahead:
            return None
        self._trail.append(self._ahead.popleft())
        return self._trail[-1].posted

    def rewind(self) -> None:
        """Begin again at the first header."""
        self._ahead.clear()
        self._trail.clear()
        self._next_block = self._first_block
        self._read_up_to = None

    def _read_on(self, block: Block) -> Reorganised | None:
        """Read new blocks up to this one; says where a lie was convicted, which takes headers back
        too.
        """
        last = block.number
        for event in self._contract.events("Posted", {}, first=self._next_block, last=last):
            step = _Step(read_posted(event), bytes(event["blockHash"]))
            self._take_back(step.posted.header.epoch - 1)
            self._ahead.append(step)
        self._next_block = max(self._next_block, last + 1)
        self._take_back(int(self._contract.read_one("lastEpoch", block=last)))
        self._read_up_to = block
        if self._taken_back is None:
            return None
        back = Reorganised(self._taken_back)
        self._taken_back = None
        return back

    def _take_back(self, epoch: int) -> None:
        """Forget what was read after an epoch; what was handed out already must be told."""
        while self._ahead and self._ahead[-1].posted.header.epoch > epoch:
            self._ahead.pop()
        while self._trail and self._trail[-1].posted.header.epoch > epoch:
            self._trail.pop()
            known = self._taken_back
            self._taken_back = epoch if known is None else min(epoch, known)

    def _walk_back(self) -> Reorganised | None:
        """Where the block that was read up to is gone, go back to the last header that stands, and
        say so if that takes any back; what came after it is read again.
        """
        read = self._read_up_to
        if read is None or self._stands(read.number, read.hash):
            return None
        gone = list(takewhile(self._is_gone, reversed(self._trail)))
        if len(gone) == len(self._trail):
            self._check_chain()
            self.rewind()
            return Reorganised(0) if gone else None
        for _ in gone:
            self._trail.pop()
        posted = self._trail[-1].posted
        self._next_block = posted.block + 1
        self._read_up_to = None
        return Reorganised(posted.header.epoch) if gone else None

    def _is_gone(self, step: _Step) -> bool:
        return not self._stands(step.posted.block, step.block_hash)

    def _stands(self, number: int, block_hash: bytes) -> bool:
        block = self._contract.rpc.find_block(number)
        return block is not None and block.hash == block_hash

    def _check_chain(self) -> None:
        block = self._contract.rpc.find_block(self._first_block)
        if block is None or block.hash != self._first_hash:
            raise WrongChain(
                f"the chain at {self._contract.rpc.url} was started anew: block"
                f" {self._first_block}, in which the contracts were deployed, is another one than"
                " before; use a new --home with it"
            )
