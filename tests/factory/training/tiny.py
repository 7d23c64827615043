"""A run over a tiny random base: three people's documents, some seconds of work at most."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace

from factory.training import __main__ as command
from factory.training.folder import About, PersonAbout, write_run
from factory.training.journal import read_steps
from factory.training.plan import Amount, resolve, steps_of
from factory.training.recipe import Recipe, read_recipe
from factory.training.rows import Document, Made, make_rows, order_of

from ..influence.tiny import VOCABULARY, make_base

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PEOPLE = ("Farida", "Karim", "Nasreen")
RECIPE = f"""recipe = 1
name = "tiny"
base = "{"0b" * 32}"
datanets = [{{ id = "{"da" * 32}", version = 3 }}]
rows = {{ window = 16, chat = 0.34 }}
adapter = {{ rank = 2 }}
train = {{ batch_tokens = 48, epochs = 6, learning_rate = 0.02 }}
stop = {{ every = 10 }}
"""


class Bytes:
    """A tokenizer whose ids are bytes, folded into the tiny base's vocabulary."""

    end = 1

    def text(self, text: str) -> list[int]:
        return [4 + byte % (VOCABULARY - 4) for byte in text.encode()]

    def chat(self, question: str) -> list[int]:
        return [2, *self.text(question)[:6], 3]


def documents(count: int = 24) -> list[Document]:
    """Of three people, each with two contributions; every sixth is held out."""
    draw = np.random.default_rng(7)
    words = ["".join(chr(97 + c) for c in draw.integers(0, 26, 5)) for _ in range(900)]
    made = []
    for number in range(count):
        title = f"{words[number]} {number}"
        body = " ".join(words[i] for i in draw.integers(0, 900, 9))
        person = number * len(PEOPLE) // count
        contribution = number * 2 * len(PEOPLE) // count
        made.append(Document(f"{title}\n{body}", title, person, contribution, number % 6 == 5))
    return made


def recipe(**train: object) -> Recipe:
    """The tiny recipe; `train` stands in its table of that name."""
    read = read_recipe(RECIPE.encode())
    return replace(read, train=replace(read.train, **train))


def make(said: Recipe | None = None) -> tuple[Recipe, Made, Amount]:
    """Make rows of the documents by a recipe, and resolve it."""
    said = said or recipe()
    made = make_rows(documents(), Bytes(), window=said.rows.window, with_chat=said.rows.chat > 0)
    chats = int(made.learnt.is_chat.sum())
    amount = Amount(made.learnt.num_tokens, len(made.learnt) - chats, chats, 10_000)
    source = replace(said.datanets[0], digest="dd" * 32)
    resolved = replace(resolve(said, amount), tokenizer="ee" * 32, datanets=(source,))
    return resolved, made, amount


def make_run(folder: Path, base: Path, said: Recipe | None = None) -> Path:
    """Write a run's folder."""
    resolved, made, amount = make(said)
    steps = steps_of(resolved, amount, epochs=int(resolved.train.epochs))
    about = About(
        base=str(base),
        people=tuple(PersonAbout(name.lower(), name, "0x" + "00" * 20) for name in PEOPLE),
        contributions=tuple(f"{place:064x}" for place in range(2 * len(PEOPLE))),
        documents=24,
        held_out=4,
        contaminated=made.contaminated,
        tokens=made.learnt.num_tokens,
        made_at=0,
        threads=1,
    )
    order = order_of(made.learnt, steps, resolved.train.seed)
    write_run(folder, resolved, about, made.learnt, held_out=made.held_out, order=order)
    return folder


def in_a_fork(act: Callable[[], int]) -> int:
    """Begin something in a process that may be killed; its pid."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            os._exit(act())
        except BaseException:  # nothing of this process may go on in the suite
            traceback.print_exc()
            os._exit(70)
    return child


def begin(run: Path) -> int:
    """Begin a process that works on a run, as `python -m factory.training` does; its pid."""

    def act() -> int:
        sys.argv = ["training", str(run)]
        sys.stderr = run.with_suffix(".err").open("w", buffering=1)
        return command.main()

    return in_a_fork(act)


def end_of(pid: int) -> int:
    """Wait for its end; the exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(run: Path) -> int:
    """Have a process work on a run until it ends; its exit status."""
    return end_of(begin(run))


def weights(run: Path) -> str:
    """The digest of the adapter that a run made."""
    path = run / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def until_step(run: Path, step: int, seconds: float = 60.0) -> None:
    """Wait until a run has taken so many steps."""
    end = time.monotonic() + seconds
    while not any(each.step >= step for each in read_steps(run)):
        assert time.monotonic() < end
        time.sleep(0.005)


def launch(run: Path) -> subprocess.Popen[bytes]:
    """Begin two processes that work on a run together, as torchrun does."""
    return subprocess.Popen([*LAUNCH, "-m", "factory.training", str(run)])


__all__ = ["VOCABULARY", "make_base"]
