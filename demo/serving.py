"""Steps 1 to 6: the network, the base, the adapters, and answers from them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio
from rich.markup import escape

from node.cli.show import size
from node.testnet.asking import Asking, NodeClient
from node.testnet.network import Network, Node
from p2p.blocks.client import fetch_block
from p2p.cid import Cid
from p2p.identity import write_private
from proofs.manifest import MAX_MANIFEST_BYTES, parse_manifest

from . import cast
from .record import ClaimFailed, Step, require
from .scene import Scene, folders_of
from .stage import Stage

PEERS_DEADLINE_S = 60.0
MIN_RELAYS = 2
MANIFEST_DEADLINE_S = 60.0
ADVERTISED_DEADLINE_S = 60.0
MAX_SILENCE_S = 1.5  # of an answer that runs while an adapter is fetched and loaded beside it
MIN_PIECES_BESIDE = 3
ROUNDS_TOGETHER = 3  # in which all answers are asked for at once
TIMING_PARTS = ("lookup", "connect", "fetch", "verify", "load", "queue", "prefill", "first_token")


async def show_network(network: Network, stage: Stage, step: Step) -> None:
    """Every process is another, and everybody found somebody although all knew the bootstrap node
    only.
    """
    children = network.children
    pids = {child.process.pid for child in children if child.is_running}
    require(
        len(pids) == len(children) == len(network.plan.members) + 1,
        "every node and the chain run, each as its own process",
    )
    rows = []
    for name, node in network.nodes.items():
        num_peers = await wait_for_peers(node)
        rows.append(
            (
                name,
                node.member.role,
                str(node.child.process.pid),
                str(num_peers),
                f"…{node.peer_id[-8:]}",
                node.url,
            )
        )
    stage.table(("node", "role", "pid", "peers", "peer id", "http"), rows)
    assert network.chain is not None
    stage.say(f"chain at {network.chain.rpc}, settlement contract {network.chain.settlement}")
    for name in network.plan.walled:
        relays = await wait_for_relays(network.nodes[name])
        names = [one.member.name for one in network.nodes.values() if one.peer_id in relays]
        stage.say(
            f"{name} takes no connection, as behind a router; whoever wants it comes through"
            f" {' or '.join(names)}, which carry sealed bytes"
        )
        step.facts["relays"] = names
    step.facts["processes"] = len(pids)


async def wait_for_peers(node: Node) -> int:
    """How many peers a node has, as soon as there is one."""
    async with NodeClient(node.url) as client:
        with trio.move_on_after(PEERS_DEADLINE_S):
            while True:
                num_peers = (await client.status()).num_peers
                if num_peers:
                    return num_peers
                await trio.sleep(0.2)
    raise ClaimFailed(f"{node.member.name} found no peer within {PEERS_DEADLINE_S:.0f} s")


async def wait_for_relays(node: Node) -> list[str]:
    """The relays of a node that takes no connection, as soon as there are two."""
    async with NodeClient(node.url) as client:
        with trio.move_on_after(PEERS_DEADLINE_S):
            while True:
                status = await client.status()
                relays: Any = status.reach["relays"]
                if len(relays) >= MIN_RELAYS:
                    require(
                        all("/p2p-circuit/" in address for address in status.addresses),
                        f"{node.member.name} is told to others by its relays only",
                    )
                    return list(relays)
                await trio.sleep(0.2)
    raise ClaimFailed(f"{node.member.name} found no relays within {PEERS_DEADLINE_S:.0f} s")


async def show_base(scene: Scene, step: Step) -> None:
    """One base, loaded once by each engine."""
    rows = []
    for member in scene.network.plan.volunteers:
        status = await scene.network.wait_for_engine(scene.network.nodes[member.name])
        engine: Mapping[str, Any] = status.engine or {}
        require(
            status.base.endswith(cast.BASE_SHA256),
            f"{member.name} serves the base {cast.BASE_SHA256[:12]}…",
        )
        rows.append(
            (
                member.name,
                status.base.split(" ")[0],
                str(engine["dtype"]),
                str(engine["threads"]),
                f"{engine['load_ms'] / 1000:.1f} s",
            )
        )
    scene.stage.table(("engine of", "base", "dtype", "threads", "loaded in"), rows)
    step.facts["base"] = cast.BASE_SHA256


async def show_adapters(scene: Scene, step: Step, root: Path) -> None:
    """Volunteers publish what they hold; one adapter gets a second provider."""
    folders = folders_of(root, cast.ADAPTERS)
    for holder, names in cast.PUSHED.items():
        for name in names:
            scene.published[name] = await scene.nodes[holder].push(
                folders[name], write_key(scene.network.plan.home / "creators", name)
            )
            require(
                scene.published[name].creator == cast.creator_of(name).peer_id,
                f"{name} is signed by its creator's key",
            )
    await read_manifests(scene)
    report = await scene.nodes[cast.B].pull(cast.PULLED_BY_B)
    require(
        report.cid == scene.published[cast.PULLED_BY_B].cid,
        f"{cast.B} found the adapter that {cast.A} published",
    )
    require(set(report.blocks_by_peer) == {scene.peer_id(cast.A)}, f"its blocks came from {cast.A}")
    held = {
        name: [holder for holder, names in cast.PUSHED.items() if name in names]
        for name in cast.ADAPTERS
    }
    held[cast.PULLED_BY_B].append(cast.B)
    rows = [
        (
            name,
            size(info.size_bytes),
            info.licence,
            " ".join(held[name]),
            scene.stage.short(info.cid),
        )
        for name, info in scene.published.items()
    ]
    scene.stage.table(("adapter", "size", "licence", "held by", "cid"), rows)
    for name, manifest in scene.manifests.items():
        scene.stage.say(
            f"{name} learnt from "
            + ", ".join(f"{escape(one.name)} ({one.weight})" for one in manifest.contributors),
            dim=True,
        )
    empty = [info for info in await scene.nodes[cast.C].adapters() if info.state != "known"]
    require(not empty, f"{cast.C} holds none")
    step.facts["adapters"] = {name: info.cid for name, info in scene.published.items()}


def write_key(folder: Path, name: str) -> Path:
    """The creator's key, where the node that publishes can read it."""
    path = folder / f"{name}.key"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():  # from an earlier demo in the same home
        write_private(path, cast.creator_of(name).secret.hex() + "\n")
    return path.resolve()


async def read_manifests(scene: Scene) -> None:
    """What the creators signed, fetched like any peer would."""
    for name, info in scene.published.items():
        providers = await scene.watcher.dht.find_providers(Cid.parse(info.cid))
        data = await fetch_block(
            scene.watcher,
            scene.store,
            Cid.parse(info.cid),
            MAX_MANIFEST_BYTES,
            providers=providers,
            deadline_s=MANIFEST_DEADLINE_S,
        )
        scene.manifests[name] = parse_manifest(data)
        require(
            scene.manifests[name].contributors,
            f"the manifest of {name} names whose data it learnt from",
        )


async def show_side_by_side(scene: Scene, step: Step) -> None:
    """One prompt through the base and two adapters: looked up by name, asked, streamed,
    different.
    """
    scene.stage.say(f"“{cast.ONE_PROMPT}”")
    answers = [Asking(model, cast.ONE_PROMPT) for model in cast.SIDE_BY_SIDE]
    with scene.stage.side_by_side(cast.SIDE_BY_SIDE) as add:
        async with trio.open_nursery() as nursery:
            for index, answer in enumerate(answers):
                # Greedy, so that what differs between the texts is the adapters' doing.
                nursery.start_soon(
                    partial(ask_into, scene, answer, partial(add, index), temperature=0.0)
                )
    for answer in answers:
        scene.note(answer)
        scene.stage.say(facts_of(scene, answer), dim=True)
    require(
        len({answer.text for answer in answers}) == len(answers),
        "base and adapters say different things",
    )
    named = [answer for answer in answers if answer.model != "base"]
    lookup_ms = max(answer.facts["timings"]["lookup"] for answer in named)
    scene.record.figure("lookup_ms", round(lookup_ms, 1))
    scene.record.figure("decode_tokens_s", round(max(answer.tokens_s for answer in answers), 1))
    step.facts["lookup_ms"] = round(lookup_ms, 1)


async def ask_into(
    scene: Scene, answer: Asking, on_text: Any = lambda text: None, **options: Any
) -> None:
    """One answer of the usual length."""
    await scene.client.ask(
        answer, on_text, **{"max_tokens": cast.ANSWER_TOKENS, **cast.SAMPLING, **options}
    )


def facts_of(scene: Scene, answer: Asking) -> str:
    """Who served it, what it cost, its receipt."""
    facts = answer.facts
    timings = facts["timings"]
    return (
        f"{answer.model}: {scene.name_of(facts['served_by'])}, {answer.tokens} tokens, first after"
        f" {timings['first_token']:.0f} ms, paid {cast.money(facts['amount'])}, receipt"
        f" {facts['receipt'][:16]}…"
    )


async def show_cold_start(scene: Scene, step: Step) -> None:
    """The node that holds nothing is asked for an adapter while it answers somebody else."""
    node = {"node": scene.peer_id(cast.C)}
    running = Asking("base", cast.LONG_PROMPT)
    cold = Asking(cast.COLD, cast.COLD_PROMPT)
    before = await blocks_by_provider(scene)
    with scene.stage.side_by_side(
        (f"base on {cast.C}, running on", f"{cast.COLD} on {cast.C}, cold")
    ) as add:
        async with trio.open_nursery() as nursery:
            streams = trio.Event()

            def on_running(text: str) -> None:
                add(0, text)
                streams.set()

            async def ask_running() -> None:
                await ask_into(
                    scene, running, on_running, max_tokens=cast.LONG_TOKENS, lorikeet=node
                )

            nursery.start_soon(ask_running)
            await streams.wait()
            asked_s = time.monotonic()
            await ask_into(scene, cold, lambda text: add(1, text), lorikeet=node)
    for answer in (running, cold):
        scene.note(answer)
        require(answer.facts["served_by"] == node["node"], f"{cast.C} answered for {answer.model}")
    check_running_on(scene, step, running, asked_s, end_s=cold.text_s[0])
    await tell_providers(scene, step, before)
    await check_advertised(scene)
    show_breakdown(scene, step, cold)


def check_running_on(
    scene: Scene, step: Step, running: Asking, begin_s: float, end_s: float
) -> None:
    """The running answer kept coming while the other's adapter was fetched and loaded."""
    beside = [at for at in running.text_s if begin_s <= at <= end_s]
    marks = [begin_s, *beside, min(end_s, running.text_s[-1])]
    silence_s = max(later - earlier for earlier, later in itertools.pairwise(marks))
    require(
        len(beside) >= MIN_PIECES_BESIDE,
        f"the running answer went on beside ({len(beside)} pieces in {end_s - begin_s:.2f} s)",
    )
    require(
        silence_s <= MAX_SILENCE_S,
        f"its longest silence was at most {MAX_SILENCE_S} s (it was {silence_s:.2f} s)",
    )
    scene.stage.say(
        f"meanwhile the base's answer went on: {len(beside)} pieces, longest silence"
        f" {silence_s * 1000:.0f} ms"
    )
    step.facts |= {"pieces_beside": len(beside), "longest_silence_ms": round(silence_s * 1000, 1)}


async def blocks_by_provider(scene: Scene) -> dict[str, int]:
    """How many blocks the node that held nothing has fetched from each of the two that held all."""
    counters = (await scene.nodes[cast.C].status()).counters
    return {
        name: counters.get(f"blocks_fetched:{scene.peer_id(name)}", 0) for name in (cast.A, cast.B)
    }


async def tell_providers(scene: Scene, step: Step, before: Mapping[str, int]) -> None:
    """Whom the blocks came from.

    On a busy machine one may have brought all dozen before the other was heard; see
    show_shared_batches.
    """
    came = {name: count - before[name] for name, count in (await blocks_by_provider(scene)).items()}
    require(any(came.values()), f"blocks came from the providers ({came})")
    scene.stage.say(
        "verified blocks: " + ", ".join(f"{count} from {name}" for name, count in came.items())
    )
    step.facts["blocks_from"] = came


async def check_advertised(scene: Scene) -> None:
    """Whoever looks finds the new provider."""
    cid = Cid.parse(scene.published[cast.COLD].cid)
    with trio.move_on_after(ADVERTISED_DEADLINE_S):
        while True:
            providers = {peer.peer_id for peer in await scene.watcher.dht.find_providers(cid)}
            if scene.peer_id(cast.C) in providers:
                scene.stage.say(
                    f"the DHT now names {len(providers)} providers of {cast.COLD}: "
                    + ", ".join(sorted(map(scene.name_of, providers)))
                )
                return
            await trio.sleep(0.3)
    raise ClaimFailed(
        f"{cast.C} was not advertised as a provider within {ADVERTISED_DEADLINE_S:.0f} s"
    )


def show_breakdown(scene: Scene, step: Step, cold: Asking) -> None:
    """Where the time to the first token went."""
    timings = cold.facts["timings"]
    parts = {part: round(timings[part], 1) for part in TIMING_PARTS if part in timings}
    require("first_token" in parts, "the time to the first token is known")
    told = sum(
        value for part, value in parts.items() if part not in ("verify", "first_token")
    )  # verifying is part of the fetch
    parts |= {
        "other": round(max(0.0, timings["first_token"] - told), 1),
        "first_token": parts.pop("first_token"),
    }
    for part in ("lookup", "fetch", "verify", "load", "prefill", "first_token"):
        require(part in parts, f"the time of {part} is known")
    scene.stage.table(
        ("from the request to the first token", "ms"),
        [(part, f"{value:.1f}") for part, value in parts.items()],
    )
    fetch_mb_s = scene.published[cast.COLD].size_bytes / 1e6 / (timings["fetch"] / 1000)
    scene.record.figure("cold_first_token_ms", parts)
    scene.record.figure("fetch_mb_s", round(fetch_mb_s, 1))
    step.facts["fetch_mb_s"] = round(fetch_mb_s, 1)


async def show_shared_batches(scene: Scene, step: Step) -> None:
    """All adapters, a cocktail of two and the base at once, through one engine."""
    for name in cast.ADAPTERS:
        report = await scene.nodes[cast.C].pull(name)
        scene.stage.say(
            f"{cast.C} has {name}: load {report.load_ms:.0f} ms, blocks from"
            f" {', '.join(map(scene.name_of, report.blocks_by_peer)) or 'before'}",
            dim=True,
        )
    fetched = await blocks_by_provider(scene)
    require(
        all(fetched.values()), f"over all adapters, blocks came from both providers ({fetched})"
    )
    # An answer may be over in a few tokens, before the others begin: then all are asked again.
    for _ in range(ROUNDS_TOGETHER):
        last = last_step(await engine_of(scene))
        answers = await ask_together(scene)
        steps = [one for one in (await engine_of(scene))["steps"] if one["step"] > last]
        fullest = max(steps, key=lambda one: len(one["adapters"]))
        if len(fullest["adapters"]) == len(cast.TOGETHER):
            break
    mixed = next(answer for answer in answers if answer.model == cast.COCKTAIL)
    require(
        {one["name"] for one in mixed.facts["parents"]} == cast.MIXED.keys(),
        f"{cast.COCKTAIL} was answered by both",
    )
    scene.stage.say(
        f"{cast.COCKTAIL} is an adapter of its own, {scene.stage.short(mixed.facts['cid'])}"
    )
    for one in shown_steps(steps):
        names = " ".join(scene.adapter_of(key) for key in one["adapters"])
        scene.stage.say(
            f"step {one['step']}: {names}  ({one['prefill_tokens']} prefill, {one['decode_tokens']}"
            f" decode tokens, {one['step_ms']:.0f} ms)"
        )
    together = {scene.adapter_of(key) for key in fullest["adapters"]}
    require(
        together == set(cast.TOGETHER),
        f"all of {', '.join(cast.TOGETHER)} sat in one step (the fullest had"
        f" {', '.join(sorted(together))})",
    )
    require(
        max(answer.facts["neighbours"] for answer in answers) >= len(cast.TOGETHER),
        "the answers' own facts say so, too",
    )
    scene.record.figure("max_adapters_in_one_step", len(fullest["adapters"]))
    step.facts |= {"together": sorted(together), "steps": len(steps)}


async def ask_together(scene: Scene) -> list[Asking]:
    """Ask volunteer C for all adapters, the cocktail and the base at once."""
    answers = [Asking(model, prompt) for model, prompt in cast.TOGETHER.items()]
    node = {"node": scene.peer_id(cast.C)}
    with scene.stage.side_by_side(tuple(cast.TOGETHER)) as add:
        async with trio.open_nursery() as nursery:
            begun = trio.Event()

            async def ask(index: int, answer: Asking) -> None:
                def on_text(text: str) -> None:
                    if answer.model == cast.COCKTAIL:
                        begun.set()
                    add(index, text)

                if answer.model != cast.COCKTAIL:
                    # it takes longest to begin: another answer could be over before it
                    await begun.wait()
                await ask_into(
                    scene, answer, on_text, max_tokens=cast.TOGETHER_TOKENS, lorikeet=node
                )
                begun.set()  # an answer may be empty

            for index, answer in enumerate(answers):
                nursery.start_soon(ask, index, answer)
    for answer in answers:
        scene.note(answer)
    return answers


def shown_steps(steps: list[dict[str, Any]], most: int = 5) -> list[dict[str, Any]]:
    """The first step of each new company."""
    companies: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in steps:
        companies.setdefault(tuple(sorted(one["adapters"])), one)
    return sorted(companies.values(), key=lambda one: -len(one["adapters"]))[:most]


async def engine_of(scene: Scene) -> dict[str, Any]:
    """The figures of C's engine."""
    engine = (await scene.nodes[cast.C].status()).engine
    require(engine is not None, f"{cast.C} has an engine")
    return dict(engine or {})


def last_step(engine: Mapping[str, Any]) -> int:
    """The number of the newest step."""
    return max((one["step"] for one in engine["steps"]), default=0)
