from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import trio

from node.testnet.network import Network, open_network
from node.testnet.plan import GATEWAY, plan_network

QUESTION = "What is a parrot?"


@asynccontextmanager
async def network_of_one_volunteer(home: Path) -> AsyncIterator[Network]:
    async with open_network(
        plan_network(home, 1, epoch_s=3.0), lambda name, state: None
    ) as network:
        yield network


async def lorikeet(home: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    env: Mapping[str, str] = {**os.environ, "LORIKEET_HOME": str(home)}
    with trio.fail_after(60):
        return await trio.run_process(
            [sys.executable, "-m", "node", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=env,
        )


async def ask_until_served(home: Path) -> subprocess.CompletedProcess[bytes]:
    """An engine that has just come up still has to say so in the DHT; until then the client is told
    that nobody serves.
    """
    with trio.fail_after(30):
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


async def test_a_gateway_pays_a_volunteer_for_what_the_command_line_and_the_openai_client_ask(
    tmp_path: Path,
) -> None:
    async with network_of_one_volunteer(tmp_path) as network:
        client = tmp_path / GATEWAY
        await network.wait_for_engines()
        run = await ask_until_served(client)
        answer = json.loads(run.stdout)
        text, facts = await trio.to_thread.run_sync(stream, network.client.url)
        listed = json.loads((await lorikeet(client, "receipts", "--json")).stdout)
        unknown = await lorikeet(client, "run", "no-such-adapter", QUESTION)
    volunteer = network.nodes["volunteer-a"].peer_id
    assert answer["text"].strip()
    assert text.strip()
    assert {answer["served_by"], facts["served_by"]} == {volunteer}
    assert {answer["receipt"], facts["receipt"]} == {one["digest"] for one in listed}
    assert sum(one["amount"] for one in listed) == answer["amount"] + facts["amount"]
    assert unknown.returncode == 1
    assert "no-such-adapter" in unknown.stderr.decode()
