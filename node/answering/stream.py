"""Carries an answer to whoever asked: a queue of events, and the writer that turns tokens
into text and calls of tools.

Decides where text is cut; does not know who answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from engine import messages as m

from ..api.answers import CompletionEvent, Delta, Ended, LikelyToken, TokenLogprobs
from ..errors import EngineLost, NodeError
from ..wire import infer as wire
from .call_reader import CallReader, Piece
from .tokenizer import BaseTokenizer, StopFinder

Reported = m.TokenLogprobs | wire.TokenLogprobs
"""By our own engine, or by another node."""


class AnswerSender:
    """The end of an answer into which events are put. Closing it ends the answer."""

    def __init__(self, channel: trio.MemorySendChannel[CompletionEvent | NodeError]) -> None:
        self._channel = channel
        self._beginning = trio.CancelScope()

    @contextmanager
    def begun_within(self, deadline_s: float) -> Iterator[None]:
        """Run a block that puts an event soon; afterwards it may take as long as it likes. Raises
        trio.TooSlowError.
        """
        with trio.fail_after(deadline_s) as self._beginning:
            yield

    def put(self, event: CompletionEvent) -> None:
        """Queue an event; it never waits for a slow listener."""
        self._beginning.deadline = math.inf
        self._channel.send_nowait(event)

    def fail(self, error: NodeError) -> None:
        """End the answer with an error, after everything that was put before."""
        self._channel.send_nowait(error)

    def close(self) -> None:
        """End the answer; nothing more comes."""
        self._channel.close()


class AnswerReceiver:
    """The end from which events are read, by iterating; an error that ended the answer is raised in
    its turn.
    """

    def __init__(self, channel: trio.MemoryReceiveChannel[CompletionEvent | NodeError]) -> None:
        self._channel = channel
        self._is_over = False

    def __aiter__(self) -> AnswerReceiver:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> CompletionEvent:
        """Wait for the next event. Raises EngineLost when the answer was left without an end."""
        try:
            event = await self._channel.receive()
        except trio.EndOfChannel:
            if not self._is_over:
                self._is_over = True
                raise EngineLost("this daemon is stopping; ask again when it is back") from None
            raise StopAsyncIteration from None
        self._is_over = isinstance(event, NodeError | Ended)
        if isinstance(event, NodeError):
            raise event
        return event


def open_answer() -> tuple[AnswerSender, AnswerReceiver]:
    """Create both ends of an answer."""
    # There are some events for each token, and who makes the tokens bounds them.
    send, receive = trio.open_memory_channel[CompletionEvent | NodeError](math.inf)
    return AnswerSender(send), AnswerReceiver(receive)


class Writer:
    """Turns one answer's tokens into text events, and cuts them at the first stop text."""

    def __init__(
        self,
        answer: AnswerSender,
        tokenizer: BaseTokenizer,
        stops: tuple[str, ...],
        calls: CallReader | None = None,
        echo: Delta | None = None,
    ) -> None:
        self._answer = answer
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer(with_marks=calls is not None)
        self._finder = StopFinder(stops)
        self._calls = calls
        self._echo = echo
        self.num_tokens = 0
        self.stopped = False

    @property
    def stop_text(self) -> str:
        """Return the stop text that came; empty where none did."""
        return self._finder.found

    def write(self, event: CompletionEvent) -> None:
        """Pass an event on; what is echoed comes behind the first."""
        self._answer.put(event)
        if self._echo is not None:
            echo, self._echo = self._echo, None
            self._answer.put(echo)

    def put(self, token_ids: Sequence[int], logprobs: Sequence[Reported] = ()) -> bool:
        """Write more tokens; return True when a stop text came and the answer should end here."""
        self.num_tokens += len(token_ids)
        if self.stopped:
            return False
        text, self.stopped = self._finder.feed(self._detokenizer.feed(token_ids))
        pieces = self._pieces(text)
        first = pieces.pop(0) if pieces and isinstance(pieces[0], str) else ""
        spelled = [spell(self._tokenizer, *each) for each in zip(token_ids, logprobs, strict=False)]
        self.write(Delta(str(first), tuple(token_ids), tuple(spelled)))
        self._write_all(pieces)
        if self.stopped:
            self._end_calls()
        return self.stopped

    def flush(self) -> None:
        """Write what was held back for a stop text or an incomplete character."""
        if self.stopped:
            return
        text, stopped = self._finder.feed(self._detokenizer.flush())
        self._write_all(self._pieces(text if stopped else text + self._finder.held))
        self._end_calls()

    def _pieces(self, text: str) -> list[Piece]:
        if self._calls is not None:
            return self._calls.feed(text)
        return [text] if text else []

    def _end_calls(self) -> None:
        if self._calls is not None:
            self._write_all(self._calls.flush())

    def _write_all(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.write(Delta(piece, ()) if isinstance(piece, str) else piece)


def spell(tokenizer: BaseTokenizer, token: int, reported: Reported | None) -> TokenLogprobs:
    """Return a token's report in letters; None where there is none."""
    if reported is None:
        return TokenLogprobs(_likely(tokenizer, token, None), ())
    return TokenLogprobs(
        _likely(tokenizer, token, reported.logprob),
        tuple(_likely(tokenizer, *each) for each in reported.top),
    )


def _likely(tokenizer: BaseTokenizer, token: int, logprob: float | None) -> LikelyToken:
    data = tokenizer.spell(token)
    return LikelyToken(data.decode(errors="replace"), data, logprob)
