"""How an answer is shaped for an OpenAI client, whole or in chunks, with our facts beside it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..api import Ended, Started
from .openai import Asked


@dataclass(frozen=True)
class Answer:
    """Shapes one answer. `answer_id` and `created` (unix seconds) are the same in each of its chunks."""

    asked: Asked
    answer_id: str
    created: int

    def opening(self, started: Started) -> list[dict[str, Any]]:
        """What a stream says before the first token."""
        facts = {"served_by": started.served_by, "adapter": started.model, "cid": started.cid, "timings": dict(started.timings_ms)}
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(delta, "", None) | {"lorikeet": facts}] if self.asked.chat else []

    def more(self, text: str) -> dict[str, Any]:
        """One chunk of text."""
        return self._chunk({"content": text}, text, None)

    def closing(self, started: Started, ended: Ended) -> list[dict[str, Any]]:
        """The last chunks: why it ended, with our facts; then the token counts if they were asked for."""
        facts = {"lorikeet": facts_of(started, ended)}
        last = self._chunk({}, "", finish_reason(ended)) | facts
        if not self.asked.include_usage:
            return [last]
        return [last, self._head(chunk=True) | {"choices": [], "usage": usage_of(ended)} | facts]

    def whole(self, text: str, started: Started, ended: Ended) -> dict[str, Any]:
        """The answer as one object."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason(ended), "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text, "refusal": None}} if self.asked.chat else {"text": text}
        return self._head(chunk=False) | {"choices": [choice], "usage": usage_of(ended), "lorikeet": facts_of(started, ended)}

    def _chunk(self, delta: dict[str, Any], text: str, reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        choice |= {"delta": delta} if self.asked.chat else {"text": text}
        return self._head(chunk=True) | {"choices": [choice]}

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        name = ("chat.completion.chunk" if chunk else "chat.completion") if self.asked.chat else "text_completion"
        return {"id": self.answer_id, "object": name, "created": self.created, "model": self.asked.request.model}


def facts_of(started: Started, ended: Ended) -> dict[str, Any]:
    """The `lorikeet` extension of an answer."""
    return {
        "served_by": started.served_by,
        "adapter": started.model,
        "cid": started.cid,
        "receipt": ended.receipt,
        "amount": ended.amount,
        "timings": {**started.timings_ms, **ended.timings_ms},
        "neighbours": ended.neighbours,
    }


def usage_of(ended: Ended) -> dict[str, int]:
    """OpenAI's token counts."""
    total = ended.prompt_tokens + ended.completion_tokens
    return {"prompt_tokens": ended.prompt_tokens, "completion_tokens": ended.completion_tokens, "total_tokens": total}


def finish_reason(ended: Ended) -> str:
    """OpenAI's word for why an answer ended."""
    return "length" if ended.reason == "length" else "stop"
