"""The way back: only to limits that were set for the same measure."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ConfigError
from appliance.recipe import Fixture, Limits, Recipe, View, load_recipe, write_recipe
from appliance.wire import Wiring
from calibration.desk import Desk
from calibration.frame import Visit
from calibration.people import Role
from calibration.publish import not_comparable, versions
from calibration.roll_back import roll_back

VIEW = View(roi=(0, 0, 64, 64))
NOW = Recipe(
    id="cell", version=2, bundle="ab" * 32, bundle_dir="cell-1", decides="segad",
    limits=Limits(t1=1.0, t2=2.0), camera={"top": VIEW},
)  # fmt: skip


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"bundle": "cd" * 32, "bundle_dir": "cell-0"}, "bundle cdcd"),
        ({"decides": "map_max"}, "the score map_max"),
        ({"camera": {"top": View(roi=(8, 0, 64, 64))}}, "settings of a camera"),
        (
            {
                "camera": {
                    "top": View(
                        roi=VIEW.roi, fixture=Fixture(region=(1, 1, 9, 9), max_shift_px=4.0)
                    )
                }
            },
            "settings of a camera",
        ),
    ],
)
def test_limits_of_another_bundle_score_or_view_are_not_used_again(
    tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    config = Config(
        root=str(tmp_path), deadline_ms=200, camera=(Camera(name="top", kind="files", folder="x"),)
    )
    write_recipe(config, msgspec.structs.replace(NOW, version=1, **other))
    write_recipe(config, NOW)
    old, current = load_recipe(config, "cell/1"), load_recipe(config, "cell/2")
    (tmp_path / "products.toml").write_text('[[product]]\nnumber = 1\nrecipe = "cell/2"\n')
    why: Any = SimpleNamespace(value="the old ones were better")

    async def go_back() -> None:
        with Wiring(config.runtime_dir) as wiring:
            desk = Desk(config, tmp_path / "config.toml", wiring.async_sender("command"))
            try:
                eva = desk.people.add("eva", Role.ENGINEER, "correct horse battery", "root@shell")
                visit = Visit(desk, desk.sessions.open(eva))
                await asyncio.wait_for(roll_back(desk, visit, old, current, why), 20)
            finally:
                desk.close()

    with pytest.raises(ConfigError, match=named):
        asyncio.run(go_back())
    assert versions(config, "cell") == (1, 2)


def test_limits_for_the_same_measure_may_be_used_again(tmp_path: Path) -> None:
    """However the recipe's limits, its number or the folder's name changed."""
    config = Config(
        root=str(tmp_path), deadline_ms=200, camera=(Camera(name="top", kind="files", folder="x"),)
    )
    limits = Limits(t1=0.5, t2=9.0)
    write_recipe(config, msgspec.structs.replace(NOW, version=1, limits=limits, bundle_dir="moved"))
    write_recipe(config, NOW)
    assert not not_comparable(load_recipe(config, "cell/1"), load_recipe(config, "cell/2"))
