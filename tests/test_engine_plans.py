"""Plans of TensorRT on disk: built, proved, named in the passport, and refused when they changed.

The builder's plans are ONNX graphs, and the runtime that opens them is tests/fake_tensorrt.py.
"""

import itertools
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest

from appliance import config
from appliance.bundle import Bundle
from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.engine import Spec
from appliance.engine_command import Plan, Toolchain, build_plan
from appliance.engine_opening import (
    open_engine,
    passports_of,
    plan_name,
    read_plan,
    spec_for,
)
from appliance.engine_tensorrt import TensorRtEngine
from appliance.errors import ArtefactError
from appliance.golden import GoldenFrames
from appliance.infer_setup import prepare
from appliance.passport import Passport, read_record
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from tests.fake_tensorrt import FakeGpu, FakeSdk
from tests.networks import write_network_bundle


class Opened(TensorRtEngine):
    """As `InstalledTensorRt`, on the runtime that is none."""

    runtime = "tensorrt 10.3.0"

    def __init__(self, spec: Spec, model: bytes, precision: str, threads: int) -> None:
        del threads
        gpu = FakeGpu()
        super().__init__(spec, model, precision, FakeSdk(gpu), gpu)

    @classmethod
    def device(cls) -> tuple[str, str]:
        return "Fake, 8.7", "12.6"


def tools() -> Toolchain:
    """A builder whose plans are the graphs themselves, and no two of them the same bytes."""
    numbers = itertools.count()

    def build(model: onnx.ModelProto, precision: str, batch: int) -> Plan:
        del precision, batch
        model.doc_string = f"build {next(numbers)}"
        return Plan(model.SerializeToString(), {"fp32": 3})

    return Toolchain(build, lambda spec, plan, precision: Opened(spec, plan, precision, 0))


def passport_of(bundle: Bundle) -> Passport:
    return Passport(
        bundle=bundle.id, network=bundle.manifest.files["network.onnx"], kind="tensorrt",
        runtime="tensorrt 10.3.0", precision="fp32", threads=0, device="Fake, 8.7", driver="12.6",
    )  # fmt: skip


def test_a_plan_is_built_proved_kept_and_read_back(tmp_path: Path) -> None:
    bundle = write_network_bundle(tmp_path / "b")
    passport, cache = passport_of(bundle), tmp_path / "engines"
    small, large = spec_for(bundle, 64, 96, 1), spec_for(bundle, 80, 120, 1)
    measured = build_plan(bundle, small, passport, 1, cache, tools())
    assert measured["golden_frames"] == 2
    assert measured["golden_deviation"] <= 1e-3
    assert "golden_frames" not in build_plan(bundle, large, passport, 1, cache, tools())
    record = read_record(passport.folder(cache), passport)
    assert set(record.engines) == {"64x96.plan", "80x120.plan"}
    engine = Opened(large, read_plan(passport, large, cache), "fp32", 0)
    out = np.empty(large.map_shape, np.float32)
    assert engine.infer(np.full((80, 120), 50, np.uint8), out) == pytest.approx(50, rel=1e-5)
    engine.close()


def test_a_plan_that_does_not_reproduce_the_golden_frames_is_not_kept(tmp_path: Path) -> None:
    bundle = write_network_bundle(tmp_path / "b")
    other = write_network_bundle(tmp_path / "c", bias=1.0)
    bundle.folder = other.folder  # its network with the first one's golden frames
    for name in ("0.npz", "1.npz"):
        (other.folder / "golden" / name).write_bytes((tmp_path / "b/golden" / name).read_bytes())
    with pytest.raises(ArtefactError, match="expected the stored map"):
        spec = spec_for(bundle, 64, 96, 1)
        build_plan(bundle, spec, passport_of(bundle), 1, tmp_path / "engines", tools())
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("damage", ["byte", "missing", "no passport", "foreign", "no entry"])
def test_an_engine_that_is_not_the_one_that_was_proved_is_refused_by_name(
    tmp_path: Path, damage: str
) -> None:
    bundle = write_network_bundle(tmp_path / "b")
    passport, cache = passport_of(bundle), tmp_path / "engines"
    spec = spec_for(bundle, 64, 96, 1)
    build_plan(bundle, spec, passport, 1, cache, tools())
    folder = passport.folder(cache)
    plan, note = folder / plan_name(spec), folder / "passport.json"
    offline, name = OfflineReason.ENGINE, "passport.json"
    if damage == "byte":
        data = plan.read_bytes()
        plan.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        offline, name = OfflineReason.PASSPORT, r"64x96\.plan: expected SHA-256"
    elif damage == "missing":
        plan.unlink()
        name = r"64x96\.plan: expected an engine .*inspectd engine --precision fp32"
    elif damage == "no passport":
        note.unlink()
    elif damage == "foreign":
        note.write_bytes(note.read_bytes().replace(b"10.3.0", b"10.9.0"))
    else:
        note.write_bytes(note.read_bytes().replace(b"64x96.plan", b"65x96.plan"))
    with pytest.raises(ArtefactError, match=name) as caught:
        read_plan(passport, spec, cache)
    assert caught.value.offline is offline


def test_a_driver_update_asks_for_a_new_engine(tmp_path: Path) -> None:
    bundle = write_network_bundle(tmp_path / "b")
    passport, cache = passport_of(bundle), tmp_path / "engines"
    spec = spec_for(bundle, 64, 96, 1)
    build_plan(bundle, spec, passport, 1, cache, tools())
    updated = msgspec.structs.replace(passport, driver="12.8")
    with pytest.raises(ArtefactError, match="built here by `inspectd engine"):
        read_plan(updated, spec, cache)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_a_bundle_is_refused_by_the_extra(tmp_path: Path) -> None:
    bundle = write_network_bundle(tmp_path / "b")
    settings = config.Engine(kind="tensorrt")
    with pytest.raises(ArtefactError, match="the extra `tensorrt` installed"):
        open_engine(settings, bundle, 64, 96, 1, tmp_path / "engines")


# ---- on the line ---------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Bundle]:
    """A recipe "cell/1" whose engine is a plan; none is built yet."""
    module = SimpleNamespace(InstalledTensorRt=Opened)
    monkeypatch.setitem(sys.modules, "appliance.engine_tensorrt_sdk", module)
    made = Config(
        root=str(tmp_path), deadline_ms=200, camera=(Camera(name="top", kind="files", folder="x"),),
        engine=config.Engine(kind="tensorrt"),
    )  # fmt: skip
    bundle = write_network_bundle(made.bundles_dir / "b", golden=5)
    write_recipe(made, Recipe(id="cell", version=1, bundle=bundle.id, bundle_dir="b",
                              decides="map_max", limits=Limits(t1=1, t2=2)))  # fmt: skip
    return made, bundle


def test_scores_bear_the_plan_that_gave_them(
    site: tuple[Config, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built again from the same network, a plan may add in another order: another passport, and
    all golden frames once more, though nothing else changed since they were proved."""
    made, bundle = site
    proved: list[str] = []
    prove = GoldenFrames.prove
    monkeypatch.setattr(
        GoldenFrames, "prove", lambda self, one: proved.append(one.image) or prove(self, one)
    )
    passport, builder, cache = passport_of(bundle), tools(), made.engines_dir
    spec = spec_for(bundle, 64, 96, 1)
    told = ""
    ids: list[str] = []
    counts: list[int] = []
    for is_built_again in (True, False, True):
        if is_built_again:
            told = build_plan(bundle, spec, passport, 1, cache, builder)["passport"]
        proved.clear()
        setup = prepare(made, "cell/1", load_recipe(made, "cell/1").setup_hash, lambda: None)
        ids.append(setup.cameras["top"].passport)
        counts.append(len(proved))
        assert setup.passports == ids[-1] == told
        setup.close()
    assert ids[0] == ids[1] != ids[2]
    assert passport.id not in ids
    assert counts == [5, 2, 5]
    (record,) = cache.rglob("passport.json")
    assert record.parent == passport.folder(cache)
    assert read_record(record.parent, passport).engines[plan_name(spec)].passport == ids[2]


def test_a_precision_that_no_plan_can_have_is_refused_before_one_is_asked_for(
    site: tuple[Config, Bundle],
) -> None:
    _, bundle = site
    settings = config.Engine(kind="tensorrt", precision="bf16")
    with pytest.raises(ArtefactError, match=r"engine\.precision: expected fp32, fp16, int8 with"):
        passports_of(settings, bundle)


def test_a_plan_with_another_byte_is_no_set_up(site: tuple[Config, Bundle]) -> None:
    made, bundle = site
    spec = spec_for(bundle, 64, 96, 1)
    build_plan(bundle, spec, passport_of(bundle), 1, made.engines_dir, tools())
    plan = passport_of(bundle).folder(made.engines_dir) / plan_name(spec)
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(ArtefactError, match=r"64x96\.plan: expected SHA-256") as caught:
        prepare(made, "cell/1", load_recipe(made, "cell/1").setup_hash, lambda: None)
    assert caught.value.offline is OfflineReason.PASSPORT
