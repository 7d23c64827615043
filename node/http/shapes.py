"""Shapes answers for an OpenAI client, whole or in chunks, with our own facts beside them.

Pure; knows no socket and no daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..api.answers import CallDelta, Continued, Delta, Ended, LikelyToken, Started, TokenLogprobs
from .openai import Asked


@dataclass
class Call:
    """One call of a tool, as far as it has come."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Choice:
    """One of the answers to a request, as far as it has come.

    `spelled` counts the characters of the tokens whose log-probabilities were sent.
    """

    number: int
    started: Started | None = None
    continued: list[Continued] = field(default_factory=list)
    ended: Ended | None = None
    texts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    spelled: int = 0

    def take(self, delta: Delta) -> None:
        """Append more of it."""
        self.texts.append(delta.text)
        self.logprobs += delta.logprobs

    def take_call(self, delta: CallDelta) -> None:
        """Append more of a call."""
        if delta.index == len(self.calls):
            self.calls.append(Call(delta.id, delta.name))
        self.calls[delta.index].arguments += delta.arguments


@dataclass(frozen=True)
class AnswerShape:
    """Shapes the answers to one request.

    `answer_id` and `created` (unix seconds) are the same in each of their chunks.
    """

    asked: Asked
    answer_id: str
    created: int

    def opening(self, choice: Choice) -> list[dict[str, Any]]:
        """Return what a stream sends before an answer's first token."""
        started = _begun(choice)
        facts = begun_facts(started) | {"timings": dict(started.timings_ms)}
        delta = {"role": "assistant", "content": ""}
        return (
            [self._chunk(choice, delta, "", None) | {"lorikeet": facts}] if self.asked.chat else []
        )

    def more(self, choice: Choice, delta: Delta) -> list[dict[str, Any]]:
        """Return the chunk for some text; none while there is nothing to send."""
        if not delta.text and not delta.logprobs:
            return []
        return [
            self._chunk(
                choice,
                {"content": delta.text},
                delta.text,
                None,
                self._logprobs(choice, delta.logprobs),
            )
        ]

    def calling(self, choice: Choice, delta: CallDelta) -> list[dict[str, Any]]:
        """Return the chunk for more of a call of a tool."""
        function = {"name": delta.name} if delta.name else {}
        shaped: dict[str, Any] = {"index": delta.index}
        if delta.id:
            shaped |= {"id": delta.id, "type": "function"}
        shaped["function"] = function | {"arguments": delta.arguments}
        return [self._chunk(choice, {"tool_calls": [shaped]}, "", None)]

    def closing(self, choice: Choice) -> list[dict[str, Any]]:
        """Return an answer's last chunk: why it ended, with our facts."""
        return [self._chunk(choice, {}, "", finish_reason(choice)) | {"lorikeet": facts_of(choice)}]

    def usage(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        """Return a stream's very last chunk, if it was asked for."""
        if not self.asked.include_usage:
            return []
        facts = {"lorikeet": facts_of(choices[0])} if len(choices) == 1 else {}
        return [self._head(chunk=True) | {"choices": [], "usage": self._usage(choices)} | facts]

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return all answers as one object; with several, each carries its own facts."""
        shaped = [self._whole(choice) for choice in choices]
        facts = [facts_of(choice) for choice in choices]
        if len(choices) == 1:
            return self._head(chunk=False) | {
                "choices": shaped,
                "usage": self._usage(choices),
                "lorikeet": facts[0],
            }
        shaped = [one | {"lorikeet": fact} for one, fact in zip(shaped, facts, strict=True)]
        return self._head(chunk=False) | {"choices": shaped, "usage": self._usage(choices)}

    def _usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        """Return OpenAI's token counts: each prompt once, the answers together."""
        prompt = sum(
            _complete(choice).prompt_tokens for choice in choices[:: self.asked.num_answers]
        )
        completion = sum(_complete(choice).completion_tokens for choice in choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def _whole(self, choice: Choice) -> dict[str, Any]:
        text = "".join(choice.texts)
        shaped: dict[str, Any] = {
            "index": choice.number,
            "finish_reason": finish_reason(choice),
        }
        shaped["logprobs"] = self._logprobs(choice, choice.logprobs)
        if not self.asked.chat:
            return shaped | {"text": text}
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if choice.calls:
            message |= {"content": text or None, "tool_calls": _calls(choice.calls)}
        return shaped | {"message": message}

    def _chunk(
        self,
        choice: Choice,
        delta: dict[str, Any],
        text: str,
        reason: str | None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        shaped: dict[str, Any] = {
            "index": choice.number,
            "finish_reason": reason,
            "logprobs": logprobs,
        }
        shaped |= {"delta": delta} if self.asked.chat else {"text": text}
        return self._head(chunk=True) | {"choices": [shaped]}

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        name = (
            ("chat.completion.chunk" if chunk else "chat.completion")
            if self.asked.chat
            else "text_completion"
        )
        return {
            "id": self.answer_id,
            "object": name,
            "created": self.created,
            "model": self.asked.requests[0].model,
        }

    def _logprobs(self, choice: Choice, reported: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if self.asked.requests[0].logprobs is None:
            return None
        return _chat_logprobs(reported) if self.asked.chat else _text_logprobs(choice, reported)


def _calls(calls: Sequence[Call]) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


def _chat_logprobs(reported: Sequence[TokenLogprobs]) -> dict[str, Any]:
    content = [
        _likely(each.token) | {"top_logprobs": [_likely(one) for one in each.top]}
        for each in reported
    ]
    return {"content": content, "refusal": None}


def _likely(token: LikelyToken) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}


def _text_logprobs(choice: Choice, reported: Sequence[TokenLogprobs]) -> dict[str, Any]:
    offsets = []
    for each in reported:
        offsets.append(choice.spelled)
        choice.spelled += len(each.token.text)
    return {
        "tokens": [each.token.text for each in reported],
        "token_logprobs": [each.token.logprob for each in reported],
        "top_logprobs": [
            None if each.token.logprob is None else {one.text: one.logprob for one in each.top}
            for each in reported
        ],
        "text_offset": offsets,
    }


def facts_of(choice: Choice) -> dict[str, Any]:
    """Return the `lorikeet` extension of an answer.

    It has `parents` only where several adapters answered, `auto` only where that was asked for,
    `continued` only where a node was lost, `max_tokens` only where the answer could have fewer than
    were asked for, or nothing was said, `not_enforced` only where a schema says what no grammar
    follows.
    """
    started = _begun(choice)
    ended = _complete(choice)
    continued = [
        {"served_by": each.served_by, "after_tokens": each.after_tokens, "reason": each.reason}
        for each in choice.continued
    ]
    return {
        **begun_facts(started),
        "receipt": ended.receipt,
        "amount": ended.amount,
        "timings": {**started.timings_ms, **ended.timings_ms},
        "neighbours": ended.neighbours,
        **({"max_tokens": ended.max_tokens} if ended.max_tokens is not None else {}),
        **({"not_enforced": list(ended.not_enforced)} if ended.not_enforced else {}),
        **({"continued": continued} if continued else {}),
    }


def begun_facts(started: Started) -> dict[str, Any]:
    """Return what is known once a node took a request: who serves what, what a cocktail is mixed
    of, and what `auto` chose, with the next best.
    """
    parents = [{"name": one.name, "cid": one.cid, "weight": one.weight} for one in started.parents]
    auto = msgspec.to_builtins(started.chosen) if started.chosen is not None else None
    return {
        "served_by": started.served_by,
        "adapter": started.model,
        "cid": started.cid,
        **({"parents": parents} if parents else {}),
        **({"auto": auto} if auto else {}),
    }


def finish_reason(choice: Choice) -> str:
    """Return OpenAI's word for why an answer ended."""
    if _complete(choice).reason == "length":
        return "length"
    return "tool_calls" if choice.calls else "stop"


def _begun(choice: Choice) -> Started:
    assert choice.started is not None, "an answer went on before it started"
    return choice.started


def _complete(choice: Choice) -> Ended:
    assert choice.ended is not None, "an answer stopped without an end"
    return choice.ended
