"""Refuses a request before any route has it, in the shape of the API that its path belongs to."""

from __future__ import annotations

from starlette.responses import Response

from .messages.shape import refusal as as_anthropic
from .ollama.shape import refusal as as_ollama
from .problems import Problem, problem_response


def refuse(path: str, problem: Problem) -> Response:
    """Return the problem as whoever asked for `path` expects errors."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return as_anthropic(problem)
    return as_ollama(problem) if path.startswith("/api/") else problem_response(problem)
