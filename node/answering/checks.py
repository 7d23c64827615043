"""Decides which requests are within the protocol's bounds, before anything is done for them.

Does not know the model: how many tokens fit is for the engine to say.
"""

from __future__ import annotations

import re
from dataclasses import replace

from engine.messages import MAX_LOGPROBS, ChoosingError, check_choosing

from ..api.answers import CompletionRequest
from ..errors import BadRequest

MAX_TOOLS = 512
TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def check_request(request: CompletionRequest) -> CompletionRequest:
    """Return the request with every number converted to its field's own type, as the wire needs
    them.

    Raises BadRequest that names the first field that is out of bounds.
    """
    lowest = 0 if request.echo else 1
    if request.max_tokens is not None and request.max_tokens < lowest:
        raise BadRequest(f"max_tokens is {request.max_tokens}; it must be at least {lowest}")
    if request.echo and isinstance(request.prompt, tuple):
        raise BadRequest("echo needs a plain prompt or token ids, not chat turns")
    if not 0 <= (request.logprobs or 0) <= MAX_LOGPROBS:
        raise BadRequest(
            f"logprobs is {request.logprobs}; it must lie between 0 and {MAX_LOGPROBS}"
        )
    _check_tools(request)
    if any(not stop for stop in request.stop):
        raise BadRequest("a stop text must not be empty")
    try:
        return replace(request, choosing=check_choosing(request.choosing))
    except ChoosingError as error:
        raise BadRequest(str(error)) from None


def _check_tools(request: CompletionRequest) -> None:
    names = [tool.name for tool in request.tools]
    wanted = request.tool_choice
    if len(names) > MAX_TOOLS:
        raise BadRequest(f"there are {len(names)} tools; the limit is {MAX_TOOLS}")
    for name in names:
        if not TOOL_NAME.fullmatch(name):
            raise BadRequest(
                f"a tool is called {name[:80]!r}; use 1 to 128 letters, digits, _, -, . and :"
            )
    if doubled := next((name for name in names if names.count(name) > 1), ""):
        raise BadRequest(f"two tools are called {doubled!r}; give each its own name")
    if wanted.only and wanted.only not in names:
        raise BadRequest(f"tool_choice names {wanted.only!r}, which is none of the tools")
    if wanted.mode == "required" and not names:
        raise BadRequest("tool_choice demands a call, and there are no tools; send some")
    if names and not isinstance(request.prompt, tuple):
        raise BadRequest("tools need chat turns, not a plain prompt")
