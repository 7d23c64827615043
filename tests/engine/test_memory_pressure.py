"""A real engine in a control group with little memory and no swap, of which adapters, keys and
values and requests together want far more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine.config import cpu_features
from engine.executor.library import NotNative, library_path, usable_sets
from engine.memory import find_groups
from engine.messages import AdapterHeld, Failed, Finished, GetStats, Ready, Stats, Submit, Tokens

from .processes import Daemon
from .worlds import hold, make_base, some_tokens, submit, write_adapter

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a device most of it is the device's memory"
)

MIB = 1 << 20
TOO_LITTLE = 240 * MIB
LITTLE = 400 * MIB
"""Python and torch alone take about 150 MiB."""
SHAPE = {
    "hidden_size": 72,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 3,
    "intermediate_size": 112,
}
"""24 KiB of keys and values a token and next to no weights, so that requests and adapters decide
what is wanted: 384 MiB for the usual tokens.
"""
NUM_ADAPTERS = 24
RANK = 768
"""5 MiB each, and as much again while it is read."""
PROMPT_TOKENS = 100
ANSWER_TOKENS = 8
FLOOD = 400
LARGE = 16384


@dataclass(frozen=True)
class SmallGroup:
    """A control group of a test's own."""

    folder: Path
    is_version_1: bool

    def limit(self, size_bytes: int) -> None:
        """No more than so many bytes, and no swap."""
        if self.is_version_1:
            self._write("memory.limit_in_bytes", size_bytes)
            self._write("memory.swappiness", 0)
            self._write("memory.memsw.limit_in_bytes", size_bytes)
        else:
            self._write("memory.max", size_bytes)
            self._write("memory.swap.max", 0)

    def _write(self, name: str, value: int) -> None:
        if (self.folder / name).exists():  # a system without swap may have no file for it
            (self.folder / name).write_text(str(value))

    @property
    def prefix(self) -> tuple[str, ...]:
        """Enters the group and becomes the command that follows."""
        return ("sh", "-c", f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"', "sh")

    def num_killed(self) -> int:
        """How many processes of it the system has killed for want of memory."""
        text = (
            self.folder / ("memory.oom_control" if self.is_version_1 else "memory.events")
        ).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])


@contextmanager
def small_group() -> Iterator[SmallGroup]:
    """In the outermost folder in which this process may make one; skips the test where there is
    none.
    """
    around = [Path(folder) for folder, _ in find_groups()]
    for parent in reversed(around or [Path("/sys/fs/cgroup")]):
        is_version_1 = (parent / "memory.limit_in_bytes").exists()
        group = SmallGroup(parent / f"lorikeet-test-{time.monotonic_ns()}", is_version_1)
        try:
            group.folder.mkdir()
        except OSError:
            continue
        try:
            if is_version_1 or (group.folder / "memory.max").exists():
                group.limit(1 << 40)
                yield group
                return
        except PermissionError:
            continue
        finally:
            _remove(group.folder)
    pytest.skip("no control group for memory can be made here")


def _remove(folder: Path) -> None:
    """Empty within moments after its last process has ended."""
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for best in usable_sets(cpu_features())[:1]:
        with suppress(NotNative):  # built here, where a compiler has room
            library_path(best)
    folder = tmp_path_factory.mktemp("pressure")
    make_base(folder / "base", spread=0.05, **SHAPE)
    for index in range(NUM_ADAPTERS):
        write_adapter(
            folder / str(index),
            index,
            RANK,
            ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
            layers=SHAPE["num_hidden_layers"],
        )
    return folder


@pytest.fixture
def group() -> Iterator[SmallGroup]:
    with small_group() as group:
        yield group


Start = Callable[..., Daemon]


@pytest.fixture
def start(folder: Path, group: SmallGroup) -> Iterator[Start]:
    """Start an engine with so much memory and these arguments; none outlives the test."""
    with ExitStack() as started:

        def start(limit_bytes: int, *arguments: str) -> Daemon:
            group.limit(limit_bytes)
            return started.enter_context(
                Daemon(folder / "base", "--dtype", "float32", *arguments, prefix=group.prefix)
            )

        yield start


def request(number: int) -> Submit:
    """One of a few prompts, every other with an adapter."""
    adapter = bytes([number % NUM_ADAPTERS]) * 32 if number % 2 else None
    return submit(number, some_tokens(PROMPT_TOKENS, number % 40), adapter, ANSWER_TOKENS)


def answers(daemon: Daemon, numbers: range) -> dict[int, list[int] | str]:
    """Ask all at once; the tokens of each, or why it failed."""
    for number in numbers:
        daemon.send(request(number))
    found: dict[int, list[int] | str] = {}
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    while len(found) < len(numbers):
        match daemon.receive():
            case Tokens(number, token_ids):
                tokens[number] += token_ids
            case Finished(number):
                found[number] = tokens[number]
            case Failed(number, code):
                found[number] = code
    return found


def test_more_than_memory_holds_is_answered_or_busy_and_the_engine_serves_on(
    folder: Path, group: SmallGroup, start: Start
) -> None:
    daemon = start(LITTLE)
    ready = daemon.receive()
    assert isinstance(ready, Ready)
    assert ready.kv_pages * ready.page_tokens < LARGE
    for index in range(NUM_ADAPTERS):
        daemon.send(hold(bytes([index]) * 32, folder / str(index)))
    verdicts = [daemon.receive() for _ in range(NUM_ADAPTERS)]
    assert all(isinstance(verdict, AdapterHeld) for verdict in verdicts), verdicts
    before = {
        number: answer
        for first in range(NUM_ADAPTERS)
        for number, answer in answers(daemon, range(first, first + 1)).items()
    }
    flood = answers(daemon, range(FLOOD))
    served = [number for number, answer in flood.items() if answer != "busy"]
    assert 0 < len(served) < FLOOD, "the queue was never full"
    assert all(len(flood[number]) == ANSWER_TOKENS for number in served)
    after = answers(daemon, range(NUM_ADAPTERS))
    assert before == after
    assert all(flood[number] in (before[number], "busy") for number in before)
    daemon.send(GetStats())
    stats = daemon.receive()
    assert isinstance(stats, Stats)
    assert (stats.running, stats.waiting, stats.kv_pages_free) == (0, 0, stats.kv_pages)
    status, log = daemon.end()
    assert (status, group.num_killed()) == (0, 0), log
    assert "MiB packed" in log
    assert f"limits it to {LITTLE // MIB} MiB" in log


@pytest.mark.parametrize(
    ("limit_bytes", "arguments", "words"),
    [
        (
            TOO_LITTLE,
            (),
            (
                r"the base and the least to serve it take \d+ MiB of memory, .*limits it to 240"
                r" MiB.* --base"
            ),
        ),
        (
            LITTLE,
            ("--kv-tokens", str(LARGE)),
            r"--kv-tokens 16384 takes 384 MiB .*: choose at most --kv-tokens \d+",
        ),
    ],
)
def test_what_can_never_fit_is_said_in_one_line_before_anything_is_loaded(
    group: SmallGroup, start: Start, limit_bytes: int, arguments: tuple[str, ...], words: str
) -> None:
    daemon = start(limit_bytes, *arguments)
    status, log = daemon.end()
    assert (status, group.num_killed()) == (1, 0), log
    assert len(log.splitlines()) == 1
    assert re.search(words, log), log
