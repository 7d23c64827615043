"""10,000 random operations on an engine in a process of its own, which is killed in mid-stream now
and then and started again.

What is drawn depends on the seed alone, never on how fast the engine answers, so a seed repeats the
same operations.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.messages import (
    AdapterHeld,
    AdapterRefused,
    Cancel,
    Failed,
    Finished,
    FromEngine,
    GetStats,
    Grant,
    Ready,
    ReleaseAdapter,
    Stats,
    Tokens,
)

from .oracle import NUM_FOLDERS, Oracle, make_request, make_world
from .processes import Daemon
from .worlds import hold

SEED = 21
OPERATIONS = 10_000
NUM_KILLS = 4
NUM_NAMES = 6
TOKENS = 10
CREDIT = 4
MOST_LIVE = 100
RECENT = 30


@dataclass
class Asked:
    """A request and what has come of it so far.

    `credit` below TOKENS: it stops there until it is granted more.
    """

    name: int | None
    weights: int | None
    drawn: tuple[int, int, float]
    priority: int
    credit: int
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)


class Driver:
    """Stands where the daemon stands: knows what is held and what is unanswered, and tells a new
    engine all of it.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.oracle = Oracle(folder, TOKENS)
        self.held: dict[int, tuple[int, Path]] = {}
        self.unannounced: set[int] = set()
        self.live: dict[int, Asked] = {}
        self.num_asked = self.num_finished = self.num_interrupted = 0
        self.daemon = self.start()

    def start(self) -> Daemon:
        daemon = Daemon(
            self.folder / "base", "--dtype", "float32", "--kv-tokens", "256", "--max-adapters", "3"
        )
        assert isinstance(daemon.receive(), Ready)
        return daemon

    # --- what comes back ---

    def take(self) -> None:
        """Whatever has arrived, without waiting."""
        while self.daemon.has_arrived():
            self.settle(self.daemon.receive())

    def settle(self, message: FromEngine) -> None:
        match message:
            case Tokens(request_id, token_ids):
                self.live[request_id].tokens += token_ids
            case Finished(request_id, reason):
                self.finish(self.live.pop(request_id), reason)
            case AdapterHeld(adapter):
                self.unannounced.remove(adapter[0])
            case Failed() | AdapterRefused():
                raise AssertionError(f"nothing was wrong, and yet {message}")

    def finish(self, asked: Asked, reason: str) -> None:
        expected = self.oracle.answer(asked.weights, *asked.drawn)
        assert reason == "length" or (asked.cancelled and reason == "cancelled"), reason
        assert asked.tokens == (expected if reason == "length" else expected[: len(asked.tokens)])
        self.num_finished += reason == "length"

    def wait_until_live(self, at_most: int, name: int | None = None) -> None:
        """Until so few requests are unanswered, of those for adapter `name` if it is given; all get
        the credit for it.
        """

        def waited_for() -> list[int]:
            return [
                request_id
                for request_id, asked in self.live.items()
                if name is None or asked.name == name
            ]

        for request_id in waited_for() if len(waited_for()) > at_most else []:
            self.grant(request_id)
        while len(waited_for()) > at_most:
            self.settle(self.daemon.receive())

    def stats(self) -> Stats:
        self.daemon.send(GetStats())
        while not isinstance(message := self.daemon.receive(), Stats):
            self.settle(message)
        return message

    # --- operations ---

    def ask(self) -> None:
        name = self.random.choice([None, *self.held])
        drawn = (
            self.random.choice((3, 40)),
            self.random.randrange(6),
            self.random.choice((0.0, 0.8)),
        )
        weights = None if name is None else self.held[name][0]
        self.num_asked += 1
        self.live[self.num_asked] = Asked(
            name, weights, drawn, self.random.randrange(3), self.random.choice((CREDIT, TOKENS))
        )
        self.submit(self.num_asked)

    def submit(self, request_id: int) -> None:
        asked = self.live[request_id]
        adapter = None if asked.name is None else bytes([asked.name])
        self.daemon.send(
            make_request(request_id, adapter, *asked.drawn, asked.priority, TOKENS, asked.credit)
        )

    def recent(self) -> int:
        """A request that was asked lately; it may have ended since, which the engine must not
        mind.
        """
        return max(1, self.num_asked - self.random.randrange(RECENT))

    def cancel_one(self) -> None:
        request_id = self.recent()
        if request_id in self.live:
            self.live[request_id].cancelled = True
        self.daemon.send(Cancel(request_id))

    def grant_one(self) -> None:
        self.grant(self.recent())

    def grant(self, request_id: int) -> None:
        if request_id in self.live:
            self.live[request_id].credit = TOKENS
        self.daemon.send(Grant(request_id, TOKENS))

    def release(self) -> None:
        """Behind requests that use it: they are answered all the same, new ones are not asked."""
        name = self.random.randrange(NUM_NAMES)
        if name in self.held:
            self.wait_until_live(0, name)
            self.forget(name)

    def forget(self, name: int) -> None:
        self.wait_until_announced(name)
        self.held.pop(name, None)
        self.daemon.send(ReleaseAdapter(bytes([name])))

    def offer_other_files(self) -> None:
        """The same name with other weights, which lie elsewhere; nobody uses the old ones any more.

        Who asks before the answer gets those.
        """
        name = self.random.randrange(NUM_NAMES)
        weights = self.random.randrange(NUM_FOLDERS)
        self.wait_until_live(0, name)
        self.hold(name, weights, self.folder / str(weights))
        self.wait_until_announced(name)

    def offer_changed_files(self) -> None:
        """The same name and the same path, in which other weights lie by now; the engine had
        forgotten the old ones.
        """
        name = self.random.randrange(NUM_NAMES)
        weights = self.random.randrange(NUM_FOLDERS)
        self.wait_until_live(0, name)
        self.forget(name)
        while bytes([name]) in self.stats().adapters_held:
            pass  # it is being read
        place = self.folder / f"place {name}"
        place.mkdir(exist_ok=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            os.replace(shutil.copy(self.folder / str(weights) / file, place / "new"), place / file)
        self.hold(name, weights, place)

    def wait_until_announced(self, name: int) -> None:
        while name in self.unannounced:
            self.settle(self.daemon.receive())

    def hold(self, name: int, weights: int, place: Path) -> None:
        self.wait_until_announced(name)
        self.held[name] = weights, place
        self.unannounced.add(name)
        self.daemon.send(hold(bytes([name]), place))

    def offer_broken_files(self) -> None:
        name = self.random.randrange(NUM_NAMES)
        self.wait_until_live(0, name)
        self.forget(name)
        self.daemon.send(hold(bytes([name]), self.folder / "broken"))
        while not isinstance(message := self.daemon.receive(), AdapterRefused):
            self.settle(message)

    def kill(self) -> None:
        """In mid-stream: some request has tokens already and waits for credit.

        A new engine hears of all that is held and unanswered.
        """
        while not any(asked.credit == CREDIT for asked in self.live.values()):
            self.ask()
        while not any(0 < len(asked.tokens) < TOKENS for asked in self.live.values()):
            self.settle(self.daemon.receive())
        for message in self.daemon.kill():
            self.settle(message)
        self.num_interrupted += sum(0 < len(asked.tokens) < TOKENS for asked in self.live.values())
        self.daemon.end()
        self.daemon = self.start()
        self.unannounced = set(self.held)
        for name, (_, place) in self.held.items():
            self.daemon.send(hold(bytes([name]), place))
        self.live = {
            request_id: asked for request_id, asked in self.live.items() if not asked.cancelled
        }
        for request_id, asked in self.live.items():
            asked.tokens.clear()
            self.submit(request_id)

    def run(self, operations: int) -> None:
        kills = set(self.random.sample(range(operations * 3 // 4), NUM_KILLS))
        others = [self.ask] * 12 + [self.grant_one] * 4 + [self.cancel_one] * 2
        rare = [
            self.release,
            self.offer_other_files,
            self.offer_changed_files,
            self.offer_broken_files,
        ]
        for number in range(operations):
            if number in kills:
                self.kill()
            elif self.random.random() < 0.05:
                self.random.choice(rare)()
            else:
                self.random.choice(others)()
            self.take()
            if len(self.live) > MOST_LIVE:
                self.wait_until_live(MOST_LIVE // 2)
        self.wait_until_live(0)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(make_world(tmp_path), SEED)
    yield driver
    driver.daemon.kill()
    driver.daemon.end()
    driver.oracle.lab.close()


def test_ten_thousand_operations_and_kills_give_the_answers_of_a_sequential_oracle(
    driver: Driver,
) -> None:
    driver.run(OPERATIONS)
    stats = driver.stats()
    assert (stats.running, stats.waiting, stats.kv_pages_free) == (
        0,
        0,
        stats.kv_pages,
    ), "a page leaked"
    for name in list(driver.held):
        driver.forget(name)
    stats = driver.stats()
    assert (stats.adapters_held, stats.adapters_ready) == ([], []), "a slot leaked"
    assert driver.num_interrupted >= NUM_KILLS, "a kill hit no stream"
    assert driver.num_finished > driver.num_asked / 2
