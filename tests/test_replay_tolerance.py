"""What a replay on another passport may move: of each camera's own bundle."""

from pathlib import Path

import msgspec
import pytest

from appliance.codes import Reason, Word
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.messages import Verdict, ViewResult
from appliance.recipe import Limits, Recipe, View, load_recipe, write_recipe
from appliance.recording import Recording, SegmentWriter
from appliance.replay_command import tolerance_of
from appliance.replay_stage import Pair
from tests.networks import write_network_bundle

LEFT, RIGHT = 0.01, 0.02
"""Of float32, by the bundle of the camera; two engines may move a logit twice as far."""


@pytest.fixture
def world(tmp_path: Path) -> tuple[Config, Recording, Verdict]:
    """Two cameras with a bundle each, and what is recorded of a part; the right one decides."""
    cameras = tuple(Camera(name=name, kind="files", folder="x") for name in ("left", "right"))
    config = Config(root=str(tmp_path), deadline_ms=200, camera=cameras)
    bundles = {
        name: write_network_bundle(config.bundles_dir / name, change={"tolerances": {"fp32": most}})
        for name, most in (("left", LEFT), ("right", RIGHT))
    }
    limits = Limits(t1=1, t2=2)
    right = View(bundle=bundles["right"].id, bundle_dir="right", decides="map_max", limits=limits)
    recipe = Recipe(id="cell", version=1, bundle=bundles["left"].id, bundle_dir="left",
                    decides="map_max", limits=limits, camera={"right": right})  # fmt: skip
    write_recipe(config, recipe)
    loaded = load_recipe(config, "cell/1")
    toml = (config.recipes_dir / loaded.path).read_text()
    writer = SegmentWriter(tmp_path / "r" / "1.mcap", {}, {})
    writer.note("recipe:cell/1", {"toml": toml, "hash": loaded.hash, "bundle_dir": "left"})
    writer.finish()
    views = tuple(
        ViewResult(camera=name, word=Word.OK, reason=Reason.NONE, bundle=bundle.id, passport=name)
        for name, bundle in bundles.items()
    )
    whole = Verdict(part_id=1, acq_id=1, epoch=1, recipe="cell/1", views=views,
                    **msgspec.structs.asdict(views[1]))  # fmt: skip
    return config, Recording(tmp_path / "r"), whole


@pytest.mark.parametrize(
    ("moved", "most"),
    [((), 0.0), (("left",), 2 * LEFT), (("right",), 2 * RIGHT), (("left", "right"), 2 * RIGHT)],
)
def test_each_view_is_held_to_its_own_bundle(
    world: tuple[Config, Recording, Verdict], moved: tuple[str, ...], most: float
) -> None:
    config, recording, then = world
    views = tuple(
        msgspec.structs.replace(view, passport="another") if view.camera in moved else view
        for view in then.views
    )
    now = msgspec.structs.replace(then, views=views, passport=views[1].passport)
    assert tolerance_of(Pair(then, now), {}, recording, config) == most


def test_another_view_that_decides_on_the_same_passports_moves_nothing(
    world: tuple[Config, Recording, Verdict],
) -> None:
    config, recording, then = world
    now = msgspec.structs.replace(then, **msgspec.structs.asdict(then.views[0]))
    assert tolerance_of(Pair(then, now), {}, recording, config) == 0
