"""Faults on purpose, among the nodes of one machine: when, what and to whom, by chance with a seed.

    crash    SIGKILL; started again after a while
    freeze   SIGSTOP: nothing is answered, connections stay; then it goes on
    spoil    one byte of one file of an adapter's is another; the node notices, or its peers do

A walled node takes no connection from the beginning (`Plan.walled`). `plan_faults` is pure. Engines
that cheat are no faults: the demo has those.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

import trio

from .network import Network, Node

Kind = Literal["crash", "freeze", "spoil"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERY_S = 15.0
"""How long from one fault to the next, on average."""
LASTS_S = (1.0, 8.0)
SPOILT = ("adapters", "blocks")
"""Folders of a home whose files are named by their hash."""
Tell = Callable[[str, str], None]  # (name, what is done to it)


@dataclass(frozen=True)
class Fault:
    """What happens to one node, so long (s) after the beginning; a frozen or dead node stays so for
    `lasts_s`.
    """

    at_s: float
    kind: Kind
    name: str
    lasts_s: float


def plan_faults(
    names: Sequence[str], *, seed: int, every_s: float = EVERY_S, kinds: Sequence[Kind] = KINDS
) -> Iterator[Fault]:
    """Yield faults in time's order, for ever, each after the one before is over: at most one node
    is away at a time.
    """
    dice = Random(seed)
    at_s = dice.expovariate(1 / every_s)
    while True:
        lasts_s = dice.uniform(*LASTS_S)
        yield Fault(at_s, dice.choice(kinds), dice.choice(names), lasts_s)
        at_s += lasts_s + dice.expovariate(1 / every_s)


async def run_faults(network: Network, faults: Iterable[Fault], dice: Random, tell: Tell) -> None:
    """Do to a network's nodes what is planned, until cancelled or all is done; whoever is frozen
    then goes on.
    """
    began = trio.current_time()
    for fault in faults:
        await trio.sleep_until(began + fault.at_s)
        node = network.nodes[fault.name]
        tell(fault.name, f"{fault.kind}, for {fault.lasts_s:.0f} s")
        if fault.kind == "freeze":
            await _freeze(node, fault.lasts_s)
        elif fault.kind == "spoil":
            spoilt = spoil(node.member.home, dice)
            tell(fault.name, f"spoilt {spoilt}" if spoilt else "has nothing to spoil")
        else:
            node.child.process.kill()
            await trio.to_thread.run_sync(node.child.process.wait)
            await trio.sleep(fault.lasts_s)
            await network.revive()


async def _freeze(node: Node, lasts_s: float) -> None:
    process = node.child.process
    process.send_signal(signal.SIGSTOP)
    try:
        await trio.sleep(lasts_s)
    finally:
        process.send_signal(signal.SIGCONT)


def spoil(home: Path, dice: Random) -> Path | None:
    """Turn one bit of a file that a home keeps for others; which one, None where none is."""
    found = sorted(
        path
        for folder in SPOILT
        for path in (home / folder).rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size
    )
    if not found:
        return None
    path = dice.choice(found)
    data = bytearray(path.read_bytes())
    at = dice.randrange(len(data))
    data[at] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    return path.relative_to(home)
