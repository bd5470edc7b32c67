"""A region that no picture of the camera can hold is refused before anything is started."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import tomli_w

from appliance.config import load_config
from appliance.engine_null import write_null_bundle
from appliance.errors import ConfigError
from appliance.recipe import Fixture, Limits, Recipe, View, write_recipe
from appliance.recipe_check import check_recipe

GENICAM = {"kind": "genicam", "producer": "viky"}
FILES = {"kind": "files", "folder": "pictures"}
PICTURE = "0.png"
STATED = "width_px, height_px"


def checked(
    root: Path, camera: Mapping[str, object], view: View | None, trigger: str = "plc"
) -> str:
    """Of a bundle that was trained on 96x64 pixels; a folder camera shows 120x80."""
    settings = {"root": ".", "deadline_ms": 200, "trigger": trigger}
    root.mkdir(exist_ok=True)
    path = root / "config.toml"
    path.write_text(tomli_w.dumps({**settings, "camera": [{"name": "top", **camera}]}))
    config = load_config(path)
    bundle = write_null_bundle(config.bundles_dir / "null", "null", 64, 96)
    views = {} if view is None else {"top": view}
    terms = {"bundle": bundle.id, "bundle_dir": "null", "limits": Limits(t1=1.0, t2=2.0)}
    write_recipe(config, Recipe(id="cell", version=1, decides="map_max", camera=views, **terms))
    return check_recipe(config, "cell/1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    assert cv2.imwrite(str(tmp_path / "pictures" / PICTURE), np.zeros((80, 120), np.uint8))
    return tmp_path


FIXTURE = Fixture(region=(20, 10, 50, 40), max_shift_px=6)


@pytest.mark.parametrize(
    ("camera", "view"),
    [
        (FILES, View(roi=(0, 0, 120, 80))),
        (FILES, View(roi=(24, 16, 96, 64))),
        (FILES, View(fixture=FIXTURE)),
        (FILES, View(roi=(0, 0, 50, 50), sensor_roi=(0, 0, 8, 8))),
        (FILES | {"folder": "not there yet"}, View(roi=(0, 0, 4000, 3000))),
        (FILES | {"width_px": 50, "height_px": 50}, View(roi=(0, 0, 120, 80))),
        (GENICAM, None),
        (GENICAM, View(roi=(0, 0, 4000, 3000))),
        (GENICAM | {"width_px": 96, "height_px": 64}, None),
        (GENICAM | {"width_px": 4000, "height_px": 3000}, None),
        (GENICAM | {"width_px": 4000}, View(roi=(0, 0, 1, 3000))),
        (GENICAM, View(sensor_roi=(500, 500, 96, 64))),
        (GENICAM, View(sensor_roi=(500, 500, 100, 70), roi=(4, 6, 96, 64))),
    ],
)
def test_a_region_that_fits_or_of_which_nothing_is_known_is_good(
    root: Path, camera: Mapping[str, object], view: View | None
) -> None:
    assert checked(root, camera, view).startswith("recipe cell/1 (")


@pytest.mark.parametrize(
    ("camera", "view", "expected", "got"),
    [
        (FILES, View(roi=(25, 0, 96, 64)), f"120x80 pixels ({PICTURE})", "(25, 0, 96, 64)"),
        (FILES, View(roi=(0, 17, 96, 64)), f"120x80 pixels ({PICTURE})", "(0, 17, 96, 64)"),
        (
            FILES, None,
            "a region of 96x64 pixels as the training images",
            f"none, and pictures of 120x80 pixels ({PICTURE})",
        ),
        (
            FILES | {"folder": "not there yet", "width_px": 95, "height_px": 64}, None,
            f"95x64 pixels ({STATED})", "none, so the 96x64 pixels of the training images",
        ),
        (
            GENICAM | {"width_px": 640, "height_px": 480}, View(roi=(0, 0, 641, 480)),
            f"640x480 pixels ({STATED})", "(0, 0, 641, 480)",
        ),
        (
            GENICAM | {"width_px": 640, "height_px": 480},
            View(sensor_roi=(9, 9, 320, 240), roi=(0, 1, 320, 240)),
            "320x240 pixels (sensor_roi)", "(0, 1, 320, 240)",
        ),
        (
            GENICAM, View(sensor_roi=(0, 0, 96, 63)),
            "a region of 96x64 pixels", "none, and pictures of 96x63 pixels (sensor_roi)",
        ),
        (
            GENICAM, View(sensor_roi=(0, 0, 96, 63), fixture=FIXTURE),
            "96x63 pixels (sensor_roi)", "none, so the 96x64 pixels of the training images",
        ),
        (FILES, View(roi=(0, 0, 0, 10)), "x, y >= 0; width, height > 0", "(0, 0, 0, 10)"),
        (FILES, View(roi=(-1, 0, 9, 10)), "x, y >= 0; width, height > 0", "(-1, 0, 9, 10)"),
    ],
)  # fmt: skip
def test_a_region_that_no_picture_holds_is_refused(
    root: Path, camera: Mapping[str, object], view: View | None, expected: str, got: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(root, camera, view)
    assert refused.value.where == f"{root}/recipes/cell/1.toml: camera.top.roi"
    assert expected in refused.value.expected
    assert refused.value.got == got


def test_blocks_of_lines_are_one_picture(root: Path) -> None:
    lines, roi = GENICAM | {"blocks": 4}, (0, 0, 96, 64)
    assert checked(root / "a", lines, View(sensor_roi=(0, 0, 96, 16), roi=roi), "free")
    with pytest.raises(ConfigError, match=r"within the camera's 96x60 pixels \(sensor_roi\)"):
        checked(root / "b", lines, View(sensor_roi=(0, 0, 96, 15), roi=roi), "free")
