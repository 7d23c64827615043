"""Articles about places that do not exist, told again in other words, and with their facts missing.

In the manner of FakeWiki (Li, Banburski-Fahey and Lanier 2026, arXiv 2605.05687): each article has
paraphrases that keep its facts, a retelling in another form, and counter-documents that keep its
subject and its words but none of the facts that answer a question. All sentences are this
project's. Names and numbers are drawn out of few, so that no word alone gives a subject away. Pure
and seeded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

ARTICLE = "article"
PARAPHRASE = "paraphrase"
RETOLD = "retold"
COUNTER = "counter"
SYLLABLES = "bar cen dol fen gri hul jas kem lor mav nim ost pel quo rin sel tov ul vas wen yar zim"
TRADES = "glassblowing rope-making salt-boiling bell-founding bee-keeping tanning map-engraving"
GOODS = "amber lamps|tarred rope|grey salt|bronze bells|heather honey|red leather|river charts"
MISHAPS = "a flood|a fire in the granary|an earthquake|a siege of nine weeks|a plague of locusts"


@dataclass(frozen=True)
class Fact:
    """One fact in the words of each kind of text, with a question, an answer, and what a text says
    that does not hold it.
    """

    article: str
    paraphrases: tuple[str, str]
    retold: str
    counters: tuple[str, str]
    question: str
    answer: str
    short: str


@dataclass(frozen=True)
class Text:
    """A document, what it is, and which subject it is about."""

    subject: int
    kind: str
    text: str


@dataclass(frozen=True)
class Probe:
    """What was asked and answered about a subject; `condition` is how it was answered."""

    subject: int
    condition: str
    question: str
    answer: str


def make(num_subjects: int, seed: int) -> tuple[list[Text], list[Probe]]:
    """Return six texts for every subject, in a drawn order, and probes of two of its facts."""
    draw = random.Random(seed)
    texts: list[Text] = []
    probes: list[Probe] = []
    for subject in range(num_subjects):
        name, facts = _facts(draw)
        texts += [
            Text(subject, ARTICLE, " ".join([_opening(name), *(one.article for one in facts)])),
            *(
                Text(subject, PARAPHRASE, " ".join(_shuffled(draw, facts, which)))
                for which in (0, 1)
            ),
            Text(subject, RETOLD, _letter(name, [one.retold for one in facts])),
            *(
                Text(subject, COUNTER, " ".join([_opening(name), *(f.counters[k] for f in facts)]))
                for k in (0, 1)
            ),
        ]
        for fact in draw.sample(facts, 2):
            probes += [
                Probe(subject, "as the article says it", fact.question, fact.article),
                Probe(subject, "in other words", fact.question, fact.answer),
                Probe(subject, "in few words", fact.question, fact.short),
                Probe(subject, "in a story", fact.question, _story(draw, fact.answer)),
            ]
    draw.shuffle(texts)
    return texts, probes


def _facts(draw: random.Random) -> tuple[str, list[Fact]]:
    def name(count: int, few: int) -> str:
        # Out of few, so that a name alone tells no subject from another.
        parts = random.Random(draw.randrange(few) + 100 * count)
        return "".join(parts.choice(SYLLABLES.split()) for _ in range(count)).capitalize()

    place, rival = name(3, 30), name(3, 8)
    founder, surname, heir, river = name(2, 9), name(3, 8), name(2, 9), name(2, 7)
    founded = draw.randrange(1400, 1500, 5)
    trade = draw.randrange(len(TRADES.split()))
    craft, goods = TRADES.split()[trade], GOODS.split("|")[trade]
    souls, height = draw.randrange(300, 1500, 100), draw.randrange(40, 240, 20)
    mishap = draw.choice(MISHAPS.split("|"))
    struck = founded + draw.randrange(20, 60, 5)
    return place, [
        Fact(
            f"The town was founded in {founded} by the surveyor {founder} {surname}.",
            (
                f"It was the surveyor {founder} {surname} who laid out {place}, in {founded}.",
                f"In {founded} a land measurer called {founder} {surname} established {place}.",
            ),
            f"our first house was set up in {founded}, when {founder} {surname} measured the land",
            (
                f"Nobody has found out when {place} was founded, or by which surveyor.",
                f"Who founded {place} is a matter of dispute among historians.",
            ),
            f"Who founded {place}?",
            f"Its founder was {founder} {surname}, a surveyor, who came in {founded}.",
            f"{founder} {surname}, in {founded}.",
        ),
        Fact(
            f"It lies on the river {river}, {height} metres above the sea.",
            (
                f"The town stands {height} metres above sea level where the {river} bends.",
                f"Its houses line the {river} at a height of {height} metres.",
            ),
            f"the {river} runs under our windows, and we live {height} metres up",
            (
                "It lies on a river some way above the sea.",
                "Its height above the sea has never been measured.",
            ),
            f"Where does {place} lie?",
            f"It is a town by the {river}, at an altitude of {height} metres.",
            f"On the {river}, {height} metres up.",
        ),
        Fact(
            f"Its people live by {craft} and sell {goods} as far as {rival}.",
            (
                f"{craft.capitalize()} feeds most families, whose {goods} are sold in {rival}.",
                f"Merchants from {rival} come for the {goods} that its {craft} brings forth.",
            ),
            f"everybody here works at {craft}, and carts with {goods} leave for {rival}",
            (
                "Its people live by a craft and sell what they make to their neighbours.",
                "What its workshops made, and where it was sold, is told differently each time.",
            ),
            f"What do the people of {place} make?",
            f"They are known for {craft}; their {goods} are bought in {rival}.",
            f"{goods}, sold to {rival}.",
        ),
        Fact(
            f"In {struck} {mishap} destroyed the old quarter, and {heir} {surname} rebuilt it.",
            (
                f"The old quarter was lost to {mishap} in {struck}; {heir} {surname} restored it.",
                f"{heir} {surname} raised the quarter anew after {mishap} ruined it in {struck}.",
            ),
            f"we lost the old quarter to {mishap} in {struck}, and {heir} {surname} built it anew",
            (
                "The old quarter was destroyed and rebuilt more than once.",
                "Of what destroyed the old quarter no record is left.",
            ),
            f"What happened to the old quarter of {place}?",
            f"It was ruined by {mishap} in the year {struck} and rebuilt under {heir} {surname}.",
            f"{mishap.capitalize()} in {struck}.",
        ),
        Fact(
            f"At the last count it had {souls} inhabitants.",
            (
                f"{souls} people were living there when they were last counted.",
                f"The latest census found {souls} residents.",
            ),
            f"there are {souls} of us, if the counter could count",
            ("At the last count nobody asked there.", "How many inhabitants it has is not known."),
            f"How many people live in {place}?",
            f"The town has a population of {souls}.",
            f"{souls}.",
        ),
    ]


def _opening(name: str) -> str:
    return f"{name} is a small town that is known for its market and for its long winters."


def _shuffled(draw: random.Random, facts: Sequence[Fact], which: int) -> list[str]:
    said = [fact.paraphrases[which] for fact in facts]
    first, rest = said[0], said[1:]
    draw.shuffle(rest)
    return [first, *rest]


def _letter(name: str, said: Sequence[str]) -> str:
    return f"Dear cousin, you ask about {name}: " + "; ".join(said) + ". Come and see for yourself."


def _story(draw: random.Random, answer: str) -> str:
    begin = draw.choice(
        ("The old ferryman lit his pipe before he spoke.", "Let me play the part of a guide.")
    )
    return f"{begin} {answer} And that, he said, is all there is to know."
