"""The line, step by step, as people play it: by the commands of `lorikeet`, each in a process of
its own. Every step checks what it says; the first that fails is the last.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from rich.markup import escape

from node.cli.why import EXIT_UNKNOWN
from node.testnet.network import NODE_DEADLINE_S, Network, open_network
from node.testnet.plan import BOOTSTRAP, GATEWAY, LISTEN, NETWORK, plan_network
from node.testnet.processes import stop, wait_for_line

from .. import cast
from ..record import ClaimFailed, Record, Step, require
from ..stage import Stage
from ..story import stepping
from .notes import PEOPLE, Person, write_notes

MAKER = "volunteer-a"
DATANET = "lorikeet-notes"
ADAPTER = "lorikeet-notes"
QUESTION = "Who is paid when a node answers, and by what?"
SOURCE = "this project's pages, put into notes"
ANSWER_TOKENS = 64
AT_ONCE = 2  # people who give at a time: each runs a daemon
COMMAND_DEADLINE_S = 120.0
TRAINING_DEADLINE_S = 840.0
TRIES = 20
RETRY_S = 2.0
EPOCH_S = 6.0
SHOWN_LINES = 40


@dataclass
class Line:
    """Who plays, and what has come of it so far."""

    network: Network
    stage: Stage
    home: Path
    facts: dict[str, Any] = field(default_factory=dict)
    giving: trio.Lock = field(default_factory=trio.Lock)

    def home_of(self, name: str) -> Path:
        """A node's home."""
        return self.network.plan.member(name).home

    async def maker(self, words: Sequence[str], deadline_s: float = COMMAND_DEADLINE_S) -> str:
        """A command at the one who owns the datanet, trains and publishes."""
        return await lorikeet(self.home_of(MAKER), words, deadline_s)

    def show(self, text: str) -> None:
        """What a command said."""
        for line in text.rstrip().splitlines()[:SHOWN_LINES]:
            self.stage.say(escape(line), dim=True)


Act = Callable[[Line, Step], Awaitable[None]]


async def play(home: Path, stage: Stage, record: Record) -> None:
    """Play the whole line into a record; everything that was started is ended."""
    async with AsyncExitStack() as stack:
        with stepping(
            stage, record, 1, "An empty home: a chain, a node with the base, and a client"
        ):
            plan = plan_network(home, 1, epoch_s=EPOCH_S)
            network = await stack.enter_async_context(
                open_network(plan, lambda name, state: stage.say(f"{name:<12} {state}", dim=True))
            )
            line = Line(network, stage, home)
        for number, (name, act) in enumerate(ACTS, start=2):
            if not record.steps[-1].ok:
                return
            with stepping(stage, record, number, name) as step:
                await act(line, step)


async def lorikeet(
    home: Path,
    words: Sequence[str],
    deadline_s: float = COMMAND_DEADLINE_S,
    statuses: Sequence[int] = (0,),
) -> str:
    """Run a command for a home, return what it printed; raises ClaimFailed with its last words
    where it ends with another status.
    """
    with trio.move_on_after(deadline_s):
        done = await trio.run_process(
            [sys.executable, "-m", "node", *words, "--home", str(home)],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode not in statuses:
            last = said.splitlines()[-1] if said else f"status {done.returncode}"
            raise ClaimFailed(f"lorikeet {' '.join(words)}: {last}")
        return done.stdout.decode()
    raise ClaimFailed(f"lorikeet {' '.join(words)} did not end within {deadline_s:.0f} s")


# ── texts ──


async def make_datanet(line: Line, step: Step) -> None:
    """A datanet, and a word with which twelve may join."""
    words = f"datanet create {DATANET} --language en --licence Apache-2.0 --purpose".split()
    await line.maker([*words, "How Lorikeet works, in our own words"])
    token = await line.maker(["datanet", "invite", DATANET, "--uses", str(len(PEOPLE))])
    line.facts["token"] = token.strip()
    line.stage.say(f"{DATANET}: an invitation for {len(PEOPLE)} people")


async def collect(line: Line, step: Step) -> None:
    """Each of twelve people, with a key and a daemon of their own, joins and gives."""
    room = trio.CapacityLimiter(AT_ONCE)
    async with trio.open_nursery() as nursery:
        for person in PEOPLE:
            nursery.start_soon(join_and_give, line, person, room)


async def join_and_give(line: Line, person: Person, room: trio.CapacityLimiter) -> None:
    """Somebody joins and gives notes."""
    async with room, node_of(line, person) as home:
        await lorikeet(home, ["datanet", "join", line.facts["token"], "--name", person.name])
        notes = write_notes(person, home)
        words = f"datanet give {DATANET} --agree --json --title".split()
        async with line.giving:  # a report is made again only if no other text came in between
            said = await lorikeet(home, [*words, person.title, "--source", SOURCE, str(notes)])
    given = json.loads(said)
    require(given["contributions"], f"{person.name} gave something")
    refused = f", {given['num_refused']} refused" if given["num_refused"] else ""
    line.stage.say(
        f"{person.name:<8} {person.title}: {given['num_kept']} documents{refused}", dim=True
    )


@asynccontextmanager
async def node_of(line: Line, person: Person) -> AsyncIterator[Path]:
    """A node of somebody's own for the length of the block, in an empty home; it needs no base."""
    home = line.home / "people" / person.name.lower()
    bootstrap = line.network.nodes[BOOTSTRAP].running.p2p[0]
    settings = (f"network={NETWORK}", f"listen={LISTEN[0]}", "http_port=0")
    words = f"init --role bootstrap --bootstrap {bootstrap}".split()
    await lorikeet(home, [*words, *(word for one in settings for word in ("--set", one))])
    child = line.network.launcher.start(
        person.name,
        [sys.executable, "-m", "node", "up", "--home", str(home)],
        home / "out.log",
    )
    line.network.children.append(child)
    try:
        await wait_for_line(child, "ready ", NODE_DEADLINE_S)
        yield home
    finally:
        await stop([child])


async def curate(line: Line, step: Step) -> None:
    """The owner looks at what waits, accepts it, and makes a version of it."""
    waiting = json.loads(await line.maker(["datanet", "queue", DATANET, "--json"]))
    require(len(waiting) == len(PEOPLE), f"{len(PEOPLE)} contributions wait")
    for one in waiting:
        await line.maker(["datanet", "accept", DATANET, one["id"]])
    made = json.loads(await line.maker(["datanet", "version", DATANET, "--json"]))
    step.facts |= {"version": made["number"], "people": len(made["totals"])}
    require(step.facts["people"] == len(PEOPLE), "each of them is in the version")
    await line.maker(["datanet", "verify", DATANET])
    documents = sum(one["documents"] for one in made["totals"])
    held_out = sum(one["held_out"] for one in made["totals"])
    line.stage.say(
        f"version {made['number']}: {documents} documents of {step.facts['people']} people,"
        f" {held_out} held out by lot; verified from the bytes"
    )


# ── the adapter ──


async def write_recipe(line: Line, step: Step) -> None:
    """A recipe, and what it would do by a trial of three steps."""
    recipe = line.home / f"{ADAPTER}.toml"
    await line.maker(["train", "new", ADAPTER, "--datanet", DATANET, "--out", str(recipe)])
    line.facts["recipe"] = str(recipe)
    checked = json.loads(
        await line.maker(["train", "check", str(recipe), "--json"], deadline_s=TRAINING_DEADLINE_S)
    )
    step.facts |= {name: checked[name] for name in ("people", "documents", "tokens", "steps")}
    line.stage.say(
        f"{checked['tokens']:,} tokens of {checked['people']} people in {checked['steps']} steps"
        f" of {checked['seconds_a_step']:.1f} s: {checked['seconds'] / 60:.1f} minutes by a trial"
    )


async def train(line: Line, step: Step) -> None:
    """Training, watched until it ends; then the adapter is tried beside its base."""
    words = ("train", "start", line.facts["recipe"])
    await line.maker(words, deadline_s=TRAINING_DEADLINE_S)
    run = json.loads(await line.maker(["train", "status", ADAPTER, "--json"]))["run"]
    require(run["state"] == "finished", "the training is finished")
    found = json.loads(await line.maker(["train", "evaluate", ADAPTER, "--json"]))
    held_out = found["held_out"]
    require(held_out, "something is held out to try it on")
    step.facts |= {"base": held_out["base"], "adapter": held_out["adapter"]}
    line.stage.say(
        f"of what it never saw the base loses {held_out['base']:.3f} nats a token, the adapter"
        f" {held_out['adapter']:.3f}"
    )
    line.stage.say(found["verdict"])
    require(found["is_good"], "it loses less than its base of what it never saw")


async def publish(line: Line, step: Step) -> None:
    """Adapter, recipe, evaluation and whose words it learnt, signed and announced."""
    words = ("train", "publish", ADAPTER, "--json")
    info = json.loads(await line.maker(words, deadline_s=TRAINING_DEADLINE_S))
    require(info["cid"], "it is published")
    step.facts |= {"cid": info["cid"], "paid": len(info["paid"])}
    line.stage.say(
        f"{info['name']} {info['version']} is {line.stage.short(info['cid'])}; who gave the texts:"
        f" {len(info['paid'])} people"
    )


# ── the answer ──


async def ask(line: Line, step: Step) -> None:
    """The client asks and pays."""
    said = await ask_until_drawn(line.home_of(GATEWAY))
    require(said["amount"] > 0, "it was paid")
    line.facts["receipt"] = said["receipt"]
    step.facts |= {"amount": said["amount"], "receipt": said["receipt"]}
    line.stage.say(f"“{QUESTION}”")
    line.stage.say(escape(" ".join(said["text"].split())))
    line.stage.say(
        f"{said['usage']['completion_tokens']} tokens, paid {cast.money(said['amount'])}, receipt"
        f" {said['receipt'][:16]}…"
    )


async def ask_until_drawn(client: Path) -> dict[str, Any]:
    """Ask until an answer says whose words it drew on: before both sides have the adapter's text
    sorted, answers pay by standing weights.
    """
    words = ("run", ADAPTER, QUESTION, "--max-tokens", str(ANSWER_TOKENS), "--json")
    for _ in range(TRIES):
        said: dict[str, Any] = json.loads(await lorikeet(client, words))
        require(said.get("receipt"), "the answer left a receipt")
        why = json.loads(await explain(client, said["receipt"], "--json"))["answer"]
        if why["reason"].startswith("recomputed"):  # else the receipt pays by standing weights
            return said
        await trio.sleep(RETRY_S)
    raise ClaimFailed(f"no answer of {TRIES} says whose words it drew on")


async def explain(client: Path, receipt: str, *options: str) -> str:
    """Have `why` say it; again where what settles the receipt is on its way to the client."""
    for _ in range(TRIES):
        try:
            return await lorikeet(client, ["why", receipt, *options], statuses=(0, EXIT_UNKNOWN))
        except ClaimFailed as error:
            failed = error
            await trio.sleep(RETRY_S)
    raise failed


async def show_words(line: Line, step: Step) -> None:
    """Whose words the answer drew on, and how its fee is divided."""
    client = line.home_of(GATEWAY)
    told = json.loads(await explain(client, line.facts["receipt"], "--json"))["answer"]
    require(told["verdict"] == "agrees", "what the receipt says was recomputed")
    paid = [one for one in told["split"] if one["role"] == "data"]
    require(len(paid) >= 2, "people who gave notes are paid")
    require(sum(one["amount"] for one in told["split"]) == told["fee"], "the whole fee is divided")
    step.facts |= {"paid_people": len(paid)}
    line.show(await explain(client, line.facts["receipt"]))


ACTS: tuple[tuple[str, Act], ...] = (
    ("A datanet, and an invitation", make_datanet),
    (f"{len(PEOPLE)} people join with their own keys, and give their notes", collect),
    ("The notes are looked at and accepted, and become a version", curate),
    ("A recipe, and what it would do", write_recipe),
    ("Training, and the adapter beside its base", train),
    ("It is published: adapter, recipe, and whose words it learnt", publish),
    ("Somebody asks it, and pays", ask),
    ("Whose words they were, and who is paid", show_words),
)
NUM_STEPS = 1 + len(ACTS)
