"""Puts what a request says in the engine's terms: its prompt as token ids, its tools and schema as
a grammar. Pure; does not know who answers.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace

import msgspec

from engine.messages import Choosing

from ..api.answers import CompletionRequest, Prompt, TokenPrompt
from ..errors import BadRequest
from .call_grammar import bind
from .call_reader import CallReader
from .schemas import followable
from .tokenizer import BaseTokenizer


def prompt_ids_of(tokenizer: BaseTokenizer, request: CompletionRequest) -> list[int]:
    """Return the prompt's token ids. Raises BadRequest."""
    prompt = request.prompt
    if not isinstance(prompt, tuple):
        return tokenizer.encode_prompt(prompt)
    tools = request.tools if request.tool_choice.mode != "none" else ()
    turns, functions = tokenizer.lay_out_tools(prompt, tools)
    return tokenizer.encode_prompt(turns, functions, request.template_options)


def choosing_of(tokenizer: BaseTokenizer, request: CompletionRequest) -> Choosing:
    """Return how the answer's tokens are chosen; calls of tools are part of its grammar."""
    if not request.tools:
        return request.choosing
    grammar = bind(
        tokenizer.form,
        request.tools,
        request.tool_choice,
        request.choosing.grammar,
        tokenizer.tags,
    )
    return msgspec.structs.replace(request.choosing, grammar=grammar)


def call_reader_of(tokenizer: BaseTokenizer, request: CompletionRequest) -> CallReader | None:
    """Return what reads calls out of the answer's text, where it may have some."""
    if not request.tools or request.tool_choice.mode == "none":
        return None
    return CallReader(tokenizer.form, lambda: f"call_{secrets.token_hex(12)}")


def with_followable_schema(
    request: CompletionRequest,
) -> tuple[CompletionRequest, tuple[str, ...]]:
    """Return a request with a schema that a grammar can follow, and what of it is left out."""
    grammar, left_out = followable(request.choosing.grammar)
    choosing = msgspec.structs.replace(request.choosing, grammar=grammar)
    return replace(request, choosing=choosing), left_out


def words_of(prompt: Prompt) -> str:
    """Return what a prompt asks in words: its last turn by the user. Raises BadRequest."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, TokenPrompt):
        raise BadRequest("model auto is chosen by a prompt's words, and this one is token ids")
    said = [turn.content for turn in prompt if turn.role == "user"]
    return said[-1] if said else ""


def client_seed(seed: int | None) -> bytes:
    """Return the client's half of the sampling seed: random, or fixed by the request."""
    if seed is None:
        return secrets.token_bytes(32)
    return hashlib.sha256(b"lorikeet client seed %d" % seed).digest()
