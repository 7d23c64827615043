from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.errors import ParametersError
from proofs.parameters import AUDIT_ONE_IN, COMPLETION_FLOOR
from proofs.proposal import MAX_TEXT_BYTES, find_simulation, name_simulation, read_draft

TEXT = """
# Raise the floor

A machine that answers below this pays for its own electricity.

```parameters
prices.completion-floor = 40   # was 0

audit.one-in = 50
```
"""


def test_a_proposal_is_read_as_it_is_written() -> None:
    draft = read_draft(TEXT)
    assert draft.title == "Raise the floor"
    assert draft.changes == ((COMPLETION_FLOOR, 40), (AUDIT_ONE_IN, 50))
    assert draft.text == TEXT


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "text"),
        ("# A title\n\nand grounds, and nothing to change\n", "text"),
        ("```parameters\naudit.one-in = 50\n```\n", "text"),
        (TEXT.replace("40", "much"), "value"),
        (TEXT.replace("audit.one-in", "prices.completion-floor"), "name"),
        (TEXT.replace("audit.one-in", "audit.of-everything"), "name"),
        (TEXT + "x" * MAX_TEXT_BYTES, "size"),
    ],
    ids=["empty", "no block", "no title", "no number", "twice", "unknown", "too long"],
)
def test_what_is_none_is_refused_by_its_rule(text: str, rule: str) -> None:
    with pytest.raises(ParametersError) as refused:
        read_draft(text)
    assert refused.value.rule == rule


@given(st.binary(min_size=32, max_size=32))
def test_a_proposal_names_its_simulation_in_its_last_line(digest: bytes) -> None:
    named = name_simulation(TEXT, digest)
    assert find_simulation(named) == digest
    assert read_draft(named).changes == read_draft(TEXT).changes


@given(st.text(max_size=200))
def test_any_description_is_read(text: str) -> None:
    find_simulation(text)
    find_simulation(f"simulation: {text}")
