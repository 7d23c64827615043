"""Sorts a text's positions by what stands before them, and counts what its common nodes hold.

The expensive half of an index, done once for a text: linear passes over slices, so that 100 million
tokens take half a minute and 3 GB. Decides nothing; `suffixes.py` asks what is made here.
"""

from __future__ import annotations

import numpy as np
from pydivsufsort import divsufsort

from .runs import RUN_BYTES, Runs
from .slices import Small, gather, slices, tokens_since_end
from .suffixes import MAX_COUNTED, Common, Order
from .tokens import Ints, Ranks


def sort_positions(text: Ranks) -> Order:
    """Return all positions, ordered by the token there, then by the tokens before it."""
    backwards = np.ascontiguousarray(text[::-1])
    order: Order = divsufsort(backwards).view(np.uint32)
    np.subtract(np.uint32(len(text) - 1), order, out=order)
    return order


def first_of_rank(text: Ranks, num_ids: int) -> Ints:
    """Return where the positions of each rank begin: those of rank r are [first[r], first[r + 1]).

    Rank num_ids + 1, which no text holds, has an empty range.
    """
    counts = np.zeros(num_ids + 2, dtype=np.int64)
    for part in slices(0, len(text)):
        counts += np.bincount(text[part], minlength=num_ids + 2)
    return np.concatenate([[0], np.cumsum(counts)])


def shared_lengths(text: Ranks, runs: Runs, order: Order, depth: int) -> Small:
    """Return how many tokens each position shares, backwards, with the one before it in `order`:
    at most `depth`, and none beyond an end mark.
    """
    run_tokens = RUN_BYTES // text.itemsize
    since_end = tokens_since_end(text, depth)
    shared = np.zeros(len(order), dtype=np.uint8)
    for part in slices(1, len(order)):
        positions = order[part.start - 1 : part.stop]
        keys = runs[positions]
        length = _alike(keys[1:], keys[:-1], run_tokens)
        for back in range(run_tokens, depth, run_tokens):
            more = np.flatnonzero(length == back)
            # Who stands nearer to the text's beginning met its end mark on the way.
            here = runs[np.maximum(positions[1:][more], back) - np.uint32(back)]
            before = runs[np.maximum(positions[:-1][more], back) - np.uint32(back)]
            length[more] += _alike(here, before, run_tokens)
        shared[part] = np.minimum(length, since_end[positions[1:]])
    return shared


def _alike(runs: Runs, others: Runs, run_tokens: int) -> Small:
    """Return how many tokens two runs have in common, from the last one back."""
    different = runs ^ others
    length = np.zeros(len(runs), dtype=np.uint8)
    for count in range(1, run_tokens + 1):
        bits = 8 * RUN_BYTES * (run_tokens - count) // run_tokens
        length += different < np.uint64(1 << bits)
    return length


def previous_alike(order: Order, shared: Small, num_ends: int) -> Order:
    """Return, for each place in `order`, 1 + the nearest place before it whose position is followed
    by the same token or end mark; 0 where there is none.

    Of a node [lo, hi), those with a value <= lo are the first to be followed by their token; so
    they are as many as there are different tokens.
    """
    place = np.empty(len(order), dtype=np.uint32)
    for part in slices(0, len(order)):
        place[order[part]] = np.arange(part.start, part.stop, dtype=np.uint32)
    previous = np.zeros(len(order), dtype=np.uint32)
    # The positions of one rank, in order, follow places that are in order too. The first of all is
    # the text's first end mark, which follows nothing.
    for part in slices(2, len(order)):
        follows = place[order[part.start - 1 : part.stop] - 1]
        same = shared[part] > 0
        same[: max(num_ends - part.start, 0)] = True  # end marks, which come first
        previous[follows[1:]] = np.where(same, follows[:-1] + 1, 0)
    return previous


def count_common(
    first: Ints, shared: Small, previous: Order, owner: Small, num_owners: int, depth: int
) -> Common:
    """Count what each node of more than MAX_COUNTED places holds, for contexts of 1 to `depth`.

    `owner` is in the order of the positions; num_owners means nobody.
    """
    keys = []
    followings = []
    owneds = []
    alive = np.arange(int(first[1]), len(shared), dtype=np.uint32)
    for length in range(1, depth + 1):
        # What is common at this length was common at the one before.
        starts = np.flatnonzero(gather(shared, alive) < length)
        sizes = np.diff(starts, append=len(alive))
        common = sizes > MAX_COUNTED
        alive = alive[np.repeat(common, sizes)]
        sizes = sizes[common]
        if not len(sizes):
            break
        lo = alive[np.cumsum(sizes) - sizes]
        following, owned = _count(
            alive, sizes, lo, previous=previous, owner=owner, num_owners=num_owners
        )
        keys.append(np.uint64(length) << np.uint64(32) | lo.astype(np.uint64))
        followings.append(following)
        owneds.append(owned)
    return Common(
        keys=np.concatenate([np.zeros(0, dtype=np.uint64), *keys]),
        following=np.concatenate([np.zeros(0, dtype=np.uint32), *followings]),
        owned=np.concatenate([np.zeros((0, num_owners), dtype=np.uint32), *owneds]),
    )


def _count(
    alive: Order, sizes: Ints, lo: Order, previous: Order, owner: Small, num_owners: int
) -> tuple[Order, Order]:
    group = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)
    following = np.zeros(len(sizes), dtype=np.uint32)
    owned = np.zeros((len(sizes), num_owners + 1), dtype=np.uint32)
    for part in slices(0, len(alive)):
        places = alive[part]
        groups = group[part].astype(np.int64)
        begin, end = int(groups[0]), int(groups[-1]) + 1
        new = previous[places] <= lo[groups]
        groups -= begin
        following[begin:end] += np.bincount(groups[new], minlength=end - begin).astype(np.uint32)
        cells = groups * (num_owners + 1) + owner[places]
        counts = np.bincount(cells, minlength=(end - begin) * (num_owners + 1))
        owned[begin:end] += counts.reshape(end - begin, num_owners + 1).astype(np.uint32)
    return following, np.ascontiguousarray(owned[:, :num_owners])
