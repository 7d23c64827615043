"""Walks along the posted headers, each once and in order, as deep as the network's finality asks.

Remembers in which blocks they stand, so that it reads only new blocks and notices when the chain
takes some back. Knows no header's content.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

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

    def next(self) -> PostedHeader | Reorganised | None:
        """The next header; None when the chain has none yet. ChainError."""
        if not self._ahead:
            if self._trail and not self._stands(self._trail[-1]):
                return self._walk_back()
            back = self._read_on()
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

    def _read_on(self) -> Reorganised | None:
        """Read new blocks; says where a lie was convicted, which takes headers back too."""
        last = self._finality.number()
        for event in self._contract.events("Posted", {}, first=self._next_block, last=last):
            step = _Step(read_posted(event), bytes(event["blockHash"]))
            self._take_back(step.posted.header.epoch - 1)
            self._ahead.append(step)
        self._next_block = max(self._next_block, last + 1)
        self._take_back(int(self._contract.read_one("lastEpoch", block=last)))
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

    def _walk_back(self) -> Reorganised:
        while self._trail and not self._stands(self._trail[-1]):
            self._trail.pop()
        if self._trail:
            posted = self._trail[-1].posted
            self._next_block = posted.block + 1
            return Reorganised(posted.header.epoch)
        self._check_chain()
        self.rewind()
        return Reorganised(0)

    def _stands(self, step: _Step) -> bool:
        block = self._contract.rpc.find_block(step.posted.block)
        return block is not None and block.hash == step.block_hash

    def _check_chain(self) -> None:
        block = self._contract.rpc.find_block(self._first_block)
        if block is None or block.hash != self._first_hash:
            raise WrongChain(
                f"the chain at {self._contract.rpc.url} was started anew: block"
                f" {self._first_block}, in which the contracts were deployed, is another one than"
                " before; use a new --home with it"
            )
