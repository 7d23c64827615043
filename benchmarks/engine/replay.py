"""What it costs to check an answer: python -m benchmarks.engine.replay [--folder F] [--rounds 5]

One engine decodes answers of 64, 128 and 256 tokens to prompts of 32, one at a time and eight at
once; another, which has seen nothing of them, replays them. Both sides in one process, bfloat16,
the 110M model, in turn; the figure is the median of (replay / decoding) over the rounds. Decoding
is timed from the first token to the last, a replay as a whole.

Expected before the first run: decoding one answer reads the weights once a token, 6 ms each; a
replay is one prefill of 100 to 300 tokens at 7,000 to 9,000 tokens a second: 1/30 for one answer.
With eight at once decoding costs 0.9 ms a token, so 1/7 to 1/8: above the goal of 1/10, which
cannot be met where decoding itself is at half of prefill's speed. Beside each replay stands what
its products alone take at the rate that torch's reach on this machine, measured in the same run: no
replay can be cheaper.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from benchmarks import write_result
from benchmarks.engine.world import make_base, make_prompts
from engine.build import build_engine
from engine.config import EngineConfig
from engine.executor.memory import linear_numbers
from engine.grammar import GrammarDone
from engine.lora.loader import LoadDone
from engine.messages import Choosing, Replay, Replayed, Sampling, Submit, Tokens
from engine.model.config import ModelConfig
from engine.model.weights import open_weights
from engine.roofline import measure_apart

PROMPT_TOKENS = 32
LENGTHS = (64, 128, 256)
BATCHES = (1, 8)
TEMPERATURES = (0.0, 0.8)


@dataclass
class Side:
    """One engine, stepped here."""

    base: Path
    threads: int

    def __post_init__(self) -> None:
        done: SimpleQueue[LoadDone | GrammarDone] = SimpleQueue()
        self._engine = build_engine(
            EngineConfig(self.base, dtype="bfloat16", threads=self.threads), done.put
        ).engine

    def decode(
        self, prompts: list[list[int]], sampling: Sampling, tokens: int
    ) -> tuple[list[list[int]], float]:
        """The answers, and the seconds from the first token to the last."""
        answers: list[list[int]] = [[] for _ in prompts]
        for number, prompt in enumerate(prompts):
            self._engine.handle(
                Submit(
                    number, prompt, None, sampling, max_tokens=tokens, credit=tokens, stop_ids=[]
                )
            )
        first = None
        while self._engine.step():
            for message in self._engine.take_messages():
                if isinstance(message, Tokens):
                    answers[message.request_id] += message.token_ids
            if first is None and all(answers):
                first = time.perf_counter()
        assert first is not None, "no answer came"
        return answers, time.perf_counter() - first

    def replay(
        self, prompts: list[list[int]], answers: list[list[int]], sampling: Sampling
    ) -> float:
        """Seconds to score them all; every token must have won."""
        started = time.perf_counter()
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            self._engine.handle(Replay(number, prompt, answer, None, sampling=sampling))
        while self._engine.step():
            pass
        seconds = time.perf_counter() - started
        for message in self._engine.take_messages():
            assert isinstance(message, Replayed), message
            assert max(message.margins) == 0.0, "an answer of the same engine missed"
        return seconds


def operations(config: ModelConfig, batch: int, answer: int) -> float:
    """Multiplications and additions in the linears of a replay: the head only for the answers'
    tokens; attention is left out.
    """
    head = config.hidden * config.vocab_size
    return (
        2.0
        * batch
        * ((linear_numbers(config) - head) * (PROMPT_TOKENS + answer - 1) + head * answer)
    )


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/lorikeet-replay"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    base = asked.folder / "hf"
    if not (base / "config.json").exists():
        asked.folder.mkdir(parents=True, exist_ok=True)
        make_base(base)
    config = open_weights(base).config
    roofline = measure_apart(asked.threads)
    maker = Side(base, asked.threads)
    checker = Side(base, asked.threads)
    rows = []
    for temperature in TEMPERATURES:
        sampling = Sampling(b"r" * 32, Choosing(temperature))
        for batch in BATCHES:
            roofline = roofline.best(measure_apart(asked.threads))
            for length in LENGTHS:
                ratios = []
                decodes = []
                replays = []
                for turn in range(asked.rounds + 1):
                    prompts = make_prompts(batch, PROMPT_TOKENS, 1000 * turn + length)
                    answers, decoding_s = maker.decode(prompts, sampling, length)
                    replay_s = checker.replay(prompts, answers, sampling)
                    if turn:  # the first one warms up
                        ratios.append(replay_s / decoding_s)
                        decodes.append(decoding_s)
                        replays.append(replay_s)
                least_s = operations(config, batch, length) / roofline.operations_s["bfloat16"]
                row = {
                    "temperature": temperature,
                    "batch": batch,
                    "answer_tokens": length,
                    "decoding_ms": statistics.median(decodes) * 1e3,
                    "replay_ms": statistics.median(replays) * 1e3,
                    "ratio": statistics.median(ratios),
                    "limit_ms": least_s * 1e3,
                    "share_of_limit": least_s / statistics.median(replays),
                    "ratio_at_the_limit": least_s / statistics.median(decodes),
                }
                rows.append(row)
                print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    write_result("engine-replay", {"goal": "a tenth", "rows": rows})


if __name__ == "__main__":
    main()
