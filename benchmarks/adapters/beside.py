"""Weights of the adapters beside others, on text that neither learnt.

    python -m benchmarks.adapters.beside --texts DIR --work HOME --before FOLDER [law …]

DIR and HOME as for `python -m benchmarks.adapters`. FOLDER holds law/, medicine/ … as adapters/
does, which is what comes after unless --after names another; attribution.tokens and
contributors.msgpack say what a training drew, of which document of the same datanet, and so what it
never saw. Looked at are the first 256 tokens of documents that the version holds out, which what
came after never learnt, at most 32 of each kind:

    neither learnt    the training before drew nothing of them
    and nowhere else  of these, which share no 13 tokens in a row with anything that either drew
    learnt before     the training before drew some of them

Writes benchmarks/results/MACHINE-adapters.{json,md}: nats a token of base, before and after, and
how far after loses less, with a 95 % interval over documents.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel

from benchmarks import machine_name, write_result
from factory.learning import load_base
from factory.training.batches import spread
from factory.training.rows import runs_of
from node.answering.tokenizer import load_tokenizer
from node.config import bundled_weights
from node.training.encoding import BaseEncoder
from proofs.attribution.listing import read_listing
from proofs.attribution.tokens import Tokens, read_tokens

from .corpus import read_corpora
from .datanets import Datanet, make_datanet

ADAPTERS = Path(__file__).resolve().parents[2] / "adapters"
WINDOW = 256
MOST_DOCUMENTS = 32
TOKENS, LISTING = "attribution.tokens", "contributors.msgpack"
NUM_DRAWS = 2000
PREFACE = """# Weights of the adapters beside others

Nats a token over the first 256 tokens of documents that the datanet's version holds out. What came
after never learnt any of them, but chose by 12 rows of what is held out which step to keep; what
the training before drew is known from its `attribution.tokens`.
"""
SIDES = ("base", "before", "after")

Floats = npt.NDArray[np.float64]


def main() -> None:
    """Measure all, one adapter after the other."""
    parser = argparse.ArgumentParser(description="Compare weights on what neither learnt.")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the texts")
    parser.add_argument("--work", type=Path, required=True, help="the home of a daemon")
    parser.add_argument("--before", type=Path, required=True, help="a folder like adapters/")
    parser.add_argument("--after", type=Path, default=ADAPTERS, help="another (adapters/)")
    parser.add_argument("names", nargs="*", help="which adapters (default: all)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    encoder = BaseEncoder(load_tokenizer(bundled_weights()))
    measured: dict[str, Any] = {}
    for corpus in read_corpora(asked.texts, asked.names):
        datanet = make_datanet(corpus, asked.work)
        folders = {"before": asked.before / corpus.name, "after": asked.after / corpus.name}
        measured[corpus.name] = compare(datanet, folders, encoder)
        print(corpus.name, measured[corpus.name], flush=True)
    write_result("adapters", measured)
    path = Path(__file__).parents[1] / "results" / f"{machine_name()}-adapters.md"
    path.write_text("\n".join([PREFACE, *table(measured)]) + "\n")


def compare(datanet: Datanet, folders: dict[str, Path], encoder: BaseEncoder) -> dict[str, Any]:
    """Return what all lose of each kind of text."""
    drawn = {side: read_tokens((at / TOKENS).read_bytes()) for side, at in folders.items()}
    listed = read_listing((folders["before"] / LISTING).read_bytes(), drawn["before"], 1)
    known = {one.contribution: set(one.documents) for one in listed}
    fresh, learnt = [], []
    for one in datanet.given:
        for place in sorted(one.held_out):
            is_known = place + 1 in known.get(one.digest, ())
            (learnt if is_known else fresh).append(encoder.text(one.texts[place])[:WINDOW])
    runs = runs_of([ids for tokens in drawn.values() for ids in documents_of(tokens)])
    model = PeftModel.from_pretrained(
        load_base(bundled_weights(), torch.device("cpu")), folders["before"], adapter_name="before"
    )
    model.load_adapter(folders["after"], adapter_name="after")
    found = {}
    for name, texts in (("neither learnt", fresh), ("learnt before", learnt)):
        chosen = [texts[place] for place in spread(len(texts), MOST_DOCUMENTS)]
        lost = np.array([lost_of(model, ids) for ids in chosen])
        tokens = np.array([len(ids) - 1 for ids in chosen], float)
        found[name] = figures(lost, tokens)
        if name == "neither learnt":
            alone = np.array([not np.isin(runs_of([ids]), runs).any() for ids in chosen])
            found["and nowhere else"] = figures(lost[alone], tokens[alone])
    return found


def documents_of(tokens: Tokens) -> list[list[int]]:
    """Return what was drawn, stretch by stretch."""
    ids = np.concatenate(([-1], tokens.vocabulary))[tokens.ranks]
    between = zip(tokens.ends[:-1] + 1, tokens.ends[1:], strict=True)
    return [ids[first:end].tolist() for first, end in between]


@torch.no_grad()
def lost_of(model: PeftModel, ids: Sequence[int]) -> list[float]:
    """Return what each side loses of a document, in nats."""
    row = torch.tensor([ids])
    with model.disable_adapter():
        lost = [lost_of_row(model, row)]
    for side in SIDES[1:]:
        model.set_adapter(side)
        lost.append(lost_of_row(model, row))
    return lost


def lost_of_row(model: PeftModel, row: torch.Tensor) -> float:
    """Return what is lost of a row [1, length]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))


def figures(lost: Floats, tokens: Floats) -> dict[str, Any]:
    """Return nats a token of each side, and the gain of what came after.

    lost: [documents, sides], in nats.
    """
    if not len(tokens):
        return {"documents": 0}
    draw = np.random.Generator(np.random.PCG64(1))
    picked = draw.integers(len(tokens), size=(NUM_DRAWS, len(tokens)))
    gains = (lost[:, 1] - lost[:, 2])[picked].sum(axis=1) / tokens[picked].sum(axis=1)
    sides = {
        side: round(float(lost[:, place].sum() / tokens.sum()), 4)
        for place, side in enumerate(SIDES)
    }
    low, high = np.quantile(gains, (0.025, 0.975))
    return {
        "documents": len(tokens),
        "tokens": int(tokens.sum()),
        **sides,
        "after less": round(sides["before"] - sides["after"], 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


def table(measured: dict[str, Any]) -> list[str]:
    """Return the comparison for people."""
    lines = [
        "| adapter | text | documents | tokens | base | before | after | after loses less by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, kinds in measured.items():
        for kind, found in kinds.items():
            if found["documents"]:
                low, high = found["interval"]
                lines.append(
                    f"| {name} | {kind} | {found['documents']} | {found['tokens']:,} |"
                    f" {found['base']:.2f} | {found['before']:.2f} | {found['after']:.2f} |"
                    f" {found['after less']:.3f} [{low:.3f}, {high:.3f}] |"
                )
    return lines


if __name__ == "__main__":
    main()
