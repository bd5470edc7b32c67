import json

import numpy as np
import pytest
import xgboost

from appliance.errors import ArtefactError
from appliance.forest import Forest, fit
from appliance.trees import DEEPEST, Trees

COLUMNS = [f"whole/net/{number}" for number in range(12)]


def samples(count, seed=0):
    """Values that repeat, so that many of them are splits themselves."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, len(COLUMNS))).round(1).astype(np.float32)
    return rows, (rows[:, 0] + rows[:, 1] * rows[:, 2] > 1).astype(int)


def fitted(**parameters):
    data = xgboost.DMatrix(*samples(300), feature_names=COLUMNS)
    asked = {
        "objective": "binary:logitraw",
        "nthread": 1,
        "num_parallel_tree": 20,
        "subsample": 0.6,
    }
    return xgboost.train({**asked, **parameters}, data, 5)


def trees_of(booster):
    model = json.loads(bytes(booster.save_raw("json")))
    return Trees(model, float(model["learner"]["learner_model_param"]["base_score"].strip("[]")))


def by_xgboost(booster, rows):
    return booster.inplace_predict(rows, predict_type="margin", validate_features=False).tolist()


@pytest.mark.parametrize("depth", [1, 3, 5, DEEPEST])
def test_a_margin_has_the_very_bits_of_the_library(depth):
    booster = fitted(max_depth=depth)
    trees = trees_of(booster)
    rows, _ = samples(2000, seed=1)
    rows = np.concatenate([rows, trees.probes(200, len(COLUMNS))])
    assert [trees.margin(row) for row in rows] == by_xgboost(booster, rows)


@pytest.mark.parametrize("kind", ["segad", "random_forest", "boosted_trees"])
def test_a_forest_of_any_kind_answers_as_the_library_does(kind, tmp_path):
    forest = fit(*samples(200), COLUMNS, seed=3, kind=kind)
    forest.save(tmp_path / "one.ubj")
    rows, _ = samples(300, seed=2)
    expected = by_xgboost(xgboost.Booster(model_file=tmp_path / "one.ubj"), rows)
    assert [forest.margin(row) for row in rows] == expected


def test_a_forest_of_nothing_but_leaves_is_the_constant():
    booster = fitted(max_depth=3, min_child_weight=1e9)
    rows, _ = samples(3)
    assert [trees_of(booster).margin(row) for row in rows] == by_xgboost(booster, rows)


def test_trees_that_are_too_deep_are_left_to_the_library():
    booster = fitted(max_depth=DEEPEST + 3, min_child_weight=0)
    with pytest.raises(ArtefactError, match=f"trees at most {DEEPEST} deep"):
        trees_of(booster)
    rows, _ = samples(20, seed=4)
    forest = Forest(booster, COLUMNS)
    assert [forest.margin(row) for row in rows] == by_xgboost(booster, rows)


def test_trees_that_answer_otherwise_are_not_used(monkeypatch):
    """As after an update of the library that splits or adds in another way."""
    true = Trees.margin
    monkeypatch.setattr(Trees, "margin", lambda self, row: np.nextafter(true(self, row), np.inf))
    booster = fitted(max_depth=5)
    rows, _ = samples(20, seed=5)
    forest = Forest(booster, COLUMNS)
    assert [forest.margin(row) for row in rows] == by_xgboost(booster, rows)


def test_probes_lie_on_the_splits_of_their_feature_and_just_above_them():
    booster = fitted(max_depth=4)
    splits = {number: set() for number in range(len(COLUMNS))}
    model = json.loads(bytes(booster.save_raw("json")))
    for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
        for node, left in enumerate(tree["left_children"]):
            if left != -1:
                split = np.float32(tree["split_conditions"][node])
                splits[tree["split_indices"][node]].add(split)
    rows = trees_of(booster).probes(40, len(COLUMNS))
    for feature, own in splits.items():
        assert own and set(rows[::2, feature]) <= own
        assert not set(rows[1::2, feature]) & own
        assert set(np.nextafter(rows[1::2, feature], np.float32(-np.inf))) <= own
