"""Tokens a second and memory of our trainer beside plain peft and transformers: one recipe, the
same rows in the same order, paired.

    python -m benchmarks.factory.training --base FILE --text FILE [--steps 12] [--rounds 3]

Each side is a process of its own, one after the other, in an order that turns from round to round.
The plain side is transformers' Trainer with peft's LoRA in bfloat16, as their documentation writes
it. The first two steps of each count for nothing. Who shares the machine shifts the wall's figure;
the processor's own time is told beside it. Writes a file of benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import numpy as np

from benchmarks import write_result
from factory.training.folder import About, PersonAbout, read_run, write_run
from factory.training.plan import Amount, resolve, steps_of
from factory.training.recipe import read_recipe
from factory.training.rows import Document, make_rows, order_of
from node.answering.tokenizer import load_tokenizer
from node.training.encoding import BaseEncoder

EXPECTATION = {
    "written": "after a profile (a quarter of a step was the softmax over the vocabulary, a tenth"
    " cleared pages, a sixth padding), before this run",
    "tokens a processor second": "1.25 to 1.4 times plain; by the wall the same on a quiet machine",
    "memory": "0.7 to 0.8 times plain: a step's logits stand there twice in bfloat16 instead of"
    " four times, twice of them in float32",
}
SIDES = ("ours", "plain")
WARM = 2
RECIPE = """recipe = 1
name = "bench"
base = "{zeros}"
datanets = [{{ id = "{zeros}", version = 1 }}]
adapter = {{ rank = 8 }}
train = {{ epochs = 1, steps = {steps} }}
stop = {{ every = 100000 }}
"""


def make(folder: Path, base: Path, text: Path, steps: int, threads: int) -> None:
    """Make a run of one text."""
    recipe = read_recipe(RECIPE.format(zeros="0" * 64, steps=steps).encode())
    encoder = BaseEncoder(load_tokenizer(base))
    parts = text.read_text(encoding="utf-8").split("\n\n")
    parts = [part for part in parts if len(part) > 200][: steps * 40]
    documents = [Document(part, part[:60], 0, 0) for part in parts]
    made = make_rows(documents, encoder, window=recipe.rows.window, with_chat=True)
    chats = int(made.learnt.is_chat.sum())
    amount = Amount(made.learnt.num_tokens, len(made.learnt) - chats, chats, 135_000_000)
    recipe = resolve(recipe, amount)
    recipe = msgspec.structs.replace(
        recipe,
        tokenizer="0" * 64,
        datanets=(msgspec.structs.replace(recipe.datanets[0], digest="0" * 64),),
    )
    person = PersonAbout("somebody", "somebody", "0x" + "0" * 40)
    about = About(
        str(base),
        (person,),
        ("0" * 64,),
        documents=len(documents),
        held_out=0,
        contaminated=0,
        tokens=amount.tokens,
        made_at=0,
        threads=threads,
    )
    order = order_of(made.learnt, steps_of(recipe, amount, epochs=1), recipe.train.seed)
    write_run(folder, recipe, about, made.learnt, held_out=made.held_out, order=order)


class Clock:
    """Notes when each step ended, by the wall and by this process's processor time."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def note(self) -> None:
        """A step ended."""
        self.ends.append((time.monotonic(), time.process_time()))

    def result(self, tokens: Sequence[int], loss: float) -> dict[str, float]:
        """What each step learnt from, divided by all that passed since the warm ones ended."""
        wall, processor = (b - a for a, b in zip(self.ends[WARM - 1], self.ends[-1], strict=True))
        learnt = sum(tokens[WARM:])
        return {
            "tokens_a_second": learnt / wall,
            "tokens_a_processor_second": learnt / processor,
            "loss": loss,
            "peak_bytes": peak(),
        }


def ours(folder: Path) -> dict[str, float]:
    """Train by our trainer; its checkpoints count."""
    from factory.training.__main__ import trainer_of
    from factory.training.journal import Step

    trainer = trainer_of(read_run(folder))
    clock = Clock()
    steps: list[Step] = []
    note = trainer.journal.note

    def noted(step: Step) -> None:
        note(step)
        steps.append(step)
        clock.note()

    trainer.journal.note = noted  # type: ignore[method-assign]
    trainer.train()
    return clock.result([each.tokens for each in steps], mean(each.loss for each in steps))


def plain(folder: Path) -> dict[str, float]:
    """Train by transformers' Trainer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        GgufConfig,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    run = read_run(folder)
    torch.set_num_threads(run.about.threads)
    recipe = run.recipe
    base = Path(run.about.base)
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    if base.is_file():
        options |= {"gguf_file": base.name, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(
        base.parent if base.is_file() else base, local_files_only=True, **options
    )
    torch.manual_seed(recipe.train.seed)
    config = LoraConfig(
        r=int(recipe.adapter.rank),
        lora_alpha=int(recipe.adapter.alpha),
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    batch = run.order.shape[1]
    places = np.where(run.order < 0, run.order[:, :1], run.order).ravel()
    ids = np.asarray(run.rows.ids[places], np.int64)
    learnt = (ids >= 0) & (np.arange(ids.shape[1]) >= run.rows.starts[places][:, None])
    rows = [
        {"input_ids": torch.from_numpy(np.maximum(a, 0)), "labels": torch.from_numpy(b)}
        for a, b in zip(ids, np.where(learnt, ids, -100), strict=True)
    ]
    clock = Clock()

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Notes when each step ends."""

        def on_step_end(self, *_args: object, **_options: object) -> None:
            """Note the time."""
            clock.note()

    arguments = TrainingArguments(
        output_dir=str(folder / "plain"),
        per_device_train_batch_size=batch,
        max_steps=run.num_steps,
        learning_rate=float(recipe.train.learning_rate),
        warmup_steps=1,
        lr_scheduler_type="cosine",
        max_grad_norm=recipe.train.clip,
        weight_decay=0.0,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=run.num_steps,
        train_sampling_strategy="sequential",
    )
    done = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Watch()]).train()
    tokens = learnt.reshape(run.num_steps, -1).sum(axis=1)
    return clock.result(tokens.tolist(), done.training_loss)


def peak() -> float:
    """The most memory that this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ask(side: str, folder: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.factory.training", "--side", side, "--run", str(folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Ask both sides, in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--base", type=Path, help="a folder as transformers reads it, or GGUF")
    parser.add_argument("--text", type=Path, help="plain text, with blank lines")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dry", action="store_true", help="print only: write no result")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps({"ours": ours, "plain": plain}[asked.side](asked.run)))
        return 0
    if asked.base is None or asked.text is None:
        parser.error("--base and --text are needed")
    rounds: list[dict[str, dict[str, float]]] = []
    load = os.getloadavg()[0]
    for number in range(asked.rounds):
        found = {}
        for side in (SIDES, SIDES[::-1])[number % 2]:
            with tempfile.TemporaryDirectory() as scratch:
                make(
                    Path(scratch) / "run",
                    asked.base,
                    asked.text,
                    steps=asked.steps,
                    threads=asked.threads,
                )
                found[side] = ask(side, Path(scratch) / "run")
            print(f"round {number + 1}, {side}: {found[side]}", flush=True)
        rounds.append(found)
    ratios = {
        what: statistics.median(r["ours"][what] / r["plain"][what] for r in rounds)
        for what in ("tokens_a_second", "tokens_a_processor_second", "peak_bytes")
    }
    print(f"ours / plain: {ratios}")
    result = {
        "expectation": EXPECTATION,
        "base": asked.base.name,
        "steps": asked.steps,
        "threads": asked.threads,
        "load_at_start": load,
        "rounds": rounds,
        "ours_over_plain": ratios,
    }
    if not asked.dry:
        write_result("factory-training", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
