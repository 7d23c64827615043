"""Looks how a running node stands among its peers. Each look has a deadline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p2p.host import Host

from ..api.doctor import Checked, State
from ..config import CONFIG_FILE, Config

JOIN = "look whether the line to the internet works; or join by a word: lorikeet up --join TOKEN"


def examine_peers(host: Host, config: Config) -> Iterator[Checked]:
    """Say who is there, and who of those to start from is not."""
    connected = len(host.peers())
    gone = [one for one in config.bootstrap if not host.is_connected(one.rpartition("/p2p/")[2])]
    if connected:
        yield Checked("peers", "ok", f"{connected} are connected")
    elif config.bootstrap:
        yield Checked("peers", "wrong", "none is connected", JOIN)
    else:
        yield Checked(
            "peers",
            "note" if config.role == "bootstrap" else "wrong",
            "none is connected, and the settings name none to start from",
            "" if config.role == "bootstrap" else f"name one in bootstrap ({CONFIG_FILE})",
        )
    for address in gone:
        yield Checked(
            "bootstrap",
            "note" if connected else "wrong",
            f"{address} is not connected",
            f"it may be down for a while; take it out of {CONFIG_FILE} if it is gone for good",
        )


def examine_reach(host: Host, config: Config) -> Checked:
    """Say whether strangers can dial this node."""
    reach = host.reachability()
    if reach.state == "reachable":
        return Checked("reach", "ok", "others can dial this node")
    if reach.relays:
        return Checked("reach", "ok", f"behind a router; {len(reach.relays)} relays carry for it")
    if reach.state == "unknown":
        return Checked("reach", "note", "nobody has tried to dial this node yet", "look again soon")
    ports = ", ".join(_ports_of(config.listen)) or "a port of your choice (listen)"
    return Checked(
        "reach",
        "wrong",
        "behind a router, and no relay carries for it: nobody can reach this node",
        f"forward TCP port {ports} to this machine in the router, or let it be asked"
        f" (port_mapping in {CONFIG_FILE})",
    )


async def examine_dht(host: Host) -> Checked:
    """Write a record at others, and read it back from them."""
    asked, given = await host.dht.try_out()
    if not asked:
        return Checked("dht", "note", "there is nobody to write a record at")
    if not given:
        return Checked(
            "dht",
            "wrong",
            f"a record was written at {asked} peers, and none gave it back",
            "nobody can find this node's adapters: look at its clock and at `lorikeet peers`",
        )
    return Checked("dht", "ok", f"{given} of {asked} peers gave a record back")


def examine_gossip(host: Host, topics: Sequence[str]) -> Checked:
    """Say who listens with this node."""
    listening = {peer for topic in topics for peer in host.gossip.peers_on(topic)}
    if not listening and host.has_peers():
        return Checked(
            "gossip",
            "wrong",
            "no peer hears what this node announces",
            "where its peers are of the same network this mends itself within a minute",
        )
    state: State = "ok" if listening else "note"
    return Checked("gossip", state, f"{len(listening)} peers hear what it announces")


def _ports_of(listen: Sequence[str]) -> list[str]:
    return [address.split("/tcp/")[1].split("/")[0] for address in listen if "/tcp/" in address]
