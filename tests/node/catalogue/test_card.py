"""What a model card's front matter says, and that nothing in it can harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.catalogue.card import MAX_ITEMS, Card, parse_card

CARD = """---
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
license: apache-2.0  # as the base
language:
- en
  - pt-BR
- "not a language"
library_name: peft
tags: [lora, "law"]
model-index:
- name: law
---
# Law
license: mit
"""


def test_a_card_says_licence_languages_and_base() -> None:
    base = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert parse_card(CARD) == Card("apache-2.0", ("en", "pt-BR"), (base,))


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: other\nlicense_name: my-licence\n---\n", "my-licence"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense: [mit, gpl]\n---\n", "mit"),
        ("---\nlicense:\n---\n", ""),
        ("---\nlicense: >\n  folded\n---\n", ""),
        ("---\nlicense: mit\n", ""),
        ("license: mit\n---\n", ""),
        ("", ""),
    ],
)
def test_a_licence_is_read_in_each_of_its_spellings(text: str, licence: str) -> None:
    assert parse_card(text).licence == licence


@given(st.text() | st.lists(st.sampled_from(["---", "- a", "language:", "license: [x,]"])))
def test_whatever_a_card_holds_it_is_read_or_ignored(text: str | list[str]) -> None:
    card = parse_card(text if isinstance(text, str) else "\n".join(["---", *text, "---"]))
    assert len(card.languages) <= 16
    assert len(card.bases) <= MAX_ITEMS
