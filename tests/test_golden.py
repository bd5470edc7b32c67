"""Golden frames: how many are proved when, and an engine that answers otherwise."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest

from appliance import config
from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.engine_opening import open_engine
from appliance.errors import ArtefactError
from appliance.golden import DailyProof, GoldenFrames
from appliance.infer_setup import Setup, prepare
from appliance.passport import DAY_NS
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from tests.networks import write_network_bundle


@pytest.fixture
def installation(tmp_path: Path) -> tuple[Config, str, str]:
    """A configuration, its recipe "cell/1" and the recipe's set-up hash; 5 golden frames."""
    made = Config(
        root=str(tmp_path), deadline_ms=200, camera=(Camera(name="top", kind="files", folder="x"),),
        engine=config.Engine(threads=1),
    )  # fmt: skip
    bundle = write_network_bundle(made.bundles_dir / "b", golden=5)
    write_recipe(made, Recipe(id="cell", version=1, bundle=bundle.id, bundle_dir="b",
                              decides="map_max", limits=Limits(t1=1, t2=2)))  # fmt: skip
    return made, "cell/1", load_recipe(made, "cell/1").setup_hash


class Beats:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


class Guard(nullcontext[None]):
    """Counts what it was asked to watch."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = 0

    def __enter__(self) -> None:
        self.entered += 1


def prepared(installation: tuple[Config, str, str]) -> tuple[Setup, int]:
    """The set-up, and how many frames were inferred beyond the warm-up."""
    proved: list[str] = []
    prove: Callable = GoldenFrames.prove

    def counting(self, golden):
        proved.append(golden.image)
        return prove(self, golden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GoldenFrames, "prove", counting)
        setup = prepare(*installation, Beats())
    return setup, len(set(proved))


def test_a_first_start_proves_all_a_restart_two_and_a_new_runtime_all(
    installation: tuple[Config, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    for runtime in ("onnxruntime 1", "onnxruntime 1", "onnxruntime 2"):
        monkeypatch.setattr("appliance.engine_onnx.OnnxEngine.runtime", runtime)
        setup, count = prepared(installation)
        setup.close()
        counts.append(count)
    assert counts == [5, 2, 5]
    assert len(list(installation[0].engines_dir.rglob("proof.json"))) == 2


def test_the_daily_proof_takes_one_frame_a_turn(installation: tuple[Config, str, str]) -> None:
    setup, _ = prepared(installation)
    (golden,) = setup.goldens
    now = time.monotonic_ns()
    daily = DailyProof(golden, now)
    assert not daily.is_due(now + DAY_NS - 1)
    now += DAY_NS
    for calls in range(1, 6):
        assert daily.is_due(now)
        before = golden.engine.calls
        daily.step(now, nullcontext())
        assert golden.engine.calls == before + 1, calls
    assert not daily.is_due(now)
    assert daily.is_due(now + DAY_NS)
    setup.close()


def test_the_daily_proof_guards_the_engine_and_not_the_disk(
    installation: tuple[Config, str, str],
) -> None:
    """A large picture takes longer to read than a fast engine may take to answer."""
    setup, _ = prepared(installation)
    (golden,) = setup.goldens
    now = time.monotonic_ns()
    daily = DailyProof(golden, now)
    guard = Guard()
    daily.step(now, guard)
    assert guard.entered == 1
    for image in installation[0].bundles_dir.rglob("golden/*.png"):
        image.write_bytes(b"")
    with pytest.raises(ArtefactError, match="a PNG image"):
        daily.step(now, guard)
    assert guard.entered == 1
    setup.close()


def test_a_stored_score_that_is_no_number_proves_nothing(tmp_path: Path) -> None:
    bundle = write_network_bundle(tmp_path / "b")
    engine = open_engine(config.Engine(threads=1), bundle, 64, 96, 1, tmp_path / "engines")
    for outputs in bundle.folder.rglob("golden/*.npz"):
        np.savez(outputs, map=np.load(outputs)["map"], score=np.float32(np.nan))
    with pytest.raises(ArtefactError, match="a difference of nan"):
        GoldenFrames(engine, bundle, "fp32").check("all", Beats())
    engine.close()


def test_an_engine_that_answers_otherwise_fails_its_proof(tmp_path: Path) -> None:
    """Here another network: what a broken core or a wrong library would be."""
    bundle = write_network_bundle(tmp_path / "b")
    other = write_network_bundle(tmp_path / "c", bias=0.01)
    engine = open_engine(config.Engine(threads=1), other, 64, 96, 1, tmp_path / "engines")
    with pytest.raises(ArtefactError, match=r"0\.png: expected the stored map .* of 0\.01") as err:
        GoldenFrames(engine, bundle, "fp32").check("two", Beats())
    assert err.value.offline is OfflineReason.PASSPORT
    wide = msgspec.structs.replace(bundle.manifest, tolerances={"fp32": 0.05})
    bundle.manifest = wide
    assert GoldenFrames(engine, bundle, "fp32").check("all", Beats()) == pytest.approx(
        0.01, rel=0.1
    )
    engine.close()
