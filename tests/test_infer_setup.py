"""A recipe of several cameras made ready: each bundle is proved by itself, or none is used."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from appliance.bundle import GateLimits
from appliance.config import Config, Engine
from appliance.config_camera import Camera
from appliance.errors import ArtefactError, PartError
from appliance.infer_setup import Setup, prepare
from appliance.recipe import Limits, Recipe, View, load_recipe, write_recipe
from tests.networks import write_network_bundle

GATES = GateLimits(
    mean=(0, 255), saturated=(0, 1), focus=(0, 1e9), shift_px=None, mean_image="gates.png"
)
CAMERAS = ("left", "right", "top")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Recipe "cap/1": left and top by one bundle, right by a second one of another size."""
    cameras = tuple(Camera(name=name, kind="files", folder="x") for name in CAMERAS)
    made = Config(root=str(tmp_path), deadline_ms=200, camera=cameras, engine=Engine(threads=1))
    own = write_network_bundle(
        made.bundles_dir / "own", golden=2, gates=GATES, mean_image=np.full((16, 24), 100, np.uint8)
    )
    other = write_network_bundle(made.bundles_dir / "other", golden=3, net=(8, 12), size=(32, 48))
    view = View(bundle=other.id, bundle_dir="other", decides="map_max", limits=Limits(t1=3, t2=4))
    recipe = Recipe(
        id="cap", version=1, bundle=own.id, bundle_dir="own", decides="map_max",
        limits=Limits(t1=1, t2=2), camera={"right": view},
    )  # fmt: skip
    write_recipe(made, recipe)
    return made


def ready(config: Config) -> Setup:
    return prepare(config, "cap/1", load_recipe(config, "cap/1").setup_hash, lambda: None)


def test_each_camera_is_judged_by_its_own_bundle(config: Config) -> None:
    setup = ready(config)
    try:
        left, right, top = (setup.cameras[name] for name in CAMERAS)
        assert left.engine is top.engine, "one bundle and size, one engine"
        assert left.passport == top.passport != right.passport
        assert setup.passports.split() == [left.passport, right.passport]
        assert left.map_shape != right.map_shape
        assert left.gate_limits == top.gate_limits != right.gate_limits is None
        assert left.gates is not top.gates, "each remembers its own last picture"
        assert [len(golden.frames) for golden in setup.goldens] == [2, 3]
        for camera, size in ((left, (64, 96)), (right, (32, 48))):
            out = np.empty(camera.map_shape, np.float32)
            assert np.isfinite(camera.engine.infer(np.full(size, 100, np.uint8), out))
    finally:
        setup.close()
    assert len(list(config.engines_dir.rglob("proof.json"))) == 2


def test_no_engine_hides_the_figures_of_another(config: Config) -> None:
    """Two bundles, two engines, one health."""
    setup = ready(config)
    try:
        left, right, top = (setup.cameras[name].engine for name in CAMERAS)
        calls = left.calls + right.calls
        black = np.zeros((64, 96), np.uint8)  # to which the network gives no number
        for _ in range(3):
            with pytest.raises(PartError):
                top.infer(black, np.empty(top.spec.map_shape, np.float32))
        right.infer(np.full((32, 48), 9, np.uint8), np.empty(right.spec.map_shape, np.float32))
        left.last_ns, right.last_ns = 7_000_000, 5_000_000
        left.batch_ns, right.batch_ns = {1: 1, 2: 1}, {1: 1, 3: 1}
        told = setup.figures()
        assert told["engine_calls"] == calls + 4
        assert told["engine_failures"] == 3
        assert told["engine_ms"] == 7
        assert told["engine_batch"] == 2
        assert set(told) == set(left.health())
    finally:
        setup.close()


def test_one_bundle_that_is_damaged_refuses_the_whole_recipe(config: Config) -> None:
    network = config.bundles_dir / "other" / "network.onnx"
    network.write_bytes(network.read_bytes() + b"x")
    with pytest.raises(ArtefactError, match=r"other/network\.onnx"):
        ready(config)


def test_a_recipe_that_no_memory_holds_is_refused(config: Config) -> None:
    """An error of the caller, not a bug: infer would die of it and be started into it again."""
    recipe = load_recipe(config, "cap/1").recipe
    view = View(roi=(0, 0, 1_000_000, 1_000_000))
    write_recipe(config, msgspec.structs.replace(recipe, version=2, camera={"top": view}))
    loaded = load_recipe(config, "cap/2")
    with pytest.raises(ArtefactError, match=r"cap/2\.toml: expected room in memory.* 931\. GiB"):
        prepare(config, "cap/2", loaded.setup_hash, lambda: None)
    assert not list(config.engines_dir.rglob("proof.json"))
