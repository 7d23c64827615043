"""Shapes an answer as a response of items, whole or as its typed events.

    created → in_progress → (item added → part added → deltas → done, done, done)… → completed,
    incomplete or failed → [DONE]

Pure but for what it is told of time. Decides nothing about what is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from ...api.answers import (
    CallDelta,
    ChatMessage,
    CompletionEvent,
    Delta,
    Ended,
    Started,
    TokenLogprobs,
)
from ...api.answers import ToolCall as ApiCall
from ..blocks import Block, Blocks, Call, Closed, Grown, Opened, Step, Text
from ..face import EVENT_STREAM, named_event
from ..problems import Problem, problem_response
from ..shapes import Choice, begun_facts, facts_of
from .body import Asked
from .store import Kept


@dataclass
class ResponseFace:
    """One response, as far as it has come; `now` gives Unix seconds, `keep` remembers it."""

    asked: Asked
    response_id: str
    now: Callable[[], int]
    keep: Callable[[Kept], None]
    media_type: str = EVENT_STREAM
    _choice: Choice = field(default_factory=lambda: Choice(0))
    _blocks: Blocks = field(default_factory=Blocks)
    _created: int = 0
    _sequence: int = 0
    _whole: dict[str, Any] = field(default_factory=dict)

    # --- events ---

    def take(self, event: CompletionEvent) -> bytes:
        """Note an event; return what a stream sends for it."""
        match event:
            case Started():
                self._choice.started = event
                self._created = self.now()
                response = self._response("in_progress", [])
                return self._send("response.created", response=response) + self._send(
                    "response.in_progress", response=response
                )
            case Delta() | CallDelta():
                return b"".join(map(self._step, self._blocks.take(event)))
            case Ended():
                return self._finish(event)
            case _:
                self._choice.continued.append(event)
                return b""

    def end(self) -> bytes:
        """Return the mark that all was sent."""
        return b"data: [DONE]\n\n"

    def whole(self) -> Mapping[str, object]:
        """Return the complete response."""
        return self._whole

    def refuse(self, problem: Problem) -> Response:
        """Return OpenAI's error."""
        return problem_response(problem)

    def break_off(self, problem: Problem) -> bytes:
        """Return the event of a response that failed."""
        error = {"code": problem.code, "message": problem.message}
        failed = self._response("failed", self._items("incomplete")) | {"error": error}
        return self._send("response.failed", response=failed) + self.end()

    def _finish(self, ended: Ended) -> bytes:
        data = b"".join(map(self._step, self._blocks.end()[:-1]))
        self._choice.ended = ended
        is_cut = ended.reason == "length"
        # The last item's state follows from how the answer ended.
        data += self._step(Closed(self._blocks.all[-1]), "incomplete" if is_cut else "completed")
        status = "incomplete" if is_cut else "completed"
        items = self._items("completed")
        items[-1]["status"] = status
        self._whole = self._response(status, items) | {
            "completed_at": None if is_cut else self.now(),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": usage_of(ended),
            "lorikeet": facts_of(self._choice),
        }
        if self.asked.stores:
            turns = (*self.asked.turns, turn_of(self._blocks.all))
            self.keep(Kept(self._whole, self.asked.items, turns))
        return data + self._send(f"response.{status}", response=self._whole)

    def _step(self, step: Step, status: str = "completed") -> bytes:
        block = step.block
        at: dict[str, Any] = {"output_index": block.index, "item_id": self._item_id(block)}
        if isinstance(block, Text):
            at["content_index"] = 0
        match step, block:
            case Opened(), Text():
                item = self._item(block, "in_progress") | {"content": []}
                return self._send(
                    "response.output_item.added", output_index=block.index, item=item
                ) + self._send("response.content_part.added", **at, part=part_of(block))
            case Opened(), Call():
                item = self._item(block, "in_progress") | {"arguments": ""}
                return self._send("response.output_item.added", output_index=block.index, item=item)
            case Grown(more=more, logprobs=logprobs), Text():
                return self._send(
                    "response.output_text.delta", **at, delta=more, logprobs=as_logprobs(logprobs)
                )
            case Grown(more=more), Call():
                return self._send("response.function_call_arguments.delta", **at, delta=more)
            case Closed(), Text():
                likely = as_logprobs(block.logprobs)
                done = self._send(
                    "response.output_text.done", **at, text=block.text, logprobs=likely
                ) + self._send("response.content_part.done", **at, part=part_of(block))
            case _, Call():
                done = self._send(
                    "response.function_call_arguments.done",
                    **at,
                    name=block.name,
                    arguments=block.arguments,
                )
        item = self._item(block, status)
        return done + self._send("response.output_item.done", output_index=block.index, item=item)

    def _send(self, kind: str, **fields: object) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        return named_event(event)

    # --- objects ---

    def _items(self, status: str) -> list[dict[str, Any]]:
        return [self._item(block, status) for block in self._blocks.all]

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._item_id(block), "status": status}
        if isinstance(block, Text):
            return item | {"type": "message", "role": "assistant", "content": [part_of(block)]}
        return item | {
            "type": "function_call",
            "call_id": block.id,
            "name": block.name,
            "arguments": block.arguments,
        }

    def _item_id(self, block: Block) -> str:
        prefix = "msg" if isinstance(block, Text) else "fc"
        return f"{prefix}_{self.response_id.removeprefix('resp_')}_{block.index}"

    def _response(self, status: str, output: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        body = self.asked.body
        choosing = self.asked.request.choosing
        started = self._choice.started
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "model": body.model,
            "output": list(output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": None,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": None,
            "service_tier": "default",
            "store": self.asked.stores,
            "temperature": choosing.temperature,
            "text": {"format": dict(self.asked.format)},
            "tool_choice": self.asked.tool_choice,
            "tools": [tool_of(tool) for tool in self.asked.tools],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": choosing.top_p,
            "presence_penalty": choosing.presence_penalty,
            "frequency_penalty": choosing.frequency_penalty,
            "truncation": "disabled",
            "usage": None,
            "metadata": body.metadata or {},
            "lorikeet": begun_facts(started) if started is not None else None,
        }


def part_of(text: Text) -> dict[str, Any]:
    """Return a text as a message's part, as far as it has come."""
    return {
        "type": "output_text",
        "text": text.text,
        "annotations": [],
        "logprobs": as_logprobs(text.logprobs),
    }


def tool_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool as it was given, with every field that a response states."""
    defaults = {"description": None, "parameters": None, "strict": True}
    return defaults | dict(tool)


def as_logprobs(reported: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    """Return log-probabilities as a part states them."""
    return [
        {
            "token": each.token.text,
            "logprob": each.token.logprob,
            "bytes": list(each.token.data),
            "top_logprobs": [
                {"token": one.text, "logprob": one.logprob, "bytes": list(one.data)}
                for one in each.top
            ],
        }
        for each in reported
    ]


def usage_of(ended: Ended) -> dict[str, Any]:
    """Return the token counts."""
    return {
        "input_tokens": ended.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": ended.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
    }


def turn_of(blocks: Sequence[Block]) -> ChatMessage:
    """Return an answer as the assistant's turn."""
    text = "".join(block.text for block in blocks if isinstance(block, Text))
    calls = [block for block in blocks if isinstance(block, Call)]
    return ChatMessage(
        "assistant", text, tuple(ApiCall(one.id, one.name, one.arguments) for one in calls)
    )
