"""The way back: limits or a whole version of before, as a new version, by one engineer alone."""

import msgspec
from nicegui import ui

from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe
from calibration import texts
from calibration.desk import Desk
from calibration.frame import READ_S, Visit
from calibration.publish import not_comparable


async def roll_back(
    desk: Desk, visit: Visit, recipe: LoadedRecipe, current: LoadedRecipe, why: ui.input
) -> None:
    """Old limits as a new version, by one engineer alone: the way back must be quick."""
    user = visit.engineer()
    if other := not_comparable(recipe, current):
        expected = f"a version with bundle, score and cameras of {current.name}"
        raise ConfigError(recipe.name, expected, other)
    wanted = msgspec.structs.replace(current.recipe, limits=recipe.recipe.limits)
    new, answer = await desk.put_in_force(
        current, wanted, user, why.value or "", "limits.rolled_back",
        {"version": recipe.recipe.version},
    )  # fmt: skip
    _told(texts.ROLLED_BACK.format(recipe=new.name, version=recipe.recipe.version, answer=answer))


async def roll_back_all(
    desk: Desk, visit: Visit, recipe: LoadedRecipe, current: LoadedRecipe, why: ui.input
) -> None:
    """A whole old version as a new one, with its bundle and cameras: its limits belong to them."""
    user = visit.engineer()
    if recipe.recipe.version > current.recipe.version:
        raise ConfigError("version", f"one before {current.name}", recipe.name)
    new, answer = await desk.put_in_force(
        current, recipe.recipe, user, why.value or "", "recipe.rolled_back",
        {"version": recipe.recipe.version},
    )  # fmt: skip
    version = recipe.recipe.version
    _told(texts.USED_ALL_AGAIN.format(recipe=new.name, version=version, answer=answer))


def _told(text: str) -> None:
    ui.notify(text, type="positive", multi_line=True)
    ui.timer(READ_S, ui.navigate.reload, once=True)
