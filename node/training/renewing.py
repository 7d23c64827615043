"""Makes of a run's recipe one for training again: the same values, over the newest versions of its
datanets, which leave out what is gone. Decides nothing else.
"""

from __future__ import annotations

from msgspec.structs import replace

from factory.errors import FactoryError
from factory.training.recipe import FILE, Datanet, Recipe, read_recipe, render

from ..api.datanets import Datanets
from ..api.training import RecipeInfo
from ..errors import BadRequest
from .texts import gone_of


async def renewed(recipe: Recipe, name: str, datanets: Datanets) -> RecipeInfo:
    """Return the recipe's text under a new name. Raises NodeError."""
    sources = []
    notes = []
    for one in recipe.datanets:
        detail = await datanets.show(one.id)
        newest = max((version.number for version in detail.versions), default=one.version)
        sources.append(Datanet(one.id, newest))
        about = detail.info.name
        if newest != one.version:
            notes.append(f"version {newest} of {about} takes the place of version {one.version}")
        if gone := gone_of(detail):
            notes.append(f"{len(gone)} contributions of {about} are gone, and not learnt from")
    text = render(replace(recipe, name=name, datanets=tuple(sources), tokenizer="", template=""))
    try:
        read_recipe(text.encode(), FILE)
    except FactoryError as error:
        raise BadRequest(str(error)) from error
    return RecipeInfo(text, tuple(notes))
