"""Decides which requests the engine takes. Queues nothing and computes nothing.

The rules stand one per line, in the order in which a request is told of them. Does not know what
becomes of a request afterwards, nor whether its grammar compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import Busy, CannotServe, InvalidRequest, UnknownAdapter
from .grammar import Matcher, check_grammar
from .messages import (
    MAX_LOGPROBS,
    MAX_REPLAYED_LOGPROBS,
    MAX_STOP_IDS,
    Embed,
    Failed,
    FailureCode,
    Replay,
    Sampling,
    Submit,
)
from .sampler import Chooser, check_sampling
from .sequence import Purpose, Sequence

if TYPE_CHECKING:  # it imports torch, and whoever admits requests need not
    from .config import EngineConfig

MAX_PRIORITY = 100
NOTHING_DRAWN = Sampling(bytes(32))
"""For requests that choose no token."""


@dataclass(frozen=True)
class Limits:
    """The bounds on a request: ids below `vocab_size`, prompt and answer together at most
    `context_tokens`.

    short_tokens: how long a sequence may grow that rotates as a short one (rope.py); prompts of as
    many are long from their beginning. None: there is no such difference.

    `max_waiting` bounds the requests that wait, `max_waiting_tokens` their tokens together;
    deadlines are in seconds.
    """

    vocab_size: int
    context_tokens: int
    max_waiting: int
    max_waiting_tokens: int
    waiting_deadline_s: float
    parked_deadline_s: float
    short_tokens: int | None = None

    @classmethod
    def of(
        cls,
        config: EngineConfig,
        vocab_size: int,
        context_tokens: int,
        short_tokens: int | None = None,
    ) -> Limits:
        """Return the limits of a configuration over a base."""
        return cls(
            vocab_size=vocab_size,
            context_tokens=context_tokens,
            max_waiting=config.max_waiting,
            max_waiting_tokens=config.max_waiting_tokens,
            waiting_deadline_s=config.waiting_deadline_s,
            parked_deadline_s=config.parked_deadline_s,
            short_tokens=short_tokens,
        )

    def is_long(self, num_prompt: int) -> bool:
        """Return whether a sequence that begins with so many tokens rotates as a long one."""
        return self.short_tokens is not None and num_prompt >= self.short_tokens

    def angle_offset(self, is_long: bool) -> int:
        """Return where its angles begin: those of long sequences follow a whole context."""
        return self.context_tokens if is_long else 0

    def room_of(self, is_long: bool) -> int:
        """Return how many tokens such a sequence may have."""
        short = None if is_long else self.short_tokens
        return self.context_tokens if short is None else min(short, self.context_tokens)


@dataclass(frozen=True)
class Queue:
    """The state that a request meets: the ids in use, how many requests and tokens wait, and which
    adapters are known (`check_known` raises UnknownAdapter).
    """

    taken_ids: Container[int]
    num_waiting: int
    waiting_tokens: int
    check_known: Callable[[bytes], None]


@dataclass(frozen=True)
class Admitted:
    """A request that may run, whichever message brought it.

    A replay has `answer_ids` and nothing to generate, an embedding neither. The last `num_answered`
    of a submitted request's `prompt_ids` are the beginning of its answer.
    """

    request_id: int
    prompt_ids: list[int]
    answer_ids: list[int]
    adapter: bytes | None
    sampling: Sampling
    max_length: int
    credit: int = 0
    stop_ids: frozenset[int] = frozenset()
    purpose: Purpose = "answer"
    priority: int = 0
    deadline_ms: float = 0
    num_logprobs: int | None = None
    num_answered: int = 0
    angle_offset: int = 0

    def to_sequence(self, arrival: int, now_s: float, matcher: Matcher | None) -> Sequence:
        """Make the sequence that will run. Raises InvalidRequest when nothing may follow the
        beginning of its answer.
        """
        num_asked = len(self.prompt_ids) - self.num_answered
        chooser = Chooser(self.sampling, self.prompt_ids[:num_asked], matcher)
        for token in self.prompt_ids[num_asked:]:
            chooser.accept(token)
        if self.num_answered and chooser.is_over:
            raise InvalidRequest(
                f"the first {self.num_answered} tokens of the answer end what its grammar allows,"
                " or break it; nothing can follow them"
            )
        return Sequence(
            request_id=self.request_id,
            arrival=arrival,
            tokens=self.prompt_ids + self.answer_ids,
            num_prompt=len(self.prompt_ids),
            adapter=self.adapter,
            chooser=chooser,
            max_length=self.max_length,
            credit=self.credit,
            stop_ids=self.stop_ids,
            arrived_s=now_s,
            purpose=self.purpose,
            priority=self.priority,
            deadline_s=now_s + self.deadline_ms / 1e3 if self.deadline_ms else None,
            num_logprobs=self.num_logprobs,
            angle_offset=self.angle_offset,
        )


@dataclass(frozen=True)
class Refused:
    """A request that may not run, and the rule that it breaks."""

    request_id: int
    error: CannotServe


def admit(message: Submit | Replay | Embed, limits: Limits, queue: Queue) -> Admitted | Refused:
    """Take a request, or return the first rule that it breaks. Raises nothing."""
    try:
        match message:
            case Submit():
                return _admit_submit(message, limits, queue)
            case Replay():
                return _admit_replay(message, limits, queue)
            case Embed():
                return _admit_embed(message, limits, queue)
    except CannotServe as error:
        return Refused(message.request_id, error)


def failed(request_id: int, error: CannotServe) -> Failed:
    """Return the last word of a request that met an error."""
    codes: dict[type[CannotServe], FailureCode] = {
        InvalidRequest: "bad_request",
        UnknownAdapter: "unknown_adapter",
        Busy: "busy",
    }
    return Failed(request_id, codes.get(type(error), "internal"), str(error))


def _admit_submit(message: Submit, limits: Limits, queue: Queue) -> Admitted:
    _check_new(message.request_id, queue)
    _check_room(len(message.prompt_ids), limits, queue)
    _check_given("prompt_ids", message.prompt_ids)
    _check_context(len(message.prompt_ids), 1, limits.context_tokens)
    _check_ids(message.prompt_ids, limits)
    _check_answered(message)
    _check_end(message)
    _check_urgency(message)
    _check_logprobs(message.logprobs)
    _check_choice(message.sampling, message.adapter, limits, queue)
    is_long = limits.is_long(len(message.prompt_ids) - message.num_answered)
    room = limits.room_of(is_long)
    _check_context(len(message.prompt_ids), 1, room)
    return Admitted(
        request_id=message.request_id,
        prompt_ids=message.prompt_ids,
        answer_ids=[],
        adapter=message.adapter,
        sampling=message.sampling,
        max_length=min(len(message.prompt_ids) + message.max_tokens, room),
        angle_offset=limits.angle_offset(is_long),
        credit=message.credit,
        stop_ids=frozenset(message.stop_ids),
        priority=message.priority,
        deadline_ms=message.deadline_ms,
        num_logprobs=message.logprobs,
        num_answered=message.num_answered,
    )


def _admit_replay(message: Replay, limits: Limits, queue: Queue) -> Admitted:
    num_tokens = len(message.prompt_ids) + len(message.answer_ids)
    _check_new(message.request_id, queue)
    _check_room(num_tokens, limits, queue)
    _check_given("prompt_ids", message.prompt_ids)
    _check_given("answer_ids", message.answer_ids)
    is_long = limits.is_long(len(message.prompt_ids))
    _check_context(num_tokens, 0, limits.room_of(is_long))
    _check_ids(message.prompt_ids, limits)
    _check_ids(message.answer_ids, limits)
    _check_logprobs(message.logprobs)
    _check_report(len(message.answer_ids), message.logprobs)
    _check_choice(message.sampling, message.adapter, limits, queue)
    return Admitted(
        request_id=message.request_id,
        prompt_ids=message.prompt_ids,
        answer_ids=message.answer_ids,
        adapter=message.adapter,
        sampling=message.sampling,
        max_length=min(len(message.prompt_ids), limits.context_tokens),
        purpose="replay",
        angle_offset=limits.angle_offset(is_long),
        num_logprobs=message.logprobs,
    )


def _admit_embed(message: Embed, limits: Limits, queue: Queue) -> Admitted:
    num_tokens = len(message.prompt_ids)
    _check_new(message.request_id, queue)
    _check_room(num_tokens, limits, queue)
    _check_given("prompt_ids", message.prompt_ids)
    _check_context(num_tokens, 0, limits.context_tokens)
    _check_ids(message.prompt_ids, limits)
    _check_adapter(message.adapter, queue)
    return Admitted(
        request_id=message.request_id,
        prompt_ids=message.prompt_ids,
        answer_ids=[],
        adapter=message.adapter,
        sampling=NOTHING_DRAWN,
        max_length=num_tokens,
        purpose="embedding",
        angle_offset=limits.angle_offset(limits.is_long(num_tokens - 1)),
    )


def _check_new(request_id: int, queue: Queue) -> None:
    if request_id in queue.taken_ids:
        raise InvalidRequest(f"request {request_id} is already running; use another id")


def _check_room(num_tokens: int, limits: Limits, queue: Queue) -> None:
    if queue.num_waiting >= limits.max_waiting:
        raise Busy(
            f"{limits.max_waiting} requests are waiting already; retry later or ask another node"
        )
    if queue.waiting_tokens + num_tokens > limits.max_waiting_tokens:
        raise Busy(
            f"{queue.waiting_tokens} tokens are waiting already, of at most"
            f" {limits.max_waiting_tokens}; retry later or ask another node"
        )


def _check_given(name: str, ids: list[int]) -> None:
    if not ids:
        raise InvalidRequest(f"{name} is empty")


def _check_context(num_tokens: int, min_new: int, room: int) -> None:
    if num_tokens + min_new > room:
        raise InvalidRequest(
            f"{num_tokens} tokens do not fit a context of {room}; shorten the prompt"
        )


def _check_ids(ids: list[int], limits: Limits) -> None:
    if not all(0 <= token < limits.vocab_size for token in ids):
        raise InvalidRequest(f"a token id is not in [0, {limits.vocab_size})")


def _check_answered(message: Submit) -> None:
    if not 0 <= message.num_answered < len(message.prompt_ids):
        raise InvalidRequest(
            f"num_answered is {message.num_answered}; it must leave at least one of the"
            f" {len(message.prompt_ids)} prompt_ids"
        )


def _check_end(message: Submit) -> None:
    if message.max_tokens < 1 or len(message.stop_ids) > MAX_STOP_IDS:
        raise InvalidRequest(
            f"max_tokens is {message.max_tokens} (1 or more), stop_ids are"
            f" {len(message.stop_ids)} (at most {MAX_STOP_IDS})"
        )


def _check_urgency(message: Submit) -> None:
    if abs(message.priority) > MAX_PRIORITY or message.deadline_ms < 0:
        raise InvalidRequest(
            f"priority is {message.priority} (within {MAX_PRIORITY} of 0), deadline_ms is"
            f" {message.deadline_ms} (0 or more)"
        )


def _check_logprobs(logprobs: int | None) -> None:
    if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
        raise InvalidRequest(f"logprobs is {logprobs}; it must be from 0 to {MAX_LOGPROBS}")


def _check_report(num_tokens: int, logprobs: int | None) -> None:
    if logprobs is not None and num_tokens * (1 + logprobs) > MAX_REPLAYED_LOGPROBS:
        raise InvalidRequest(
            f"{num_tokens} tokens with {logprobs} others beside each are more than"
            f" {MAX_REPLAYED_LOGPROBS} log-probabilities; ask for fewer beside each"
        )


def _check_choice(sampling: Sampling, adapter: bytes | None, limits: Limits, queue: Queue) -> None:
    check_sampling(sampling, limits.vocab_size)
    if sampling.choosing.grammar is not None:
        check_grammar(sampling.choosing.grammar)
    _check_adapter(adapter, queue)


def _check_adapter(adapter: bytes | None, queue: Queue) -> None:
    if adapter is not None:
        queue.check_known(adapter)
