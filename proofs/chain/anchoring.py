"""Says on which branch of the chain, and until when, a sealed header is true, so that it is posted
there and then or not at all.

What an honest aggregator reads of the chain may change in two ways: a reorganisation takes back
that a channel's vouchers were claimed, and a channel leaves. A header is bound to a block in which
all was claimed; and leaving takes as long as an aggregator may be silent. Knows no receipt.
"""

from __future__ import annotations

from collections.abc import Mapping

from .client import ChainClient
from .structs import Anchor
from .views import LATEST

MAX_AGE_BLOCKS = 128
"""How far back a header may be bound: the chain knows its last 256 hashes, a node the states of as
many blocks as this."""


def find_anchor(client: ChainClient, moved: Mapping[bytes, int]) -> Anchor | None:
    """Find where a header may be posted that moves these channels to what they then cost; None
    where it would not be true there. ChainError.

    We are the aggregator. It is not true where a channel is not claimed so far, or leaves; and not
    safe where we were silent for so long that channels may leave without us.
    """
    head = client.rpc.get_block(LATEST)
    number = min(max(client.finality.number(), head.number - MAX_AGE_BLOCKS), head.number)
    block = client.rpc.get_block(number)
    channels = list(moved)
    states = client.channels.read_many(channels, number)
    settlement = client.settlement
    # What leaves now, and what left then: that it stays may have been taken back as well.
    leaving = [settlement.left_at_many(channels, at) for at in (number, LATEST)]
    times = [at for found in leaving for at in found.values()]
    not_after = min([settlement.silent_from(number), *times])
    is_claimed = all(
        state.total_claimed >= moved[channel]
        for channel, state in zip(channels, states, strict=True)
    )
    if not is_claimed or not_after <= head.timestamp:
        return None
    if client.rpc.get_block(number).hash != block.hash:
        return None  # a reorganisation came in between: what was read is of two branches
    return Anchor(number, block.hash, not_after)
