"""What requests must answer whatever runs beside them: an engine with room for everything serves
each alone, once.
"""

from __future__ import annotations

from pathlib import Path

from engine.messages import Choosing, Sampling, Submit

from .worlds import Lab, make_base, some_tokens, write_adapter

NUM_FOLDERS = 10
ANSWER_TOKENS = 6


def make_world(folder: Path) -> Path:
    """A base of one layer, NUM_FOLDERS adapters of different ranks under their numbers, and a
    broken one.
    """
    make_base(folder / "base", num_hidden_layers=1)
    for index in range(NUM_FOLDERS):
        write_adapter(folder / str(index), index, rank=1 + index, layers=1)
    (folder / "broken").mkdir()
    (folder / "broken" / "adapter_config.json").write_text("{}")
    (folder / "broken" / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    return folder


class Oracle:
    """What each request of `tokens` tokens must answer: served alone, once, by an engine with room
    for everything.
    """

    def __init__(self, folder: Path, tokens: int = ANSWER_TOKENS) -> None:
        self._tokens = tokens
        self.lab = Lab(folder / "base", kv_tokens=4096)
        for index in range(NUM_FOLDERS):
            self.lab.hold(bytes([200 + index]), folder / str(index))
        self.known: dict[tuple[int | None, int, int, float], list[int]] = {}
        self._next_id = 0

    def answer(self, weights: int | None, length: int, seed: int, temperature: float) -> list[int]:
        key = (weights, length, seed, temperature)
        if key not in self.known:
            self._next_id += 1
            adapter = None if weights is None else bytes([200 + weights])
            request = make_request(
                self._next_id, adapter, length, seed, temperature, tokens=self._tokens
            )
            self.known[key] = self.lab.run(request)[self._next_id]
        return self.known[key]


def make_request(
    request_id: int,
    adapter: bytes | None,
    length: int,
    seed: int,
    temperature: float,
    priority: int = 0,
    tokens: int = ANSWER_TOKENS,
    credit: int | None = None,
) -> Submit:
    """A few prompts of which many begin alike. `credit` None: enough."""
    prompt = some_tokens(64, seed % 3)[:length]
    return Submit(
        request_id,
        prompt,
        adapter,
        Sampling(bytes([seed]) * 32, Choosing(temperature)),
        max_tokens=tokens,
        credit=tokens if credit is None else credit,
        stop_ids=[],
        priority=priority,
    )
