"""What the bridge and the plug-in cost: tokens a second of one vLLM server, asked directly and
through the border.

    python -m benchmarks.engine.bridge --vllm FOLDER/vllm/bin/python [--requests 8] [--tokens 96]

Rounds of all sides alternate, since a machine has better and worse minutes. `pieces` grants credit
as a client of the network pays: 32 tokens ahead, again when fewer than 17 are left.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.engine.world import VOCAB, make_base
from engine import messages as m
from engine.messages import choosing_from
from tests.bridge.daemon import Daemon

ROOT = Path(__file__).parents[2]
PORT = 8193
AHEAD = 32
LOW = 17
OPTIONS = (
    "--dtype bfloat16 --max-model-len 1024 --max-num-seqs 32 --skip-tokenizer-init --enable-lora"
    " --max-loras 2 --max-lora-rank 8 --enforce-eager --enable-scale-out --max-logprobs 21"
    " --logits-processors lorikeet_vllm.draws:Draws"
)


def main() -> None:
    """Start a server, ask it in every way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", required=True, help="the Python that vLLM is installed in")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=0, help="cores of the model (0: all)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "hf"
        make_base(base)
        server = start(chosen.vllm, base, chosen.cores)
        try:
            report(compare(Daemon(f"http://127.0.0.1:{PORT}", base), base, chosen))
        finally:
            server.terminate()
            server.wait(60)


def start(python: str, base: Path, cores: int) -> subprocess.Popen[bytes]:
    """Start vLLM and wait for it."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {
        "PYTHONPATH": str(ROOT / "plugins" / "vllm"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(
            map(str, sorted(os.sched_getaffinity(0))[: cores or None])
        ),
    }
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base)]
    command += ["--host", "127.0.0.1", "--port", str(PORT), *OPTIONS.split()]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).close()
            return server
        except OSError:
            time.sleep(1)
    raise SystemExit("vLLM did not start")


def compare(daemon: Daemon, base: Path, chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Return the tokens a second of each side, round by round."""
    assert isinstance(daemon.receive(), m.Ready)
    greedy, warm = choosing_from({}), choosing_from({"temperature": 1.0})
    sides: dict[str, Callable[[int], None]] = {
        "direct, greedy": lambda turn: ask_directly(base, turn, chosen, 0.0),
        "border, greedy": lambda turn: ask(daemon, turn, chosen, greedy, chosen.tokens),
        "border, greedy, pieces": lambda turn: ask(daemon, turn, chosen, greedy, AHEAD),
        "direct, vLLM's own draws": lambda turn: ask_directly(base, turn, chosen, 1.0),
        "border, our draws": lambda turn: ask(daemon, turn, chosen, warm, chosen.tokens),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(chosen.rounds + 1):
        for at, (name, side) in enumerate(sides.items()):
            began_s = time.perf_counter()
            side(turn * len(sides) + at)
            took_s = time.perf_counter() - began_s
            if turn:  # the first warms up
                rates[name].append(chosen.requests * chosen.tokens / took_s)
    daemon.end()
    return rates


def prompt(turn: int, request: int) -> list[int]:
    """A prompt that was never asked before."""
    return [(turn * 7919 + request * 104729 + at * 31 + at * at) % VOCAB for at in range(64)]


def ask_directly(base: Path, turn: int, chosen: argparse.Namespace, temperature: float) -> None:
    """All requests at once, a thread each, as vLLM's own clients would."""

    def one(request: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        sampling: dict[str, Any] = {"max_tokens": chosen.tokens, "ignore_eos": True}
        sampling |= {"temperature": temperature, "detokenize": False}
        body = {"model": str(base), "token_ids": prompt(turn, request), "stream": True}
        headers = {"content-type": "application/json"}
        text = json.dumps(body | {"sampling_params": sampling})
        connection.request("POST", "/inference/v1/generate", text, headers)
        count = 0
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    count += len(choice["token_ids"] or [])
        assert count == chosen.tokens

    threads = [threading.Thread(target=one, args=(at,)) for at in range(chosen.requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(
    daemon: Daemon, turn: int, chosen: argparse.Namespace, choosing: m.Choosing, credit: int
) -> None:
    """All requests at once, paid as they go."""
    first = turn * chosen.requests
    sampling = m.Sampling(bytes(32), choosing)
    for at in range(chosen.requests):
        ids = prompt(turn, at)
        daemon.send(m.Submit(first + at, ids, None, sampling, chosen.tokens, credit, []))
    paid = {first + at: credit for at in range(chosen.requests)}
    made = dict.fromkeys(paid, 0)
    while paid:
        match daemon.receive():
            case m.Tokens(request_id, ids):
                made[request_id] += len(ids)
                if paid[request_id] - made[request_id] < LOW:
                    paid[request_id] = min(chosen.tokens, made[request_id] + AHEAD)
                    daemon.send(m.Grant(request_id, paid[request_id]))
            case m.Finished(request_id) as last:
                assert last.completion_tokens == chosen.tokens
                del paid[request_id]
            case other:
                raise AssertionError(other)


def report(rates: dict[str, list[float]]) -> None:
    """Print the median of each side."""
    for name, each in rates.items():
        print(f"{name:28} {statistics.median(each):8.1f} tokens/s   {[round(x, 1) for x in each]}")


if __name__ == "__main__":
    main()
