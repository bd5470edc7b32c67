"""Recipes: what is refused by name, and what the two hashes cover."""

from pathlib import Path

import msgspec
import pytest

from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ConfigError
from appliance.recipe import (
    Limits,
    Recipe,
    RecipeError,
    View,
    load_recipe,
    setup_hash,
    write_recipe,
)

RECIPE = Recipe(
    id="cell",
    version=3,
    bundle="ab" * 32,
    bundle_dir="cell-0001",
    decides="segad",
    limits=Limits(t1=-1.5, t2=2.25, set_by="ann", reason="first"),
    camera={"top": View(exposure_us=100.0, roi=(1, 2, 3, 4))},
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    camera = Camera(name="top", kind="files", folder="x")
    return Config(root=str(tmp_path), deadline_ms=200, camera=(camera,))


def replaced(**changes: object) -> Recipe:
    return msgspec.structs.replace(RECIPE, **changes)


def test_written_and_read_back(config: Config) -> None:
    path = write_recipe(config, RECIPE)
    loaded = load_recipe(config, "cell/3")
    assert loaded.recipe == RECIPE
    assert (loaded.name, loaded.path) == ("cell/3", "cell/3.toml")
    assert path == config.recipes_dir / loaded.path
    assert loaded.hash32 == int(loaded.hash[:8], 16)


def test_a_version_is_never_overwritten(config: Config) -> None:
    path = write_recipe(config, RECIPE)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="expected a version that is not there yet"):
        write_recipe(config, replaced(decides="map_max"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "is_same_set_up"),
    [
        ({"limits": Limits(t1=0.0, t2=1.0)}, True),
        ({"limits": Limits(t1=0.0, t2=1.0, settings={"top": {"Gain": "3"}})}, False),
        ({"decides": "map_max"}, True),
        ({"version": 4}, True),
        ({"bundle": "cd" * 32}, False),
        ({"id": "other"}, False),
        ({"camera": {"top": View(exposure_us=101.0, roi=(1, 2, 3, 4))}}, False),
        ({"camera": {}}, False),
    ],
)
def test_set_up_hash_leaves_out_what_only_decide_reads(
    config: Config, change: dict[str, object], is_same_set_up: bool
) -> None:
    write_recipe(config, RECIPE)
    other = replaced(**({"version": 5} | change))
    write_recipe(config, other)
    one = load_recipe(config, "cell/3")
    two = load_recipe(config, f"{other.id}/{other.version}")
    assert (one.setup_hash == two.setup_hash) == is_same_set_up
    assert one.hash != two.hash


@pytest.mark.parametrize(
    "name", ["", "cell", "cell/", "/3", "../3", "./3", "a/b/3", "cell/x", "cell/-1", "cell/3.0"]
)
def test_names_that_are_none(config: Config, name: str) -> None:
    with pytest.raises(RecipeError, match='expected a recipe name like "cell/3"'):
        load_recipe(config, name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('decides = "segad"', 'decides = "luck"', "3.toml: decides: expected 'average' or"),
        ('decides = "segad"\n', "", "3.toml: expected the key `decides`"),
        ("t1 = -1.5", 't1 = "low"', "3.toml: limits.t1: expected `float`, got `str`"),
        ("t1 = -1.5", "t1 = 3.0", "3.toml: limits: expected finite t1 <= t2"),
        ("t1 = -1.5", "t1 = nan", "3.toml: limits: expected finite t1 <= t2"),
        ("t1 = -1.5", "t1 = -inf", "3.toml: limits: expected finite t1 <= t2"),
        ("t2 = 2.25", "t2 = inf", "3.toml: limits: expected finite t1 <= t2"),
        ("t2 = 2.25", "t2 = 1e39", "3.toml: limits: expected finite t1 <= t2"),
        ("version = 3", "version = 4", "3.toml: expected id and version cell/3, got cell/4"),
        ('id = "cell"', 'id = "bell"', "3.toml: expected id and version cell/3, got bell/3"),
        ("camera.top", "camera.side", "3.toml: camera: expected a camera of config.toml"),
        ("t1 = -1.5", "t1 = -1.5\nt3 = 1", "3.toml: limits: expected only known keys"),
        ("version = 3", "version = ", "3.toml: expected valid TOML"),
    ],
)
def test_what_is_wrong_is_named(config: Config, old: str, new: str, message: str) -> None:
    path = write_recipe(config, RECIPE)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_recipe(config, "cell/3")
    assert message in str(caught.value)
    assert caught.value.offline == OfflineReason.NO_RECIPE


@pytest.mark.parametrize(("t1", "t2"), [(0.5, 0.5), (-3.4e38, 3.4e38)])
def test_limits_may_meet_and_may_be_as_far_as_float32_goes(
    config: Config, t1: float, t2: float
) -> None:
    write_recipe(config, replaced(limits=Limits(t1=t1, t2=t2)))
    assert load_recipe(config, "cell/3").recipe.limits == Limits(t1=t1, t2=t2)


def test_settings_that_were_approved_for_an_unknown_camera_are_refused(config: Config) -> None:
    """A name that was mistyped would leave the camera that was meant without any."""
    known, unknown = ({name: {"Gain": "3"}} for name in ("top", "side"))
    for version, settings in ((3, known), (4, unknown)):
        limits = Limits(t1=0.0, t2=1.0, settings=settings)
        write_recipe(config, replaced(version=version, limits=limits))
    assert load_recipe(config, "cell/3").recipe.limits.settings == known
    with pytest.raises(RecipeError) as refused:
        load_recipe(config, "cell/4")
    assert refused.value.where.endswith("4.toml: limits.settings")
    assert (refused.value.expected, refused.value.got) == ("a camera of config.toml", "'side'")


def test_a_missing_recipe(config: Config) -> None:
    with pytest.raises(RecipeError, match=r"3\.toml: expected a TOML file, got no such file"):
        load_recipe(config, "cell/3")


TWO = ("top", "side")
OWN = {"bundle": "cd" * 32, "bundle_dir": "side-0001", "limits": Limits(t1=1.0, t2=2.0)}


def test_a_view_is_judged_by_its_own_terms_where_it_has_them() -> None:
    side = View(**OWN, decides="map_max")
    recipe = replaced(camera={**RECIPE.camera, "side": side})
    assert recipe.terms("top") == ("ab" * 32, "cell-0001", "segad", RECIPE.limits)
    assert recipe.terms("side") == ("cd" * 32, "side-0001", "map_max", OWN["limits"])
    assert recipe.bundles(TWO) == {"ab" * 32: "cell-0001", "cd" * 32: "side-0001"}


@pytest.mark.parametrize(
    ("view", "is_same_set_up"),
    [
        ({**OWN, "limits": Limits(t1=0.0, t2=9.0)}, True),
        ({**OWN, "decides": "classification"}, True),
        ({**OWN, "bundle": "ef" * 32}, False),
    ],
)
def test_the_set_up_hash_leaves_out_a_view_s_limits_too(
    view: dict[str, object], is_same_set_up: bool
) -> None:
    hashes = {
        setup_hash(replaced(camera={"side": View(**settings)}))  # pyright: ignore[reportArgumentType]
        for settings in (OWN, view)
    }
    assert (len(hashes) == 1) == is_same_set_up


@pytest.mark.parametrize(
    ("view", "where", "got"),
    [
        ({"bundle": "cd" * 32, "limits": OWN["limits"]}, "camera.side", "bundle alone"),
        ({"bundle_dir": "x", "limits": OWN["limits"]}, "camera.side", "bundle_dir alone"),
        ({"bundle": "cd" * 32, "bundle_dir": "x"}, "camera.side.limits", "none"),
        ({"decides": "map_max"}, "camera.side.limits", "none"),
        ({"limits": Limits(t1=2.0, t2=1.0)}, "camera.side.limits", "t1 2.0, t2 1.0"),
        (
            {"limits": Limits(t1=1.0, t2=2.0, settings={"side": {"Gain": "3"}})},
            "camera.side.limits.settings", "side",
        ),
    ],
)  # fmt: skip
def test_terms_of_a_view_that_prove_nothing_are_refused(
    config: Config, view: dict[str, object], where: str, got: str
) -> None:
    """Limits belong to one bundle and one score."""
    two = (*config.camera, Camera(name="side", kind="files", folder="x"))
    config = msgspec.structs.replace(config, camera=two)
    write_recipe(config, replaced(camera={"side": View(**view)}))  # pyright: ignore[reportArgumentType]
    with pytest.raises(RecipeError) as refused:
        load_recipe(config, "cell/3")
    assert refused.value.where.endswith(f"3.toml: {where}")
    assert got in refused.value.got
