"""10,000 random operations on one engine with few slots, few pages and little memory, against an
oracle that serves each request alone.
"""

from __future__ import annotations

import random
from pathlib import Path
from queue import Empty

import pytest

from engine.messages import (
    AdapterHeld,
    AdapterRefused,
    Cancel,
    Failed,
    Finished,
    Grant,
    ReleaseAdapter,
)

from .oracle import NUM_FOLDERS, Oracle, make_request, make_world
from .worlds import Lab, hold

NUM_NAMES = 6
OPERATIONS = 10_000
SEED = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("operations"))


class Driver:
    """Draws operations and remembers what must come of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.oracle = Oracle(folder)
        self.lab = Lab(
            folder / "base",
            kv_tokens=256,
            max_adapters=3,
            max_running=6,
            max_waiting=5,
            step_tokens=24,
            prompt_step_tokens=24,
            host_cache_bytes=40_000,
            slot_bytes=24_000,
        )
        self.held: dict[int, int] = {}
        self.offered: dict[int, int | None] = {}
        self.live: dict[int, tuple[int | None, int, int, float]] = {}
        self.busy = 0
        self._next_id = 0

    def step(self) -> None:
        self.take_loads()
        self.lab.engine.step()
        self.lab.engine.check()
        self.lab.collect()
        self.settle()

    def take_loads(self) -> None:
        try:
            while True:
                self.lab.engine.receive(self.lab.done.get_nowait())
        except Empty:
            self.lab.collect()
            self.settle()

    def settle(self) -> None:
        tokens = {request_id: self.lab.tokens(request_id) for request_id in self.live}
        for message in self.lab.messages:
            match message:
                case AdapterHeld(adapter):
                    offered = self.offered.pop(adapter[0], None)
                    if offered is not None:
                        self.held[adapter[0]] = offered
                case AdapterRefused(adapter):
                    self.offered.pop(adapter[0], None)
                case Finished(request_id, reason):
                    expected = self.oracle.answer(*self.live.pop(request_id))
                    assert tokens[request_id] == (
                        expected if reason == "length" else expected[: len(tokens[request_id])]
                    )
                case Failed(request_id, code, text):
                    assert code in ("busy", "unknown_adapter"), (code, text)
                    self.busy += code == "busy"
                    self.live.pop(request_id)
        ended = {m.request_id for m in self.lab.messages if isinstance(m, Finished | Failed)}
        self.lab.messages = [
            m
            for m in self.lab.messages
            if getattr(m, "request_id", None) in self.live and m.request_id not in ended
        ]  # type: ignore[union-attr]

    # --- operations ---

    def offer(self) -> None:
        """Register a name, or the same name with other weights once nobody uses the old."""
        name = self.random.randrange(NUM_NAMES)
        weights = self.random.randrange(NUM_FOLDERS + 1)
        if name in self.offered or any(self.name_of.get(request) == name for request in self.live):
            return
        broken = weights == NUM_FOLDERS
        self.held.pop(name, None)
        self.offered[name] = None if broken else weights
        self.lab.engine.handle(ReleaseAdapter(bytes([name])))
        self.lab.engine.handle(
            hold(bytes([name]), self.folder / ("broken" if broken else str(weights)))
        )

    def release(self) -> None:
        name = self.random.randrange(NUM_NAMES)
        if (
            name in self.held
            and name not in self.offered
            and not any(self.name_of.get(request) == name for request in self.live)
        ):
            self.held.pop(name)
            self.lab.engine.handle(ReleaseAdapter(bytes([name])))

    def ask(self) -> None:
        self._next_id += 1
        name = self.random.choice([None, *self.held])
        drawn = (
            self.random.choice((3, 20, 40, 60)),
            self.random.randrange(9),
            self.random.choice((0.0, 0.8)),
        )
        self.live[self._next_id] = (None if name is None else self.held[name], *drawn)
        if name is not None:
            self.name_of[self._next_id] = name
        adapter = None if name is None else bytes([name])
        self.lab.engine.handle(
            make_request(self._next_id, adapter, *drawn, priority=self.random.randrange(3))
        )

    def cancel(self) -> None:
        if self.live:
            self.lab.engine.handle(Cancel(self.random.choice(list(self.live))))

    def grant(self) -> None:
        if self.live:
            self.lab.engine.handle(Grant(self.random.choice(list(self.live)), 6))

    def run(self, operations: int) -> None:
        self.name_of: dict[int, int] = {}
        choices = (
            [self.step] * 10
            + [self.ask] * 4
            + [self.offer] * 2
            + [self.release, self.cancel, self.grant, self.take_loads]
        )
        for _ in range(operations):
            self.random.choice(choices)()
        for _ in range(2000):
            if not self.live:
                return
            if not self.lab.engine._scheduler.running:
                (
                    self.lab.engine.receive(self.lab.done.get(timeout=60))
                    if self.lab.engine._scheduler.waiting and not self.lab.engine.step()
                    else None
                )
            self.step()
        raise AssertionError(f"requests never ended: {self.live}")


def test_ten_thousand_random_operations_give_the_answers_of_a_sequential_oracle(
    folder: Path,
) -> None:
    driver = Driver(folder, SEED)
    driver.run(OPERATIONS)
    driver.lab.close()
    driver.oracle.lab.close()
    assert driver.lab.engine._pages.num_available == driver.lab.engine._pages.pool.num_pages, (
        "a page leaked"
    )
    assert driver.busy > 0, "the queue was never full: the test pressed too little"
    assert len(driver.oracle.known) > 100
