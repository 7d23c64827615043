"""Tries a finished adapter beside its base: on what was held out, on what was learnt, on the base's
own words, and on prompts.

    held out     all; each person; people of whom nothing was learnt
    forgetting   what the base drew by itself: what does the adapter lose of it?
    answers      prompts of the recipe, and the beginnings of texts held out; both go on, same seed

The same run gives the same numbers on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from ..keeping import keep
from .batches import batches_of, spread
from .folder import Run
from .judging import FILE, Answer, Beside, Evaluation, in_long_runs, runs_in, verdict_of
from .loss import NOT_LEARNT
from .model import Learner
from .rows import NO_TOKEN, Rows

MOST_ROWS = 64  # of what is held out, and of each person
LEARNT_ROWS = 16
OWN_WORDS = 8
OWN_TOKENS = 64
PROMPTS = 5
PROMPT_TOKENS = 16
TEMPERATURE = 0.7
ROWS_AT_ONCE = 4


def evaluate(run: Run, learner: Learner) -> Evaluation:
    """Measure the adapter that the learner has now, and write it down."""
    held, rows = run.held_out, run.rows
    learnt_people = set(rows.people.tolist())
    people = sorted(set(held.people.tolist()))
    by_person = {
        person: _beside(learner, run.about.people[person].name, held, _of(held, person))
        for person in people
    }
    held_out = None
    if len(held):
        held_out = _beside(learner, "held out", held, spread(len(held), MOST_ROWS))
    learnt = _beside(learner, "learnt", rows, spread(len(rows), LEARNT_ROWS))
    forgetting = _own_words(run, learner)
    answers = tuple(_answers(run, learner))
    found = Evaluation(
        "",
        is_good=False,
        held_out=held_out,
        people=tuple(one for person, one in by_person.items() if person in learnt_people),
        unseen=tuple(one for person, one in by_person.items() if person not in learnt_people),
        learnt=learnt,
        forgetting=forgetting,
        answers=answers,
    )
    is_good, verdict = verdict_of(held_out, learnt, forgetting, found.memorised)
    found = msgspec.structs.replace(found, is_good=is_good, verdict=verdict)
    keep(run.folder / FILE, msgspec.json.format(msgspec.json.encode(found), indent=1))
    return found


def _of(rows: Rows, person: int) -> list[int]:
    places = np.flatnonzero(rows.people == person)
    return [int(places[place]) for place in spread(len(places), MOST_ROWS)]


@torch.no_grad()
def _beside(learner: Learner, what: str, rows: Rows, places: Sequence[int]) -> Beside:
    """Return what base and adapter lose of some rows."""
    adapter, tokens = _lost(learner, rows, places)
    with learner.model.disable_adapter():
        base, _ = _lost(learner, rows, places)
    return Beside(what, base / tokens, adapter / tokens, tokens)


def _lost(learner: Learner, rows: Rows, places: Sequence[int]) -> tuple[float, int]:
    lost, tokens = 0.0, 0
    most = ROWS_AT_ONCE * rows.ids.shape[1]
    for part in batches_of(rows, places, learner.device, most_tokens=most):
        lost += learner(part.ids, part.targets, part.positions).item()
        tokens += int((part.targets != NOT_LEARNT).sum())
    return lost, tokens


def _own_words(run: Run, learner: Learner) -> Beside:
    """Have the base speak by itself, and return what base and adapter lose of it."""
    with learner.model.disable_adapter():
        said = _draw(run, learner, [run.about.end], OWN_TOKENS, count=OWN_WORDS)
    said = [words or [run.about.end] for words in said]
    ids = np.full((OWN_WORDS, 1 + max(map(len, said))), NO_TOKEN, np.int32)
    for row, words in zip(ids, said, strict=True):
        row[: 1 + len(words)] = [run.about.end, *words]
    none = np.zeros(OWN_WORDS, np.int32)
    rows = Rows(ids, none, none, none, none.astype(bool))
    return _beside(learner, "the base's own words", rows, range(OWN_WORDS))


def _answers(run: Run, learner: Learner) -> list[Answer]:
    text = _text(run.rows)
    prompts = [(list(prompt), True) for prompt in run.about.prompts]
    places = spread(len(run.held_out), PROMPTS)
    prompts += [
        ([int(i) for i in run.held_out.ids[place][:PROMPT_TOKENS] if i >= 0], False)
        for place in places
    ]
    answers = []
    for seed, (prompt, is_own) in enumerate(prompts):
        count = run.recipe.evaluate.tokens
        (adapter,) = _draw(run, learner, prompt, count, seed)
        with learner.model.disable_adapter():
            (base,) = _draw(run, learner, prompt, count, seed)
        runs = runs_in(adapter, text)
        answers.append(
            Answer(
                tuple(prompt),
                is_own,
                tuple(base),
                tuple(adapter),
                longest_run=int(runs.max(initial=0)),
                in_long_runs=in_long_runs(runs),
            )
        )
    return answers


def _text(rows: Rows) -> npt.NDArray[np.int32]:
    """Return what was learnt as one row, texts apart by what is no token."""
    running = rows.ids[~rows.is_chat]
    apart = np.full((len(running), 1), NO_TOKEN, np.int32)
    whole = running.shape[1] if len(running) else 0
    # a text goes on in the next row where this one is full and of the same contribution
    same = np.zeros(len(running), bool)
    same[:-1] = (running[:-1, whole - 1 :] >= 0).all(axis=1)
    same[:-1] &= np.diff(rows.contributions[~rows.is_chat]) == 0
    joined = np.hstack((running, apart)).ravel()
    drop = np.zeros((len(running), whole + 1), bool)
    drop[:, -1] = same
    return np.asarray(joined[~drop.ravel()])


@torch.no_grad()
def _draw(
    run: Run, learner: Learner, prompt: Sequence[int], tokens: int, seed: int = 0, *, count: int = 1
) -> list[list[int]]:
    """Go on from a prompt, so many times; the end of an answer is left out."""
    torch.manual_seed(run.recipe.train.seed + seed)
    ids = torch.tensor([list(prompt)], device=learner.device)
    end = run.about.end
    made = learner.model.generate(  # type: ignore[no-untyped-call]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        eos_token_id=end,
        pad_token_id=end,
        num_return_sequences=count,
    )
    answers: list[list[int]] = made[:, len(prompt) :].tolist()
    return [answer[: answer.index(end)] if end in answer else answer for answer in answers]
