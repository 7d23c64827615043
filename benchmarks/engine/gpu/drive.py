"""Drives one engine in this process by hand, as its server would: requests in, steps, messages out,
and a clock beside it.

    Batch     sequences that decode in lockstep: their prompts are computed first, then each may
              produce as many tokens as it is granted
    Stream    requests that come and go: so many at a time, or when their time has come

What a step costs is measured around the engine's own `step`, so the scheduler, the tables and the
sampling are in it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.engine.gpu import world
from benchmarks.engine.times import Times
from engine.build import Built, assemble
from engine.config import EngineConfig
from engine.lora.loader import Load
from engine.messages import (
    AdapterHeld,
    AdapterRefused,
    Cancel,
    Choosing,
    Failed,
    Finished,
    FromEngine,
    GetStats,
    Grant,
    HoldAdapter,
    Replay,
    Replayed,
    Sampling,
    Stats,
    Submit,
    Tokens,
)
from engine.model.weights import Weights

if TYPE_CHECKING:
    from engine.cuda.accelerator import Accelerator

WAIT_S = 60.0
"""Nothing of a load or a copy takes longer; then the row fails instead of waiting for ever."""


GREEDY = Sampling(bytes(32))

Asked = tuple[list[int], int | None, Sampling]
"""A prompt, the number of its adapter (None: bare), and how to choose."""


class RowFailed(Exception):
    """A figure could not be measured; the text says why."""


@dataclass(frozen=True)
class Batch:
    """Sequences that decode in lockstep.

    `given` counts the tokens that each has been granted so far.
    """

    requests: tuple[int, ...]
    given: list[int]


class Driver:
    """One engine over given weights, on the device that is given or found; `load` gives its
    adapters, each by the number that is its file's name.
    """

    def __init__(
        self,
        weights: Weights,
        load: Load | None,
        accelerator: Accelerator | None = None,
        **settings: Any,
    ) -> None:
        self._done: SimpleQueue[Any] = SimpleQueue()
        self.built: Built = assemble(
            weights,
            EngineConfig(Path("random"), **settings),
            self._done.put,
            accelerator,
            load=load,
        )
        self.engine = self.built.engine
        self.vocab_size = weights.config.vocab_size
        self._next_id = 0
        self._seed = 0
        self._open: set[int] = set()

    def close(self) -> None:
        """End the engine's threads."""
        self.built.close()

    def quiet(self) -> None:
        """End whatever a figure that failed has left behind."""
        for request in self._open:
            self.engine.handle(Cancel(request))
        self._open.clear()
        self.engine.take_messages()

    def hold(self, numbers: Iterable[int]) -> None:
        """Register adapters; returns when all are in host memory."""
        missing = 0
        for number in numbers:
            self.engine.handle(HoldAdapter(name_of(number), "random", world.path(number)))
            missing += 1
        while missing:
            self._receive(WAIT_S)
            missing -= sum(isinstance(message, AdapterHeld) for message in self._messages())

    def stats(self) -> Stats:
        """The engine's own count of things."""
        self.engine.handle(GetStats())
        return next(message for message in self._messages() if isinstance(message, Stats))

    # --- lockstep ---

    def open_batch(
        self,
        adapters: Sequence[int | None],
        prompt_tokens: int,
        max_tokens: int,
        temperature: float = 0.0,
    ) -> Batch:
        """Compute the prompts of one sequence for each of `adapters`; each has produced its first
        token and waits to be granted more.
        """
        prompts = self._prompts(len(adapters), prompt_tokens)
        requests = tuple(
            self._submit(
                prompt,
                number,
                max_tokens,
                1,
                sampling=Sampling(place.to_bytes(32, "big"), Choosing(temperature)),
            )
            for place, (prompt, number) in enumerate(zip(prompts, adapters, strict=True))
        )
        waiting = set(requests)
        while waiting:
            waiting -= {
                message.request_id for message in self.pump() if isinstance(message, Tokens)
            }
        return Batch(requests, [1])

    def decode(self, batch: Batch, steps: int) -> list[float]:
        """Let each sequence of the batch produce `steps` tokens; the seconds of each step.

        Raises RowFailed when they do not go in lockstep.

        Where a device computes beside the engine, the first call only begins a step: its time
        belongs to the step that the second one ends.
        """
        batch.given[0] += steps
        for request in batch.requests:
            self.engine.handle(Grant(request, batch.given[0]))
        seconds: list[float] = []
        produced = 0
        spent = 0.0
        while produced < steps * len(batch.requests):
            started = time.perf_counter()
            messages = self.pump()
            spent += time.perf_counter() - started
            given = sum(
                len(message.token_ids) for message in messages if isinstance(message, Tokens)
            )
            if given:
                seconds.append(spent)
                produced = produced + given
                spent = 0.0
        if len(seconds) != steps:
            raise RowFailed(
                f"{steps} tokens of {len(batch.requests)} sequences took {len(seconds)} steps: they"
                " did not decode together"
            )
        return seconds

    def end_batch(self, batch: Batch) -> None:
        """Give back what the sequences hold."""
        for request in batch.requests:
            self.engine.handle(Cancel(request))
        self._messages()

    # --- whole requests ---

    def time_prompts(self, adapters: Sequence[int | None], prompt_tokens: int) -> float:
        """Seconds from handing over a prompt for each of `adapters` until each has its first token,
        which ends it.
        """
        prompts = self._prompts(len(adapters), prompt_tokens)
        started = time.perf_counter()
        open_ = {
            self._submit(prompt, number, 1, 1)
            for prompt, number in zip(prompts, adapters, strict=True)
        }
        while open_:
            open_ -= {
                message.request_id for message in self.pump() if isinstance(message, Finished)
            }
        return time.perf_counter() - started

    def serve(
        self,
        adapters: Iterable[int | None],
        prompt_tokens: int,
        answer: Callable[[int], int],
        concurrent: int,
    ) -> Times:
        """Serve one request after another, `concurrent` at a time; the n-th answer has `answer(n)`
        tokens.
        """
        coming = iter(adapters)
        return self._run(_Closed(concurrent, coming), prompt_tokens, answer)

    def serve_arrivals(
        self,
        arrivals: Sequence[tuple[float, int | None]],
        prompt_tokens: int,
        answer: Callable[[int], int],
    ) -> Times:
        """Serve requests that come at their own times, (seconds from now, adapter), ascending."""
        return self._run(_Open(list(arrivals)), prompt_tokens, answer)

    def answer(self, asked: Sequence[Asked], tokens: int) -> list[tuple[list[int], list[float]]]:
        """What the engine answers to each, all at once, `tokens` tokens each; and the natural
        logarithm of each token's probability.
        """
        answers: dict[int, tuple[list[int], list[float]]] = {}
        for prompt, number, sampling in asked:
            answers[self._submit(prompt, number, tokens, tokens, sampling=sampling, logprobs=0)] = (
                [],
                [],
            )
        while any(len(ids) < tokens for ids, _ in answers.values()):
            for message in self.pump():
                if isinstance(message, Tokens):
                    answers[message.request_id][0].extend(message.token_ids)
                    answers[message.request_id][1].extend(each.logprob for each in message.logprobs)
        return list(answers.values())

    def replay(self, answered: Sequence[tuple[Asked, list[int]]]) -> list[list[float]]:
        """By how many logits each token of each answer missed; 0: it won."""
        margins: dict[int, list[float]] = {}
        for (prompt, number, sampling), tokens in answered:
            self._next_id += 1
            margins[self._next_id] = []
            self.engine.handle(
                Replay(
                    self._next_id,
                    prompt,
                    tokens,
                    None if number is None else name_of(number),
                    sampling=sampling,
                )
            )
        while not all(margins.values()):
            margins |= {
                message.request_id: message.margins
                for message in self.pump()
                if isinstance(message, Replayed)
            }
        return list(margins.values())

    def pump(self) -> list[FromEngine]:
        """Take in what other threads have finished, then one step; waits for them when no step is
        possible. What the engine says of it.
        """
        try:
            while True:
                self.engine.receive(self._done.get_nowait())
        except Empty:
            pass
        if not self.engine.step():
            messages = self._messages()
            if messages:
                return messages
            self._receive(WAIT_S)
        return self._messages()

    def _run(
        self, source: _Closed | _Open, prompt_tokens: int, answer: Callable[[int], int]
    ) -> Times:
        times = Times()
        started = time.perf_counter()
        born: dict[int, float] = {}
        last: dict[int, float] = {}
        while True:
            for due, number in source.take(time.perf_counter() - started, len(born)):
                tokens = answer(times.requests)
                born[self._submit(self._prompts(1, prompt_tokens)[0], number, tokens, tokens)] = (
                    started + due
                )
                times.requests += 1
            if not born and source.is_over:
                times.seconds = time.perf_counter() - started
                return times
            if not born:
                time.sleep(max(0.0, source.next_s - (time.perf_counter() - started)))
                continue
            messages = self.pump()
            now = time.perf_counter()
            for message in messages:
                match message:
                    case Tokens(request_id):
                        (times.gaps if request_id in last else times.first_tokens).append(
                            now - last.get(request_id, born[request_id])
                        )
                        last[request_id] = now
                        times.tokens += len(message.token_ids)
                    case Finished(request_id):
                        del born[request_id]

    def _submit(
        self,
        prompt: list[int],
        adapter: int | None,
        max_tokens: int,
        credit: int,
        sampling: Sampling = GREEDY,
        logprobs: int | None = None,
    ) -> int:
        self._next_id += 1
        self._open.add(self._next_id)
        name = None if adapter is None else name_of(adapter)
        self.engine.handle(
            Submit(
                self._next_id,
                prompt,
                name,
                sampling,
                max_tokens=max_tokens,
                credit=credit,
                stop_ids=[],
                logprobs=logprobs,
            )
        )
        return self._next_id

    def _prompts(self, count: int, length: int) -> list[list[int]]:
        self._seed += 1
        return world.make_prompts(count, length, self.vocab_size, self._seed)

    def _receive(self, wait_s: float) -> None:
        try:
            self.engine.receive(self._done.get(timeout=wait_s))
        except Empty as error:
            raise RowFailed(
                f"the engine has work, but nothing happened for {wait_s:.0f} s"
            ) from error

    def _messages(self) -> list[FromEngine]:
        messages = self.engine.take_messages()
        for message in messages:
            if isinstance(message, Finished | Failed):
                self._open.discard(message.request_id)
            if isinstance(message, Failed):
                raise RowFailed(f"a request failed ({message.code}): {message.message}")
            if isinstance(message, AdapterRefused):
                raise RowFailed(f"an adapter was refused: {message.message}")
        return messages


@dataclass
class _Closed:
    """A new request for each that ends."""

    concurrent: int
    adapters: Any
    is_over: bool = False
    next_s: float = 0.0

    def take(self, now_s: float, running: int) -> list[tuple[float, int | None]]:
        """Requests that begin now, each with the time at which it came."""
        taken: list[tuple[float, int | None]] = []
        while not self.is_over and running + len(taken) < self.concurrent:
            try:
                taken.append((now_s, next(self.adapters)))
            except StopIteration:
                self.is_over = True
        return taken


@dataclass
class _Open:
    """Requests by the clock, whoever is still running."""

    arrivals: list[tuple[float, int | None]]

    @property
    def is_over(self) -> bool:
        """Whether nobody comes any more."""
        return not self.arrivals

    @property
    def next_s(self) -> float:
        """When the next one comes."""
        return self.arrivals[0][0] if self.arrivals else math.inf

    def take(self, now_s: float, running: int) -> list[tuple[float, int | None]]:
        """Requests that have come by now, each with the time at which it came."""
        count = next(
            (place for place, (due, _) in enumerate(self.arrivals) if due > now_s),
            len(self.arrivals),
        )
        taken = self.arrivals[:count]
        self.arrivals = self.arrivals[count:]
        return taken


def name_of(number: int) -> bytes:
    """The 32 bytes that an adapter is known by."""
    return number.to_bytes(32, "big")


def release() -> None:
    """Give back what engines that have ended still hold."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, or, where that is this machine itself, a little that tests
    may use.
    """
    if device.type != "cuda":
        return 8 << 20
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])
