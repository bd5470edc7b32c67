"""Recipes: every version, who set it and why, what changed, and the way back."""

from functools import partial

import msgspec
from nicegui import ui

from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe, load_recipe
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, button, field, table
from calibration.publish import not_comparable, versions
from calibration.roll_back import roll_back, roll_back_all

_MOST = 20


async def build(desk: Desk, visit: Visit) -> None:
    """One panel per recipe in force."""
    in_force = await desk.run(desk.in_force)
    if not in_force:
        ui.label(texts.NO_RECIPE).classes("note")
    for identity, current in in_force.items():
        known = await desk.run(partial(_known, desk, identity))
        with ui.element("section").classes("panel wide"):
            ui.label(identity).classes("title")
            for older, recipe in zip([*known[1:], None], known, strict=True):
                _show(desk, visit, recipe, older, current)


def _known(desk: Desk, identity: str) -> list[LoadedRecipe]:
    """Readable versions, newest first."""
    found: list[LoadedRecipe] = []
    for number in versions(desk.config, identity)[::-1][:_MOST]:
        try:
            found.append(load_recipe(desk.config, f"{identity}/{number}"))
        except ConfigError:
            continue
    return found


def _show(
    desk: Desk,
    visit: Visit,
    recipe: LoadedRecipe,
    older: LoadedRecipe | None,
    current: LoadedRecipe,
) -> None:
    limits = recipe.recipe.limits
    is_current = recipe.name == current.name
    with ui.element("details").classes("version").props("open" if is_current else ""):
        with ui.element("summary"):
            ui.label(recipe.name).classes("version-name")
            ui.label(f"T1 {limits.t1:.4f}   T2 {limits.t2:.4f}").classes("version-limits")
            ui.label(limits.set_by).classes("version-by")
            ui.label(texts.IN_FORCE if is_current else "").classes("version-force")
        ui.label(f"{texts.WHY}: {limits.reason or '–'}")
        ui.label(f"SHA-256 {recipe.hash[:16]}…").classes("note")
        if older is None:
            ui.label(texts.NO_CHANGES).classes("note")
        else:
            ui.label(texts.CHANGES.format(version=older.recipe.version)).classes("caps")
            table((), difference(older, recipe), "diff")
        other = not_comparable(recipe, current)
        if other:
            ui.label(texts.NOT_COMPARABLE.format(other=other, current=current.name)).classes("note")
        if not is_current:
            with ui.element("div").classes("bar"):
                why = field(texts.REASON)
                call = roll_back_all if other else roll_back
                name = texts.USE_ALL_AGAIN if other else texts.ROLL_BACK
                button(name, visit.tried(partial(call, desk, visit, recipe, current, why)))


def difference(old: LoadedRecipe, new: LoadedRecipe) -> list[tuple[str, ...]]:
    """Key, old, new of all that differs but the version itself."""
    before, after = _flat(msgspec.to_builtins(old.recipe)), _flat(msgspec.to_builtins(new.recipe))
    return [
        (key, before.get(key, "–"), after.get(key, "–"))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key != "version"
    ]


def _flat(value: object, key: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for name, inner in value.items():
            found |= _flat(inner, f"{key}.{name}" if key else str(name))
        return found
    return {} if value is None else {key: str(value)}
