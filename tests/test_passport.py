"""Who makes a map, and how often that must be proved."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from appliance import config, passport
from appliance.bundle import load_bundle
from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.engine import open_engine
from appliance.errors import ArtefactError
from appliance.infer_setup import DailyProof, GoldenFrames, Setup, prepare
from appliance.passport import (
    DAY_NS,
    Passport,
    Proof,
    Record,
    golden_due,
    read_record,
    write_proof,
    write_record,
)
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from tests.networks import write_network_bundle

HERE = Passport(
    bundle="b", network="n", kind="tensorrt", runtime="tensorrt 10.3.0", precision="fp16",
    threads=1, device="a GPU, 8.7", driver="12.6",
)  # fmt: skip


def proof(**change: object) -> Proof:
    made = Proof(
        setup_hash="s", boot=passport.boot_id(), at_s=passport.seconds_since_boot() - 60,
        checked_utc="", golden_frames=24, golden_deviation=0.0, tolerance=1e-3,
        warm_up_p99_ms=1.0, hang_limit_ms=500.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **change)


def test_every_field_is_part_of_the_identity() -> None:
    others = [
        msgspec.structs.replace(HERE, **{name: 7 if name == "threads" else "other"})
        for name in Passport.__struct_fields__
    ]
    assert len({made.id for made in (HERE, *others)}) == 1 + len(others)


def test_a_passport_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path, Record(id=HERE.id, passport=HERE))
    assert read_record(tmp_path, HERE).passport == HERE


@pytest.mark.parametrize("field", ["runtime", "device", "driver", "network", "precision"])
def test_a_foreign_passport_is_refused_by_the_field(tmp_path: Path, field: str) -> None:
    foreign = msgspec.structs.replace(HERE, **{field: "other"})
    write_record(tmp_path, Record(id=foreign.id, passport=foreign))
    with pytest.raises(ArtefactError, match=rf"passport\.json: expected {field} .*, got other"):
        read_record(tmp_path, HERE)


def test_a_passport_whose_id_is_not_its_own_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, Record(id="0" * 16, passport=HERE))
    with pytest.raises(ArtefactError, match=f"expected the id {HERE.id}"):
        read_record(tmp_path, HERE)


@pytest.mark.parametrize("data", [None, b"", b"{}", b"no json", b'{"id": 1}'])
def test_no_passport_or_a_damaged_one_is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "passport.json").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"passport\.json: expected the passport"):
        read_record(tmp_path, HERE)


@pytest.mark.skipif(not passport.boot_id(), reason="this system has no boot id")
def test_after_a_crash_two_frames_and_all_in_every_other_case(tmp_path: Path) -> None:
    assert golden_due(tmp_path, "s") == "all"
    write_proof(tmp_path, proof())
    assert golden_due(tmp_path, "s") == "two"
    for change in (
        {"setup_hash": "other"},
        {"boot": "another boot"},
        {"boot": ""},
        {"at_s": passport.seconds_since_boot() - DAY_NS / 1e9 - 1},
        {"at_s": passport.seconds_since_boot() + 60},
    ):
        write_proof(tmp_path, proof(**change))
        assert golden_due(tmp_path, "s") == "all", change
    (tmp_path / "proof.json").write_bytes(b"damaged")
    assert golden_due(tmp_path, "s") == "all"


# ---- golden frames -------------------------------------------------------------------------


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
        daily.step(now)
        assert golden.engine.calls == before + 1, calls
    assert not daily.is_due(now)
    assert daily.is_due(now + DAY_NS)
    setup.close()


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


def test_one_edited_byte_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    bundle = write_network_bundle(tmp_path / "b")
    for name in ("manifest.json", *bundle.manifest.files):
        path = bundle.path(name)
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
                load_bundle(bundle.folder, bundle.id)
        path.write_bytes(whole)
    assert np.array_equal(load_bundle(bundle.folder, bundle.id).segment_map(), bundle.segment_map())
