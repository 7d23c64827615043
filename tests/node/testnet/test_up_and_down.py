from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import trio

from node.running import read_running
from node.testnet.network import Written, read_written
from node.testnet.plan import GATEWAY
from node.testnet.processes import find_marked, wait_until
from tests.node.forked import forked_python
from tests.node.tiny import make_base

pytestmark = [pytest.mark.xdist_group("network"), pytest.mark.timeout(600)]
"""Whole networks run one after the other: side by side they would only wait for the processor."""
QUESTION = "What is a parrot?"
UP = ["-m", "node", "testnet", "up", "--volunteers", "1", "--answer-time", "3"]
UP_DEADLINE_S = 150
GONE_DEADLINE_S = 60


def on_a_tiny_base(folder: Path) -> dict[str, str]:
    """An environment in which every daemon has a base that loads in no time, for what is about
    processes alone.
    """
    return {**os.environ, "LORIKEET_BASE_PATH": str(make_base(folder / "base"))}


@asynccontextmanager
async def network_up(
    home: Path, *options: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[trio.Process, Written]]:
    """`lorikeet testnet up` as a person starts it, once it says that it is up."""
    with (home / "told").open("wb") as told:
        process = await trio.lowlevel.open_process(
            [forked_python(), *UP, "--home", str(home), *options], stdout=told, stderr=told, env=env
        )
    try:
        with trio.fail_after(UP_DEADLINE_S):
            await wait_until(
                lambda: (
                    b"The network is up" in (home / "told").read_bytes()
                    or process.poll() is not None
                ),
                UP_DEADLINE_S,
            )
        written = read_written(home)
        assert written is not None, (home / "told").read_text()
        yield process, written
    finally:
        if process.poll() is None:
            process.kill()
        await process.wait()


def ports_of(home: Path) -> list[int]:
    """The ports on which the nodes' HTTP faces and the chain listen."""
    written = read_written(home)
    assert written is not None
    running = [read_running(Path(node)) for node in written.nodes.values()]
    urls = [written.rpc, *(one.http for one in running if one is not None)]
    return [port for port in (urlsplit(url).port for url in urls) if port is not None]


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def nothing_is_left(mark: str) -> None:
    """Wait until no process has the mark, which all that a network starts inherit; a port of theirs
    may be another program's by now.
    """
    await wait_until(lambda: not find_marked(mark), GONE_DEADLINE_S)
    assert find_marked(mark) == []


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
async def test_nothing_outlives_a_network_that_is_interrupted_or_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with network_up(tmp_path, env=on_a_tiny_base(tmp_path)) as (process, written):
        assert len(find_marked(written.mark)) >= len(written.nodes) + 1
        assert all(map(is_open, ports_of(tmp_path)))
        process.send_signal(number)
        with trio.fail_after(GONE_DEADLINE_S):
            status = await process.wait()
        await nothing_is_left(written.mark)
    assert status == (0 if number == signal.SIGINT else -signal.SIGKILL)


async def lorikeet(
    home: Path, *arguments: str, deadline_s: float = 60
) -> subprocess.CompletedProcess[bytes]:
    env: Mapping[str, str] = {**os.environ, "LORIKEET_HOME": str(home)}
    with trio.fail_after(deadline_s):
        return await trio.run_process(
            [forked_python(), "-m", "node", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=env,
        )


async def ask_until_served(home: Path) -> subprocess.CompletedProcess[bytes]:
    """An engine that has just come up still has to say so in the DHT; until then the client is told
    that nobody serves.
    """
    with trio.fail_after(60):
        while True:
            done = await lorikeet(home, "run", "base", QUESTION, "--max-tokens", "8", "--json")
            if done.returncode == 0:
                return done
            assert "no node serves" in done.stderr.decode(), done.stderr.decode()


def stream(url: str) -> tuple[str, dict[str, Any]]:
    """The official client's whole stream: its text, and our facts on the last chunk."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=60) as client:
        chunks = list(
            client.chat.completions.create(
                model="base",
                messages=[{"role": "user", "content": QUESTION}],
                max_tokens=8,
                stream=True,
            )
        )
    return (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        chunks[-1].model_extra["lorikeet"],
    )


async def test_a_kept_network_answers_is_paid_and_stands_until_down_ends_it(tmp_path: Path) -> None:
    async with network_up(tmp_path, "--keep") as (process, written):
        with trio.fail_after(GONE_DEADLINE_S):
            assert await process.wait() == 0
        assert all(map(is_open, ports_of(tmp_path)))
        await a_gateway_pays_a_volunteer(tmp_path / GATEWAY, tmp_path / "volunteer-a")
        await the_money_is_followed(tmp_path / GATEWAY, tmp_path / "volunteer-a")
        await a_watcher_and_a_lost_ledger(tmp_path)
        await a_text_becomes_a_parameter(tmp_path)
        second = await trio.run_process(
            [forked_python(), *UP, "--home", str(tmp_path)], check=False, capture_stderr=True
        )
        assert (second.returncode, b"testnet down" in second.stderr) == (1, True)
        down = [forked_python(), "-m", "node", "testnet", "down", "--home", str(tmp_path)]
        await trio.run_process(down, stdout=subprocess.DEVNULL)
        await nothing_is_left(written.mark)
        again = await trio.run_process(down, check=False, capture_stderr=True)
        assert (again.returncode, b"no network runs" in again.stderr) == (1, True)


async def a_gateway_pays_a_volunteer(client: Path, volunteer: Path) -> None:
    """The command line and the official OpenAI client ask; both answers are paid and listed."""
    run = await ask_until_served(client)
    answer = json.loads(run.stdout)
    running = read_running(client)
    assert running is not None
    text, facts = await trio.to_thread.run_sync(stream, running.http)
    listed = json.loads((await lorikeet(client, "receipts", "--json")).stdout)
    unknown = await lorikeet(client, "run", "no-such-adapter", QUESTION)
    serving = read_running(volunteer)
    assert serving is not None
    assert answer["text"].strip()
    assert text.strip()
    assert {answer["served_by"], facts["served_by"]} == {serving.peer_id}
    assert {answer["receipt"], facts["receipt"]} == {one["digest"] for one in listed}
    assert sum(one["amount"] for one in listed) == answer["amount"] + facts["amount"]
    assert unknown.returncode == 1
    assert "no-such-adapter" in unknown.stderr.decode()


async def told(home: Path, *arguments: str) -> Any:
    """What a command says as JSON, when it ends well."""
    done = await lorikeet(home, *arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


async def the_money_is_followed(client: Path, volunteer: Path) -> None:
    """Whoever earned sees what it waits for, until it is paid; whoever paid can follow it."""
    receipts = await told(client, "receipts")
    with trio.fail_after(90):
        while stuck := await told(volunteer, "earnings", "--why-zero"):
            assert {one["waits_for"] for one in stuck} <= {
                *("signature", "claim", "aggregator", "epoch", "window", "payout")
            }
            await trio.sleep(1)  # each look is a process
    earned = sum(one["credited"] for one in await told(volunteer, "earnings"))
    assert earned == sum(one["amount"] for one in receipts)
    assert all(one["is_cosigned"] for one in receipts)
    epochs = await told(client, "verify")
    assert epochs[-1]["awarded"] == earned
    assert [one["epoch"] for one in await told(client, "verify", "--from", "p2p")] == [
        one["epoch"] for one in epochs
    ]
    explained = await told(client, "why", receipts[0]["digest"])
    assert explained["answer"]["verdict"] == "agrees"
    assert explained["answer"]["fee"] == receipts[0]["amount"]
    steps = explained["steps"]
    assert [(step["name"], step["outcome"]) for step in steps] == [
        (name, "holds") for name in ("signatures", "shares", "included", "funded", "paid")
    ]
    absent = await lorikeet(client, "verify", "999")
    assert (absent.returncode, b"999" in absent.stderr) == (1, True)
    claimed = await told(client, "claim", "--for", "0x" + "11" * 20)
    assert (claimed["paid_now"], claimed["transaction"]) == (0, None)


async def a_watcher_and_a_lost_ledger(network: Path) -> None:
    """A watcher with a home of its own finds that all holds; an aggregator's home without a ledger
    gets it back from the chain and whoever has the batches.
    """
    watcher = beside(network / GATEWAY)
    done = await lorikeet(watcher, "watch", "--once", "--json")
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr.decode()
    assert [one["word"] for one in verdicts] == ["holds"] * len(verdicts) != []
    taken = await lorikeet(network / GATEWAY, "watch", "--once")
    assert (taken.returncode, b"--role watcher" in taken.stderr) == (1, True)

    office = await told(watcher, "aggregator", "status")
    lost = beside(network / "aggregator")
    rebuilt = await told(lost, "aggregator", "rebuild")
    assert rebuilt["epochs"] == office["epoch"] == len(verdicts)
    again = await told(lost, "aggregator", "rebuild")
    assert again == rebuilt | {"known_before": rebuilt["epochs"]}
    stranger = await lorikeet(watcher, "aggregator", "propose", "--quorum", "0")
    assert (stranger.returncode, office["owner"] in stranger.stderr.decode()) == (1, True)


PROPOSAL = """# Raise the floor

A machine that answers below this pays for its own electricity.

```parameters
prices.completion-floor = 80
```
"""


async def a_text_becomes_a_parameter(network: Path) -> None:
    """One command takes a proposal from its text to what every node applies."""
    (network / "text.md").write_text(PROPOSAL)
    decide = ("testnet", "decide", str(network / "text.md"), "--home", str(network), "--json")
    done = await lorikeet(network / GATEWAY, *decide, deadline_s=240)
    assert done.returncode == 0, done.stderr.decode()
    decided = json.loads(done.stdout)
    assert [one["step"] for one in decided["steps"]] == [
        *("simulated", "proposed", "voted", "queued", "executed", "asked", "applied")
    ]
    found = await told(network / "volunteer-a", "gov", "parameters")
    assert found["version"] == found["newest"] == decided["version"] == 2
    changed = {one["name"]: one["value"] for one in found["parameters"]}
    assert changed["prices.completion-floor"] == "80"
    [proposal] = await told(network / GATEWAY, "gov", "list")
    assert proposal["state"] == "executed"
    nowhere = await lorikeet(network / GATEWAY, "testnet", "decide", str(network / "text.md"))
    assert (nowhere.returncode, b"testnet up --keep" in nowhere.stderr) == (1, True)


def beside(home: Path) -> Path:
    """Another home with the same settings, and a key of its own."""
    other = home.with_name(f"{home.name}-too")
    other.mkdir(mode=0o700)
    (other / "lorikeet.toml").write_text((home / "lorikeet.toml").read_text())
    return other


async def test_a_node_that_cannot_start_ends_the_rest_and_shows_its_log(tmp_path: Path) -> None:
    home = tmp_path / "volunteer-a"
    home.mkdir()
    (home / "adapters").write_text("in the way")
    (home / "blocks").write_text("in the way")
    done = await trio.run_process(
        [forked_python(), *UP, "--home", str(tmp_path)],
        check=False,
        capture_stdout=True,
        capture_stderr=True,
        env=on_a_tiny_base(tmp_path),
    )
    assert done.returncode == 1
    told = done.stderr.decode()
    assert "volunteer-a ended with status 1" in told
    assert "FileExistsError" in told
    assert read_written(tmp_path) is None
