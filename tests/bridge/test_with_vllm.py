"""The bridge against vLLM itself, whose Python `VLLM_PYTHON` names (scripts/vllm); its answers
against our own engine's, in float32.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine import messages as m
from tests.bridge.daemon import Daemon
from tests.engine.processes import Daemon as EngineDaemon
from tests.engine.worlds import hold, make_adapter, make_base

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

START_DEADLINE_S = 600.0
ROOT = Path(__file__).parents[2]
LAW, VERSE = bytes([1]) * 32, bytes([2]) * 32
MIXED = bytes([3]) * 32
PROMPT = [5, 6, 7, 30, 31, 5, 6]
CHOICES = {
    "greedy": {},
    "warm": {"temperature": 1.0},
    "all terms": {
        "temperature": 0.8,
        "top_k": 60,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.2,
        "logit_bias": [(3, 2.0), (17, -50.0)],
    },
    "greedy with penalties": {"repetition_penalty": 1.5, "frequency_penalty": 0.4},
}


@dataclass(frozen=True)
class World:
    base: Path
    law: Path
    verse: Path
    url: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    shape = {"hidden_size": 128, "head_dim": 64, "num_attention_heads": 2, "vocab_size": 320}
    shape |= {"num_key_value_heads": 1, "intermediate_size": 256}
    model = make_base(folder / "base", spread=0.15, **shape)
    make_adapter(model, folder, 1)
    make_adapter(make_base(folder / "base", spread=0.15, **shape), folder, 2, r=8, use_rslora=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(_command(folder / "base", port), env=_environment(), stdout=log)
    try:
        _wait_for(url, process, folder / "vllm.log")
        yield World(folder / "base", folder / "a1", folder / "a2", url)
    finally:
        process.terminate()
        process.wait(60)


def _command(base: Path, port: int) -> list[str]:
    python = os.environ["VLLM_PYTHON"]
    options = "--dtype float32 --max-model-len 512 --max-num-seqs 16 --skip-tokenizer-init"
    options += " --enable-lora --max-loras 3 --max-lora-rank 16 --enforce-eager --enable-scale-out"
    options += " --max-logprobs 21 --logits-processors lorikeet_vllm.draws:Draws"
    module = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base)]
    return [*module, "--host", "127.0.0.1", "--port", str(port), *options.split()]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return kept | {
        "PYTHONPATH": str(ROOT / "plugins" / "vllm"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(min(os.sched_getaffinity(0))),
        "VLLM_NO_USAGE_STATS": "1",
    }


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(log.read_text()[-4000:])


@pytest.fixture(scope="module")
def ours(world: World) -> Iterator[EngineDaemon]:
    engine = EngineDaemon(world.base, "--dtype", "float32")
    try:
        assert isinstance(engine.receive(), m.Ready)
        for adapter, folder in ((LAW, world.law), (VERSE, world.verse)):
            engine.send(hold(adapter, folder))
            assert isinstance(engine.receive(), m.AdapterHeld)
        yield engine
    finally:
        engine.end()


@pytest.fixture(scope="module")
def theirs(world: World) -> Iterator[Daemon]:
    bridge = Daemon(world.url, world.base)
    try:
        ready = bridge.receive()
        assert isinstance(ready, m.Ready)
        assert ready.dtype == "vllm/float32"
        assert (ready.vocab_size, ready.max_context_tokens) == (320, 512)
        assert ready.kv_pages > 0
        for adapter, folder in ((LAW, world.law), (VERSE, world.verse)):
            bridge.send(hold(adapter, folder))
            held = bridge.receive()
            assert isinstance(held, m.AdapterHeld), held
        yield bridge
    finally:
        bridge.end()


def sampling(name: str) -> m.Sampling:
    return m.Sampling(bytes(range(32)), m.choosing_from(CHOICES[name]))


def submit(
    request_id: int,
    adapter: bytes | None,
    how: m.Sampling,
    *,
    tokens: int = 24,
    credit: int = 24,
    logprobs: int | None = None,
) -> m.Submit:
    return m.Submit(
        request_id,
        PROMPT,
        adapter,
        how,
        max_tokens=tokens,
        credit=credit,
        stop_ids=[],
        logprobs=logprobs,
    )


def answers(side: Daemon | EngineDaemon, count: int) -> dict[int, list[int]]:
    """The tokens of the next requests that end."""
    tokens: dict[int, list[int]] = {}
    ended = 0
    while ended < count:
        said = side.receive()
        if isinstance(said, m.Tokens):
            tokens.setdefault(said.request_id, []).extend(said.token_ids)
        else:
            assert isinstance(said, m.Finished), said
            ended += 1
    return tokens


@pytest.mark.parametrize("name", CHOICES)
def test_answers_are_our_engines_and_replay_without_a_miss(
    name: str, ours: EngineDaemon, theirs: Daemon
) -> None:
    adapters = [None, LAW, VERSE]
    for at, adapter in enumerate(adapters, start=1):
        theirs.send(submit(at, adapter, sampling(name)))
        ours.send(submit(at, adapter, sampling(name)))
    got, expected = answers(theirs, 3), answers(ours, 3)
    assert len({tuple(tokens) for tokens in got.values()}) == 3
    for at, adapter in enumerate(adapters, start=1):
        ours.send(m.Replay(10 + at, PROMPT, got[at], adapter, sampling(name)))
        replayed = ours.receive()
        assert isinstance(replayed, m.Replayed)
        assert max(replayed.margins) < 1e-3
    assert got == expected


def test_an_answer_in_pieces_is_the_answer_in_one(theirs: Daemon) -> None:
    how = sampling("all terms")
    theirs.send(submit(1, LAW, how))
    whole = answers(theirs, 1)[1]
    theirs.send(submit(2, LAW, how, credit=5))
    pieces: list[int] = []
    for paid, credit in ((5, 11), (11, 12), (12, 24)):
        while len(pieces) < paid:
            said = theirs.receive()
            assert isinstance(said, m.Tokens)
            pieces += said.token_ids
        theirs.send(m.Grant(2, credit))
    assert pieces + answers(theirs, 1)[2] == whole


def test_either_engine_goes_on_with_what_the_other_began(
    ours: EngineDaemon, theirs: Daemon
) -> None:
    how = sampling("all terms")
    ours.send(submit(1, LAW, how))
    whole = answers(ours, 1)[1]
    for side in (ours, theirs):
        prompt = PROMPT + whole[:9]
        side.send(m.Submit(2, prompt, LAW, how, 15, 15, [], num_answered=9))
        assert answers(side, 1)[2] == whole[9:]


def test_log_probabilities_are_our_engines(ours: EngineDaemon, theirs: Daemon) -> None:
    told = []
    for side in (ours, theirs):
        side.send(submit(1, VERSE, sampling("warm"), tokens=6, logprobs=5))
        said = side.receive_until(m.Finished)
        told.append([each for one in said if isinstance(one, m.Tokens) for each in one.logprobs])
    assert len(told[0]) == len(told[1]) == 6
    for mine, other in zip(*told, strict=True):
        assert other.logprob == pytest.approx(mine.logprob, abs=1e-3)
        assert [token for token, _ in other.top] == [token for token, _ in mine.top]


def test_a_cocktail_is_our_engines(world: World, ours: EngineDaemon, theirs: Daemon) -> None:
    parents = []
    for folder, weight in ((world.law, 0.7), (world.verse, -0.4)):
        held = hold(MIXED, folder)
        parents.append(m.ParentFiles(held.config_path, held.weights_path, weight, folder.name))
    got = []
    for side in (ours, theirs):
        side.send(m.HoldCocktail(MIXED, parents))
        held_now = side.receive()
        assert isinstance(held_now, m.AdapterHeld), held_now
        assert held_now.rank == 12
        side.send(submit(1, MIXED, sampling("all terms")))
        side.send(submit(2, LAW, sampling("all terms")))
        got.append(answers(side, 2))
    assert got[0] == got[1]
    assert got[0][1] != got[0][2]


def test_a_cancelled_answer_frees_the_server(theirs: Daemon) -> None:
    theirs.send(submit(1, None, sampling("warm"), tokens=400, credit=400))
    assert isinstance(theirs.receive(), m.Tokens)
    theirs.send(m.Cancel(1))
    last = theirs.receive_until(m.Finished)[-1]
    assert isinstance(last, m.Finished)
    assert last.reason == "cancelled"
    theirs.send(m.GetStats())
    stats = theirs.receive()
    assert isinstance(stats, m.Stats)
    assert stats.running == stats.waiting == 0


def test_a_released_adapter_leaves_the_server(world: World, theirs: Daemon) -> None:
    theirs.send(m.ReleaseAdapter(VERSE), hold(VERSE, world.verse))
    assert isinstance(theirs.receive(), m.AdapterHeld)
    theirs.send(m.ReleaseAdapter(VERSE), submit(1, VERSE, sampling("greedy")))
    refused = theirs.receive()
    assert isinstance(refused, m.Failed)
    assert refused.code == "unknown_adapter"
    ends = time.monotonic() + 30
    while VERSE.hex() in _served(world.url):
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert LAW.hex() in _served(world.url)


def _served(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
        return str(answer.read())
