"""Clients of other APIs, unchanged and in an environment of their own (scripts/clients), against a
daemon on a tiny base: what they read is a whole answer, a stream, calls of tools, and vectors.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.http.server import listen, serve_http, url_of
from tests.node.networks import open_lab
from tests.node.selling.shop import selling
from tests.node.tiny import make_adapter

HERE = Path(__file__).parent
PYTHON = HERE / ".venv" / "bin" / "python"
NODE = shutil.which("node")
DEADLINE_S = 100
ABSENT = "not installed here (scripts/clients)"
needs_python = pytest.mark.skipif(
    not (PYTHON.parent.parent / "lorikeet-lock").exists(), reason=f"Python clients are {ABSENT}"
)
needs_node = pytest.mark.skipif(
    NODE is None or not (HERE / "node_modules" / "ai").is_dir(),
    reason=f"the AI SDK is {ABSENT}",
)

needs_x402 = pytest.mark.skipif(
    NODE is None or not (HERE / "node_modules" / "@x402" / "fetch").is_dir(),
    reason=f"x402's TypeScript client is {ABSENT}",
)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[str]:
    """A daemon that serves an adapter named law; yields its URL."""
    with open_lab(folder) as lab:
        async with lab.daemon("volunteer") as daemon, trio.open_nursery() as nursery:
            await daemon.push(make_adapter(folder / "law", "law", 1))
            sock = listen("127.0.0.1", 0)
            nursery.start_soon(serve_http, daemon, sock)
            yield url_of(sock)
            nursery.cancel_scope.cancel()


async def run(*command: str | Path) -> dict[str, Any]:
    """What a client prints."""
    environment = {**os.environ, "NO_PROXY": "*", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment.pop("PYTHONPATH", None)
    with trio.fail_after(DEADLINE_S):
        done = await trio.run_process(
            [str(part) for part in command],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment,
        )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # litellm says more
    return report


def assert_place(place: dict[str, Any]) -> None:
    """It is what the schema of both clients asks for."""
    assert place.keys() == {"at"}
    assert len(place["at"]) <= 8


@needs_node
@pytest.mark.parametrize("provider", ["compatible", "openai", "anthropic"])
async def test_vercel_s_ai_sdk_reads_answers_calls_tools_and_embeds(
    tmp_path: Path, provider: str
) -> None:
    assert NODE is not None
    async with serving(tmp_path) as url:
        told = await run(NODE, HERE / "client.mjs", url, provider)
    assert told["whole"]["text"]
    assert told["stream"] == told["whole"]
    assert told["whole"]["usage"] > 12
    assert_place({"at": told["agent"]["asked"][0]})
    assert told["agent"]["steps"] == 2
    assert told["agent"]["results"] == [f"It rains in {at}." for at in told["agent"]["asked"]]
    assert told["streamed"]["asked"]
    assert {"tool-input-delta", "tool-call", "tool-result"} <= set(told["streamed"]["kinds"])
    assert_place(told["object"])
    if provider != "anthropic":
        assert told["embeddings"] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert told["error"]["status"] == 404
    assert "nobody" in told["error"]["message"]


@needs_python
async def test_litellm_reads_four_apis_calls_tools_and_embeds(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        told = await run(PYTHON, HERE / "client.py", url, "litellm")
    assert told["whole"]
    assert told["stream"] == told["whole"]
    assert all(told[name] for name in ("anthropic", "responses", "ollama"))
    assert told["called"]
    for place in told["called"]:
        assert_place(place)
    assert told["lengths"] == pytest.approx([1.0, 1.0], abs=1e-5)


@needs_python
async def test_langchain_reads_both_of_openai_s_apis_calls_tools_and_embeds(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as url:
        told = await run(PYTHON, HERE / "client.py", url, "langchain")
    for api in ("chat", "responses"):
        assert told[api]["whole"]
        assert told[api]["stream"] == told[api]["whole"]
        assert told[api]["called"]
        assert all(call.keys() == {"at"} for call in told[api]["called"])
        assert told[api]["told"]
        assert_place(told[api]["object"])
    assert told["lengths"] == pytest.approx([1.0, 1.0], abs=1e-5)


@needs_python
async def test_instructor_gets_its_objects(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        told = await run(PYTHON, HERE / "client.py", url, "instructor")
    assert len(told) == 2
    for place in told.values():
        assert_place(place)


@needs_python
async def test_ollama_s_client_lists_shows_chats_and_embeds(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        told = await run(PYTHON, HERE / "client.py", url, "ollama")
    assert told["models"] == ["base", "law"]
    assert told["whole"]
    assert told["stream"] == told["whole"]
    assert told["generated"]
    assert_place(told["object"])
    assert told["lengths"] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert "tools" in told["capabilities"]


@needs_python
async def test_an_older_openai_client_reads_both_apis(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        told = await run(PYTHON, HERE / "client.py", url, "openai")
    assert told["whole"]
    assert told["responses"]


@needs_x402
async def test_x402_s_typescript_client_pays_unchanged(tmp_path: Path) -> None:
    assert NODE is not None
    with open_lab(tmp_path, chain_for=("volunteer", "buyer")) as lab:
        assert lab.chain is not None
        key = "0x" + lab.identity("buyer").secret.hex()
        operator = lab.address("volunteer")
        async with selling(lab, "volunteer") as (daemon, url):
            await daemon.push(make_adapter(tmp_path / "law", "law", 1))
            scheme = "batch-settlement"
            told = await run(NODE, HERE / "x402.mjs", url, lab.chain.rpc, key, scheme)
            rows = await daemon.receipts()
    assert all(said == charged > 0 for said, charged in told["charged"])
    cost = [said for said, _ in told["charged"] + told["streamed"]]
    assert [row.amount for row in rows][::-1] == cost
    signers = [one.lower() for one in told["signers"]]
    assert signers == ["0x" + operator.hex()] * 4, "two offers, and a receipt for each of two"


@needs_x402
async def test_x402_s_typescript_client_pays_outright_unchanged(tmp_path: Path) -> None:
    assert NODE is not None
    with open_lab(tmp_path, chain_for=("volunteer", "buyer")) as lab:
        assert lab.chain is not None
        secret = lab.identity("buyer").secret
        chain = lab.chain.client(secret)
        had = chain.token.balance_of(chain.address)
        async with selling(lab, "volunteer") as (daemon, url):
            await daemon.push(make_adapter(tmp_path / "law", "law", 1))
            told = await run(
                NODE, HERE / "x402.mjs", url, lab.chain.rpc, "0x" + secret.hex(), "exact"
            )
            rows = await daemon.receipts()
        spent = had - await trio.to_thread.run_sync(chain.token.balance_of, chain.address)
        chain.close()
    answers = told["charged"] + told["streamed"]
    assert all(0 < used <= paid for used, paid in answers)  # what a 402 asks for is the most
    assert [row.amount for row in rows][::-1] == [used for used, _ in answers]
    assert spent == sum(paid for _, paid in answers)
    signers = [one.lower() for one in told["signers"]]
    assert signers == ["0x" + lab.address("volunteer").hex()] * 4
