"""Hosts behind real routers reach one another: directly where routers let them, else by relay."""

from .lab import Remote, behind, lab, needs_lab, part, public


async def try_pair(asker: Remote, giver: Remote, refs: list, deadline_s: float = 3.0) -> dict:
    """Connect by what the DHT says, fetch, and see whether a direct connection comes."""
    providers = (await asker.do("find", digest=refs[0][0]))["providers"]
    await part(asker, giver)
    addresses = providers[giver.peer_id]
    connected = await asker.do("connect", peer_id=giver.peer_id, addresses=addresses)
    fetched = await asker.do("fetch", peer_id=giver.peer_id, addresses=addresses, refs=[refs.pop()])
    direct = await asker.do("until_direct", peer_id=giver.peer_id, deadline_s=deadline_s)
    return {"s": connected["s"] + fetched["s"], "is_direct": direct["is_direct"]}


@needs_lab
async def test_every_pair_of_routers_is_served_and_friendly_ones_directly():
    sites = [
        public("r1", 11),
        public("r2", 12),
        behind("cone1", 31, "cone"),
        behind("cone2", 32, "cone"),
        behind("reset1", 33, "cone", resets=True),
        behind("reset2", 34, "cone", resets=True),
        behind("symm", 35, "symmetric", resets=True),
    ]
    async with lab(sites) as (r1, r2, *walled):
        cone1, cone2, reset1, reset2, symm = walled
        for host in (r1, r2):
            await host.until(lambda found: found["state"] == "reachable")
        for host in walled:
            found = await host.until_relayed()
            circuits = [one for one in found["addresses"] if "p2p-circuit" in one]
            relays = {one.split("/p2p/")[1].split("/")[0] for one in circuits}
            assert relays == {r1.peer_id, r2.peer_id}
            assert not any(f"/{host.site.ip}/" in one for one in found["addresses"])
        refs = {
            host.peer_id: (await host.do("fill", num_blocks=4))["refs"]
            for host in (cone2, reset2, symm)
        }
        for asker, giver in ((cone1, cone2), (reset1, reset2)):
            for _ in range(2):
                tried = await try_pair(asker, giver, refs[giver.peer_id])
                assert tried["is_direct"], (asker.site.name, giver.site.name)
        for asker, giver in ((cone1, symm), (symm, cone2)):
            await try_pair(asker, giver, refs[giver.peer_id], deadline_s=0.0)
        # one that is open to all is dialled back by the one that is not, once they have met
        assert (await try_pair(r1, symm, refs[symm.peer_id]))["is_direct"]
        await cone1.until(lambda found: found["state"] == "behind")
