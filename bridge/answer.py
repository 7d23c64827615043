"""One request's life at the server: piece after piece, none longer than what is paid.

vLLM cannot be told to wait, so an answer is asked for in pieces of what the credit allows. The next
piece begins with all tokens so far, which vLLM's prefix cache has computed already.

    credit ──▶ ask for as many tokens ──▶ all came, "length" ──▶ more wanted? wait for credit
                                     └──▶ a stop id ──▶ finished

Knows no other request.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from engine.errors import Busy, CannotServe, InvalidRequest, UnknownAdapter
from engine.intake import Admitted, failed
from engine.messages import Failed, Finished, FinishReason, TokenLogprobs, Tokens

from .asking import put_in_words, read_logprobs
from .errors import BridgeError, ServerBroke, ServerLost, ServerRefused
from .replies import Choice
from .vllm import Vllm


class Answer:
    """One request. `run` leads it to its last word; the others may be called meanwhile.

    `model` is the name of its adapter, or of the base, at the server; `tell` sends its tokens;
    `neighbours` counts the distinct adapters that are at work.
    """

    def __init__(
        self,
        admitted: Admitted,
        model: str,
        tell: Callable[[Tokens], None],
        neighbours: Callable[[], int],
        *,
        vocab_size: int,
        parked_deadline_s: float,
    ) -> None:
        self._admitted = admitted
        self._model = model
        self._tell = tell
        self._count_neighbours = neighbours
        self._vocab_size = vocab_size
        self._parked_deadline_s = parked_deadline_s
        self._credit = admitted.credit
        self._granted = trio.Event()
        self._scope = trio.CancelScope()
        self._made: list[int] = []
        self._most_neighbours = 0
        self._cached_tokens = 0
        self._began_s = time.monotonic()
        self._first_s: float | None = None

    @property
    def has_begun(self) -> bool:
        """Return whether its first token came."""
        return self._first_s is not None

    @property
    def num_tokens(self) -> int:
        """Return the length of its prompt."""
        return len(self._admitted.prompt_ids)

    def grant(self, credit: int) -> None:
        """Let it have `credit` tokens in all; less than before changes nothing."""
        if credit > self._credit:
            self._credit = credit
            self._granted.set()
            self._granted = trio.Event()

    def cancel(self) -> None:
        """End it as soon as can be."""
        self._scope.cancel()

    async def run(self, server: Vllm) -> Finished | Failed:
        """Lead it to its last word. Raises ServerLost where the server is gone."""
        deadline_ms = self._admitted.deadline_ms
        try:
            with self._scope:
                with trio.move_on_after(deadline_ms / 1e3 if deadline_ms else float("inf")):
                    return self._finished(await self._generate(server))
                text = f"not finished within {deadline_ms / 1e3:.1f} s"
                return Failed(self._admitted.request_id, "deadline", text)
        except ServerRefused as refusal:
            return failed(self._admitted.request_id, _meaning(refusal))
        except ServerBroke as error:
            await _check_alive(server)
            return Failed(self._admitted.request_id, "internal", str(error))
        return self._finished("cancelled")

    async def _generate(self, server: Vllm) -> FinishReason:
        wanted = self._admitted.max_length - self.num_tokens
        while len(self._made) < wanted:
            room = min(self._credit, wanted) - len(self._made)
            if room > 0:
                if await self._ask(server, room) == "stop":
                    return "stop"
            elif not await self._wait_for_credit():
                return "cancelled"
        return "length"

    async def _wait_for_credit(self) -> bool:
        with trio.move_on_after(self._parked_deadline_s) as waited:
            await self._granted.wait()
        return not waited.cancelled_caught

    async def _ask(self, server: Vllm, room: int) -> str:
        """Take the next piece, of `room` tokens at most; say why it ended. Raises ServerBroke."""
        end = len(self._made) + room
        reason = None
        body = put_in_words(self._admitted, self._made, room, self._model)
        async with server.generate(body) as pieces:
            async for piece in pieces:
                if piece.error is not None:
                    raise ServerBroke(f"vLLM gave up: {piece.error.message[:600]}")
                for choice in piece.choices:
                    self._take(choice, end)
                    reason = choice.finish_reason or reason
                if piece.usage and piece.usage.prompt_tokens_details and end == room:
                    self._cached_tokens = piece.usage.prompt_tokens_details.cached_tokens or 0
        if reason not in ("stop", "length"):
            raise ServerBroke(f"vLLM ended an answer with {reason!r}")
        if reason == "length" and len(self._made) != end:
            raise ServerBroke(f"vLLM ended an answer after {len(self._made)} of {end} tokens")
        return reason

    def _take(self, choice: Choice, end: int) -> None:
        """Pass tokens on. Raises ServerBroke for more than were asked for, or what is no token."""
        ids = choice.token_ids or []
        if not ids:
            return
        if len(self._made) + len(ids) > end:
            raise ServerBroke("vLLM sent more tokens than it was asked for")
        if not all(0 <= token < self._vocab_size for token in ids):
            raise ServerBroke("vLLM sent a token id that the base does not have")
        self._first_s = self._first_s or time.monotonic()
        self._most_neighbours = max(self._most_neighbours, self._count_neighbours())
        self._made += ids
        self._tell(Tokens(self._admitted.request_id, ids, 0, self._logprobs(choice)))

    def _logprobs(self, choice: Choice) -> list[TokenLogprobs]:
        count = self._admitted.num_logprobs
        if count is None:
            return []
        content = (choice.logprobs and choice.logprobs.content) or []
        if [each.token_id for each in content] != choice.token_ids:
            raise ServerBroke("vLLM left out log-probabilities")
        return [read_logprobs(each, count) for each in content]

    def _finished(self, reason: FinishReason) -> Finished:
        now_s = time.monotonic()
        first_s = self._first_s or now_s
        return Finished(
            self._admitted.request_id,
            reason,
            prompt_tokens=self.num_tokens,
            completion_tokens=len(self._made),
            queue_ms=0.0,
            load_ms=0.0,
            prefill_ms=(first_s - self._began_s) * 1e3,
            decode_ms=(now_s - first_s) * 1e3,
            neighbours=self._most_neighbours,
            cached_tokens=self._cached_tokens,
        )


def _meaning(refusal: ServerRefused) -> CannotServe:
    """Return what a refusal of vLLM's means to whoever asked."""
    match refusal.status:
        case 400 | 422:
            return InvalidRequest(f"vLLM refused it: {refusal}")
        case 404:
            return UnknownAdapter(f"vLLM does not know it: {refusal}")
        case 429 | 503:
            return Busy(str(refusal))
        case _:
            return CannotServe(f"vLLM answered {refusal.status}: {refusal}")


async def _check_alive(server: Vllm) -> None:
    """Raise ServerLost unless the server lives on after it broke off."""
    try:
        await server.check_health()
    except BridgeError as error:
        raise ServerLost(f"vLLM is gone: {error}") from error
