"""Embeds texts: what the base's head would read for a text's last token, at length 1.

    text → token ids → this node's own engine → [cut to `dimensions`] → length 1

The last token, since it alone has read all others in a model that reads forwards, and since
adapters that were trained to embed (E5-Mistral, Qwen3-Embedding) were trained on it. Nothing is put
behind the text but what the tokenizer puts there itself.

Asks no other node: the infer protocol carries no vectors, and what it cannot carry it cannot pay.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

import trio

from p2p.cid import Cid
from p2p.errors import sole_error

from ..api.answers import AUTO, EmbeddingAnswer, EmbeddingRequest
from ..errors import BadRequest, NoEngine
from .peers import Holder
from .tokenizer import BaseTokenizer

MAX_AT_ONCE = 32
"""Inputs of one request in the engine at a time, so that others find room there."""


class Catalogue(Holder, Protocol):
    """What embedding asks about adapters."""

    async def resolve(self, model: str) -> Cid | None:
        """Return the adapter that a text names; None is the bare base. Raises UnknownModel."""


class Engine(Protocol):
    """What computes a vector: implemented by engine_host.EngineHost."""

    async def wait_up(self) -> object:
        """Wait until it takes requests. Raises EngineLost."""

    async def embed(self, prompt_ids: Sequence[int], adapter: bytes | None) -> bytes:
        """Return the last hidden state of a prompt's last token as little-endian float32."""


class Embedder:
    """Embeds for this daemon's own faces; `engine` is None where this daemon runs none."""

    def __init__(
        self, tokenizer: BaseTokenizer, catalogue: Catalogue, engine: Engine | None, peer_id: str
    ) -> None:
        self._tokenizer = tokenizer
        self._catalogue = catalogue
        self._engine = engine
        self._peer_id = peer_id

    async def embed(self, request: EmbeddingRequest) -> EmbeddingAnswer:
        """Embed all inputs of a request, side by side. Raises NoEngine, BadRequest, UnknownModel,
        AdapterError and EngineError.
        """
        if self._engine is None:
            raise NoEngine(
                "embeddings are computed by a daemon's own engine, since the protocol between nodes"
                " carries no vectors, and this daemon runs none; ask a volunteer, or start one"
                " with `lorikeet up --role volunteer`"
            )
        if request.model == AUTO:
            raise BadRequest(
                "model auto is chosen by a prompt, and vectors of different models cannot be"
                " compared; name one"
            )
        began = perf_counter()
        prompts = [self._encode(number, one) for number, one in enumerate(request.inputs)]
        cid = await self._catalogue.resolve(request.model)
        await self._engine.wait_up()
        if cid is not None:
            await self._catalogue.hold(cid)
        states = await _compute(self._engine, prompts, cid.digest if cid else None)
        return EmbeddingAnswer(
            served_by=self._peer_id,
            model=request.model,
            cid=str(cid) if cid else None,
            vectors=tuple(to_unit(state, request.dimensions) for state in states),
            prompt_tokens=sum(len(prompt) for prompt in prompts),
            timings_ms={"total": (perf_counter() - began) * 1000},
        )

    def _encode(self, number: int, given: str | tuple[int, ...]) -> list[int]:
        try:
            return self._tokenizer.encode_prompt(given) if isinstance(given, str) else list(given)
        except BadRequest as error:
            raise BadRequest(f"input {number}: {error}") from None


async def _compute(
    engine: Engine, prompts: Sequence[Sequence[int]], adapter: bytes | None
) -> list[bytes]:
    """Have the engine compute all prompts; the first that fails ends the others."""
    states = [b""] * len(prompts)
    places = trio.CapacityLimiter(MAX_AT_ONCE)

    async def compute(number: int) -> None:
        async with places:
            try:
                states[number] = await engine.embed(prompts[number], adapter)
            except BadRequest as error:
                raise BadRequest(f"input {number}: {error}") from None

    try:
        async with trio.open_nursery() as nursery:
            for number in range(len(prompts)):
                nursery.start_soon(compute, number)
    except BaseExceptionGroup as group:  # the nursery wraps; the caller knows its names
        raise sole_error(group) from None
    return states


def to_unit(state: bytes, dimensions: int | None = None) -> bytes:
    """Cut a state, [hidden] float32, to its first `dimensions` and stretch it to length 1.

    Raises BadRequest where there are not as many.
    """
    numbers = array("f", state)
    if dimensions is not None and dimensions > len(numbers):
        raise BadRequest(f"dimensions is {dimensions}; this base's vectors have {len(numbers)}")
    kept = numbers[:dimensions]
    length = math.hypot(*kept)
    return array("f", (one / length if length else 0.0 for one in kept)).tobytes()
