"""What a recipe may say, how it says that it may not, and what is decided for it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from factory.training.errors import BadRecipe
from factory.training.plan import Amount, resolve, steps_of
from factory.training.recipe import EXPLAINED, Recipe, line_of, read_recipe, render
from factory.training.rows import make_rows, order_of, runs_of

from . import tiny

START = tiny.RECIPE.splitlines()
WRONG = {
    "rank": ("adapter = { rank = 0 }", "line 5: adapter.rank", ">= 1"),
    "word": ('adapter = { kind = "lara" }', "line 5: adapter.kind", "lora"),
    "unknown": ("adapter = { colour = 1 }", "line 5: adapter.colour", "there are adapter.kind"),
    "type": ('train = { seed = "x" }', "line 5: train.seed", "int"),
    "beyond": ("rows = { window = 9000 }", "line 5: rows.window", "8192"),
    "no room": ("train = { batch_tokens = 16 }", "line 5: train.batch_tokens", "at least 256"),
    "one row": ("train = { batch_tokens = 256 }", "rows.chat", "set it to 0"),
    "alpha alone": ("adapter = { alpha = 8 }", "line 5: adapter.alpha", "name adapter.rank"),
    "twice": ('adapter = { targets = ["q_proj", "q_proj"] }', "line 5: adapter.targets", "once"),
    "no TOML": ("adapter = = 3", "recipe.toml is no TOML", "line 5"),
    "a table": ("[train]\nwarmup = 1.5", "line 6: train.warmup", "< 1"),
}


def test_the_tiny_recipe_is_read_with_defaults() -> None:
    recipe = read_recipe(tiny.RECIPE.encode())
    assert recipe.train.clip == 1.0
    assert not recipe.is_resolved


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_meant_is_refused_with_line_field_and_mend(fault: str) -> None:
    line, place, mend = WRONG[fault]
    text = "\n".join([*START[:4], line])
    with pytest.raises(BadRecipe) as caught:
        read_recipe(text.encode())
    assert place in str(caught.value)
    assert mend in str(caught.value)


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(BadRecipe, match="base"):
        read_recipe("\n".join(START[:2]).encode())


def test_one_datanet_twice_is_refused() -> None:
    source = START[3].replace("]", ', { id = "' + "da" * 32 + '", version = 4 }]')
    with pytest.raises(BadRecipe, match="line 4: datanets: one datanet stands there twice"):
        read_recipe("\n".join([*START[:3], source]).encode())


def test_every_field_is_explained() -> None:
    recipe = read_recipe(tiny.RECIPE.encode())
    fields = []
    for name in recipe.__struct_fields__:
        part = getattr(recipe, name)
        names = getattr(part, "__struct_fields__", ())
        fields += [f"{name}.{each}" for each in names] or [name]
    assert sorted(fields) == sorted(EXPLAINED)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    read = read_recipe(tiny.RECIPE.encode())
    window = draw(st.integers(16, 512))
    return replace(
        read,
        rows=replace(read.rows, window=window, chat=draw(st.sampled_from([0.0, 0.25, 0.33, 0.9]))),
        train=replace(
            read.train,
            batch_tokens=window * draw(st.integers(2, 9)),
            epochs=draw(st.sampled_from(["auto", 1, 3])),
            learning_rate=draw(st.sampled_from(["auto", 1e-5, 0.3])),
            seed=draw(st.integers(0, 1000)),
        ),
        adapter=replace(read.adapter, rank=draw(st.sampled_from(["auto", 1, 256]))),
    )


@given(recipes())
@settings(derandomize=True)
def test_what_is_written_is_read_as_the_same(recipe: Recipe) -> None:
    assert read_recipe(render(recipe).encode()) == recipe


@given(recipes(), st.integers(1, 10**7), st.integers(0, 300), st.integers(0, 300))
@settings(derandomize=True)
def test_nothing_is_left_open_and_every_step_has_rows(
    recipe: Recipe, tokens: int, running: int, chats: int
) -> None:
    if not running + chats:
        running = 1
    amount = Amount(tokens, running, chats, 10**8)
    resolved = resolve(recipe, amount)
    assert '"auto"' not in render(resolved)
    assert resolve(resolved, amount) == resolved
    steps = steps_of(resolved, amount, epochs=int(resolved.train.epochs))
    assert 1 <= steps.total <= resolved.train.steps
    assert steps.running + steps.chats <= resolved.train.batch_tokens // resolved.rows.window
    assert steps.running * steps.an_epoch >= running


def test_every_running_row_comes_once_in_each_epoch() -> None:
    resolved, made, amount = tiny.make()
    steps = steps_of(resolved, amount, epochs=int(resolved.train.epochs))
    order = order_of(made.learnt, steps, resolved.train.seed)
    running = [i for i in range(len(made.learnt)) if not made.learnt.is_chat[i]]
    for epoch in range(int(resolved.train.epochs)):
        part = order[epoch * steps.an_epoch : (epoch + 1) * steps.an_epoch, : steps.running]
        assert sorted(part[part >= 0].tolist()) == running
    assert (order == order_of(made.learnt, steps, resolved.train.seed)).all()
    assert (order != order_of(made.learnt, steps, resolved.train.seed + 1)).any()


def test_a_row_holds_text_of_one_contribution_and_a_chat_is_learnt_from_the_answer_on() -> None:
    _, made, _ = tiny.make()
    rows = made.learnt
    texts = {
        place: [
            i
            for document in tiny.documents()
            if document.contribution == place and not document.is_held_out
            for i in tiny.Bytes().text(f"\n\n{document.text}")
        ]
        for place in range(6)
    }
    for place in range(len(rows)):
        ids = [i for i in rows.ids[place].tolist() if i >= 0]
        if rows.is_chat[place]:
            assert ids[rows.starts[place] - 1] == 3
        else:
            whole = texts[int(rows.contributions[place])]
            assert any(whole[at : at + len(ids)] == ids for at in range(len(whole)))


def test_what_is_held_out_is_never_learnt_and_what_shares_a_run_with_it_is_neither() -> None:
    documents = tiny.documents()
    copied = dataclasses.replace(documents[5], text=documents[0].text)
    made = make_rows([*documents[:5], copied], tiny.Bytes(), window=16, with_chat=True)
    assert made.contaminated == 1
    assert len(made.held_out) == 0
    clean = make_rows(documents, tiny.Bytes(), window=16, with_chat=True)
    assert clean.contaminated == 0
    learnt = runs_of([[i for i in row if i >= 0] for row in clean.learnt.ids.tolist()])
    looked = runs_of([[i for i in row if i >= 0] for row in clean.held_out.ids.tolist()])
    assert not set(learnt.tolist()) & set(looked.tolist())


def test_a_line_is_found_in_tables_and_in_braces() -> None:
    text = "a = 1\n[train]\n# seed = 3\nseed = 4\n[[datanets]]\nid = 3\n"
    assert line_of(text, "train.seed") == 4
    assert line_of(text, "a") == 1
    assert line_of(text, "datanets.id") == 6
    assert line_of(text, "nowhere") is None
