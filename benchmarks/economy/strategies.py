"""The ways of running a node, and what was expected of each before the first run."""

from __future__ import annotations

from dataclasses import dataclass

from .measured import FOUR_BITS, HONEST, JUNK, NO_ADAPTER, Look


@dataclass(frozen=True)
class Strategy:
    """One way of running a node.

    `work` names a row of measured.works. `price`: its part of an honest price. `late`: by how many
    times its first token comes later than it quoted. `leaves`: the part of requests that it takes
    and gives up. `renames`: whether it takes a fresh name as soon as somebody says in public that
    its answers differ. `honest_first`: how many answers it computes for each client before it
    begins to cheat him, at the same pace.
    """

    name: str
    does: str
    expected: str
    look: Look
    work: str
    price: float = 1.0
    late: float = 1.0
    leaves: float = 0.0
    renames: bool = False
    honest_first: int = 0


HONEST_NODE = Strategy("honest", "computes what it is paid for", "the measure", HONEST, "honest")

STRATEGIES = (
    HONEST_NODE,
    Strategy(
        "lazy",
        "first tokens ten times as late as quoted, one request in five given up",
        "loses: same cost for an answer, and doubt and benches send its clients elsewhere; a tenth"
        " of an honest node's profit",
        HONEST,
        "honest",
        late=10.0,
        leaves=0.2,
    ),
    Strategy(
        "junk",
        "sends one token again and again, computes nothing",
        "loses where half of the answers are bought by clients that replay: convicted after some"
        " 20 answers a client, so a tenth of the sales at no cost; wins among those that never"
        " replay",
        JUNK,
        "none",
    ),
    Strategy(
        "cheap junk",
        "the same at half the price",
        "sells more before it is found out, since half the price counts fourfold; loses as junk"
        " does",
        JUNK,
        "none",
        price=0.5,
    ),
    Strategy(
        "renamed junk",
        "the same at the full price, under a fresh name as soon as anybody says that it differs",
        "wins while a name is free: what it loses is the time until clients find the new name",
        JUNK,
        "none",
        renames=True,
    ),
    Strategy(
        "patient junk",
        "computes the first 20 answers for each client, then junk",
        "(added after the first run) as junk, a little later: wins where clients buy less of a"
        " node than it takes to draw one",
        JUNK,
        "none",
        honest_first=20,
    ),
    Strategy(
        "no adapter",
        "answers from the bare base",
        "loses: saves a fifth of the cost and is convicted after 10 replays",
        NO_ADAPTER,
        "bare",
    ),
    Strategy(
        "narrow base",
        "computes with a base of fewer bits",
        "wins: saves a quarter of the cost, answers sooner, and is watched but not convicted",
        FOUR_BITS,
        "narrow",
    ),
)

OTHERS_EXPECTED = {
    "self-dealing pair": "loses the creator's and contributors' parts of each fee, 40 %; nothing on"
    " the bare base but the work and the chain's fees; wins nothing, since nobody's trust follows"
    " from receipts",
    "wash trader": "a creator who buys his own adapter's answers loses the node's part, 60 %",
    "sybil contributor": "as five names as much as one, but for rounding; copies with changed words"
    " win a little of others' part",
    "censoring aggregator": "earns nothing by it, loses its bond where it promised; where it"
    " refuses to promise it loses nothing and the node waits",
    "accuser": "loses a fee for each accusation, takes no weight, costs others replays",
    "blind auditor": "wins: a stranger's “agrees” is believed without a check",
}
