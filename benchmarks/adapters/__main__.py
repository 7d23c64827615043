"""Publishes the adapters anew, from datanets made of their texts.

    python -m benchmarks.adapters --texts DIR --work FOLDER [--minutes 30] [law medicine …]

DIR holds the texts that scripts/train_adapters.py names. FOLDER keeps the datanets (a node that has
FOLDER/NAME/datanets under its HOME serves them) and every training, so a run that was ended goes
on. Writes attribution.tokens, background.tokens and contributors.msgpack into each adapter's
folder, λ, weights and quality into its lorikeet.toml, and all of that for people into its
README.md. The adapter's own weights stay as they are. Exit status 3: time was over before enough
was trained; then standing weights are parts of the tokens that were registered first, λ is a half,
and it is said that nothing was measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.attribution.background import SAMPLE_TOKENS, plain_base, samples
from benchmarks.attribution.texts import train_adapters
from node.answering.tokenizer import load_tokenizer
from proofs.attribution.background import write_background

from .corpus import Corpus, read_corpora
from .datanets import make_datanet
from .measuring import UNFINISHED, measure
from .pages import learnt_of, write_pages
from .trained import stretches_of

ADAPTERS = Path(__file__).resolve().parents[2] / "adapters"
NUM_SAMPLES = 104


def main() -> int:
    """Make datanets, tokens and measurements, one adapter after the other."""
    asked = _arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    package = train_adapters().find_base()
    gguf = package / train_adapters().BASE_FILE
    base = plain_base(gguf, asked.work / "base")
    drawn = samples(asked.work / "samples.json", base, NUM_SAMPLES)
    background = write_background(load_tokenizer(gguf).tokenizer_hash, drawn)
    say(f"background: {NUM_SAMPLES} samples of {SAMPLE_TOKENS} tokens of the base")
    unfinished = [
        corpus.name
        for corpus in read_corpora(asked.texts, asked.names)
        if not publish(corpus, asked, gguf=gguf, base=base, drawn=drawn, background=background)
    ]
    if unfinished:
        say(f"too little was trained to measure {', '.join(unfinished)}; start again to go on")
    return UNFINISHED if unfinished else 0


def publish(
    corpus: Corpus,
    asked: argparse.Namespace,
    *,
    gguf: Path,
    base: Path,
    drawn: list[list[int]],
    background: bytes,
) -> bool:
    """Do all of it for one adapter; False where too little is trained to measure anything."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text).input_ids
        return ids

    datanet = make_datanet(corpus, asked.work / corpus.name)
    say(f"{corpus.name}: datanet {datanet.datanet.hex()}, version {datanet.digest.hex()}")
    stretches = stretches_of(corpus, tokenizer)
    learnt = learnt_of(corpus, datanet, stretches, load_tokenizer(gguf).tokenizer_hash)
    say(f"{corpus.name}: {learnt.tokens.num_tokens} tokens were trained on")
    found = measure(
        corpus,
        datanet,
        asked.work / f"{corpus.name}-run",
        base=base,
        encode=encode,
        background=drawn,
        minutes=asked.minutes,
    )
    write_pages(ADAPTERS / corpus.name, corpus, datanet, learnt, background, found)
    return found is not None


def say(line: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Publish the adapters from datanets.")
    parser.add_argument("names", nargs="*", help="which adapters (default: all)")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the texts")
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="of training for each adapter; 0: none"
    )
    asked = parser.parse_args()
    known = {one.name for one in train_adapters().TEXTS}
    if unknown := set(asked.names) - known:
        parser.error(f"no such adapter: {', '.join(sorted(unknown))}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
