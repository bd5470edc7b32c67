"""A change of limits as a new version of a recipe: never overwritten, always in the journal.

Enters: a recipe, two limits, who and why. Leaves: `recipes/ID/VERSION.toml` and an entry in the
hash-chained journal. Nothing here tells the line: a version is in force once decide takes it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.audit import AuditJournal
from appliance.config import Config
from appliance.errors import ConfigError
from appliance.recipe import Limits, LoadedRecipe, Recipe, load_recipe, write_recipe

_LEAST_REASON = 8


def versions(config: Config, identity: str) -> tuple[int, ...]:
    """Numbers of the versions on disk, ascending; empty where the recipe is unknown."""
    folder = config.recipes_dir / identity
    if identity in ("", ".", "..") or "/" in identity or not folder.is_dir():
        return ()
    return tuple(sorted(int(p.stem) for p in folder.glob("*.toml") if p.stem.isdecimal()))


def newest(config: Config, identity: str) -> LoadedRecipe | None:
    """The newest version of a recipe, None where there is none. Raises RecipeError."""
    known = versions(config, identity)
    return load_recipe(config, f"{identity}/{known[-1]}") if known else None


def publish(
    config: Config,
    journal: AuditJournal,
    recipe: Recipe,
    limits: tuple[float, float],
    *,
    who: str,
    reason: str,
    what: str = "limits.set",
    evidence: Mapping[str, Any] | None = None,
    role: str = "",
    source: str = "",
) -> LoadedRecipe:
    """Write the next version of `recipe` with these limits.

    recipe: what the new version keeps; its own version number does not matter, and for a recipe
    without any version on disk the new one is 1. Raises ConfigError on limits or a reason that
    cannot be, OSError where the journal or the file cannot be written.
    """
    if len(reason.strip()) < _LEAST_REASON:
        raise ConfigError("reason", f"at least {_LEAST_REASON} letters", repr(reason))
    if not who.strip():
        raise ConfigError("by", "a name", "nothing")
    base = newest(config, recipe.id)
    version = base.recipe.version + 1 if base else 1
    new = msgspec.structs.replace(
        recipe,
        version=version,
        limits=Limits(t1=limits[0], t2=limits[1], set_by=who, reason=reason.strip()),
    )
    path = write_recipe(config, new)
    try:
        loaded = load_recipe(config, f"{recipe.id}/{version}")
        journal.append(
            who,
            what,
            subject=loaded.name,
            old=_told(base.recipe) | {"hash": base.hash} if base else None,
            new=_told(new) | {"hash": loaded.hash, "evidence": dict(evidence or {})},
            reason=reason.strip(),
            role=role,
            source=source,
        )
    except BaseException:
        # A change without its entry must not be made; nobody can have loaded it yet.
        path.unlink(missing_ok=True)
        raise
    return loaded


def _told(recipe: Recipe) -> dict[str, Any]:
    return {
        "version": recipe.version,
        "bundle": recipe.bundle,
        "decides": recipe.decides,
        "t1": recipe.limits.t1,
        "t2": recipe.limits.t2,
    }
