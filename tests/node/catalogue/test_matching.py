from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from node.catalogue.about import About
from node.catalogue.matching import LEAST_SCORE, Described, Matcher, language_of
from p2p.cid import Cid
from proofs.manifest import parse_manifest
from tests.proofs import scene

from .auto_prompts import ADAPTERS, FARTHER, LATER, NEAR, OTHERS

BARE = msgspec.structs.replace(parse_manifest(scene.manifest()), contributors=[])


def described(name: str, language: str, description: str) -> Described:
    manifest = msgspec.structs.replace(BARE, name=name)
    return Described(Cid.of(name.encode()), manifest, About(description, (language,)))


DOZEN = [described(name, *told) for name, told in ADAPTERS.items()]


def choose(prompt: str, adapters: Sequence[Described] = DOZEN) -> str:
    matches = Matcher().rank(prompt, adapters)
    fits = matches and matches[0].score >= LEAST_SCORE
    return matches[0].adapter.manifest.name if fits else "base"


@pytest.mark.parametrize(
    ("prompts", "least"),
    [(NEAR, 31), (OTHERS, 10), (LATER, 14), (FARTHER, 0)],
    ids=["near", "others", "later", "farther"],
)
def test_so_many_prompts_go_where_they_belong(
    prompts: Sequence[tuple[str, str]], least: int
) -> None:
    right = sum(choose(prompt) == wanted for prompt, wanted in prompts)
    assert right >= least, f"{right} of {len(prompts)}"


def test_a_choice_does_not_depend_on_the_order_of_adapters_or_on_what_was_asked_before() -> None:
    matcher = Matcher()
    for prompt, _ in (*NEAR, *OTHERS):
        others = random.Random(7).sample(DOZEN, len(DOZEN))
        assert matcher.rank(prompt, others) == Matcher().rank(prompt, DOZEN)


def test_an_adapter_of_the_prompts_language_goes_first() -> None:
    twins = [described(name, name, "recettes, sauces, kitchen") for name in ("fr", "en")]
    assert choose("Quels sont les recettes et sauces de la saison ?", twins) == "fr"
    assert choose("What are the sauces that you would make in the kitchen?", twins) == "en"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Was ist das und wie geht es?", "de"),
        ("What is this, and how does it go?", "en"),
        ("Qu'est-ce que c'est, et comment est-il ?", "fr"),
        ("42", None),
        ("", None),
    ],
)
def test_a_language_is_told_by_its_small_words(text: str, language: str | None) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("prompt", ["", "the of and", "1234 !?", "\x00\ud7ff" * 100])
def test_a_prompt_that_says_nothing_goes_to_the_base(prompt: str) -> None:
    assert choose(prompt) == "base"


def test_a_description_full_of_words_wins_nothing_by_its_length() -> None:
    everything = " ".join(description for _, description in ADAPTERS.values())
    stuffed = described("stuffed", "en", everything)
    right = sum(choose(prompt, [*DOZEN, stuffed]) == wanted for prompt, wanted in NEAR)
    assert right >= 28
