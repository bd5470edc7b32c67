"""Limits approved for the settings that the cameras have now: a new version of the recipe.

Enters: what each camera process read back when it last tried a recipe on. Leaves: that recipe's
next version, which keeps everything but `limits.settings`, with who and why in the journal.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from appliance.audit import AuditJournal
from appliance.camera_settings import Found, read_found
from appliance.codes import CommandError
from appliance.config import Config, load_config
from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe, Recipe, load_recipe
from appliance.service import start_logging
from appliance.wire import Wiring
from calibration import texts
from calibration.publish import newest, order, publish, use

WHAT = "limits.approved_for_camera"


def main(
    by: Annotated[str, typer.Option(help="Who approves.")],
    reason: Annotated[str, typer.Option(help="Why the limits hold for these settings.")],
    config: Annotated[Path, typer.Option(help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
) -> None:
    """The limits in force hold for the settings that the cameras have now: a new version says so.

    The camera processes must have tried the recipe on: start the line first. It then refuses
    every other setting, by the feature's name.
    """
    start_logging()
    box = load_config(config)
    base, found = to_approve(box)
    limits = base.recipe.limits.t1, base.recipe.limits.t2
    new = publish(
        box, AuditJournal(box), approved(base, found), limits, who=by, reason=reason, what=WHAT,
        source="command",
    )  # fmt: skip
    use(box, base.name, new.name)
    sys.stdout.write(f"{new.name}\n")
    sys.stderr.write(f"{asyncio.run(_tell(box, by))}\n")


def found_settings(config: Config) -> dict[str, Found]:
    """Camera → what its process last read back. Raises ArtefactError where one left no word."""
    return {
        camera.name: read_found(config, camera.name)
        for camera in config.camera
        if camera.kind != "files"
    }


def to_approve(config: Config) -> tuple[LoadedRecipe, dict[str, Found]]:
    """The recipe that all cameras tried on last, and what they had with it.

    Raises ConfigError: no camera with settings, cameras that disagree, an old version, nothing new.
    """
    found = found_settings(config)
    names = sorted({one.recipe for one in found.values()})
    if len(names) != 1:
        expected = "cameras with settings that tried one recipe on"
        raise ConfigError("camera", expected, ", ".join(names) or "folders of pictures alone")
    base = load_recipe(config, names[0])
    current = newest(config, base.recipe.id)
    if current is not None and current.name != base.name:
        expected = f"the newest version, {current.name}, tried on by the cameras"
        raise ConfigError("recipe", expected, base.name)
    if approved(base, found) == base.recipe:
        raise ConfigError(base.name, "settings that are not approved yet", "the approved ones")
    return base, found


def check_shown(shown: Mapping[str, Found], found: Mapping[str, Found]) -> None:
    """Raises ConfigError where the cameras have other settings than somebody looked at."""
    changed = [name for name in sorted({*shown, *found}) if shown.get(name) != found.get(name)]
    if changed:
        got = f"others of {', '.join(changed)}: load the page again"
        raise ConfigError("settings", "those that the page showed", got)


def differences(known: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Feature, as approved and as it is now, for each that is not the same; by name."""
    return [
        (key, known.get(key, "–"), now.get(key, "–"))
        for key in sorted({*known, *now})
        if known.get(key) != now.get(key)
    ]


def approved(base: LoadedRecipe, found: dict[str, Found]) -> Recipe:
    """The recipe with these settings beside its limits."""
    settings = base.recipe.limits.settings | {name: one.settings for name, one in found.items()}
    limits = msgspec.structs.replace(base.recipe.limits, settings=settings)
    return msgspec.structs.replace(base.recipe, limits=limits)


async def _tell(config: Config, by: str) -> str:
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        if not wiring.is_served("command"):
            return texts.AT_NEXT_START
        answer = await order(wiring.async_sender("command"), "reload_products", by)
    if answer.code == CommandError.DONE:
        return f"{texts.LINE} {texts.TAKEN}"
    return f"{texts.LINE} {texts.NOT_TAKEN.format(detail=answer.detail)}"
