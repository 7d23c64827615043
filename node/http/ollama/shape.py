"""Shapes an answer as Ollama's lines of JSON, or as one object; errors as Ollama's.

Pure but for the time that it is given; knows no socket and no daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from ...api.answers import CallDelta, CompletionEvent, Delta, Ended, Started
from ..blocks import Blocks, Call, Closed, Grown, Step, Text
from ..face import JSON_LINES, json_line
from ..problems import Problem, json_response
from ..shapes import Choice, facts_of

NS_PER_MS = 1_000_000


@dataclass
class OllamaFace:
    """One answer, as far as it has come; `now` gives Unix seconds."""

    model: str
    chat: bool
    now: Callable[[], float]
    media_type: str = JSON_LINES
    _choice: Choice = field(default_factory=lambda: Choice(0))
    _blocks: Blocks = field(default_factory=Blocks)
    _whole: dict[str, Any] = field(default_factory=dict)

    def take(self, event: CompletionEvent) -> bytes:
        """Note an event; return the lines that a stream sends for it."""
        match event:
            case Started():
                self._choice.started = event
                return b""
            case Delta() | CallDelta():
                return self._lines(self._blocks.take(event))
            case Ended():
                self._choice.ended = event
                data = self._lines(self._blocks.end())
                self._whole = self._line(*self._all()) | self._sums(event)
                return data + line_of(self._line("", []) | self._sums(event))
            case _:
                self._choice.continued.append(event)
                return b""

    def end(self) -> bytes:
        """Return nothing: the line that is done was the last."""
        return b""

    def whole(self) -> Mapping[str, object]:
        """Return the complete answer."""
        return self._whole

    def refuse(self, problem: Problem) -> Response:
        """Return Ollama's error."""
        return refusal(problem)

    def break_off(self, problem: Problem) -> bytes:
        """Return the line of an error in the middle."""
        return line_of(error_of(problem))

    def _lines(self, steps: Sequence[Step]) -> bytes:
        """Return text as it comes, and calls as soon as they are complete."""
        texts = [one for one in steps if isinstance(one, Grown) and isinstance(one.block, Text)]
        text = "".join(step.more for step in texts)
        closed = [step.block for step in steps if isinstance(step, Closed)]
        calls = [block for block in closed if isinstance(block, Call)]
        return line_of(self._line(text, calls)) if text or calls else b""

    def _all(self) -> tuple[str, list[Call]]:
        blocks = self._blocks.all
        text = "".join(block.text for block in blocks if isinstance(block, Text))
        return text, [block for block in blocks if isinstance(block, Call)]

    def _line(self, text: str, calls: Sequence[Call]) -> dict[str, Any]:
        head = {"model": self.model, "created_at": timestamp(self.now())}
        if not self.chat:
            return head | {"response": text, "done": False}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [call_of(call) for call in calls]
        return head | {"message": message, "done": False}

    def _sums(self, ended: Ended) -> dict[str, Any]:
        times = ended.timings_ms
        return {
            "done": True,
            "done_reason": "length" if ended.reason == "length" else "stop",
            "total_duration": ns(times.get("total", 0.0)),
            "load_duration": ns(times.get("load", 0.0) + times.get("fetch", 0.0)),
            "prompt_eval_count": ended.prompt_tokens,
            "prompt_eval_duration": ns(times.get("prefill", 0.0)),
            "eval_count": ended.completion_tokens,
            "eval_duration": ns(times.get("decode", 0.0)),
            "lorikeet": facts_of(self._choice),
        }


def call_of(call: Call) -> dict[str, Any]:
    """Return a call as Ollama has it: its arguments are an object."""
    try:
        arguments = msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:  # the answer was cut short
        arguments = {}
    function = {"index": call.number, "name": call.name, "arguments": arguments}
    return {"id": call.id, "function": function}


def ns(took_ms: float) -> int:
    """Return a time in nanoseconds, as Ollama states it."""
    return int(took_ms * NS_PER_MS)


def timestamp(unix_s: float) -> str:
    """Return a time as Ollama writes it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")


def line_of(value: Mapping[str, Any]) -> bytes:
    """Write one line of a stream."""
    return json_line(value) + b"\n"


def error_of(problem: Problem) -> dict[str, Any]:
    """Return Ollama's error object; `code` and `param` stand there as in OpenAI's."""
    return {"error": problem.message, "code": problem.code, "param": problem.field}


def refusal(problem: Problem) -> Response:
    """Return the problem as a response."""
    return json_response(error_of(problem), problem.status)
