"""Recipes: hashes, what a change of limits leaves as it was, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.codes import OfflineReason
from appliance.errors import ConfigError
from appliance.recipe import Limits, Recipe, RecipeError, View, load_recipe, write_recipe
from tests.rig import Rig

RECIPE = Recipe(
    id="part",
    version=1,
    bundle="ab" * 32,
    bundle_dir="null",
    decides="map_max",
    limits=Limits(t1=-1.5, t2=2.5, set_by="me", reason="a test"),
    camera={"top": View(exposure_us=1000.0, pixel_format="Mono8", roi=(1, 2, 30, 40))},
)


@pytest.fixture()
def rig() -> Iterator[Rig]:
    """An installation, not started."""
    with Rig() as rig:
        yield rig


def test_what_is_written_comes_back(rig: Rig) -> None:
    """Every field, limits to the last digit."""
    write_recipe(rig.config, RECIPE)
    loaded = load_recipe(rig.config, "part/1")
    assert loaded.recipe == RECIPE
    assert loaded.name == "part/1"
    assert loaded.hash32 == int(loaded.hash[:8], 16)


def test_a_version_is_never_overwritten(rig: Rig) -> None:
    """The next change is the next version."""
    write_recipe(rig.config, RECIPE)
    with pytest.raises(ConfigError, match="a version that is not there yet"):
        write_recipe(rig.config, RECIPE)


def test_limits_alone_leave_the_setup_as_it_was(rig: Rig) -> None:
    """Another hash of the whole, the same set-up; an exposure changes both."""
    limits = msgspec.structs.replace(RECIPE, version=2, limits=Limits(t1=0.0, t2=0.0))
    decides = msgspec.structs.replace(limits, version=3, decides="classification")
    exposure = msgspec.structs.replace(RECIPE, version=4, camera={"top": View(exposure_us=2.0)})
    for recipe in (RECIPE, limits, decides, exposure):
        write_recipe(rig.config, recipe)
    loaded = [load_recipe(rig.config, f"part/{version}") for version in (1, 2, 3, 4)]
    assert len({recipe.hash for recipe in loaded}) == 4
    setups = [recipe.setup_hash for recipe in loaded]
    assert setups[0] == setups[1] == setups[2] != setups[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("t1 = -1.5", "t1 = 3.0"),
            "limits: expected finite t1 <= t2 (float32), got t1 3.0, t2 2.5",
        ),
        (("t1 = -1.5", "t1 = nan"), "limits: expected finite t1 <= t2"),
        (("t2 = 2.5", "t2 = inf"), "limits: expected finite t1 <= t2"),
        (("version = 1", "version = 2"), "expected id and version part/1, got part/2"),
        (("map_max", "luck"), "invalid enum value 'luck'"),
        (("camera.top", "camera.side"), "camera: expected a camera of config.toml, got 'side'"),
        (("[limits]", "[limit]"), "expected only known keys, got unknown field `limit`"),
    ],
)
def test_what_is_refused(rig: Rig, change: tuple[str, str], message: str) -> None:
    """The file, the key, what was expected, what came; not Ready for want of a recipe."""
    path = write_recipe(rig.config, RECIPE)
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(RecipeError) as caught:
        load_recipe(rig.config, "part/1")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.offline == OfflineReason.NO_RECIPE


@pytest.mark.parametrize("name", ["part", "part/", "/1", "../part/1", "a/b/1", "part/one"])
def test_names_that_are_no_recipe(rig: Rig, name: str) -> None:
    """Nothing outside the recipes directory is ever opened."""
    with pytest.raises(RecipeError, match="expected a recipe name like"):
        load_recipe(rig.config, name)


def test_a_missing_recipe_is_named(rig: Rig) -> None:
    """The path that was looked for."""
    path: Path = rig.config.recipes_dir / "part" / "9.toml"
    with pytest.raises(RecipeError, match="no such file") as caught:
        load_recipe(rig.config, "part/9")
    assert caught.value.where == str(path)
