"""Chooses an adapter for a prompt by what adapters' manifests and pages say of them: `model: auto`.

    text → words, and pieces of words, without those that say nothing → weights: the rarer among the
    adapters, the heavier → the cosine of the prompt with each adapter

So it knows what words say and no more: a prompt that shares none with any adapter goes to the base.
Pure and deterministic; asks no model. Does not know which adapters may be chosen.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from p2p.cid import Cid
from proofs.manifest import Manifest

from .about import About

LEAST_SCORE = 0.05
"""Below, nothing fits and the base answers."""
NAME_WEIGHT = 3.0
DESCRIPTION_WEIGHT = 1.0
SOURCE_WEIGHT = 0.5
PIECE_WEIGHT = 0.35  # of a part of a word, beside the word: "poems" is near "poem" and "poetry"
PIECE_CHARS = 4
OTHER_LANGUAGE = 0.6  # the score of an adapter that says it speaks others than the prompt's
MAX_PROMPT_CHARS = 4_000
MAX_CACHED = 4_096
_WORD = re.compile(r"[^\W\d_]{2,30}")
SILENT = {
    "en": "a an and any are as at be but by can could do does for from had has have how i if in"
    " into is it its me my no not of on or our she should so some than that the their them then"
    " there these they this to up us was we were what when where which who why will with would"
    " you your about please write tell give make explain answer question adapter text model",
    "de": "aber als am an auch auf aus bei bin bis das dass dem den der des die du ein eine einem"
    " einen einer er es für hat ich ihr im in ist kann man mein mit nach nicht noch nur oder sich"
    " sie sind so und uns von vor war was wenn wer wie wird wo zu zum zur bitte schreib erkläre",
    "fr": "au aux avec ce ces dans de des du elle en est et il ils je la le les leur lui mais me"
    " mon ne nous on ou par pas pour qu que qui sa se si son sont sur un une vos vous y quel"
    " quelle comment pourquoi écris explique",
    "es": "al como con cómo de del desde el ella en es esta está este la las le lo los me mi muy"
    " más no nos o para pero por porque que qué se si sin sobre son su sus un una y yo cuál cuando"
    " escribe explica",
    "it": "al alla che chi come con cosa da dal dei del della di e ed gli ha i il in io la le lo ma"
    " mi nel nella non o per perché più quale quando se si sono su un una scrivi spiega",
    "pt": "ao as com como da das de do dos e ela ele em eu foi mais mas me na no nos não o os ou"
    " para pela pelo por porque qual quando que se sem seu sua são um uma você escreva explique",
    "nl": "aan als bij dat de den der die dit door een en er had heb heeft het hij hoe ik in is je"
    " kan maar met mijn na naar niet nog of om ook op over te tot uit van voor waarom wat we wie"
    " wordt zal ze zich zijn zou schrijf",
}
"""Words that tell a language and nothing else."""
_SILENT = {language: frozenset(words.split()) for language, words in SILENT.items()}
_SILENT_ANYWHERE = frozenset().union(*_SILENT.values())


@dataclass(frozen=True)
class Described:
    """An adapter as its creator describes it."""

    cid: Cid
    manifest: Manifest
    about: About


@dataclass(frozen=True)
class Match:
    """How well an adapter fits a prompt, 0 to 1."""

    adapter: Described
    score: float


class Matcher:
    """Ranks adapters for prompts; remembers what it read of each."""

    def __init__(self) -> None:
        self._words: dict[Cid, Counter[str]] = {}

    def rank(self, prompt: str, adapters: Sequence[Described]) -> list[Match]:
        """Return the adapters that share something with a prompt, the best first; of equal ones the
        one whose CID is lowest.
        """
        asked = Counter(features(prompt[:MAX_PROMPT_CHARS], 1.0))
        if not asked:
            return []
        described = {one.cid: self._read(one) for one in adapters}
        idf = _weigh(described.values())
        unheard = math.log(1 + len(described))
        language = language_of(prompt)
        norm = _norm(asked, idf, unheard)
        matches = []
        for one in adapters:
            told = described[one.cid]
            shared = sum(
                asked[word] * told[word] * idf[word] ** 2 for word in asked.keys() & told.keys()
            )
            score = shared / (norm * _norm(told, idf, unheard)) if shared else 0.0
            if language and one.about.languages and not _speaks(one.about, language):
                score *= OTHER_LANGUAGE
            if score > 0.0:
                matches.append(Match(one, round(score, 4)))
        return sorted(matches, key=lambda match: (-match.score, match.adapter.cid.digest))

    def _read(self, one: Described) -> Counter[str]:
        if one.cid not in self._words:
            if len(self._words) >= MAX_CACHED:
                self._words.clear()
            told: Counter[str] = Counter()
            sources = [one.manifest.source, *(by.source for by in one.manifest.contributors)]
            for text, weight in (
                (one.manifest.name, NAME_WEIGHT),
                (one.about.description, DESCRIPTION_WEIGHT),
                *((source, SOURCE_WEIGHT) for source in dict.fromkeys(sources)),
            ):
                told.update(features(text, weight))
            self._words[one.cid] = Counter(
                {word: 1 + math.log1p(count) for word, count in told.items()}
            )
        return self._words[one.cid]


def features(text: str, weight: float) -> dict[str, float]:
    """Return the words of a text and the pieces of them, each with its weight."""
    found: dict[str, float] = {}
    for word in _words_of(text):
        if word in _SILENT_ANYWHERE:
            continue
        found[word] = weight
        for start in range(len(word) - PIECE_CHARS + 1):
            piece = (
                f"<{word[start : start + PIECE_CHARS]}"
                if not start
                else (f"{word[start : start + PIECE_CHARS]}")
            )
            found[f"#{piece}"] = weight * PIECE_WEIGHT
    return found


def language_of(text: str) -> str | None:
    """Return the language that a text's small words are of; None where they do not tell."""
    words = _words_of(text[:MAX_PROMPT_CHARS])
    counts = sorted(
        ((sum(word in silent for word in words), language) for language, silent in _SILENT.items()),
        reverse=True,
    )
    (most, language), (second, _) = counts[:2]
    return language if most > second and most >= 2 else None


def _words_of(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _weigh(described: Iterable[Mapping[str, float]]) -> dict[str, float]:
    described = list(described)
    count = Counter(word for told in described for word in told)
    return {word: math.log(1 + len(described) / num) for word, num in count.items()}


def _norm(words: Mapping[str, float], idf: Mapping[str, float], unheard: float) -> float:
    return math.sqrt(sum((each * idf.get(word, unheard)) ** 2 for word, each in words.items()))


def _speaks(about: About, language: str) -> bool:
    return any(tag.casefold().partition("-")[0] == language for tag in about.languages)
