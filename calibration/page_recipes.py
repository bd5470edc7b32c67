"""Recipes: every version, who set it and why, what changed, and the way back."""

from functools import partial

import msgspec
from nicegui import ui

from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe, load_recipe
from calibration import texts
from calibration.desk import Desk
from calibration.frame import READ_S, Visit, button, field, table
from calibration.publish import not_comparable, versions

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
                name, call = (
                    (texts.USE_ALL_AGAIN, _roll_back_all)
                    if other
                    else (texts.ROLL_BACK, _roll_back)
                )
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


async def _roll_back(
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


async def _roll_back_all(
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
