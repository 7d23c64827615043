"""How hosts behind routers reach one another: `python -m benchmarks.p2p.nat [--tries N] [--mb N]`.

Real routers in network namespaces, every way delayed (40 ms to a relay and back, 80 ms from host
to host through it). Each pair of routers is tried so many times: connect by the addresses that
the DHT gives, fetch a block, wait for a direct connection. Then the same bytes directly and through
a relay, without the delay, whose userspace wire would be the limit. Needs root and nft; writes one
JSON object.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import trio

from benchmarks import write_result
from tests.p2p.reach.lab import Remote, behind, lab, part, public

ONE_WAY_S = 0.02
PAIRS = (
    ("cone", "cone", False),
    ("cone", "cone", True),
    ("cone", "symmetric", False),
    ("symmetric", "cone", False),
    ("symmetric", "symmetric", False),
    ("symmetric", "symmetric", True),
)
DIRECT_DEADLINE_S = 3.0
UNLIMITED = {"bytes_per_s": 1 << 30, "circuit_bytes": 1 << 34}


async def try_once(asker: Remote, giver: Remote, digest: str, ref: list[Any]) -> dict[str, Any]:
    """Connect, fetch one block, wait for a direct connection; seconds from the first dial."""
    providers = (await asker.do("find", digest=digest))["providers"]
    await part(asker, giver)
    addresses = providers.get(giver.peer_id, [])
    try:
        connected = await asker.do("connect", peer_id=giver.peer_id, addresses=addresses)
        wait_s = max(0.0, DIRECT_DEADLINE_S - connected["s"])
        fetched = await asker.do("fetch", peer_id=giver.peer_id, addresses=addresses, refs=[ref])
        left_s = max(0.0, wait_s - fetched["s"])
        direct = await asker.do("until_direct", peer_id=giver.peer_id, deadline_s=left_s)
    except RuntimeError as error:
        return {"served": False, "error": str(error)}
    first_block_s = connected["s"] + fetched["s"]
    return {
        "served": True,
        "connected_s": connected["s"],
        "first_block_s": first_block_s,
        "direct_s": first_block_s + direct["s"] if direct["is_direct"] else None,
    }


async def measure_pair(one: str, other: str, resets: bool, tries: int) -> dict[str, Any]:
    """Try one pair of routers."""
    sites = [
        public("r1", 11),
        public("r2", 12),
        behind("a", 31, one, resets=resets),
        behind("b", 32, other, resets=resets),
    ]
    async with lab(sites, delay_s=ONE_WAY_S) as (_, _, asker, giver):
        await asker.until_relayed()
        await giver.until_relayed()
        refs = (await giver.do("fill", num_blocks=tries))["refs"]
        found = [await try_once(asker, giver, refs[0][0], ref) for ref in refs]
    served = [one for one in found if one["served"]]
    direct = [one["direct_s"] for one in served if one["direct_s"] is not None]
    return {
        "routers": f"{one}/{other}" + (", unasked packets are reset" if resets else ""),
        "tries": tries,
        "served": len(served),
        "direct_within_3_s": len(direct),
        "connected_s": spread([one["connected_s"] for one in served]),
        "first_block_s": spread([one["first_block_s"] for one in served]),
        "direct_s": spread(direct),
        "errors": sorted({one["error"] for one in found if not one["served"]}),
    }


def spread(values: list[float]) -> list[float] | None:
    """Median, least and most."""
    if not values:
        return None
    return [round(value, 3) for value in (median(values), min(values), max(values))]


async def measure_speed(num_mb: int, rounds: int) -> dict[str, Any]:
    """Fetch the same amount directly and through a relay, in turn."""
    num_blocks = num_mb * 1_000_000 // (256 << 10)
    rates: dict[str, list[float]] = {"direct": [], "relayed": []}
    sites = [
        public("r1", 11, relay=UNLIMITED),
        public("r2", 12, relay=UNLIMITED),
        public("open", 13),
        behind("a", 31, "symmetric"),
        behind("b", 32, "symmetric"),
    ]
    async with lab(sites, delay_s=None) as (_, _, public_giver, asker, giver):
        await asker.until_relayed()
        await giver.until_relayed()
        for _ in range(rounds):
            for name, one in (("direct", public_giver), ("relayed", giver)):
                refs = (await one.do("fill", num_blocks=num_blocks))["refs"]
                described = await one.describe()
                took = await asker.do(
                    "fetch", peer_id=one.peer_id, addresses=described["addresses"], refs=refs
                )
                rates[name].append(num_blocks * (256 << 10) / 1e6 / took["s"])
    return {
        "mb": num_mb,
        "direct_mb_per_s": spread(rates["direct"]),
        "relayed_mb_per_s": spread(rates["relayed"]),
        "relayed_share": round(median(rates["relayed"]) / median(rates["direct"]), 3),
    }


async def measure(tries: int, num_mb: int) -> dict[str, Any]:
    """Everything."""
    pairs = []
    for one, other, resets in PAIRS:
        pairs.append(await measure_pair(one, other, resets, tries))
        print(pairs[-1], flush=True)
    return {"pairs": pairs, "speed": [await measure_speed(num_mb, rounds=4) for _ in range(2)]}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--mb", type=int, default=40)
    arguments = parser.parse_args()
    found = trio.run(measure, arguments.tries, arguments.mb)
    print(found["speed"])
    write_result("p2p-nat", found)


if __name__ == "__main__":
    main()
