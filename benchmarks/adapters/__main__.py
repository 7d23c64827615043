"""Makes the adapters from their texts and recipes.

    python -m benchmarks.adapters --texts DIR --work HOME [--minutes 30] [law medicine …]

DIR holds the texts that texts.py names. HOME is a daemon's home: the datanets are made there, the
same byte for byte whenever they are made again, and `lorikeet train` trains there by
recipes/NAME.toml, so a training that was ended goes on, and one that is finished is taken as it is.
Writes the whole of an adapter's folder but verification.json, which is `python -m engine
calibrate`'s: weights, the recipe with nothing left open, the ids of what was learnt, lorikeet.toml
and README.md. With minutes it measures on smaller adapters what each contribution is worth, too.
Exit status 3: time was over before enough was trained; then standing weights are parts of the
tokens that were registered first, λ is a half, and it is said that nothing was measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import msgspec
import trio

from benchmarks.attribution.background import SAMPLE_TOKENS, plain_base, samples
from factory.training.judging import FILE, Evaluation
from node.answering.tokenizer import load_tokenizer
from node.config import bundled_weights
from node.training.encoding import BaseEncoder
from proofs.attribution.background import write_background

from .corpus import Corpus, read_corpora
from .datanets import Datanet, make_datanet
from .measuring import UNFINISHED, measure
from .pages import BASE_NAME, Made, learnt_of, write_pages
from .texts import TEXTS
from .trained import stretches_of
from .training import daemon_of, run_of, train

ADAPTERS = Path(__file__).resolve().parents[2] / "adapters"
RECIPES = Path(__file__).resolve().parent / "recipes"
NUM_SAMPLES = 104


def main() -> int:
    """Make datanets, trainings, tokens and measurements, one adapter after the other."""
    asked = _arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    corpora = read_corpora(asked.texts, asked.names)
    datanets = [make_datanet(corpus, asked.work) for corpus in corpora]
    for corpus, datanet in zip(corpora, datanets, strict=True):
        say(f"{corpus.name}: datanet {datanet.datanet.hex()}, version {datanet.digest.hex()}")
    trio.run(train_all, [corpus.name for corpus in corpora], asked.work)
    base = plain_base(bundled_weights(), asked.work / "base")
    drawn = samples(asked.work / "samples.json", base, NUM_SAMPLES)
    say(f"background: {NUM_SAMPLES} samples of {SAMPLE_TOKENS} tokens of the base")
    unfinished = [
        corpus.name
        for corpus, datanet in zip(corpora, datanets, strict=True)
        if not publish(corpus, datanet, asked, base=base, drawn=drawn)
    ]
    if unfinished:
        say(f"too little was trained to measure {', '.join(unfinished)}; start again to go on")
    return UNFINISHED if unfinished else 0


async def train_all(names: list[str], home: Path) -> None:
    """Train by each adapter's recipe, one after the other."""
    async with daemon_of(home):
        for name in names:
            say(f"{name}: training by its recipe")
            await trio.to_thread.run_sync(train, RECIPES / f"{name}.toml", name, home)


def publish(
    corpus: Corpus,
    datanet: Datanet,
    asked: argparse.Namespace,
    *,
    base: Path,
    drawn: list[list[int]],
) -> bool:
    """Write an adapter's folder; False where too little is trained to measure anything."""
    tokenizer = load_tokenizer(bundled_weights())
    encoder = BaseEncoder(tokenizer)
    run, steps = run_of(asked.work, corpus.name)
    stretches = stretches_of(datanet, run, steps, encoder)
    learnt = learnt_of(corpus, datanet, stretches, tokenizer.tokenizer_hash)
    say(f"{corpus.name}: {learnt.tokens.num_tokens} tokens were trained on")
    found = measure(
        corpus,
        datanet,
        asked.work / f"{corpus.name}-influence",
        base=base,
        encode=encoder.text,
        background=drawn,
        minutes=asked.minutes,
        adapter=run.recipe.adapter,
    )
    made = Made(
        corpus,
        datanet,
        run,
        steps,
        msgspec.json.decode((run.folder / FILE).read_bytes(), type=Evaluation),
        learnt=learnt,
        background=write_background(tokenizer.tokenizer_hash, drawn),
        found=found,
    )
    folder = ADAPTERS / corpus.name
    take_weights(run.folder / "adapter", folder)
    write_pages(folder, made, tokenizer.decode)
    return found is not None


def take_weights(run: Path, folder: Path) -> None:
    """Copy an adapter as peft keeps it; its configuration names the base, not where it lay."""
    shutil.copyfile(run / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = msgspec.json.decode((run / "adapter_config.json").read_bytes(), type=dict[str, object])
    config["base_model_name_or_path"] = BASE_NAME
    data = msgspec.json.format(msgspec.json.encode(config, order="sorted"), indent=2)
    (folder / "adapter_config.json").write_bytes(data + b"\n")


def say(line: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the adapters from texts and recipes.")
    parser.add_argument("names", nargs="*", help="which adapters (default: all)")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the texts")
    parser.add_argument("--work", type=Path, required=True, help="the home of a daemon")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="of measuring for each adapter; 0: none"
    )
    asked = parser.parse_args()
    known = {one.name for one in TEXTS}
    if unknown := set(asked.names) - known:
        parser.error(f"no such adapter: {', '.join(sorted(unknown))}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
