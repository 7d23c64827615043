"""What anybody would write: the base's own samples, for which no contributor is paid. Drawn once
for each base by this daemon's engine, from seeds, and kept.

Decides nothing of money: `background.tokens` (docs/protocols/attribution.md) does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import trio

from engine import messages as m
from factory.keeping import keep
from p2p.errors import sole_error
from proofs.attribution.background import write_background
from proofs.attribution.tokens import read_tokens
from proofs.errors import TokensError

from ..api.datanets import Progress, Tell
from ..bases.loading import Base
from ..engine_host import EngineHost
from ..errors import NoEngine

NUM_SAMPLES = 104
SAMPLE_TOKENS = 128
TEMPERATURE = 0.8
AT_ONCE = 16


class Backgrounds:
    """The backgrounds that lie in one folder, of so many samples each."""

    def __init__(self, folder: Path, num_samples: int = NUM_SAMPLES) -> None:
        self._folder = folder
        self._num_samples = num_samples
        self._drawing = trio.Lock()

    async def find(self, base: Base, engine: EngineHost | None, tell: Tell) -> bytes:
        """Return the background of a base, drawn where none is here. Raises EngineError."""
        path = self._folder / f"{base.identity.base.hex()}.tokens"
        async with self._drawing:
            found = await trio.to_thread.run_sync(_read, path, base.identity.tokenizer_hash)
            if found is None:
                if engine is None:
                    raise NoEngine(
                        "this daemon has no engine to draw the base's own words with, without"
                        " which nobody can be paid by answers; publish from a volunteer"
                    )
                await engine.wait_up()
                drawn = await self._draw(engine, base.tokenizer.end_id, tell)
                found = write_background(base.identity.tokenizer_hash, drawn)
                await trio.to_thread.run_sync(_keep, path, found)
            return found

    async def _draw(self, engine: EngineHost, begin: int, tell: Tell) -> list[list[int]]:
        samples: dict[int, list[int]] = {}
        room = trio.CapacityLimiter(AT_ONCE)

        async def draw(number: int) -> None:
            async with room:
                samples[number] = await _sample(engine, begin, number)
            tell(Progress("background", len(samples), self._num_samples))

        try:
            async with trio.open_nursery() as nursery:
                for number in range(self._num_samples):
                    nursery.start_soon(draw, number)
        except BaseExceptionGroup as group:  # the nursery wraps; one failure is told
            raise sole_error(group) from None
        return [samples[number] for number in range(self._num_samples)]


async def _sample(engine: EngineHost, begin: int, number: int) -> list[int]:
    """Return what the base says by itself, from the seed of that number."""
    seed = hashlib.sha256(f"lorikeet background {number}".encode()).digest()
    sampling = m.Sampling(seed, m.Choosing(temperature=TEMPERATURE))
    ids: list[int] = []
    async with engine.generate(
        [begin], None, sampling, SAMPLE_TOKENS, credit=SAMPLE_TOKENS, stop_ids=()
    ) as run:
        async for event in run:
            if isinstance(event, m.Tokens):
                ids += event.token_ids
    return ids


def _read(path: Path, tokenizer_hash: bytes) -> bytes | None:
    """Return a background that is here, whole and of this tokenizer."""
    try:
        data = path.read_bytes()
        return data if read_tokens(data).tokenizer_hash == tokenizer_hash else None
    except (OSError, TokensError):
        return None


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keep(path, data)
