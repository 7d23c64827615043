"""An answer on its way to whoever asked: a bounded queue of events, and the writer that turns
tokens into text. Decides only where text is cut.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Sequence

import trio

from engine import messages as m

from ..api import CompletionEvent, CompletionRequest, Delta, LikelyToken, TokenLogprobs
from ..errors import NodeError
from ..wire import infer as wire
from .tokenizer import BaseTokenizer, StopFinder

Reported = m.TokenLogprobs | wire.TokenLogprobs
"""By our own engine, or by another node."""

EVENTS_BESIDE_TOKENS = 8


class Answer:
    """Iterate it for the events of one request.

    The task that fills it runs elsewhere; its error is raised here, as a NodeError.
    """

    def __init__(self, max_tokens: int, log: Callable[[str], None]) -> None:
        self._log = log
        self._scope = trio.CancelScope()
        self._error: NodeError | None = None
        self._send, self._receive = trio.open_memory_channel[CompletionEvent](
            max(max_tokens, 0) + EVENTS_BESIDE_TOKENS
        )

    async def run(
        self,
        work: Callable[[CompletionRequest, Answer], Awaitable[None]],
        request: CompletionRequest,
    ) -> None:
        """Do the work until it ends, fails or is cancelled."""
        with self._send, self._scope:
            try:
                await work(request, self)
            except NodeError as error:
                self._error = error
            except (
                Exception
            ) as error:  # our own bug, or a full disk: it costs this answer, never the daemon
                self._log(f"answer: {''.join(traceback.format_exception(error))}")
                self._error = NodeError(
                    f"this daemon failed while it answered: {error!r}; its log has the whole story"
                )

    def cancel(self) -> None:
        """Nobody listens any more."""
        self._scope.cancel()

    def put(self, event: CompletionEvent) -> None:
        """Queue an event; there is room for one a token, so it never waits for a slow listener."""
        self._send.send_nowait(event)

    def __aiter__(self) -> Answer:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> CompletionEvent:
        """The next event; after the last one the work's error, if any."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            error = self._error
            self._error = None
            if error is not None:
                raise error from None
            raise StopAsyncIteration from None


class Writer:
    """Turns one answer's tokens into text events, and cuts them at the first stop text."""

    def __init__(self, answer: Answer, tokenizer: BaseTokenizer, stops: tuple[str, ...]) -> None:
        self._answer = answer
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer()
        self._finder = StopFinder(stops)
        self.num_tokens = 0
        self.stopped = False

    def write(self, event: CompletionEvent) -> None:
        """Pass an event on."""
        self._answer.put(event)

    def put(self, token_ids: Sequence[int], logprobs: Sequence[Reported] = ()) -> bool:
        """More tokens; True when the answer should end here because a stop text came."""
        self.num_tokens += len(token_ids)
        if self.stopped:
            return False
        text, self.stopped = self._finder.feed(self._detokenizer.feed(token_ids))
        self.write(
            Delta(
                text,
                tuple(token_ids),
                tuple(self._spell(*each) for each in zip(token_ids, logprobs, strict=False)),
            )
        )
        return self.stopped

    def _spell(self, token: int, reported: Reported) -> TokenLogprobs:
        return TokenLogprobs(
            self._likely(token, reported.logprob),
            tuple(self._likely(*each) for each in reported.top),
        )

    def _likely(self, token: int, logprob: float) -> LikelyToken:
        data = self._tokenizer.spell(token)
        return LikelyToken(data.decode(errors="replace"), data, logprob)

    def flush(self) -> None:
        """Give out what was held back for a stop text or an incomplete character."""
        if self.stopped:
            return
        text, stopped = self._finder.feed(self._detokenizer.flush())
        rest = text if stopped else text + self._finder.held
        if rest:
            self.write(Delta(rest, ()))
