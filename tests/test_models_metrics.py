"""Figures of scores and maps: against hand counts, plain definitions and scikit-learn."""

from typing import cast

import cv2
import msgspec
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from appliance.bundle import Manifest
from appliance.errors import ConfigError
from models import protocols
from models.metrics import ap_of, aupro, auroc_of, image_metrics, interval, pixel_metrics
from models.papers import TABLES
from tests.networks import write_network_bundle


def maps_and_masks(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 24, 30), np.uint8)
    masks[0, 2:6, 3:9] = 1
    masks[0, 15:17, 20:29] = 1
    masks[2, 10:20, 5:8] = 1
    maps = (rng.normal(size=masks.shape) + 1.5 * masks).astype(np.float32)
    return maps.round(1), masks  # rounded: many equal values


def naive_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """One threshold after another."""
    regions = []
    for number, mask in enumerate(masks):
        labels, count = cast("tuple[np.ndarray, int]", ndimage.label(mask, np.ones((3, 3))))
        regions += [(number, labels == index + 1) for index in range(count)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        rates.append(float(found[masks == 0].mean()))
        overlaps.append(
            float(np.mean([found[number][region].mean() for number, region in regions]))
        )
    fine = np.linspace(0, limit, 200_001)
    return float(np.trapezoid(np.interp(fine, rates, overlaps), fine) / limit)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_its_definition(limit):
    maps, masks = maps_and_masks()
    assert aupro(maps, masks, limit) == pytest.approx(naive_aupro(maps, masks, limit), abs=1e-5)


def test_perfect_and_inverted_maps():
    _, masks = maps_and_masks()
    perfect = pixel_metrics(masks.astype(np.float32), masks)
    assert perfect == {"pixel_auroc": 1.0, "pixel_ap": 1.0, "aupro": pytest.approx(1.0)}
    assert aupro(-masks.astype(np.float32), masks) == 0.0
    with pytest.raises(ConfigError, match="expected defective and normal pixels, got 0 defective"):
        pixel_metrics(masks.astype(np.float32), masks * 0)


def test_auroc_counts_pairs_and_halves_of_ties():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    scores = rng.normal(size=300).round(1) + labels
    assert auroc_of(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_best_f1_of_hand_computed_scores():
    assert image_metrics([0, 1, 0, 1, 1], [0.0, 1.0, 2.0, 3.0, 4.0])["f1max"] == pytest.approx(
        6 / 7
    )


def test_scores_without_a_number_or_of_one_class_alone_have_no_figures():
    """Silence and NaN never look like a good model."""
    with pytest.raises(ConfigError, match="expected finite margins, got 2 others"):
        image_metrics([0, 1, 1], [np.nan, 1.0, np.inf])
    with pytest.raises(ConfigError, match="expected good and bad images, got 0 good, 2 bad"):
        image_metrics([1, 1], [0.0, 1.0])
    with pytest.raises(ConfigError, match="expected defective and normal pixels, got 4 defective"):
        pixel_metrics(np.ones((1, 2, 2), np.float32), np.ones((1, 2, 2), np.uint8))


def test_draws_of_one_class_are_drawn_again():
    """Of three parts three draws in ten have no bad one, and AUROC would divide by 0."""
    found = interval(auroc_of, [0, 0, 1], [0.0, 1.0, 2.0], ["a", "b", "c"])
    assert found == (1.0, 1.0, 1.0)


def test_intervals_hold_the_value_and_widen_when_pictures_share_parts():
    rng = np.random.default_rng(0)
    parts = np.repeat(np.arange(30), 6)
    labels = (parts % 2).astype(int)
    scores = labels + rng.normal(size=30)[parts] + 0.1 * rng.normal(size=180)
    alone = interval(auroc_of, labels, scores, [str(index) for index in range(180)])
    grouped = interval(auroc_of, labels, scores, [str(part) for part in parts])
    assert alone.low < alone.value < alone.high
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert interval(ap_of, labels, scores, [str(part) for part in parts], seed=1).low > 0.4
    with pytest.raises(ConfigError, match="good and bad images, got one of them alone"):
        interval(auroc_of, [1, 1], [0.0, 1.0], ["a", "b"])


class Judged:
    """A bundle as `protocols` reads it: its manifest and its place."""

    def __init__(self, name: str, seed: int, manifest: Manifest) -> None:
        said = {"data": name, "plan_seed": str(seed), "regime": "weak"}
        self.manifest = msgspec.structs.replace(manifest, provenance=said)


@pytest.fixture
def benchmark_of(tmp_path, monkeypatch):
    """Two categories, and bundles of seeds 0 to 2 of the first and seed 0 of the second."""
    rng = np.random.default_rng(0)
    for name in ("bottle", "screw"):
        for folder, count in (("train/good", 6), ("test/good", 2), ("test/bent", 2)):
            place = tmp_path / "data" / name / folder
            place.mkdir(parents=True)
            for index in range(count):
                cv2.imwrite(str(place / f"{index}.png"), rng.integers(0, 255, (8, 8), np.uint8))
    manifest = write_network_bundle(tmp_path / "bundle").manifest
    bundles = [Judged("bottle", 0, manifest), Judged("bottle", 1, manifest),
               Judged("bottle", 2, manifest), Judged("screw", 0, manifest)]  # fmt: skip
    monkeypatch.setattr(protocols, "bundles_below", lambda folder: bundles)
    return tmp_path / "data"


def test_seeds_become_mean_and_deviation_beside_the_published_figure(benchmark_of):
    seen: list[tuple[str, int]] = []

    def judge(bundle, dataset):
        assert len(dataset.held_out) == 4 and not dataset.limits_bad
        seen.append((dataset.name, len(seen)))
        return {"classification_auroc": 0.9 + 0.01 * len(seen), "map_max_auroc": 0.5}

    table = protocols.measure("mvtec", benchmark_of, benchmark_of, judge)
    assert [name for name, _ in seen] == ["bottle"] * 3 + ["screw"]
    bottle = table["bottle"]["classification_auroc"]
    assert bottle == {
        "mean": pytest.approx(92.0), "std": pytest.approx(1.0), "n": 3, "published": 100.0
    }  # fmt: skip
    assert table["screw"]["classification_auroc"]["std"] is None
    assert table["mean"]["classification_auroc"]["mean"] == pytest.approx(93.0)
    text = protocols.as_text(table)
    assert "| bottle | 92.0 ± 1.0 (100) | 50.0 ± 0.0 (100) | – |" in text
    with pytest.raises(ConfigError, match=r"--protocol: expected one of mvtec, .*got 'coco'"):
        protocols.measure("coco", benchmark_of, benchmark_of, judge)


def test_bundles_of_other_images_are_refused(benchmark_of):
    with pytest.raises(ConfigError, match="expected the images of bottle, got screw"):
        protocols.measure("mvtec", benchmark_of, benchmark_of / "screw", lambda *_: {})


def test_a_folder_without_bundles_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a bundle, or a folder of bundles, got none"):
        protocols.bundles_below(tmp_path)


def test_published_averages_are_those_of_their_rows():
    for name in ("mvtec", "visa"):
        rows = dict(TABLES[name])
        mean = rows.pop("mean")
        for column in ("icpr", "jims", "jims_map_max"):
            values = [getattr(row, column) for row in rows.values()]
            assert np.mean(values) == pytest.approx(getattr(mean, column), abs=0.11), (name, column)
