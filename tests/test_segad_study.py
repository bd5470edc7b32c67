"""The study takes each bundle's own split, and the deviation over seeds is a sample's."""

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from appliance.errors import ConfigError
from models.dataset import open_dataset
from tests.networks import picture, write_network_bundle
from tools import segad_study


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 good and 12 bad ones of the bundle's size."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind, numbers in (("good", range(40)), ("bad", range(40, 52))):
        (folder / kind).mkdir()
        for number in numbers:
            cv2.imwrite(str(folder / kind / f"{number}.png"), picture(number))
    return folder


def test_every_bundle_is_asked_about_the_split_that_its_network_was_trained_on(tmp_path, pictures):
    bundles = [
        write_network_bundle(tmp_path / f"b{seed}", change={"provenance": {"plan_seed": str(seed)}})
        for seed in (3, 1)
    ]
    out = tmp_path / "study.jsonl"
    asked = [option for bundle in bundles for option in ("--bundle", str(bundle.folder))]
    done = CliRunner().invoke(
        segad_study.app, ["run", str(pictures), *asked, "--out", str(out), "--bad", "1"]
    )
    assert done.exit_code == 0, done.output
    expected = [
        row
        for seed, bundle in zip((3, 1), bundles, strict=True)
        for row in segad_study.study(
            segad_study.scored_by(bundle, open_dataset(pictures, seed)), seed, [1]
        )
    ]
    assert [json.loads(line) for line in out.read_text().splitlines()] == expected
    held_out = [set(open_dataset(pictures, seed).held_out) for seed in (0, 1, 3)]
    assert held_out[2] not in held_out[:2]


def test_a_bundle_that_does_not_say_its_seed_is_refused(tmp_path):
    bundle = write_network_bundle(tmp_path / "b")
    with pytest.raises(ConfigError, match="a plan_seed in provenance, got none"):
        segad_study.seed_of(bundle)


def test_the_deviation_over_the_seeds_is_a_samples(tmp_path):
    out = tmp_path / "study.jsonl"
    told = {"variant": "v", "bad": 1, "fpr95": 0.5}
    alone = {"variant": "one seed", "bad": 1, "auroc": 0.9, "fpr95": 0.5}
    rows = [told | {"seed": seed, "auroc": auroc} for seed, auroc in enumerate((0.9, 0.92, 0.94))]
    out.write_text("".join(f"{json.dumps(row)}\n" for row in (*rows, alone)))
    said = CliRunner().invoke(segad_study.app, ["summary", str(out)]).output
    assert "| v | 92.0 ± 2.0 (50) | 3 |" in said
    assert "| one seed | 90.0 (50) | 1 |" in said


def test_the_choice_is_compared_with_the_best_single_score(tmp_path, pictures):
    bundle = write_network_bundle(tmp_path / "b")
    rows = list(
        segad_study.study(segad_study.scored_by(bundle, open_dataset(pictures)), 0, [5], splits=2)
    )
    choice, other = (row for row in rows if "gate" in row)
    assert choice["aurocs"] != other["aurocs"], "another split of the images"
    best = max(choice["aurocs"][name] for name in ("segad", "map_max", "classification"))
    assert choice["loss"] == best - choice["aurocs"][choice["decides"]]
    assert set(choice["estimates"]) == {"segad", "average", "map_max", "classification"}
    (average,) = (row for row in rows if row.get("variant", "").endswith(", average"))
    assert average["auroc"] == pytest.approx(choice["aurocs"]["average"])
    out = tmp_path / "study.jsonl"
    segad_study.keep(iter([choice | {"loss": loss} for loss in (0.0, 0.03)]), out)
    said = CliRunner().invoke(segad_study.app, ["summary", str(out)]).output
    assert "| as the gate says | 1 of 2, 1, 0.030 | 1 of 2, 1, 0.030 |" in said
