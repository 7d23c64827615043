"""An influence run made of a training's run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import BadRun
from factory.influence import making
from factory.influence.folder import read_run as read_influence
from factory.influence.making import make
from factory.measured import (
    Made,
    Measured,
    Unit,
    read_made,
    standing_of,
    units_of,
)
from factory.training.folder import Run, read_run
from proofs.attribution.tokens import read_tokens

from ..training import tiny


@pytest.fixture
def run(tmp_path: Path) -> Run:
    base = tiny.make_base(tmp_path / "base")
    return read_run(tiny.make_run(tmp_path / "run", base))


def test_what_fits_is_the_runs_own_rows_and_order_and_who_owns_them(run: Run) -> None:
    folder = run.folder / "influence"
    make(run, folder, minutes=1e6, num_samples=2)
    made = read_influence(folder)
    assert np.array_equal(made.order, run.order)
    assert np.array_equal(made.rows, run.rows.ids)
    assert made.recipe.contributors == tiny.PEOPLE
    assert made.owners.tolist() == run.rows.people.tolist()
    prompts = [prompt.owner for prompt in made.prompts]
    assert set(prompts) <= {0, 1, 2}
    assert read_made(folder) == msgspec.json.decode((folder / "made.json").read_bytes(), type=Made)
    text = read_tokens((folder / "attribution.tokens").read_bytes())
    learnt = run.rows.ids[~run.rows.is_chat]
    assert text.num_tokens == int((learnt >= 0).sum())


def test_what_does_not_fit_is_as_many_rows_of_everybody(run: Run) -> None:
    folder = run.folder / "influence"
    make(run, folder, minutes=0.5, num_samples=2)
    made = read_influence(folder)
    counts = np.bincount(made.owners)
    assert len(made.rows) < len(run.rows)
    assert counts.max() - counts.min() <= 1
    times = np.bincount(made.order[made.order >= 0])
    assert set(times.tolist()) == {making.EPOCHS}


def test_a_folder_that_is_made_is_not_made_again(run: Run) -> None:
    folder = run.folder / "influence"
    make(run, folder, minutes=0.5, num_samples=2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make(run, folder, minutes=1e6, num_samples=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_many_people_are_left_out_in_groups(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "MAX_UNITS", 2)
    folder = run.folder / "influence"
    make(run, folder, minutes=1e6, num_samples=2)
    made = read_influence(folder)
    assert len(made.recipe.contributors) == 2
    assert any("and 1 more" in name for name in made.recipe.contributors)
    found = read_made(folder)
    assert found is not None
    assert sorted(place for unit in found.units for place in unit) == [0, 1, 2]


def test_one_persons_text_alone_needs_no_measuring(run: Run) -> None:
    rows = replace(run.rows, people=np.zeros_like(run.rows.people))
    one = replace(run, rows=rows)
    with pytest.raises(BadRun, match="one person's text alone"):
        make(one, run.folder / "influence", minutes=1, num_samples=2)


@given(st.lists(st.integers(0, 1000), max_size=48), st.integers(2, 16))
def test_everybody_who_gave_something_is_in_one_unit(sizes: list[int], most: int) -> None:
    units = units_of(sizes, most)
    assert sorted(place for unit in units for place in unit) == [
        place for place, size in enumerate(sizes) if size
    ]
    assert len(units) <= most
    if len(units) == most and any(len(unit) > 1 for unit in units):
        held = [sum(sizes[place] for place in unit) for unit in units]
        assert max(held) - min(held) <= max(sizes)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=48), st.data())
def test_a_units_weight_is_divided_among_its_people(sizes: list[int], data: st.DataObject) -> None:
    units = units_of(sizes, 8)
    cuts = sorted(
        data.draw(
            st.lists(st.integers(0, 10_000), min_size=len(units) - 1, max_size=len(units) - 1)
        )
    )
    bps = [b - a for a, b in zip([0, *cuts], [*cuts, 10_000], strict=True)]
    measured = Measured(
        tuple(Unit(str(at), part, 1.0, 0.0, 1) for at, part in enumerate(bps)),
        0,
        0,
        4,
        None,
        lds=None,
        missing=(),
        note="",
    )
    weights = standing_of(Made(units, tuple(sizes), 0, 0, 0), measured)
    for unit, part in zip(units, bps, strict=True):
        assert sum(weights[place] for place in unit) == part


def test_too_few_answers_weigh_nobody() -> None:
    people = tuple(Unit(name, 0, 1.0, 0.1, 100) for name in ("Farida", "Karim"))
    found = Measured(people, 12, 0, None, r=None, lds=None, missing=(), note="too few answers")
    assert standing_of(Made(((0,), (1, 2)), (100, 60, 40), 0, 0, 0), found) == (0, 0, 0)
