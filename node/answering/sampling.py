"""How a request wants its tokens chosen, on its way from a face to the wire and to the engine.

Checks every number once; chooses nothing.
"""

from __future__ import annotations

import math

from engine import messages as m

from ..api import CompletionRequest
from ..errors import BadRequest
from ..wire.infer import (
    MAX_BIAS,
    MAX_BIASES,
    MAX_GRAMMAR_CHARS,
    MAX_LOGPROBS,
    MAX_PENALTY,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    Grammar,
    Terms,
)


def check_request(request: CompletionRequest) -> None:
    """Raise BadRequest naming the first field that makes no sense."""
    _check_range("max_tokens", request.max_tokens, 1, MAX_TOKENS)
    _check_range("temperature", request.temperature, 0.0, MAX_TEMPERATURE)
    _check_range("top_k", request.top_k, 0, 1 << 24)
    _check_range("top_p", request.top_p, math.ulp(0.0), 1.0)
    _check_range("min_p", request.min_p, 0.0, 1.0)
    _check_range("repetition_penalty", request.repetition_penalty, 0.01, MAX_PENALTY)
    _check_range("presence_penalty", request.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_range("frequency_penalty", request.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_range("logprobs", request.logprobs or 0, 0, MAX_LOGPROBS)
    if len(request.logit_bias) > MAX_BIASES:
        raise BadRequest(
            f"logit_bias names {len(request.logit_bias)} ids; the limit is {MAX_BIASES}"
        )
    for token, bias in request.logit_bias.items():
        _check_range("an id of logit_bias", token, 0, (1 << 24) - 1)
        _check_range(f"logit_bias of id {token}", bias, -MAX_BIAS, MAX_BIAS)
    if request.grammar is not None and len(request.grammar.text) > MAX_GRAMMAR_CHARS:
        raise BadRequest(
            f"the {request.grammar.kind} has {len(request.grammar.text)} characters; the limit is"
            f" {MAX_GRAMMAR_CHARS}"
        )
    if any(not stop for stop in request.stop):
        raise BadRequest("a stop text must not be empty")


def _check_range(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:  # NaN is not
        raise BadRequest(f"{name} is {value}; it must lie between {lowest:g} and {highest:g}")


def terms_of(request: CompletionRequest) -> Terms:
    """What the wire says of a checked request."""
    grammar = request.grammar
    return Terms(
        temperature=float(request.temperature),
        top_k=request.top_k,
        top_p=float(request.top_p),
        min_p=float(request.min_p),
        repetition_penalty=float(request.repetition_penalty),
        presence_penalty=float(request.presence_penalty),
        frequency_penalty=float(request.frequency_penalty),
        logit_bias=[(token, float(bias)) for token, bias in sorted(request.logit_bias.items())],
        grammar=None if grammar is None else Grammar(grammar.kind, grammar.text),
    )


def sampling_of(terms: Terms, seed: bytes) -> m.Sampling:
    """What the engine is told."""
    return m.Sampling(
        seed=seed,
        temperature=terms.temperature,
        top_k=terms.top_k,
        top_p=terms.top_p,
        min_p=terms.min_p,
        repetition_penalty=terms.repetition_penalty,
        presence_penalty=terms.presence_penalty,
        frequency_penalty=terms.frequency_penalty,
        logit_bias=terms.logit_bias,
        grammar=(
            None if terms.grammar is None else m.Grammar(terms.grammar.kind, terms.grammar.text)
        ),
    )
