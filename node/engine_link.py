"""Decides who receives which of the engine's messages, and what the daemon tells the engine.

    ask:      register a waiter or a listener → the command to send to the engine
    receive:  a message of the engine → whoever waits for it
    lose:     the engine died → everybody still waiting gets EngineLost

Each waiter is answered once and each listener gets one end, whatever the engine sends and whenever
it dies. Knows no process, no socket and no event loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from engine import messages as m
from engine.errors import BorderError

from .errors import AdapterError, BadRequest, EngineBusy, EngineFailed, EngineLost, NodeError

T = TypeVar("T")

RunEvent = m.Tokens | m.Finished | m.Embedded | NodeError
"""What a request hears: its tokens, then one end, which is `Finished`, a vector or an error."""

Listener = Callable[[RunEvent], None]

LOST = (
    "the engine process ended while it worked on this; it is being restarted, so ask again in some"
    " seconds"
)


@dataclass(frozen=True)
class AdapterFiles:
    """The paths of an adapter's verified files."""

    adapter: bytes
    config: Path
    weights: Path


@dataclass(frozen=True)
class CocktailFiles:
    """The files of each adapter in a cocktail, in its order."""

    adapter: bytes
    parents: tuple[m.ParentFiles, ...]


Files = AdapterFiles | CocktailFiles


class Waiter(Generic[T]):
    """A party waiting for one answer, or for the error that replaces it.

    `wake` is called when it arrives. A second answer is a bug here, not the engine's.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.answer: T | NodeError | None = None

    def put(self, answer: T | NodeError) -> None:
        """Hand over the answer."""
        assert self.answer is None, "a waiter hears once"
        self.answer = answer
        self._wake()


class EngineLink:
    """Every party in one daemon that waits for its engine, across all of the engine's restarts.

    `log` is told what the engine does unasked.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._ids = itertools.count(1)
        self._runs: dict[int, Listener] = {}
        self._replays: dict[int, Waiter[m.Replayed]] = {}
        self._loads: dict[bytes, list[Waiter[m.AdapterHeld]]] = {}
        self._locating: dict[bytes, list[Waiter[m.Located]]] = {}
        self._stats: list[Waiter[m.Stats]] = []
        self._held: dict[bytes, Files] = {}

    # --- asking ---

    def new_id(self) -> int:
        """Return a request id that was never used before."""
        return next(self._ids)

    def listen(self, request_id: int, listener: Listener) -> None:
        """Deliver a request's messages to `listener` until it ends."""
        self._runs[request_id] = listener

    def stop_listening(self, request_id: int) -> m.Cancel | None:
        """Forget a request; return the `Cancel` to send when it has not ended."""
        return m.Cancel(request_id) if self._runs.pop(request_id, None) is not None else None

    def ask_replay(self, replay: m.Replay, waiter: Waiter[m.Replayed]) -> m.Replay:
        """Wait for a replay's margins."""
        self._replays[replay.request_id] = waiter
        return replay

    def ask_stats(self, waiter: Waiter[m.Stats]) -> m.GetStats:
        """Wait for the next figures."""
        self._stats.append(waiter)
        return m.GetStats()

    def ask_load(
        self, files: Files, waiter: Waiter[m.AdapterHeld]
    ) -> m.HoldAdapter | m.HoldCocktail | None:
        """Wait until the engine serves an adapter; return None when it has been told already."""
        waiters = self._loads.setdefault(files.adapter, [])
        waiters.append(waiter)
        if len(waiters) > 1:
            return None
        if isinstance(files, CocktailFiles):
            return m.HoldCocktail(files.adapter, list(files.parents))
        return m.HoldAdapter(files.adapter, str(files.config), str(files.weights))

    def ask_residency(self, adapter: bytes, waiter: Waiter[m.Located]) -> m.Locate | None:
        """Wait to hear where an adapter's bytes are; return None when that is asked already."""
        waiters = self._locating.setdefault(adapter, [])
        waiters.append(waiter)
        return m.Locate(adapter) if len(waiters) == 1 else None

    def leave(self, waiter: Waiter[Any]) -> None:
        """Forget a waiter that no longer waits, answered or not."""
        self._replays = {key: one for key, one in self._replays.items() if one is not waiter}
        self._stats = [one for one in self._stats if one is not waiter]
        _leave_each(self._loads, waiter)
        _leave_each(self._locating, waiter)

    # --- what the engine serves, now and after every restart ---

    def keep(self, files: Files) -> None:
        """Remember an adapter that the engine serves, to load it again after a restart."""
        self._held[files.adapter] = files

    def release(self, adapter: bytes) -> m.ReleaseAdapter | None:
        """Forget an adapter; return None when it is not kept."""
        return m.ReleaseAdapter(adapter) if self._held.pop(adapter, None) else None

    def keeps(self, adapter: bytes) -> bool:
        """Return whether an adapter is kept."""
        return adapter in self._held

    def kept(self) -> Sequence[Files]:
        """List the adapters that are kept."""
        return list(self._held.values())

    # --- hearing ---

    def receive(self, message: m.FromEngine) -> None:
        """Hand one message to whoever waits for it; there may be nobody left.

        Raises BorderError for a message that no engine may send.
        """
        match message:
            case m.Tokens() | m.Finished() | m.Embedded():
                self._to_run(message.request_id, message)
            case m.Failed():
                error = _error_of(message)
                self._to_run(message.request_id, error)
                self._to_replay(message.request_id, error)
            case m.AdapterHeld():
                self._to_loads(message.adapter, message)
            case m.AdapterRefused():
                self._refuse(message)
            case m.Located():
                self._to_located(message.adapter, message)
            case m.Replayed():
                self._to_replay(message.request_id, message)
            case m.Stats():
                self._to_stats(message)
            case m.Ready() | m.BaseRefused():
                raise BorderError("the engine said Ready twice")

    def lose(self) -> None:
        """Tell every waiter that the engine is gone; what is kept stays kept."""
        for request_id in list(self._runs):
            self._to_run(request_id, EngineLost(LOST))
        for request_id in list(self._replays):
            self._to_replay(request_id, EngineLost(LOST))
        for adapter in list(self._loads):
            self._to_loads(adapter, EngineLost(LOST))
        for adapter in list(self._locating):
            self._to_located(adapter, EngineLost(LOST))
        self._to_stats(EngineLost(LOST))

    def _to_run(self, request_id: int, event: RunEvent) -> None:
        listener = self._runs.get(request_id)
        if listener is None:
            return
        if not isinstance(event, m.Tokens):
            del self._runs[request_id]
        listener(event)

    def _to_replay(self, request_id: int, answer: m.Replayed | NodeError) -> None:
        waiter = self._replays.pop(request_id, None)
        if waiter is not None:
            waiter.put(answer)

    def _to_loads(self, adapter: bytes, answer: m.AdapterHeld | NodeError) -> None:
        for waiter in self._loads.pop(adapter, []):
            waiter.put(answer)

    def _to_located(self, adapter: bytes, answer: m.Located | NodeError) -> None:
        for waiter in self._locating.pop(adapter, []):
            waiter.put(answer)

    def _to_stats(self, answer: m.Stats | NodeError) -> None:
        waiters = self._stats
        self._stats = []
        for waiter in waiters:
            waiter.put(answer)

    def _refuse(self, refused: m.AdapterRefused) -> None:
        """Note that an adapter cannot be served or, unasked, no longer can: its files broke
        since.
        """
        if self._held.pop(refused.adapter, None):
            name = refused.adapter.hex()[:12]
            self._log(f"engine: adapter {name} is not served any more: {refused.message}")
        error = AdapterError(f"the engine refused the adapter: {refused.message}")
        self._to_loads(refused.adapter, error)

    def check(self) -> None:
        """Raise AssertionError unless everybody registered is still waiting."""
        about: list[list[Waiter[Any]]] = [*self._loads.values(), *self._locating.values()]
        each = itertools.chain(*about)
        waiting: list[Waiter[Any]] = [*self._replays.values(), *self._stats, *each]
        assert all(waiter.answer is None for waiter in waiting)
        assert all(about), "an adapter nobody waits for is still noted"


def _leave_each(about: dict[bytes, list[Waiter[T]]], waiter: Waiter[Any]) -> None:
    """Forget a waiter that waits for something about an adapter."""
    for adapter, waiters in list(about.items()):
        about[adapter] = [one for one in waiters if one is not waiter]
        if not about[adapter]:
            del about[adapter]


def _error_of(failed: m.Failed) -> NodeError:
    """Choose the error for a failure; a bad request is bad at any node."""
    match failed.code:
        case "busy":
            return EngineBusy(failed.message)
        case "bad_request":
            return BadRequest(failed.message)
        case _:
            return EngineFailed(f"{failed.code}: {failed.message}")
