"""Shows runs beside one another, and writes what a finished one made into a folder of its own, as
peft and people read it.

    DIR/    adapter_config.json, adapter_model.safetensors, recipe.toml, evaluation.json, README.md

Blocks. Publishes nothing, and holds no text.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import asdict

from factory.errors import FactoryError
from factory.training.folder import recipe_of
from factory.training.journal import read_steps
from factory.training.judging import FILE as EVALUATED
from factory.training.recipe import EXPLAINED, FILE, Recipe

from ..api.training import BesideRunInfo, DifferingInfo, EvaluationInfo, RunsBesideInfo
from ..catalogue.origins import CARD_FILE
from ..catalogue.packaging import CONFIG_FILE, WEIGHTS_FILE
from ..errors import BadRequest
from .publishing import OFFER
from .runs import ADAPTER, Runs

MAX_COMPARED = 16
PAGE_FILE = "README.md"


def compare(runs: Runs, names: Sequence[str]) -> RunsBesideInfo:
    """Return what differs in runs' recipes, and what came of each. Raises BadRequest."""
    if not 2 <= len(names) <= MAX_COMPARED or len(set(names)) != len(names):
        raise BadRequest(f"name 2 to {MAX_COMPARED} different runs; `lorikeet train list` has them")
    recipes = []
    for name in names:
        try:
            recipes.append(flat(recipe_of(runs.path(name))))
        except FactoryError as error:
            raise BadRequest(str(error)) from error
    differing = tuple(
        DifferingInfo(field, tuple(str(recipe.get(field, "")) for recipe in recipes))
        for field in recipes[0]
        if len({str(recipe.get(field, "")) for recipe in recipes}) > 1
    )
    return RunsBesideInfo(tuple(_beside(runs, name) for name in names), differing)


def _beside(runs: Runs, name: str) -> BesideRunInfo:
    run = runs.show(name).run
    seconds = sum(step.seconds for step in read_steps(runs.path(name)))
    found = _evaluation(runs, name)
    return BesideRunInfo(
        run=run,
        seconds=seconds,
        held_out=found.held_out if found else None,
        verdict=found.verdict if found else "",
        is_good=found.is_good if found else None,
    )


def export(runs: Runs, name: str, out: Path) -> None:
    """Write a finished run's adapter and what is to be known of it into a new folder, whole or not
    at all. Raises BadRequest.
    """
    folder = runs.path(name)
    run = runs.show(name).run
    if run.state != "finished":
        raise BadRequest(
            f"the run {name} is {run.state}; what it has learnt is kept when it is finished, or"
            f" stopped: lorikeet train stop {name}"
        )
    if out.exists():
        raise BadRequest(f"{out} is there already; name a folder that is not")
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(folder / ADAPTER / file, draft / file)
        shutil.copyfile(folder / FILE, draft / FILE)
        shutil.copyfile(folder / EVALUATED, draft / EVALUATED)
        card = folder / OFFER / CARD_FILE
        if card.is_file():
            shutil.copyfile(card, draft / PAGE_FILE)
        else:
            page = "\n".join(_page(recipe_of(folder), _evaluation(runs, name)))
            (draft / PAGE_FILE).write_text(page + "\n")
        draft.rename(out)
    except (OSError, FactoryError) as error:
        raise BadRequest(f"{name} cannot be written to {out}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _evaluation(runs: Runs, name: str) -> EvaluationInfo | None:
    """Return what a run's adapter does beside its base, without the words of answers; None where it
    was not tried yet.
    """
    try:
        return runs.evaluation(name, lambda _ids: "")
    except BadRequest:
        return None


def _page(recipe: Recipe, found: EvaluationInfo | None) -> Iterator[str]:
    """Say what an adapter is that was not published: its card is written when it is."""
    adapter, train = recipe.adapter, recipe.train
    yield f"# {recipe.name}"
    yield ""
    yield (
        f"{adapter.kind}, rank {adapter.rank}, alpha {adapter.alpha}, over the base"
        f" `{recipe.base}`; {train.epochs} epochs, seed {train.seed}. `recipe.toml` has all of it."
    )
    if found:
        yield ""
        yield f"{found.verdict[:1].upper()}{found.verdict[1:]}. `evaluation.json` has the figures."
    yield ""
    yield "Learnt from:"
    yield ""
    for one in recipe.datanets:
        yield f"* version {one.version} of the datanet `{one.id}` (its record `{one.digest}`)"
    yield ""
    yield "`lorikeet train publish` names who gave the texts, and they are paid."


def flat(recipe: Recipe) -> dict[str, object]:
    """Return each field of a recipe by its name with its table's."""
    found: dict[str, object] = {}
    for name, value in asdict(recipe).items():
        if name == "datanets":
            found[name] = ", ".join(f"{each.id[:16]}… {each.version}" for each in value)
        elif name in EXPLAINED:
            found[name] = value
        else:
            found |= {f"{name}.{key}": each for key, each in asdict(value).items()}
    return found
