"""A short soak: seconds of load with random faults and kills, and every part accounted for."""

from pathlib import Path

import msgspec
import pytest

from appliance.bundle import golden_outputs
from appliance.codes import Reason, Word
from appliance.errors import ConfigError
from appliance.messages import Verdict
from tests.networks import write_network_bundle
from tools.bench_memory import Sample
from tools.soak import _life, bundle_stage, soak


def test_every_part_is_accounted_for_under_random_faults() -> None:
    report = soak(seconds=12, rate_hz=30, kill_every_s=4, seed=3)
    assert report["faults"], "nothing was killed"
    assert report["ok_unscored"] == 0
    assert report["open_parts"] == 0
    assert report["unaccounted"] == 0
    assert report["words"]["OK NONE"] > 50
    assert set(report["processes"]) == {"camera", "infer", "decide", "record"}
    assert sum(life["lives"] for life in report["processes"].values()) > 4, "one was replaced"
    assert report["passed"]


def test_a_life_is_judged_once_what_is_remembered_is_full() -> None:
    grows = [Sample(1000 * n, 1_000_000 + 5000 * n, 0, 9, 3) for n in range(30)]
    short = [Sample(1, 1, 0, 1, 1)]
    told = _life({1: short, 2: grows})
    assert told["lives"] == 2 and told["longest_s"] == 150
    assert told["bytes_per_part"] == 5.0 and told["bytes_per_part_95"] >= 5.0
    assert told["descriptors"] == [9, 9] and told["threads"] == [3, 3]
    assert "bytes_per_part" not in _life({1: short})


def test_a_bundle_is_soaked_on_its_golden_pictures(tmp_path: Path) -> None:
    bundle = write_network_bundle(tmp_path / "net", golden=3)
    stage = bundle_stage(bundle.folder)
    assert stage.pictures == 3 and stage.picture(1).shape == (64, 96)
    score = float(golden_outputs(bundle.path("golden/1.npz"))["score"])
    ok = Verdict(
        part_id=1, acq_id=1, epoch=1, word=Word.OK, reason=Reason.NONE, source="0001.tiff",
        classification=score,
    )  # fmt: skip
    assert stage.is_true(ok)
    assert not stage.is_true(msgspec.structs.replace(ok, source="0002.tiff"))
    with pytest.raises(ConfigError, match="a bundle with golden pictures"):
        bundle_stage(write_network_bundle(tmp_path / "none", golden=0).folder)
