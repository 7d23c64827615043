"""Shapes an answer as Anthropic's message, whole or as its events, and errors as Anthropic's.

    message_start → (content_block_start → content_block_delta… → content_block_stop)…
                  → message_delta → message_stop

Pure; knows no socket and no daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

from ...api.answers import CallDelta, CompletionEvent, Delta, Ended, Started
from ..blocks import Block, Blocks, Call, Closed, Grown, Opened, Step, Text
from ..face import EVENT_STREAM, named_event
from ..problems import Problem, json_response
from ..shapes import Choice, begun_facts, facts_of

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


@dataclass
class MessageFace:
    """One message, as far as it has come."""

    message_id: str
    model: str
    media_type: str = EVENT_STREAM
    _choice: Choice = field(default_factory=lambda: Choice(0))
    _blocks: Blocks = field(default_factory=Blocks)

    def take(self, event: CompletionEvent) -> bytes:
        """Note an event; return what a stream sends for it."""
        match event:
            case Started():
                self._choice.started = event
                message = self._message([], None) | {"lorikeet": begun_facts(event)}
                message["usage"] = usage(event.prompt_tokens, 0)
                return named_event({"type": "message_start", "message": message})
            case Delta() | CallDelta():
                return b"".join(map(_shaped, self._blocks.take(event)))
            case Ended():
                self._choice.ended = event
                data = b"".join(map(_shaped, self._blocks.end()))
                return data + named_event(
                    {
                        "type": "message_delta",
                        "delta": self._reason(event),
                        "usage": usage(event.prompt_tokens, event.completion_tokens),
                        "lorikeet": facts_of(self._choice),
                    }
                )
            case _:
                self._choice.continued.append(event)
                return b""

    def end(self) -> bytes:
        """Return the event after all others."""
        return named_event({"type": "message_stop"})

    def whole(self) -> Mapping[str, object]:
        """Return the complete message."""
        ended = self._choice.ended
        assert ended is not None, "an answer stopped without an end"
        content = [block_of(block) for block in self._blocks.all]
        return self._message(content, ended) | {
            "usage": usage(ended.prompt_tokens, ended.completion_tokens),
            "lorikeet": facts_of(self._choice),
        }

    def refuse(self, problem: Problem) -> Response:
        """Return Anthropic's error."""
        return refusal(problem)

    def break_off(self, problem: Problem) -> bytes:
        """Return the event of an error in the middle."""
        return named_event(error_of(problem))

    def _message(self, content: list[dict[str, Any]], ended: Ended | None) -> dict[str, Any]:
        reason: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
        } | (self._reason(ended) if ended else reason)

    def _reason(self, ended: Ended) -> dict[str, Any]:
        if ended.reason == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if ended.stop_text:
            return {"stop_reason": "stop_sequence", "stop_sequence": ended.stop_text}
        calls = any(isinstance(block, Call) for block in self._blocks.all)
        return {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}


def _shaped(step: Step) -> bytes:
    """Return the event of one step of the blocks."""
    index = step.block.index
    match step, step.block:
        case Opened(), block:
            start: dict[str, object] = {"text": ""} if isinstance(block, Text) else {"input": {}}
            event = {
                "type": "content_block_start",
                "index": index,
                "content_block": block_of(block) | start,
            }
        case Grown(more=more), Text():
            delta = {"type": "text_delta", "text": more}
            event = {"type": "content_block_delta", "index": index, "delta": delta}
        case Grown(more=more), _:
            delta = {"type": "input_json_delta", "partial_json": more}
            event = {"type": "content_block_delta", "index": index, "delta": delta}
        case Closed(), _:
            event = {"type": "content_block_stop", "index": index}
    return named_event(event)


def block_of(block: Block) -> dict[str, Any]:
    """Return a block as Anthropic has it."""
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": input_of(block)}


def input_of(call: Call) -> object:
    """Return a call's arguments as an object, an empty one where they were cut short."""
    try:
        return msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        return {}


def usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """Return the token counts."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def error_of(problem: Problem) -> dict[str, Any]:
    """Return Anthropic's error object; `code` and `param` stand there as in OpenAI's."""
    return {
        "type": "error",
        "error": {
            "type": ERROR_TYPES.get(problem.status, "api_error"),
            "message": problem.message,
            "code": problem.code,
            "param": problem.field,
        },
    }


def refusal(problem: Problem) -> Response:
    """Return the problem as a response."""
    return json_response(error_of(problem), problem.status)
