"""What a request may ask of an answer at most, seen before anything is done for it.

Chooses nothing, and knows no model: how many tokens fit is the engine's to say.
"""

from __future__ import annotations

from dataclasses import replace

from engine.messages import MAX_LOGPROBS, ChoosingError, check_choosing

from ..api import CompletionRequest
from ..errors import BadRequest
from ..wire.infer import MAX_TOKENS


def check_request(request: CompletionRequest) -> CompletionRequest:
    """Give the request with every number of its terms' own type, as the wire wants them; raises
    BadRequest naming the first field that makes no sense.
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
