"""Cleaning leaves nothing that no reader sees, splitting loses nothing."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.intake.clean import clean, is_clean
from factory.intake.decode import mend_mojibake
from factory.intake.split import cut, split_text, title_of
from factory.intake.types import Rules
from factory.intake.words import Shingles, words_of

ODD = (
    "\u200b\u200d\u200c\u202e\u2066\U000e0041\ue000\ufe0f\u0301\u0995\u09cd\xad\xa0\u2028\r\x00é😀1"
)
texts = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(ODD + "\n .ab"))
)
PLANTED = [
    "\u200b",
    "\u200e",
    "\u202e",
    "\u2066",
    "\u2069",
    "\u2060",
    "\ufeff",
    "\xad",
    "\U000e0061",
    "\U000e007f",
    "\ue001",
    "\U000f1234",
]


@settings(derandomize=True, max_examples=80, deadline=None)
@given(texts)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = clean(text)
    twice = clean(once.text)
    assert twice.text == once.text
    assert sum(twice.stripped.values()) == 0
    assert is_clean(once.text)
    assert unicodedata.is_normalized("NFC", once.text)
    assert "\n\n\n" not in once.text
    assert all(line == line.rstrip() or line.rstrip(" ") == line for line in once.text.split("\n"))


def test_all_hidden_characters_are_found_and_none_is_stored() -> None:
    text = "".join(f"word {hidden}" for hidden in PLANTED)
    cleaned = clean(text)
    assert sum(cleaned.stripped.values()) == len(PLANTED)
    assert cleaned.text == ("word " * len(PLANTED)).strip()
    assert not is_clean(text)


def test_joiners_stay_where_a_script_spells_with_them_and_nowhere_else() -> None:
    spelt = "বাক্\u200cস্বাধীনতা \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 ☎\ufe0f"
    assert clean(spelt).text == spelt
    assert clean("pass\u200cword\ufe0f").text == "password"
    assert dict(clean("👨\u200d👩").stripped) == {"emoji joiner": 1}
    assert not clean("👨\u200d👩" * 40).hides_too_much


def test_letters_that_were_decoded_wrongly_are_put_right() -> None:
    text = "plain\nIl a mangÃ© une crÃªpe\nIl a mangé"
    assert mend_mojibake(text) == ("plain\nIl a mangé une crêpe\nIl a mangé", 1)
    assert mend_mojibake("plain") == ("plain", 0)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(texts, st.integers(1, 30), st.integers(64, 400))
def test_splitting_loses_no_word_and_keeps_its_limits(text: str, words: int, limit: int) -> None:
    rules = Rules(min_words=1, split_words=words, max_document_bytes=limit)
    cleaned = clean(text).text
    documents = split_text(cleaned, rules)
    assert "".join("".join(documents).split()) == "".join(cleaned.split())
    assert all(0 < len(document.encode()) <= limit for document in documents)


def test_a_document_ends_at_a_blank_line_and_a_short_rest_joins_the_last() -> None:
    paragraph = "one two three four five"
    text = "\n\n".join([paragraph] * 5 + ["rest"])
    documents = split_text(text, Rules(min_words=3, split_words=10))
    assert documents == [f"{paragraph}\n\n{paragraph}"] * 2 + [f"{paragraph}\n\nrest"]
    assert split_text("rest", Rules(min_words=3)) == ["rest"]


def test_a_long_line_is_cut_where_a_sentence_ends() -> None:
    line = "This is said here. " * 20
    pieces = list(cut(line.strip(), 100))
    assert all(piece.endswith(".") and len(piece) <= 100 for piece in pieces)
    assert " ".join(pieces) == line.strip()
    assert [len(piece) for piece in cut("x" * 250, 100)] == [100, 100, 50]


def test_a_title_is_the_first_line_that_says_something() -> None:
    assert title_of("\n## \n# Of **salt**\nmore") == "Of **salt"
    assert len(title_of("long " * 100)) == 80


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["salt", "water", "mill", "ferry", "ox"]), max_size=40))
def test_shingles_do_not_depend_on_case_marks_or_layout(words: list[str]) -> None:
    plain = Shingles().of(words_of(" ".join(words)))
    dressed = Shingles().of(words_of(",\n - ".join(words).upper() + "!"))
    assert plain.tolist() == dressed.tolist()
    assert len(plain) <= max(len(words) - 4, min(len(words), 1))
    assert sorted(set(plain.tolist())) == plain.tolist()


def test_words_keep_their_marks_and_scripts_without_spaces_have_many() -> None:
    assert words_of("নাগরিকের অধিকার") == ["নাগরিকের", "অধিকার"]
    assert words_of("塩と水") == ["塩", "と", "水"]
    assert words_of("Don't STOP") == ["don", "t", "stop"]
