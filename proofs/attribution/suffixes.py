"""Where a text holds a given run of tokens: every position of it, ordered by what stands before.

The suffix array of the reversed text: positions are sorted by the token there, then by the one
before it, and so on. So the places where a context ends are one range, and one token more of the
context narrows that range once. Document borders are end marks, which no question holds, so no
context crosses one. Decides nothing; knows no rule and no file.

    order   the positions sorted that way
    node    a half-open range [lo, hi) of `order`: all places where one context ends

What is asked of a node, how many different tokens follow and whose its tokens are, is counted on
the spot where it is small and was counted beforehand where it is not (`Common`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .tokens import Ints, Ranks

MAX_COUNTED = 128  # the places of a node that are looked at one by one

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
    """A text and the order of its positions. `first[r]` is where those of rank r begin.

    Where a token does not count, `text` has an end mark.
    """

    text: Ranks
    order: Order
    first: Ints
    common: Common
    owners: Owners

    def narrow(self, ranks: Ints, start: int, depth: int) -> Nodes:
        """Find the contexts, up to `depth` tokens long, that end before ranks[start], before each
        rank after it and after the last one. They reach back over all of `ranks`.
        """
        nobody = len(self.first) - 2  # a rank that no text holds
        num_places = len(ranks) - start + 1
        padded = np.concatenate([np.full(depth, nobody), ranks])
        lo = np.zeros((num_places, depth + 1), dtype=np.int64)
        hi = np.zeros((num_places, depth + 1), dtype=np.int64)
        hi[:, 0] = len(self.text)
        for length in range(1, depth + 1):
            wanted = padded[depth + start - length :][:num_places]
            if length == 1:
                lo[:, 1] = self.first[wanted]
                hi[:, 1] = self.first[wanted + 1]
                continue
            open_ = np.flatnonzero(hi[:, length - 1] > lo[:, length - 1])
            if not len(open_):
                break
            lo[open_, length], hi[open_, length] = self._search(
                lo[open_, length - 1], hi[open_, length - 1], wanted[open_], length - 1
            )
        return Nodes(lo, hi)

    def _search(self, lo: Ints, hi: Ints, wanted: Ints, back: int) -> tuple[Ints, Ints]:
        """Narrow each range, of one place or more, to where the token `back` before its positions
        is the wanted one.
        """
        # Both bounds of all ranges at once. Each is sought in `left` places from `start` on, of
        # which a step leaves one half, whatever it finds; of one place it leaves one.
        start = np.concatenate([lo, lo])
        left = np.concatenate([hi, hi]) - start
        bound = np.concatenate([wanted, wanted + 1])
        for _ in range(int(left.max() - 1).bit_length()):
            half = left >> 1
            start += half * self._is_below(start + half - 1, back, bound)
            left -= half
        start += self._is_below(start, back, bound)
        return start[: len(lo)], start[len(lo) :]

    def _is_below(self, places: Ints, back: int, bound: Ints) -> npt.NDArray[np.bool_]:
        # Where half of one place is none, it is the place before that is looked at, in vain.
        positions = self.order.take(places, mode="clip") - np.uint32(back)
        below: npt.NDArray[np.bool_] = self.text.take(positions, mode="clip") < bound
        return below

    def count(self, nodes: Nodes) -> tuple[Ints, Ints]:
        """Count, for each context of one token or more, the different tokens that follow it, and
        of the tokens that end it, those that each contributor owns.

        Shapes (places, depth) and (places, depth, contributors); length 1 stands first.
        """
        num_places, depth = nodes.lo[:, 1:].shape
        num_owners = self.owners.num_contributors
        lo = nodes.lo[:, 1:].ravel()
        sizes = nodes.sizes[:, 1:].ravel()
        few = np.flatnonzero((sizes > 0) & (sizes <= MAX_COUNTED))
        node, index = _each(few, lo[few], sizes[few])
        positions = self.order[index].astype(np.int64)
        after = np.unique(node << 32 | self.text[positions + 1])
        following = np.bincount(after >> 32, minlength=len(lo))
        cells = node * (num_owners + 1) + self.owners.of(positions)
        owned = np.bincount(cells, minlength=len(lo) * (num_owners + 1))
        owned = owned.reshape(len(lo), num_owners + 1)[:, :num_owners]
        many = np.flatnonzero(sizes > MAX_COUNTED)
        lengths = many % depth + 1
        row = np.searchsorted(self.common.keys, (lengths << 32 | lo[many]).astype(np.uint64))
        following[many] = self.common.following[row]
        owned[many] = self.common.owned[row]
        return following.reshape(num_places, depth), owned.reshape(num_places, depth, num_owners)


def _each(nodes: Ints, lo: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """List the places of all ranges, one after another: whose each is, and its index."""
    before = np.cumsum(sizes) - sizes
    index = np.arange(int(sizes.sum())) + np.repeat(lo - before, sizes)
    return np.repeat(nodes, sizes), index
