"""A daemon that is killed at one point of a receipt's way, before the step or right after it:
`python -m tests.node.money.dying POINT up --home HOME`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from node.cli.app import main
from node.money.book import ChannelBook, Keeper
from node.money.delivering import Delivery
from node.money.published import Published
from node.wire.channels import PayeeChannel
from node.wire.node_session import NodeSession
from proofs.chain.channels import Channels
from proofs.chain.settlement import Settlement
from proofs.ledger import AggregatorLedger, Outbox, PostJournal

BEFORE, AFTER = False, True
NODE: dict[str, tuple[type[Any], str, bool]] = {
    "a voucher has come": (ChannelBook, "save", BEFORE),
    "an answer is sent": (NodeSession, "_show_own", BEFORE),
    "a receipt is signed": (PayeeChannel, "draft", AFTER),
    "a receipt is half written": (Outbox, "add", AFTER),
    "a receipt is on the disk": (Keeper, "keep", AFTER),
    "a voucher is claimed": (Channels, "claim", AFTER),
    "a promise has come": (Outbox, "keep_promise", BEFORE),
    "a promise is kept": (Delivery, "_tell", BEFORE),
    "an epoch has it": (Outbox, "mark_included", AFTER),
    "a payout is due": (Settlement, "claim", BEFORE),
    "a payout is claimed": (Settlement, "claim", AFTER),
}
AGGREGATOR: dict[str, tuple[type[Any], str, bool]] = {
    "a receipt is taken": (AggregatorLedger, "accept", BEFORE),
    "a receipt is accepted": (AggregatorLedger, "accept", AFTER),
    "an epoch is closed": (AggregatorLedger, "seal", BEFORE),
    "an epoch is sealed": (AggregatorLedger, "seal", AFTER),
    "a batch is to be published": (Published, "provide", BEFORE),
    "a post is signed": (PostJournal, "add_attempt", AFTER),
    "a header is on the chain": (PostJournal, "confirm", BEFORE),
}
POINTS = NODE | AGGREGATOR


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kind: type[Any], name: str, when: bool) -> None:
    step = getattr(kind, name)

    def last_step(*values: Any, **named: Any) -> Any:
        if when == BEFORE:
            die()
        result = step(*values, **named)
        if kind is not Keeper or any(one.receipt for one in values[1:]):
            die()
        return result

    setattr(kind, name, last_step)


if __name__ == "__main__":
    point = sys.argv.pop(1)
    if point:
        arm(*POINTS[point])
    main()
