"""`inspectd segad`: a new bundle out of an old one, and what the gate says about it."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from appliance import config
from appliance.__main__ import app
from appliance.bundle import Bundle, Suggested, golden_outputs, load_bundle
from appliance.engine_opening import open_engine
from appliance.errors import ArtefactError, ConfigError
from appliance.scoring import Scorer as LineScorer
from appliance.segments import CLASSIFICATION, column_names
from models import evaluate, train
from models.dataset import Dataset, open_dataset
from models.refit import Wish, refit
from tests.test_detectors import anomalib_like
from tests.test_models_bundle import write_parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "plates"
    write_parts(folder / "good", 40, is_bad=False, seed=0)
    write_parts(folder / "bad", 16, is_bad=True, seed=1)
    return folder


@pytest.fixture(scope="module")
def data(folder) -> Dataset:
    return open_dataset(folder)


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory) -> Bundle:
    out = tmp_path_factory.mktemp("bundles") / "plates-1"
    return load_bundle(train.train_bundle(data, out, size=(64, 64), epochs=2))


@pytest.fixture(scope="module")
def both(bundle, data, folder, tmp_path_factory) -> Bundle:
    """With memory, a foreign detector and the classification logit."""
    out = tmp_path_factory.mktemp("both")
    adapter = anomalib_like(out / "other.onnx", size=(32, 32))
    wish = Wish(memory=True, detectors=(adapter,), classification=True)
    return refit(bundle, data, out / "plates-2", wish)


def suggested_by(bundle: Bundle) -> Suggested:
    assert bundle.manifest.suggested is not None
    return bundle.manifest.suggested


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image, np.uint8)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_old_bundle_stays_and_the_network_is_the_same(bundle, data, tmp_path):
    before = tree(bundle.folder)
    made = refit(bundle, data, tmp_path / "new", Wish())
    assert tree(bundle.folder) == before
    assert made.id != bundle.id
    for name in ("network.onnx", *(g.outputs for g in bundle.manifest.golden), "split.json"):
        assert made.manifest.files[name] == bundle.manifest.files[name]
    assert made.manifest.provenance["segad_from_bundle"] == bundle.id
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    with pytest.raises(ArtefactError, match="not there yet"):
        refit(bundle, data, tmp_path / "new", Wish())


def test_several_detectors_in_one_graph(bundle, both, data, tmp_path):
    manifest = both.manifest
    assert set(manifest.detectors) == {"supersimplenet", "memory", "other"}
    assert manifest.columns == column_names(
        manifest.segments, manifest.detectors, classification=True
    )
    assert manifest.columns[-1] == CLASSIFICATION
    assert "other.onnx sha256" in manifest.provenance["detector_other"]
    frame = data.pixels(data.held_out[:1])[0]
    old, score = evaluate.scorer_of(bundle).answer(frame)
    maps, same = evaluate.scorer_of(both).answer(frame)
    assert maps.shape == (3, 64, 64)
    np.testing.assert_allclose(maps[manifest.detectors.index("supersimplenet")], old[0], atol=1e-5)
    np.testing.assert_allclose(same, score, atol=1e-5)
    # What the line does with it: an engine of K maps, golden frames, the scoring thread's columns.
    contract = manifest.input
    engine = open_engine(
        config.Engine(kind="onnx"), both, contract.source_height_px, contract.source_width_px,
        contract.channels, tmp_path,
    )  # fmt: skip
    try:
        out = np.empty(engine.spec.map_shape, np.float32)
        for golden in manifest.golden[:2]:
            image = cv2.imread(str(both.path(golden.image)), cv2.IMREAD_UNCHANGED)
            engine.infer(np.asarray(image, np.uint8), out)
            np.testing.assert_allclose(
                out, golden_outputs(both.path(golden.outputs))["map"], atol=1e-3
            )
    finally:
        engine.close()
    LineScorer(both)


def test_the_memory_is_nought_where_it_remembers_and_sees_a_scratch(both, data):
    place = both.manifest.detectors.index("memory")
    scorer = evaluate.scorer_of(both)
    good = [scorer.answer(data.pixels([s])[0])[0][place].max() for s in data.limits_good]
    bad = [scorer.answer(data.pixels([s])[0])[0][place].max() for s in data.limits_bad]
    assert min(bad) > max(good) > 0


def test_the_leading_map_is_the_one_that_tells_best(both, data):
    answers = evaluate.scorer_of(both).score(
        data.pixels([s])[0] for s in (*data.limits_good, *data.limits_bad)
    )
    first = both.manifest.detectors[0]
    column = column_names(both.manifest.segments, both.manifest.detectors).index(f"*/{first}/max")
    np.testing.assert_array_equal(answers.map_max, answers.features[:, column])
    assert suggested_by(both).evidence["map_max_auroc"] == 1.0


def test_the_gate_is_told_with_intervals_and_can_be_overruled(bundle, data, tmp_path):
    made = refit(bundle, data, tmp_path / "new", Wish(force="classification"))
    suggested = suggested_by(made)
    assert suggested.decides == "classification" and suggested.is_forced
    evidence = suggested.evidence
    assert set(made.manifest.units) == {"segad", "map_max"}
    for name in ("segad", "average", "map_max", "classification"):
        low, middle, high = (evidence[f"{name}_auroc{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= middle <= high <= 1
    assert "10 good and 8 bad parts" in suggested.why
    with np.load(made.path("features/limits.npz")) as stored:
        assert stored["features"].shape == (18, len(made.manifest.columns))


def test_few_bad_images_make_no_forest_and_generated_ones_do(bundle, data, tmp_path):
    few = refit(bundle, data, tmp_path / "few", Wish(bad=2))
    assert few.manifest.scores == ("map_max", "classification"), "no forest and no average"
    assert suggested_by(few).decides in few.manifest.scores
    assert few.manifest.provenance["segad_bad"] == "2 labelled"
    with pytest.raises(ConfigError, match="--force: expected one of map_max, classification"):
        refit(bundle, data, tmp_path / "no", Wish(bad=2, force="segad"))
    assert not (tmp_path / "no").exists()
    # Images that the network knows are left out, whatever set the split puts them in.
    mixed = replace(data, limits_good=(*data.limits_good, *data.network_good[:3]))
    made = refit(bundle, mixed, tmp_path / "generated", Wish(generated=True))
    assert made.manifest.provenance["segad_bad"] == "10 generated"
    # The gate asks real bad images, or nobody.
    assert "5 good and 8 bad parts" in suggested_by(made).why
    alone = refit(bundle, mixed, tmp_path / "alone", Wish(generated=True, bad=0))
    assert alone.manifest.forest and suggested_by(alone).decides == "map_max"
    assert suggested_by(alone).why.startswith("no bad images")
    with np.load(made.path("features/limits.npz")) as stored:
        assert set(stored["sha256"]) == {sample.sha256 for sample in data.limits_good}
    other = replace(data, limits_good=data.network_good[:8])
    with pytest.raises(ConfigError, match="was the seed that of the training"):
        refit(bundle, other, tmp_path / "other", Wish())


def test_a_painted_map_comes_back_and_another_size_does_not(bundle, folder, tmp_path):
    runner = CliRunner()
    proposed = tmp_path / "map"
    done = runner.invoke(
        app,
        ["segments", "propose", str(folder), "--out", str(proposed), "--bundle",
         str(bundle.folder), "--regions", "3"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    painted = picture(proposed / "paint.png")
    painted[:8] = 0
    cv2.imwrite(str(proposed / "paint.png"), painted)
    out = tmp_path / "new"
    done = runner.invoke(
        app,
        ["segad", str(bundle.folder), str(folder), "--out", str(out), "--segments",
         str(proposed / "paint.png"), "--json"],
    )  # fmt: skip
    assert done.exit_code in (0, 1), done.output
    answer = json.loads(done.stdout)
    made = load_bundle(out, answer["bundle"])
    assert done.exit_code == (0 if suggested_by(made).decides in ("segad", "average") else 1)
    labels = made.segment_map()
    assert (labels[:8] == 255).all() and (labels[8:] != 255).all()
    names = [c["name"] for c in json.loads((proposed / "segments.json").read_text())]
    assert list(made.manifest.segments) == names
    shown = runner.invoke(app, ["segments", "show", str(out), "--out", str(tmp_path / "show.png")])
    assert shown.exit_code == 0 and "ignored" in shown.output
    assert picture(tmp_path / "show.png").shape[0] >= 256
    cv2.imwrite(str(proposed / "paint.png"), painted[:32])
    refused = runner.invoke(
        app,
        ["segad", str(bundle.folder), str(folder), "--out", str(tmp_path / "x"), "--segments",
         str(proposed / "paint.png")],
    )  # fmt: skip
    assert isinstance(refused.exception, ConfigError)
    assert "64x64 pixels" in str(refused.exception)


def test_a_forest_of_another_bundle_is_refused(bundle, both, tmp_path):
    for wrong in (
        msgspec.structs.replace(both.manifest, columns=bundle.manifest.columns),
        msgspec.structs.replace(both.manifest, detectors=("supersimplenet",)),
    ):
        with pytest.raises(ArtefactError):
            LineScorer(Bundle(both.folder, wrong, both.id))
    foreign = msgspec.structs.replace(
        bundle.manifest,
        files=bundle.manifest.files | {"segad.ubj": both.manifest.files["segad.ubj"]},
    )
    with pytest.raises(ArtefactError, match="a forest file with SHA-256"):
        LineScorer(Bundle(bundle.folder, foreign, bundle.id))
