"""Decides which requests are within the protocol's bounds, before anything is done for them.

Does not know the model: how many tokens fit is for the engine to say.
"""

from __future__ import annotations

from dataclasses import replace

from engine.messages import MAX_LOGPROBS, ChoosingError, check_choosing

from ..api import CompletionRequest
from ..errors import BadRequest
from ..wire.infer import MAX_TOKENS


def check_request(request: CompletionRequest) -> CompletionRequest:
    """Return the request with every number converted to its field's own type, as the wire needs
    them.

    Raises BadRequest that names the first field that is out of bounds.
    """
    _check_count("max_tokens", request.max_tokens, 1, MAX_TOKENS)
    _check_count("logprobs", request.logprobs or 0, 0, MAX_LOGPROBS)
    if any(not stop for stop in request.stop):
        raise BadRequest("a stop text must not be empty")
    try:
        return replace(request, choosing=check_choosing(request.choosing))
    except ChoosingError as error:
        raise BadRequest(str(error)) from None


def _check_count(name: str, count: int, lowest: int, highest: int) -> None:
    if not lowest <= count <= highest:
        raise BadRequest(f"{name} is {count}; it must lie between {lowest} and {highest}")
