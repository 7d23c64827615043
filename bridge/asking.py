"""Puts a request into vLLM's words. Pure.

vLLM is asked for its greedy choice and for nothing else that changes logits: Lorikeet's plug-in in
the server (plugins/vllm, draws.py) makes that choice the verifiable draw. What cannot be said so
is refused by name.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.errors import CannotServe
from engine.intake import Admitted
from engine.messages import MAX_LOGPROBS, Sampling, TokenLogprobs

from .replies import Drawn

TERMS = "lorikeet"
"""Where the plug-in looks among a request's extra arguments."""


def check_words(admitted: Admitted) -> None:
    """Raise CannotServe for what vLLM cannot be asked; another engine may do it."""
    if admitted.sampling.choosing.grammar is not None:
        raise CannotServe(
            "answers that match a grammar or a schema are not served by vLLM behind a node; ask a"
            " node with this program's own engine, or leave response_format and tool_choice out"
        )
    if admitted.priority:
        raise CannotServe("priority is not served by vLLM behind a node; leave it out")


def put_in_words(admitted: Admitted, made: list[int], count: int, model: str) -> dict[str, Any]:
    """Return the body that asks for the `count` tokens of an answer that follow those `made`."""
    return {
        "model": model,
        "token_ids": admitted.prompt_ids + made,
        "stream": True,
        "stream_options": {"include_usage": True},
        "sampling_params": {
            "temperature": 0.0,
            "max_tokens": count,
            "ignore_eos": True,
            "stop_token_ids": sorted(admitted.stop_ids),
            "detokenize": False,
            "logprobs": _wanted(admitted.num_logprobs),
            "extra_args": {TERMS: _terms(admitted.sampling, admitted.num_answered + len(made))},
        },
    }


def put_probe(number: int, count: int, model: str) -> dict[str, Any]:
    """Return the body that asks the plug-in what it is, in at most `count` tokens."""
    return {
        "model": model,
        "token_ids": [0],
        "stream": True,
        "sampling_params": {
            "temperature": 0.0,
            "max_tokens": count,
            "ignore_eos": True,
            "detokenize": False,
            "logprobs": _wanted(MAX_LOGPROBS),
            "extra_args": {TERMS: {"probe": number}},
        },
    }


def read_logprobs(drawn: Drawn, count: int) -> TokenLogprobs:
    """Return one token's report; vLLM puts the drawn id among the likeliest, wherever it stands."""
    ranked = sorted(drawn.top_logprobs, key=lambda each: (-each.logprob, each.token_id))
    return TokenLogprobs(drawn.logprob, [(each.token_id, each.logprob) for each in ranked[:count]])


def _wanted(count: int | None) -> int | None:
    """Return how many to ask for: vLLM counts the drawn id as one of them."""
    return count + 1 if count else count


def _terms(sampling: Sampling, answered: int) -> dict[str, Any]:
    terms = msgspec.structs.asdict(sampling.choosing)
    del terms["grammar"]
    return {"seed": sampling.seed.hex(), "answered": answered, **terms}
