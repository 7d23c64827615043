"""Answers are replayed by whoever bought them, among real daemons with real engines, some of which
cheat (demo/cheating).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
from safetensors.numpy import load_file, save_file

from engine.messages import Choosing
from node.api.verifying import VerifyInfo
from node.app import open_daemon
from node.daemon import NodeDaemon
from node.errors import NodeCheated, NoProvider
from node.money.addresses import address_of_peer
from node.wire.client_session import ClientSession
from p2p.errors import P2pError
from p2p.peers import PeerAddress
from proofs.attestation.record import parse_attestation
from proofs.hextext import to_hex
from proofs.signing import Signer
from tests.node.faces import command, shown
from tests.node.forked import forked_python
from tests.node.networks import Answered, Lab, ask, open_lab, until
from tests.node.tiny import make_adapter

STOP_IDS = (0, 2)  # of the tiny base: an answer is to have all its tokens
WARM = Choosing(temperature=1.0, logit_bias=[(each, -100.0) for each in STOP_IDS])
ENDS = Choosing(temperature=1.0, logit_bias=[(STOP_IDS[1], 100.0)])
TOKENS = 64
MOST_ANSWERS = 32
UNCLAIMED_S = 3600.0  # many nodes that look after their claims each second take the time of others


@dataclass
class Net:
    """A node that publishes an adapter, some that cheat, and a client with an engine of its own."""

    lab: Lab
    honest: NodeDaemon
    cheats: dict[str, NodeDaemon]
    law: str

    @asynccontextmanager
    async def client(self, **settings: Any) -> AsyncIterator[NodeDaemon]:
        async with self.lab.daemon(
            "client", ask_others=True, **{"verify_one_in": 1, **settings}
        ) as client:
            await pull(client, self.law)
            for node in (self.honest, *self.cheats.values()):
                await meet(client, node)
            yield client

    async def buy(self, client: NodeDaemon, of: NodeDaemon, **settings: Any) -> Answered:
        settings = {"model": self.law, "max_tokens": TOKENS, "choosing": WARM, **settings}
        return await ask(client, node=of.host.peer_id, **settings)

    async def verify(self, client: NodeDaemon, answered: Answered) -> VerifyInfo:
        assert answered.ended.receipt is not None
        return await client.verify_answer(answered.ended.receipt)


@asynccontextmanager
async def open_net(tmp_path: Path, *cheats: str) -> AsyncIterator[Net]:
    names = [f"cheat{number}" for number, _ in enumerate(cheats)]
    with open_lab(tmp_path, chain_for=("honest", "client", "gateway", "aggregator", *names)) as lab:
        async with AsyncExitStack() as stack:
            honest = await stack.enter_async_context(lab.daemon("honest"))
            law = (await honest.push(make_adapter(tmp_path / "law", "law", 5))).cid
            daemons = {}
            for name, how in zip(names, cheats, strict=True):
                attacker = (forked_python(), "-m", "demo.cheating.engine", how, "serve")
                config = lab.config(
                    name, ask_others=True, verify_one_in=1, claim_interval_s=UNCLAIMED_S
                )
                cheat = await stack.enter_async_context(
                    open_daemon(config, engine_command=attacker)
                )
                assert cheat.engine is not None
                await cheat.engine.wait_up(60)
                await pull(cheat, law)
                daemons[how] = cheat
            yield Net(lab, honest, daemons, law)


async def pull(node: NodeDaemon, adapter: str) -> None:
    """A node that has just come may know nobody yet who knows who has it."""
    with trio.fail_after(60):
        while True:
            try:
                await node.pull(adapter)
            except NoProvider:
                await trio.sleep(0.1)
            else:
                return


async def meet(here: NodeDaemon, there: NodeDaemon) -> None:
    """On a busy machine a first attempt may fail."""
    address = PeerAddress(there.host.peer_id, tuple(there.host.addresses))
    with trio.fail_after(60):
        while not here.host.is_connected(address.peer_id):
            with suppress(P2pError):
                await here.host.connect_to(address, 60)
            await trio.sleep(0.05)


def weight_of(client: NodeDaemon, node: NodeDaemon) -> float:
    [found] = [one.weight for one in client.peers() if one.peer_id == node.host.peer_id]
    return found


def has_lost_its_weight(client: NodeDaemon, node: NodeDaemon) -> bool:
    return weight_of(client, node) < 0.01


async def hears_of_junk(net: Net, client: NodeDaemon, bad: Answered, folder: Path) -> None:
    """The honest node, which bought nothing: another's word alone takes no weight, and an answer
    that is shown to it does.
    """
    junk = net.cheats["repeat"]
    await until(lambda: len(net.honest.attestations()) == 2)
    heard = net.honest.attestations()
    assert {one.outcome for one in heard} == {"agrees", "differs"}
    assert {one.weighs for one in heard} == {"stranger"}
    assert weight_of(net.honest, junk) == 1.0
    assert bad.ended.receipt is not None
    assert [one.weighs for one in client.attestations()] == ["own", "own"]
    async with shown(client, net.lab.folder / "client"):
        told = await command(
            net.lab.folder / "client",
            *("verify-answer", bad.ended.receipt, "--open", str(folder / "opened")),
        )
        assert told.exit_code == 4, told.output
    async with shown(net.honest, net.lab.folder / "honest"):
        told = await command(
            net.lab.folder / "honest", "verify-answer", str(folder / "opened"), "--json"
        )
        assert told.exit_code == 4, told.output
    found = json.loads(told.stdout)
    assert (found["verdict"], found["attested"]) == ("differs", "differs")
    assert weight_of(net.honest, junk) < 0.01


async def test_junk_is_caught_loses_its_weight_and_is_asked_last_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async with open_net(tmp_path, "repeat") as net:
        junk = net.cheats["repeat"]
        async with net.client() as client:
            good, bad = await net.buy(client, net.honest), await net.buy(client, junk)
            assert len(set(bad.token_ids)) == 1
            told = await net.verify(client, good)
            assert (told.verdict, told.missed, told.score) == ("agrees", 0, 0.0), told.reason
            assert not told.is_calibrated
            served, own = told.formats
            assert served == own
            assert served.endswith("/float32")
            network = client.money.network if client.money else None
            assert network is not None
            attested = parse_attestation(bytes.fromhex(told.attestation), network)
            assert attested.digest.hex() == good.ended.receipt
            assert attested.auditor == Signer(net.lab.identity("client").secret).public_key

            told = await net.verify(client, bad)
            assert (told.verdict, told.fits_base) == ("differs", False), told.reason
            assert told.score > told.limit

            await until(lambda: client.telemetry.counters.get("answers_replayed") == 2)
            await hears_of_junk(net, client, bad, tmp_path)
            # Such an answer convicts alone, shown or bought.
            await until(lambda: len(client.telemetry.rejections) == 1)
            assert weight_of(client, junk) < 0.01
            assert weight_of(client, net.honest) == 1.0
            [rejection] = client.telemetry.rejections
            assert (rejection.what, rejection.peer_id) == ("answer", junk.host.peer_id)
            assert "not computed" in rejection.reason

        async with net.client() as client:
            await until(lambda: len(client.peers()) == 2)
            assert weight_of(client, junk) < 0.01
            for _ in range(3):
                asked = await ask(client, model=net.law, max_tokens=4)
                assert asked.started.served_by == net.honest.host.peer_id


async def test_what_cannot_be_known_is_not_guessed(tmp_path: Path) -> None:
    async with open_net(tmp_path) as net, net.client(verify_one_in=0) as client:
        short = await net.buy(client, net.honest, max_tokens=1)
        told = await net.verify(client, short)
        assert (told.verdict, told.attestation) == ("unknown", "")
        assert "so short" in told.reason
        private = await net.buy(client, net.honest, private=True)
        told = await net.verify(client, private)
        assert told.verdict == "unknown"
        assert "not remembered" in told.reason
        served = await net.verify(net.honest, short)
        assert served.verdict == "unknown"
        assert client.telemetry.counters.get("answers_replayed", 0) == 0


async def test_each_cheat_is_caught_by_its_first_answer_and_an_honest_node_by_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_adapter(tmp_path / "old", "law", 6)
    wrong = ("junk", "bare", "spoof", f"other:{old}", "dice", "canaries:0")
    async with open_net(tmp_path, *wrong, "on") as net, net.client() as client:
        told = await net.verify(client, await net.buy(client, net.cheats["canaries:0"]))
        assert told.verdict == "agrees", "an auditor's length"
        for how in wrong:
            bad = await net.buy(client, net.cheats[how], max_tokens=TOKENS + 1)
            told = await net.verify(client, bad)
            assert told.verdict == "differs", (how, told)
            assert told.fits_base == (how in ("bare", "spoof"))
        with pytest.raises(NodeCheated, match="behind one that ends"):
            await net.buy(client, net.cheats["on"], choosing=ENDS)
        with monkeypatch.context() as patch:  # a client of another make takes them
            patch.setattr(ClientSession, "_check_output", lambda self, output: None)
            told = await net.verify(client, await net.buy(client, net.cheats["on"], choosing=ENDS))
        assert told.verdict == "differs"
        assert "ends an answer" in told.reason
        told = await net.verify(client, await net.buy(client, net.honest))
        assert told.verdict == "agrees", told.reason
        for how in (*wrong, "on"):
            await until(partial(has_lost_its_weight, client, net.cheats[how]))
        await until(lambda: client.telemetry.counters.get("answers_replayed") == len(wrong) + 3)
        assert weight_of(client, net.honest) == 1.0


async def test_who_goes_on_behind_the_end_loses_its_weight_where_nothing_is_replayed(
    tmp_path: Path,
) -> None:
    async with open_net(tmp_path, "on") as net:
        on = net.cheats["on"]
        for number in range(2):
            async with net.lab.daemon("gateway", role="gateway") as gateway:
                for node in (net.honest, on):
                    await meet(gateway, node)
                if number == 0:
                    await pull(gateway, net.law)
                    good = await net.buy(gateway, net.honest, choosing=ENDS)
                    assert good.token_ids == [STOP_IDS[1]]
                    with pytest.raises(NodeCheated, match="behind one that ends"):
                        await net.buy(gateway, on, choosing=ENDS)
                assert has_lost_its_weight(gateway, on), "also after a restart"
                assert weight_of(gateway, net.honest) == 1.0
                assert not gateway.telemetry.counters.get("answers_replayed")


def imitate(folder: Path, right: Path, rank: int) -> Path:
    """The nearest adapter of a lower rank: each product B·A cut off after its largest singular
    values.
    """
    folder.mkdir()
    config = json.loads((right / "adapter_config.json").read_text())
    config |= {"r": rank, "lora_alpha": config["lora_alpha"] * rank / config["r"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(right / "adapter_model.safetensors")
    for name in [name for name in tensors if "lora_A" in name]:
        partner = name.replace("lora_A", "lora_B")
        left, sizes, down = np.linalg.svd(tensors[partner] @ tensors[name], full_matrices=False)
        tensors[name] = down[:rank].copy()
        tensors[partner] = left[:, :rank] * sizes[:rank]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass
class Course:
    """How many of a node's answers differed, after how many it had lost its weight, and after how
    many the evidence of all of them convicted it; None: not.
    """

    differing: int = 0
    lost: int | None = None
    convicted: int | None = None


async def follow(net: Net, client: NodeDaemon, node: NodeDaemon) -> Course:
    """Buy answers of a node at three temperatures in turn, each of which the client replays."""
    course = Course()
    address = to_hex(address_of_peer(node.host.peer_id))

    def words() -> list[str]:
        return [one.outcome for one in client.attestations() if one.node == address]

    for number in range(1, MOST_ANSWERS + 1):
        choosing = msgspec.structs.replace(WARM, temperature=(0.0, 0.7, 1.0)[number % 3])
        await net.buy(client, node, prompt=f"question {number}", choosing=choosing)
        await until(lambda number=number: len(words()) == number)
        if has_lost_its_weight(client, node):
            course.lost = course.lost or number
        if any(one.peer_id == node.host.peer_id for one in client.telemetry.rejections):
            course.convicted = course.convicted or number
    course.differing = words().count("differs")
    return course


@pytest.mark.slow
async def test_imitators_and_a_narrower_base_lose_their_weight_within_32_answers(
    tmp_path: Path,
) -> None:
    right = make_adapter(tmp_path / "right", "law", 5)  # what the net publishes
    imitator = imitate(tmp_path / "imitator", right, 3)
    cheats = {
        "an imitator with 3 of 4 ranks": f"other:{imitator}",
        "a base of 4 bits": "bits",
    }
    async with open_net(tmp_path, *cheats.values()) as net, net.client() as client:
        for told, how in cheats.items():
            course = await follow(net, client, net.cheats[how])
            print(f"{told}: {course}")
            assert course.lost is not None, told
            assert course.convicted is not None, told
        course = await follow(net, client, net.honest)
        print(f"an honest node: {course}")
        assert course == Course()
        assert weight_of(client, net.honest) == 1.0
