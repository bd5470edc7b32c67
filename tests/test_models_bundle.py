"""From a folder of images to a bundle that loads, and back through the deployed path."""

import itertools
import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from appliance import config
from appliance.bundle import Suggested, golden_outputs, hash_file, load_bundle
from appliance.engine_opening import network_file, open_engine, passports_of
from appliance.errors import ArtefactError, ConfigError
from appliance.golden import GoldenFrames
from appliance.segments import column_names
from models import evaluate, report, segad, train, train_command
from models.dataset import Dataset, open_dataset
from models.metrics import image_metrics


def write_parts(folder: Path, count: int, *, is_bad: bool, seed: int) -> None:
    """Grey plates with texture; bad ones have a bright scratch."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = rng.normal(100, 8, (80, 100))
        if is_bad:
            row = int(rng.integers(10, 70))
            image[row : row + 4, 20:80] += 110
        cv2.imwrite(str(folder / f"{index}.png"), image.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "plates"
    write_parts(folder / "good", 28, is_bad=False, seed=0)
    write_parts(folder / "bad", 12, is_bad=True, seed=1)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def bundle_dir(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "plates-1"
    seen: list[float] = []
    train.train_bundle(
        data, out, size=(64, 64), epochs=2, product="plate", every_graph=True,
        progress=lambda stage, done: seen.append(done),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert [path.name for path in out.parent.iterdir()] == ["plates-1"]
    return out


def test_bundle_loads_and_is_complete(bundle_dir, data):
    manifest = load_bundle(bundle_dir).manifest
    assert manifest.product == "plate"
    assert manifest.columns == column_names(manifest.segments, manifest.detectors)
    assert (manifest.input.height_px, manifest.input.source_width_px) == (64, 100)
    assert manifest.input.channels == 1
    assert manifest.forest == "segad.ubj"
    assert len(manifest.golden) == 13  # 7 good and 6 bad: all that the limits have
    assert manifest.suggested is not None
    assert manifest.suggested.t1 <= manifest.suggested.t2
    assert manifest.metrics["image_auroc"] == pytest.approx(
        manifest.metrics[f"{manifest.suggested.decides}_auroc"]
    )
    assert manifest.provenance["backbone_sha256"]
    assert json.loads((bundle_dir / "split.json").read_text()) == data.hashes()
    colours = json.loads((bundle_dir / "segments.json").read_text())
    assert tuple(colour["name"] for colour in colours) == manifest.segments
    stored = {path.relative_to(bundle_dir).as_posix() for path in bundle_dir.rglob("*.*")}
    assert stored == {*manifest.files, "manifest.json"}


def test_the_report_shows_scores_and_the_worst_pictures(bundle_dir, data):
    page = (bundle_dir / "report.html").read_text()
    assert page.count("<svg") == 2 + 4 + 1  # losses and gap, four histograms, ROC
    bad = sum(sample.label for sample in data.held_out)
    assert page.count("<img") == 6 + min(6, bad)
    assert "Images that nothing of the bundle has seen: 7 good, 6 bad" in page
    assert 'src="http' not in page and "<script" not in page
    lowest = page.index("Bad, and most like a good part")
    shown = [s for s in data.held_out if s.label and f"bad/{s.path.name}:" in page[lowest:]]
    assert len(shown) == min(6, bad)


def test_names_in_the_report_are_text():
    assert "<b>" not in report.chart({"<b>": [(0, 1), (1, 2)]}, "x", "y")
    nothing = np.zeros(0, np.float32)
    assert report.histogram(nothing, nothing) == ""
    assert "nan" not in report.chart({"a": [(1, float("nan")), (2, 1.0)]}, "x", "y")


def test_heat_is_red_where_the_map_is_high():
    amap = np.zeros((8, 8), np.float32)
    amap[:4] = 5
    picture = report.overlay(np.full((600, 300, 1), 100, np.uint8), amap, 0, 5)
    assert picture.shape == (300, 150, 3)
    assert picture[10, 75, 0] > 150 > picture[290, 75, 0]


def test_known_defects_that_the_network_cannot_see_are_told(tmp_path):
    write_parts(tmp_path / "good", 12, is_bad=False, seed=0)
    write_parts(tmp_path / "bad", 4, is_bad=True, seed=1)
    (tmp_path / "ground_truth" / "bad").mkdir(parents=True)
    for index in range(4):
        mask = np.zeros((80, 100), np.uint8)
        mask[10:13, 10:13] = 255
        mask[30:50, 30:50] = 255
        cv2.imwrite(str(tmp_path / "ground_truth" / "bad" / f"{index}_mask.png"), mask)
    data = open_dataset(tmp_path)
    told = train.small_defects(data, train.contract_of(data, (40, 50), "area"))
    assert told.startswith("2 of 4 known defects are smaller than 6 pixels (the smallest 3)")
    assert train.small_defects(data, train.contract_of(data, (80, 100), "area")) == ""


def test_other_graphs_beside_the_exact_one_give_the_golden_frames(bundle_dir, tmp_path):
    """Where `inspectd engine` finds one to be faster it is what a line runs."""
    bundle = load_bundle(bundle_dir)
    settings = config.Engine()
    passports = passports_of(settings, bundle)
    files = [network_file(bundle, passport) for passport in passports]
    assert files == ["network.onnx", "network.plain.onnx", "network.last.onnx"]
    size = bundle.manifest.input.source_height_px, bundle.manifest.input.source_width_px
    for passport in passports[1:]:
        engine = open_engine(settings, bundle, *size, 1, tmp_path, passport)
        golden = GoldenFrames(engine, bundle, "fp32")
        assert golden.check("all", lambda: None) <= golden.tolerance
        engine.close()


def test_golden_frames_come_out_as_they_went_in(bundle_dir):
    bundle = load_bundle(bundle_dir)
    scorer = evaluate.scorer_of(bundle)
    for golden in bundle.manifest.golden[::4]:
        frame = cv2.imread(str(bundle.path(golden.image)), cv2.IMREAD_UNCHANGED)
        assert frame is not None
        amap, score = scorer.answer(frame[:, :, None].astype(np.uint8))
        stored = golden_outputs(bundle.path(golden.outputs))
        assert np.array_equal(amap, stored["map"])
        assert score == stored["score"]


def test_evaluation_repeats_the_metrics_of_the_manifest(bundle_dir, data):
    frames = (data.pixels([sample])[0] for sample in data.held_out)
    labels = [sample.label for sample in data.held_out]
    result = evaluate.evaluate(bundle_dir, frames, labels)
    metrics = load_bundle(bundle_dir).manifest.metrics
    assert set(result) == {"segad", "average", "map_max", "classification"}
    for score, values in result.items():
        for name, value in values.items():
            assert value == pytest.approx(metrics[f"{score}_{name}"]), (score, name)


def test_commands_print_one_object(bundle_dir, data, capsys):
    folder = str(data.held_out[0].path.parents[1])
    evaluate.main(bundle_dir, folder, seed=0, json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == len(data.held_out)
    assert set(answer["scores"]["map_max"]) == {"auroc", "ap", "f1max", "fpr95"}
    with pytest.raises(ConfigError, match="expected held-out images that the bundle has not"):
        evaluate.main(bundle_dir, folder, seed=5, json=True)
    with pytest.raises(ConfigError, match=r"--regime: expected one of auto, .*got 'semi'"):
        train_command.main(folder, bundle_dir / "other", regime="semi")
    with pytest.raises(ConfigError, match=r"--backbone: expected one of .*, got 'resnet'"):
        train_command.main(folder, bundle_dir / "other", backbone="resnet")


def test_nothing_is_left_behind_when_training_fails(data, tmp_path):
    out = tmp_path / "bundle"
    with pytest.raises(ConfigError, match="resnet50: expected a file of weights"):
        train.train_bundle(data, out, backbone="resnet50")
    assert not list(tmp_path.iterdir())
    out.mkdir()
    with pytest.raises(ArtefactError, match="expected a bundle directory that is not there yet"):
        train.train_bundle(data, out)


def test_training_does_not_touch_what_is_held_out(data):
    for one, other in itertools.combinations(data.hashes().values(), 2):
        assert not set(one) & set(other)


def test_limits_are_the_declared_order_statistics():
    good, bad = np.arange(100, dtype=np.float32), np.arange(60, 160, dtype=np.float32)
    t1, t2 = segad.limits(good, bad)
    assert t1 == 65  # five bad ones lie below it
    assert (good >= t2).sum() == 5
    apart = segad.limits(good, bad + 1000)
    assert apart[0] == apart[1]
    assert 94 < apart[0] < 1065


@pytest.mark.parametrize(
    ("forest", "largest", "decides"),
    [(0.9, 0.5, "segad"), (0.5, 0.9, "map_max"), (0.7, 0.7, "map_max")],
)
def test_the_forest_decides_only_where_it_helps(forest, largest, decides):
    """Strength of a score = distance between the classes."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    noise = rng.normal(size=200)
    scores = {
        "segad": (noise + labels * forest * 3).astype(np.float32),
        "map_max": (noise + labels * largest * 3).astype(np.float32),
        "classification": rng.normal(size=200).astype(np.float32),
    }
    suggested = segad.suggest(scores, labels)
    assert suggested.decides == decides
    assert suggested.evidence["escapes"] <= segad.LIMIT_SHARE
    assert suggested.evidence["overkill"] <= segad.LIMIT_SHARE


def test_good_images_alone_give_limits_too():
    margins = np.linspace(-2, 1, 40, dtype=np.float32)
    suggested = segad.suggest({"map_max": margins, "classification": margins}, np.zeros(40, int))
    assert isinstance(suggested, Suggested)
    assert (suggested.decides, suggested.t2) == ("map_max", 1.0)
    assert suggested.t1 < suggested.t2


def test_margins_out_of_fold_are_not_those_of_a_forest_that_knew_the_answer():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    labels = rng.integers(0, 2, 60)
    columns = column_names(["all"], ["net"])
    forest, unseen, folds = segad.fit_with_margins(features, labels, columns, seed=0)
    assert sorted(np.bincount(folds)) == [12] * 5
    known = [forest.margin(row) for row in features]
    assert image_metrics(labels, known)["auroc"] > 0.9
    assert image_metrics(labels, unseen)["auroc"] < 0.7
    with pytest.raises(ConfigError, match="expected at least 5 of each class, got 2"):
        segad.fit_with_margins(features[:8], np.array([0] * 6 + [1] * 2), columns, seed=0)


def test_segment_grid_covers_the_part():
    labels, names = segad.grid_segments((64, 50))
    assert labels.shape == (64, 50)
    assert set(np.unique(labels)) == set(range(9))
    assert names[labels[0, 0]] == "top left"
    assert names[labels[32, 25]] == "middle centre"
    assert len({c["colour"] for c in segad.segment_colours(names)}) == 9


def test_metrics_of_hand_computed_scores():
    values = image_metrics([0, 0, 1, 1], [0.0, 2.0, 1.0, 3.0])
    assert values["auroc"] == 0.75
    assert values["ap"] == pytest.approx(0.5 + 1 / 3)
    assert values["fpr95"] == 0.5
    with pytest.raises(ConfigError, match="finite margins"):
        image_metrics([0, 1], [float("nan"), 1.0])
    with pytest.raises(ConfigError, match="good and bad images, got 2 good, 0 bad"):
        image_metrics([0, 0], [0.0, 1.0])


def test_manifest_hashes_are_those_of_the_files(bundle_dir):
    raw = msgspec.json.decode((bundle_dir / "manifest.json").read_bytes())
    for name, digest in raw["files"].items():
        assert hash_file(bundle_dir / name) == digest
