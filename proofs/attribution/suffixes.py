"""Where a text holds a given run of tokens: every position of it, ordered by what stands before.

The suffix array of the reversed text: positions are sorted by the token there, then by the one
before it, and so on. So the places where a context ends are one range, and one token more of the
context narrows that range once. Document borders are end marks, which no question holds, so no
context crosses one. Decides nothing; knows no rule and no file.

    order   the positions sorted that way
    node    a half-open range [lo, hi) of `order`: all places where one context ends

Several lengths of a context are sought at once, by runs (runs.py), first among samples of the order
and then between two of them.

What is asked of a node, how many different tokens follow and whose its tokens are, is counted on
the spot where it is small and was counted beforehand where it is not (`Common`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .runs import Asked, Runs, look_back
from .slices import each_of
from .tokens import Ints, Ranks, room_in

MAX_COUNTED = 128  # the places of a node that are looked at one by one
SAMPLE = 64  # of so many places in order, the run at the first is kept in a row of samples

Order = npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Common:
    """What is known of each node of more than MAX_COUNTED places.

    `keys` are order << 32 | lo, ascending; `following` is how many different tokens follow, the
    end mark among them; `owned` has a row for each node, a column for each contributor.
    """

    keys: npt.NDArray[np.uint64]
    following: npt.NDArray[np.uint32]
    owned: npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Owners:
    """Whose the token at a position is: `contributors[i]` gave all after position `starts[i]`, up
    to the next.
    """

    num_contributors: int
    starts: Ints
    contributors: Ints

    def of(self, positions: Ints) -> Ints:
        """Return whose the token at each position is; of a background, 0."""
        if not self.num_contributors:
            return np.zeros(len(positions), dtype=np.int64)
        found: Ints = self.contributors[np.searchsorted(self.starts, positions, side="left") - 1]
        return found


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of the contexts that end before each token of a row, and after the last.

    `lo` and `hi` have a row for each of these places and a column for each length, from 0, the
    empty context, on. Where there is no such context, lo = hi.
    """

    lo: Ints
    hi: Ints

    @property
    def sizes(self) -> Ints:
        """How often each context occurs."""
        return self.hi - self.lo


@dataclass(frozen=True, eq=False)
class Suffixes:
    """A text and the order of its positions. `first[r]` is where those of rank r begin; `samples`
    has the run at every SAMPLE-th place of the order.

    `row` has the text, as that of Tokens; where a token does not count, there is an end mark.
    """

    row: Ranks
    order: Order
    first: Ints
    samples: Runs
    common: Common
    owners: Owners

    @cached_property
    def text(self) -> Ranks:
        """The ranks."""
        return self.row[room_in(self.row) :]

    @cached_property
    def runs(self) -> Runs:
        """The run that ends at each position."""
        return look_back(self.row, room_in(self.row))

    def narrow(self, ranks: Ints, start: int, depth: int) -> Nodes:
        """Find the contexts, up to `depth` tokens long, that end before ranks[start], before each
        rank after it and after the last one. They reach back over all of `ranks`.
        """
        nobody = len(self.first) - 2  # a rank that no text holds
        asked = Asked.of(ranks, start, depth, self.row.itemsize, nobody=nobody)
        lo = np.zeros((len(asked.known), depth + 1), dtype=np.int64)
        hi = np.zeros((len(asked.known), depth + 1), dtype=np.int64)
        hi[:, 0] = len(self.text)
        for back in range(0, depth, asked.run_tokens):
            some = np.flatnonzero((asked.known > back) & (hi[:, back] > lo[:, back]))
            if not len(some):
                break
            lengths = np.arange(back + 1, min(back + asked.run_tokens, depth) + 1)
            bounds = asked.bounds(some, back, len(lengths))
            if back:
                ends = self._search_within(lo[some, back], hi[some, back], bounds, back)
            else:
                ends = self._search(bounds)
            ends *= lengths <= asked.known[some, None]
            columns = slice(back + 1, back + 1 + len(lengths))
            lo[some, columns], hi[some, columns] = ends
        return Nodes(lo, hi)

    def _search(self, bounds: Runs) -> Ints:
        """Count the places in order whose run is at most each bound."""
        # The first sample is an end mark's, which is below all bounds.
        at = (np.searchsorted(self.samples, bounds, side="right") - 1) * SAMPLE
        step = SAMPLE
        while step := step >> 1:
            runs = self.runs[self.order.take(at + step, mode="clip")]
            np.add(at, step, out=at, where=runs <= bounds)
        found: Ints = np.minimum(at + 1, len(self.order))
        return found

    def _search_within(self, lo: Ints, hi: Ints, bounds: Runs, back: int) -> Ints:
        """Find, in each range, of one place or more, where the run that ends `back` tokens before
        its positions is no longer at most each bound.
        """
        last = hi[:, None] - 1
        at = np.empty(bounds.shape, dtype=np.int64)
        at[:] = lo[:, None] - 1
        for exponent in reversed(range(int((hi - lo).max()).bit_length())):
            ahead = at + (1 << exponent)
            near = np.minimum(ahead, last)
            is_below = self.runs[self.order.take(near) - np.uint32(back)] <= bounds
            is_below &= ahead == near
            np.add(at, 1 << exponent, out=at, where=is_below)
        at += 1
        return at

    def count(self, nodes: Nodes) -> tuple[Ints, Ints]:
        """Count, for each context of one token or more, the different tokens that follow it, and
        of the tokens that end it, each contributor's.

        Shapes (places, depth) and (places, depth, contributors); length 1 stands first.
        """
        lo = nodes.lo[:, 1:]
        sizes = nodes.sizes[:, 1:]
        following = np.zeros(sizes.shape, dtype=np.int64)
        owned = np.zeros((*sizes.shape, self.owners.num_contributors), dtype=np.int64)
        few = (sizes > 0) & (sizes <= MAX_COUNTED)
        if few.any():
            following[few], owned[few] = self._count_few(lo, sizes, few)
        many = sizes > MAX_COUNTED
        lengths = np.nonzero(many)[1] + 1
        row = np.searchsorted(self.common.keys, (lengths << 32 | lo[many]).astype(np.uint64))
        following[many] = self.common.following[row]
        owned[many] = self.common.owned[row]
        return following, owned

    def _count_few(self, lo: Ints, sizes: Ints, few: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Count what the nodes hold that are `few`, in the order of that mask.

        At one place they lie in one another. So each position of the first is looked up once, and
        nodes of one size, which are one node, are counted once.
        """
        places = np.flatnonzero(few.any(axis=1))
        widest = few[places].argmax(axis=1)
        held = _Held.of(self, lo[places, widest], sizes[places, widest])
        is_new = few.copy()
        is_new[:, 1:] &= sizes[:, 1:] != sizes[:, :-1]
        row = np.searchsorted(places, np.nonzero(is_new)[0])
        start = lo[is_new] - held.lo[row] + held.starts[row]
        node, index = each_of(start, sizes[is_new])
        is_first = held.previous[index] < start[node]
        following = np.bincount(node[is_first], minlength=len(start))
        num_owners = max(self.owners.num_contributors, 1)
        cells = node * num_owners + held.owners[index]
        owned = np.bincount(cells, minlength=len(start) * num_owners)
        owned = owned.reshape(len(start), num_owners)[:, : self.owners.num_contributors]
        counted = (np.cumsum(is_new) - 1).reshape(few.shape)[few]
        return following[counted], owned[counted]


@dataclass(frozen=True, eq=False)
class _Held:
    """What some ranges of the order hold, one behind another: range i, from place lo[i] on, begins
    at starts[i].

    `owners` is whose the token there is; `previous` is where the one before is, in the same range,
    that the same token follows, and -1 where there is none.
    """

    lo: Ints
    starts: Ints
    owners: Ints
    previous: Ints

    @classmethod
    def of(cls, suffixes: Suffixes, lo: Ints, sizes: Ints) -> _Held:
        """Look at the places of ranges, of which there is one or more."""
        number, index = each_of(lo, sizes)
        positions = suffixes.order[index].astype(np.int64)
        after = suffixes.text[positions + 1]
        # One sort, by range, token and place, which all fit a number.
        bits = len(index).bit_length()
        sorted_ = (number << len(suffixes.first).bit_length() | after) << bits
        sorted_ |= np.arange(len(index))
        sorted_.sort()
        place = sorted_ & (1 << bits) - 1
        sorted_ >>= bits
        same = np.flatnonzero(sorted_[1:] == sorted_[:-1])
        previous = np.full(len(index), -1)
        previous[place[same + 1]] = place[same]
        return cls(lo, np.cumsum(sizes) - sizes, suffixes.owners.of(positions), previous)
