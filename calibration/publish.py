"""A change of limits as a new version of a recipe: never overwritten, always in the journal.

Enters: a recipe, two limits, who and why. Leaves: `recipes/ID/VERSION.toml`, an entry in the
hash-chained journal, a changed `products.toml` and an order to decide, which takes the version
between two parts.
"""

import asyncio
import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.atomic import write_atomically
from appliance.audit import AuditJournal
from appliance.camera_settings import hash_of
from appliance.codes import CommandError
from appliance.config import Config
from appliance.errors import ConfigError
from appliance.messages import Command, CommandResult
from appliance.product_table import load_products
from appliance.recipe import Limits, LoadedRecipe, Recipe, load_recipe, write_recipe
from appliance.wire import AsyncReceiver
from calibration.reason import checked

_ANSWER_S = 65.0
"""A change that moves camera or engine may take 60 s."""


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


def not_comparable(old: LoadedRecipe, current: LoadedRecipe) -> str:
    """What makes the margins of two versions different measures, "" where they are the same.

    Limits are margins of one bundle, one score and one view of the part: taken over to another they
    would call bad parts OK.
    """
    if old.recipe.bundle != current.recipe.bundle:
        return f"bundle {old.recipe.bundle[:16]}…"
    if old.recipe.decides != current.recipe.decides:
        return f"the score {old.recipe.decides}"
    return "" if old.setup_hash == current.setup_hash else "other settings of a camera"


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

    recipe: what the new version keeps, the camera settings that limits are approved for included;
    its own version number does not matter, and for a recipe without any version on disk the new
    one is 1. Raises ConfigError on limits or a reason that
    cannot be, OSError where the journal or the file cannot be written.
    """
    reason = checked(reason)
    if not who.strip():
        raise ConfigError("by", "a name", "nothing")
    base = newest(config, recipe.id)
    version = base.recipe.version + 1 if base else 1
    new = msgspec.structs.replace(
        recipe,
        version=version,
        limits=Limits(
            t1=limits[0], t2=limits[1], set_by=who, reason=reason,
            settings=recipe.limits.settings,
        ),
    )  # fmt: skip
    path = write_recipe(config, new)
    try:
        loaded = load_recipe(config, f"{recipe.id}/{version}")
        journal.append(
            who,
            what,
            subject=loaded.name,
            old=_told(base.recipe) | {"hash": base.hash} if base else None,
            new=_told(new) | {"hash": loaded.hash, "evidence": dict(evidence or {})},
            reason=reason,
            role=role,
            source=source,
        )
    except BaseException:
        # A change without its entry must not be made; nobody can have loaded it yet.
        path.unlink(missing_ok=True)
        raise
    return loaded


def use(config: Config, old: str, new: str) -> int:
    """`products.toml`: every product that uses the recipe `old` uses `new` from now on.

    Its other bytes stay as the integrator wrote them. Returns how many products; 0 leaves the file
    alone. Raises ConfigError where it cannot be read or written that way.
    """
    path = config.root_dir / "products.toml"
    before = load_products(config)
    wanted = {number: new if name == old else name for number, name in before.items()}
    text = path.read_text(encoding="utf-8")
    changed = re.sub(
        rf"""(^\s*recipe\s*=\s*)(["']){re.escape(old)}\2""",
        lambda found: f"{found[1]}{found[2]}{new}{found[2]}",
        text,
        flags=re.MULTILINE,
    )
    if wanted == before:
        return 0
    write_atomically(path, changed.encode())
    if load_products(config) != wanted:
        write_atomically(path, text.encode())
        raise ConfigError(path, f'lines recipe = "{old}"', "another way to write it: please edit")
    return sum(name == old for name in before.values())


async def order(commands: AsyncReceiver, name: str, by: str, argument: str = "") -> CommandResult:
    """Ask decide for something and wait for its answer; TIMED_OUT where none comes.

    commands: the DEALER of `command`, used for one order at a time.
    """
    asked = Command(id=uuid.uuid4().hex, name=name, argument=argument, by=by)

    async def answer() -> CommandResult:
        while True:
            _, heard = await commands.receive()
            if isinstance(heard, CommandResult) and heard.id == asked.id:
                return heard

    try:
        if await commands.send(asked):
            return await asyncio.wait_for(answer(), _ANSWER_S)
        detail = "the line takes no order just now"
    except asyncio.TimeoutError:
        detail = "no answer"
    return CommandResult(id=asked.id, code=CommandError.TIMED_OUT, detail=detail)


def _told(recipe: Recipe) -> dict[str, Any]:
    return {
        "version": recipe.version,
        "bundle": recipe.bundle,
        "decides": recipe.decides,
        "t1": recipe.limits.t1,
        "t2": recipe.limits.t2,
        "settings": {name: hash_of(found) for name, found in recipe.limits.settings.items()},
    }
