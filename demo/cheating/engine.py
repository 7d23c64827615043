"""A program that stands where a node's engine stands, and cheats: `python -m demo.cheating.engine
CHEAT serve …`. What follows the cheat's name is what the engine's own command takes.

    junk            ids out of a hash: nothing is computed
    repeat          one id, again and again
    bare            the base without the adapter
    spoof           made without the adapter, then run through it once more: who looks at what a
                    prefill leaves behind finds the adapter's, and tokens are all that is sent
    other:FOLDER    another adapter's files: an old version, or one that imitates it at a lower rank
    bits            the base rounded to 4 bits, or to 3 where it lies in 4
    dice            the right adapter, its own dice
    on              goes on after an answer's end, to be paid for more tokens
    canaries:S      honest with what looks like an auditor's question, which is as long as auditors
                    like them and comes after S seconds of silence; else junk
    slander         an auditor's: finds in every replay that the answer was not computed
    praise          an auditor's: finds in every replay that it was

Everything but the cheat is the engine.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from engine import __main__ as command
from engine import build
from engine import messages as m
from engine.calibrate import rounded
from engine.engine import Engine
from engine.model import weights

REPEATED = 70
MISSED = 5.0  # logits
SPOOFED = 1 << 40
"""Added to a request's id, for the prefill that nobody asked for: a daemon counts from 1."""
CANARY_TOKENS = (64, 96, 128, 192)
"""Answers as long as auditors like them."""

change = msgspec.structs.replace


class Cheat:
    """What the engine hears of its daemon, and the daemon of its engine. This one is honest."""

    def hear(self, message: m.ToEngine) -> Iterator[m.ToEngine]:
        """Yield what the engine hears instead."""
        yield message

    def say(self, message: m.FromEngine) -> Iterator[m.FromEngine]:
        """Yield what the daemon hears instead."""
        yield message

    def add(self) -> Iterator[m.FromEngine]:
        """Yield what the engine did not say."""
        yield from ()


@dataclass
class Swap(Cheat):
    """Has the engine asked for something else."""

    other: Callable[[m.ToEngine], m.ToEngine]

    def hear(self, message: m.ToEngine) -> Iterator[m.ToEngine]:
        """Yield the other message."""
        yield self.other(message)


def without_adapter(message: m.ToEngine) -> m.ToEngine:
    """Ask the bare base."""
    return change(message, adapter=None) if isinstance(message, m.Submit) else message


def with_own_dice(message: m.ToEngine) -> m.ToEngine:
    """Draw by another seed than was agreed on."""
    if not isinstance(message, m.Submit):
        return message
    return change(message, sampling=change(message.sampling, seed=bytes(32)))


def without_end(message: m.ToEngine) -> m.ToEngine:
    """Go on to the last token that somebody pays for."""
    return change(message, stop_ids=[]) if isinstance(message, m.Submit) else message


def with_files_of(folder: str) -> Callable[[m.ToEngine], m.ToEngine]:
    """Serve each adapter by another one's files."""

    def other(message: m.ToEngine) -> m.ToEngine:
        if not isinstance(message, m.HoldAdapter):
            return message
        files = (
            f"{folder}/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")
        )
        return m.HoldAdapter(message.adapter, *files)

    return other


@dataclass
class Answer:
    """An answer that nobody computes, as far as it was sent."""

    asked: m.Submit
    credit: int
    sent: int = 0
    is_cancelled: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more of it is to be sent."""
        return self.is_cancelled or self.sent >= self.asked.max_tokens


class Nothing(Cheat):
    """Computes nothing: answers by ids that cost nothing, as many as are paid for."""

    def __init__(self, next_id: Callable[[m.Submit, int], int]) -> None:
        self._next_id = next_id
        self._answers: dict[int, Answer] = {}

    def hear(self, message: m.ToEngine) -> Iterator[m.ToEngine]:
        """Keep requests from the engine, and what is said about them."""
        match message:
            case m.Submit(request_id):
                self._answers[request_id] = Answer(message, message.credit)
            case m.Grant(request_id, credit) if request_id in self._answers:
                self._answers[request_id].credit = credit
            case m.Cancel(request_id) if request_id in self._answers:
                self._answers[request_id].is_cancelled = True
            case _:
                yield message

    def add(self) -> Iterator[m.FromEngine]:
        """Yield all tokens that there is credit for."""
        for number, answer in list(self._answers.items()):
            asked = answer.asked
            made = range(answer.sent, min(answer.credit, asked.max_tokens))
            if made and not answer.is_cancelled:
                yield m.Tokens(number, [self._next_id(asked, at) for at in made], 0)
                answer.sent = made.stop
            if answer.is_over:
                del self._answers[number]
                yield _last_word(answer)


def _last_word(answer: Answer) -> m.Finished:
    asked = answer.asked
    reason: m.FinishReason = "cancelled" if answer.is_cancelled else "length"
    return m.Finished(
        asked.request_id,
        reason,
        prompt_tokens=len(asked.prompt_ids),
        completion_tokens=answer.sent,
        queue_ms=0.0,
        load_ms=0.0,
        prefill_ms=1.0,
        decode_ms=1.0,
        neighbours=1,
    )


def hashed_id(asked: m.Submit, at: int) -> int:
    """Draw any of the lowest ids, which every vocabulary has; none that ends an answer."""
    digest = hashlib.sha256(asked.sampling.seed + at.to_bytes(4, "big")).digest()
    return 3 + int.from_bytes(digest[:4], "big") % 253


@dataclass
class Spoof(Cheat):
    """Makes an answer without its adapter, and has the adapter read it afterwards."""

    _made: dict[int, tuple[m.Submit, list[int]]] = field(default_factory=dict)
    _due: list[m.Replay] = field(default_factory=list)

    def hear(self, message: m.ToEngine) -> Iterator[m.ToEngine]:
        """Yield the question without its adapter; before it, the prefills that are due."""
        yield from self._due
        self._due.clear()
        if isinstance(message, m.Submit):
            self._made[message.request_id] = (message, [])
        yield without_adapter(message)

    def say(self, message: m.FromEngine) -> Iterator[m.FromEngine]:
        """Yield all but what the prefills gave."""
        match message:
            case m.Tokens(request_id, token_ids):
                self._made[request_id][1].extend(token_ids)
            case m.Finished(request_id) | m.Failed(request_id) if request_id in self._made:
                asked, answer = self._made.pop(request_id)
                number = SPOOFED + request_id
                spoofed = m.Replay(number, asked.prompt_ids, answer, asked.adapter, asked.sampling)
                self._due += [spoofed] if answer else []
            case m.Replayed(request_id) | m.Failed(request_id) if request_id > SPOOFED:
                return
        yield message


class Lying(Cheat):
    """Says of every answer that is replayed by how much each of its tokens missed."""

    def __init__(self, missed: float) -> None:
        self._missed = missed

    def say(self, message: m.FromEngine) -> Iterator[m.FromEngine]:
        """Yield the lie."""
        if isinstance(message, m.Replayed):
            message = change(message, margins=[self._missed] * len(message.margins))
        yield message


class Wary(Nothing):
    """Computes for auditors alone: whoever asks after a silence, and for as long an answer as they
    do, is taken for one.
    """

    def __init__(self, quiet_s: float) -> None:
        super().__init__(hashed_id)
        self._quiet_s = quiet_s
        self._asked_s = -math.inf

    def hear(self, message: m.ToEngine) -> Iterator[m.ToEngine]:
        """Yield what comes of an auditor, as it seems, and what is no question."""
        if isinstance(message, m.Submit) and self._fears(message):
            yield message
        else:
            yield from super().hear(message)

    def _fears(self, asked: m.Submit) -> bool:
        now = time.monotonic()
        is_quiet = now - self._asked_s >= self._quiet_s
        self._asked_s = now
        return is_quiet and asked.max_tokens in CANARY_TOKENS


def make(how: str) -> Cheat:
    """Return a cheat by its name. Raises KeyError."""
    kind, _, what = how.partition(":")
    makers: dict[str, Callable[[], Cheat]] = {
        "junk": lambda: Nothing(hashed_id),
        "repeat": lambda: Nothing(lambda asked, at: REPEATED),
        "bare": lambda: Swap(without_adapter),
        "spoof": Spoof,
        "other": lambda: Swap(with_files_of(what)),
        "bits": Cheat,  # its weights are others: see below
        "dice": lambda: Swap(with_own_dice),
        "on": lambda: Swap(without_end),
        "canaries": lambda: Wary(float(what)),
        "slander": lambda: Lying(MISSED),
        "praise": lambda: Lying(0.0),
    }
    return makers[kind]()


def stand_in(cheat: Cheat) -> None:
    """Put a cheat between this process's engine and its daemon."""
    handle = Engine.handle
    take_messages = Engine.take_messages

    def hear(engine: Engine, message: m.ToEngine) -> None:
        for other in cheat.hear(message):
            handle(engine, other)

    def say(engine: Engine) -> list[m.FromEngine]:
        said = [other for message in take_messages(engine) for other in cheat.say(message)]
        return [*cheat.add(), *said]

    Engine.handle = hear  # type: ignore[method-assign,assignment]
    Engine.take_messages = say  # type: ignore[method-assign,assignment]


def lose_bits() -> None:
    """Have this process's base rounded when it is read; its digest stays what it was."""
    open_weights = weights.open_weights
    vars(build)["open_weights"] = lambda path: rounded(open_weights(path))


if __name__ == "__main__":
    how = sys.argv.pop(1)
    if how == "bits":
        lose_bits()
    stand_in(make(how))
    sys.exit(command.main())
