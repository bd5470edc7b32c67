"""The gate's choice, the memory as a plain nearest neighbour, proposed regions, made defects."""

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from appliance.errors import ArtefactError, ConfigError
from appliance.scores import average
from models import backbones, gate, memory, regions, segad
from models.export import export_exact, session
from models.generated import Damage
from models.supersimplenet import SuperSimpleNet, upscale_and_blur
from tests.networks import network_model


def scores_of(seed: int, good: int, bad: int, **apart: float) -> tuple[dict, np.ndarray]:
    """Normal scores whose bad ones lie so far apart from the good ones."""
    rng = np.random.default_rng(seed)
    labels = np.array([0] * good + [1] * bad)
    drawn = {name: rng.normal(size=good + bad) + labels * far for name, far in apart.items()}
    return {name: values.astype(np.float32) for name, values in drawn.items()}, labels


def test_the_gate_takes_the_better_score_and_says_by_how_much():
    scores, labels = scores_of(0, 140, 50, segad=2.5, map_max=1.0, classification=0.2)
    choice = gate.choose(scores, labels)
    assert choice.decides == "segad"
    assert choice.why.startswith(
        "highest AUROC on 140 good and 50 bad parts not seen in training: segad 0.9"
    )
    assert "segad ahead of map_max in 100% of 2000 draws" in choice.why
    for name, row in choice.rows.items():
        assert row.auroc == pytest.approx(roc_auc_score(labels, scores[name]))
        assert row.low < row.auroc < row.high


def test_of_two_equal_scores_the_simpler_one_decides():
    scores, labels = scores_of(1, 20, 20, map_max=1.0)
    scores["segad"] = scores["classification"] = scores["map_max"]
    assert gate.choose(scores, labels).decides == "classification"
    del scores["classification"]
    assert gate.choose(scores, labels).decides == "map_max"


def test_the_usual_score_of_a_network_is_left_for_one_that_leads_clearly():
    scores, labels = scores_of(3, 140, 20, segad=2.0, map_max=0.0, classification=1.8)
    best = gate.choose(scores, labels)
    close = gate.choose(scores, labels, usual="classification")
    assert best.decides == "segad"
    assert close.decides == "classification"
    assert close.why.startswith(best.why) and "less than 80%" in close.why
    scores, labels = scores_of(3, 140, 20, segad=2.5, map_max=0.0, classification=0.5)
    clear = gate.choose(scores, labels, usual="classification")
    assert clear.decides == "segad"
    assert "ahead of classification, the usual score of such a network, in 100%" in clear.why


def test_the_average_is_the_usual_score_but_of_a_network_that_learnt_from_bad_parts():
    assert gate.usual_score({"regime": "weak"}) == "classification"
    assert gate.usual_score({"regime": "supervised"}) == "classification"
    assert gate.usual_score({"regime": "weak", "classifier": "resnet18, focal loss"}) == "average"
    assert gate.usual_score({"regime": "unsupervised"}) == "average"
    assert gate.usual_score({}) == "average"


def test_the_average_has_no_luck_where_the_better_of_two_estimates_has():
    """Two scores that are equally good and err apart: whichever leads leads by luck."""
    lost = {"chosen": [], "average": []}
    for seed in range(20):
        apart = {"segad": 1.8, "map_max": 1.8}
        scores, labels = scores_of(seed, 150, 10, **apart)
        unseen, truth = scores_of(seed + 100, 150, 150, **apart)
        luckiest = gate.choose(scores, labels).decides
        scores, units = segad.with_average(scores, labels)
        unseen["average"] = average(unseen, units)
        aurocs = {name: roc_auc_score(truth, each) for name, each in unseen.items()}
        best = max(aurocs[name] for name in apart)
        lost["chosen"].append(best - aurocs[luckiest])
        usual = gate.choose(scores, labels, usual="average")
        lost["average"].append(best - aurocs[usual.decides])
    assert max(lost["average"]) < 0 < max(lost["chosen"])


def test_the_average_gives_way_to_a_score_that_is_clearly_ahead():
    scores, labels = scores_of(5, 140, 50, segad=0.3, map_max=3.0, classification=0.3)
    scores, _ = segad.with_average(scores, labels)
    assert gate.choose(scores, labels, usual="average").decides == "map_max"


def test_the_average_counts_in_units_of_the_good_parts():
    labels = np.repeat([0, 1], [101, 5])
    map_max = np.concatenate([np.linspace(-5, 5, 101), np.full(5, 50)]).astype(np.float32)
    scores = {"segad": 100 * map_max + 7, "map_max": map_max, "classification": -map_max}
    together, units = segad.with_average(scores, labels)
    assert set(units) == {"segad", "map_max"}
    assert units["map_max"].spread == pytest.approx(3.4) and units["segad"].middle == 7
    np.testing.assert_allclose(together["average"], map_max / 3.4, rtol=1e-5)


def test_there_is_no_average_without_a_forest_or_of_what_never_changes():
    scores, labels = scores_of(0, 20, 5, segad=1.0, map_max=1.0, classification=1.0)
    alone = {name: scores[name] for name in ("map_max", "classification")}
    assert segad.with_average(alone, labels) == (alone, {})
    flat = scores | {"map_max": 0 * labels.astype(np.float32)}
    together, units = segad.with_average(flat, labels)
    assert (set(together), units) == (set(scores), {})


def test_parts_that_two_forests_have_judged_are_not_compared():
    rng = np.random.default_rng(0)
    labels, folds = np.repeat([0, 1], 50), np.tile(np.arange(5), 20)
    right = rng.normal(size=100) + 3 * labels
    scores = {
        "segad": (right + 4 * folds).astype(np.float32),  # each forest with a zero of its own
        "map_max": (right - 2 * labels).astype(np.float32),
    }
    assert gate.choose(scores, labels).decides == "map_max"
    choice = gate.choose(scores, labels, folds=folds)
    assert choice.decides == "segad"
    by_forest = [
        roc_auc_score(labels[folds == fold], scores["segad"][folds == fold]) for fold in range(5)
    ]
    assert choice.rows["segad"].auroc == pytest.approx(np.mean(by_forest))
    assert choice.rows["map_max"].auroc == pytest.approx(roc_auc_score(labels, scores["map_max"]))


def test_a_draw_without_two_parts_of_one_forest_says_nothing():
    labels, folds = np.repeat([0, 1], 5), np.tile(np.arange(5), 2)
    scores = {"segad": np.linspace(0, 1, 10, dtype=np.float32)}
    row = gate.choose(scores, labels, folds=folds).rows["segad"]
    assert row.auroc == 1.0 and 0.5 <= row.low <= row.high <= 1.0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    apart, inside, trials = 1.0, 0, 60
    truth = 0.7602  # of two normal scores one deviation apart: Φ(1 / √2)
    for seed in range(trials):
        scores, labels = scores_of(seed, 60, 40, map_max=apart)
        row = gate.choose(scores, labels, seed).rows["map_max"]
        inside += row.low <= truth <= row.high
    assert 0.85 <= inside / trials <= 1.0


def test_a_forced_choice_is_kept_with_what_the_gate_said():
    scores, labels = scores_of(0, 40, 20, segad=2.5, map_max=1.0)
    suggested = segad.suggest(scores, labels, force="map_max")
    assert suggested.decides == "map_max" and suggested.is_forced
    assert suggested.why.startswith("forced to map_max; the gate would have taken segad")
    assert suggested.t1 <= suggested.t2
    unforced = segad.suggest(scores, labels)
    assert unforced.decides == "segad" and not unforced.is_forced
    with pytest.raises(ConfigError, match="expected one of segad, map_max, got classification"):
        segad.suggest(scores, labels, force="classification")


def test_the_memory_map_is_the_distance_to_the_nearest_remembered_feature():
    torch.manual_seed(0)
    network = SuperSimpleNet(backbones.build("efficientnet_lite0"), hidden=16, grid=1).eval()
    network.standardise_fine.mean.uniform_(-1, 1)
    network.standardise_coarse.std.uniform_(0.5, 2)
    size = (64, 96)
    rng = np.random.default_rng(0)
    images = [rng.uniform(0, 255, (3, *size)).astype(np.float32) for _ in range(5)]
    model = memory.with_memory(export_exact(network, size), images, 5, size, 0, remembered=10_000)
    seen = rng.uniform(0, 255, (2, 3, *size)).astype(np.float32)
    amap = np.asarray(session(model).run(["map"], {"image": seen})[0])
    assert amap.shape == (2, 2, *size)
    with torch.inference_mode():
        known, asked = (
            network.embed(*network.taps(torch.from_numpy(batch))).permute(0, 2, 3, 1)
            for batch in (np.stack(images), seen)
        )
        channels = known.shape[-1]
        nearest = cdist(asked.reshape(-1, channels), known.reshape(-1, channels)).min(axis=1)
        plain = torch.from_numpy(nearest.astype(np.float32)).reshape(2, 1, *asked.shape[1:3])
        expected = upscale_and_blur(plain, size)
    np.testing.assert_allclose(amap[:, 1:], expected.numpy(), rtol=2e-3, atol=2e-3)


def test_a_coreset_leaves_nothing_far_away():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(0, 0.05, (500, 8)), rng.normal(5, 0.05, (3, 8))])
    vectors = vectors.astype(np.float32)
    chosen = memory.coreset(vectors, 20, np.random.default_rng(1))
    assert chosen.shape == (20, 8)
    assert cdist(vectors, chosen).min(axis=1).max() < 0.4
    assert (chosen[:, 0] > 2).any()
    whole = memory.coreset(vectors[:7], 20, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(whole, axis=0), np.sort(vectors[:7], axis=0))


def test_a_network_of_another_maker_has_no_taps_to_remember():
    with pytest.raises(ArtefactError, match="standardise_fine"):
        memory.with_memory(network_model(), [np.zeros((3, 16, 24), np.float32)], 1, (16, 24), 0)


def look() -> regions.GoodLook:
    """A dark plate with a bright rim and a bright block at the right."""
    mean = np.full((64, 96, 3), 60, np.float32)
    mean[:6], mean[-6:], mean[:, :6], mean[:, -6:] = 200, 200, 200, 200
    mean[20:44, 60:80] = 230
    return regions.GoodLook(mean, np.full((64, 96), 2, np.float32))


def test_proposed_regions_follow_what_is_seen():
    labels, names = regions.propose(look(), None, 3)
    assert len(names) == len(set(names)) == int(labels.max()) + 1 == 3
    block, plate, rim = (labels[at] for at in ((32, 70), (32, 20), (1, 48)))
    assert len({int(block), int(plate), int(rim)}) == 3
    assert (labels[24:40, 64:76] == block).all()
    assert names[plate].startswith("dark") and names[block].startswith("bright")
    assert names[rim] == "bright rim"
    for label in range(3):
        pieces = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0]
        assert pieces == 2  # the background and one piece


def test_the_normal_score_level_divides_what_looks_alike():
    even = regions.GoodLook(np.full((64, 96, 3), 90, np.float32), np.zeros((64, 96), np.float32))
    assert regions.propose(even, None, 4)[1] == ("whole part",)
    level = np.zeros((1, 64, 96), np.float32)
    level[:, :, 48:] = 3
    labels, _ = regions.propose(even, level, 2)
    assert labels[32, 10] != labels[32, 86]
    assert (labels[:, :40] == labels[32, 10]).all()


def test_few_regions_are_left_however_wild_the_picture():
    rng = np.random.default_rng(0)
    wild = regions.GoodLook(
        rng.uniform(0, 255, (64, 64, 3)).astype(np.float32), np.ones((64, 64), np.float32)
    )
    labels, names = regions.propose(wild, None, 5)
    shares = np.bincount(labels.reshape(-1), minlength=len(names)) / labels.size
    assert len(names) <= 5 and shares.min() >= regions.LEAST_SHARE
    with pytest.raises(ConfigError, match="1 to 254"):
        regions.propose(wild, None, 0)


def test_a_colour_that_is_no_region_is_refused_with_its_place(tmp_path):
    labels, names = regions.propose(look(), None, 3)
    painted = regions.paint(labels, names)
    (tmp_path / "segments.json").write_text(
        "[" + ",".join(f'{{"name": "{c["name"]}", "colour": "{c["colour"]}"}}'
                       for c in segad.segment_colours(names)) + "]"
    )  # fmt: skip
    cv2.imwrite(str(tmp_path / "paint.png"), painted[:, :, ::-1])
    got, found = regions.read_segments(tmp_path / "paint.png", (64, 96))
    np.testing.assert_array_equal(got, labels)
    assert found == names
    painted[3, 7] = (1, 2, 3)
    cv2.imwrite(str(tmp_path / "paint.png"), painted[:, :, ::-1])
    with pytest.raises(ConfigError, match="got #010203 at x 7, y 3"):
        regions.read_segments(tmp_path / "paint.png", (64, 96))
    cv2.imwrite(str(tmp_path / "segments.png"), np.full((64, 96), 3, np.uint8))
    with pytest.raises(ArtefactError, match="labels below 3 or 255, got label 3"):
        regions.read_segments(tmp_path / "segments.png", (64, 96))


@pytest.mark.parametrize("channels", [1, 3])
def test_damage_stays_inside_one_segment_and_never_touches_what_is_ignored(channels):
    labels = np.zeros((32, 32), np.uint8)
    labels[:, 16:] = 1
    labels[:4] = 255
    frame = np.random.default_rng(0).integers(60, 160, (128, 128, channels)).astype(np.uint8)
    damage = Damage(labels, seed=3)
    changed = np.stack([(damage(frame) != frame).any(axis=2) for _ in range(60)])
    assert changed.any(axis=(1, 2)).mean() > 0.9
    assert not changed[:, :16].any()
    assert changed[:, :, :60].any() and changed[:, :, 70:].any()
    assert 0 < np.median(changed.mean(axis=(1, 2))) < 0.2
    again = Damage(labels, seed=3)
    np.testing.assert_array_equal((again(frame) != frame).any(axis=2), changed[0])


def test_nothing_is_damaged_where_everything_is_ignored():
    frame = np.zeros((16, 16, 1), np.uint8)
    np.testing.assert_array_equal(Damage(np.full((8, 8), 255, np.uint8), 0)(frame), frame)
