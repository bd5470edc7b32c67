import json

import numpy as np
import pytest
import xgboost

from appliance.bundle import hash_file
from appliance.codes import Reason
from appliance.contributions import Contributions
from appliance.errors import ArtefactError, PartError
from appliance.forest import Forest, fit, reasons
from appliance.segments import column_names

COLUMNS = column_names(["rim", "solder_2"], ["net"])


def parts():
    """Bad parts have a high q99.5 in solder_2 and, less often, a low mean at the rim."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, len(COLUMNS))).astype(np.float32)
    labels = (np.arange(80) % 4 == 0).astype(int)
    features[labels == 1, COLUMNS.index("solder_2/net/q99.5")] += 4
    features[labels == 1, COLUMNS.index("rim/net/mean")] -= 2
    return features, labels


@pytest.fixture(scope="module")
def forest():
    return fit(*parts(), COLUMNS, seed=7)


@pytest.fixture
def path(forest, tmp_path):
    forest.save(tmp_path / "segad.ubj")
    return tmp_path / "segad.ubj"


def test_equals_the_plain_use_of_the_library(forest):
    features, labels = parts()
    plain = xgboost.XGBClassifier(
        n_estimators=10,
        num_parallel_tree=200,
        learning_rate=0.3,
        max_depth=5,
        colsample_bytree=0.6,
        colsample_bynode=0.6,
        subsample=0.6,
        reg_alpha=1.0,
        objective="binary:logitraw",
        scale_pos_weight=60 / 20,
        random_state=7,
        n_jobs=1,
    ).fit(features, labels)
    expected = plain.predict_proba(features)[:, 1]
    margins = [forest.margin(row) for row in features]
    np.testing.assert_array_equal(np.array(margins, np.float32), expected)
    assert min(m for m, bad in zip(margins, labels, strict=True) if bad) > 0


def test_a_margin_is_a_float32_value(forest):
    margin = forest.margin(parts()[0][0])
    assert float(np.float32(margin)) == margin


def test_saved_and_loaded_it_answers_the_same(forest, path):
    loaded = Forest.load(path, COLUMNS, hash_file(path))
    for row in parts()[0][:10]:
        assert loaded.margin(row) == forest.margin(row)
        assert loaded.reasons(row) == forest.reasons(row)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_seed_is_the_same_forest_on_any_number_of_threads(path, tmp_path):
    fit(*parts(), COLUMNS, seed=7, threads=2).save(tmp_path / "again.ubj")
    assert (tmp_path / "again.ubj").read_bytes() == path.read_bytes()


def test_another_weight_is_another_forest(forest):
    features, labels = parts()
    heavy = fit(features, labels, COLUMNS, seed=7, scale_pos_weight=50.0)
    assert heavy.margin(features[1]) > forest.margin(features[1])


@pytest.mark.parametrize("kind", ["segad", "random_forest", "boosted_trees"])
def test_contributions_are_those_of_the_library_and_add_up_to_the_margin(kind, forest, tmp_path):
    features, labels = parts()
    one = forest if kind == "segad" else fit(features, labels, COLUMNS, seed=7, kind=kind)
    one.save(tmp_path / "one.ubj")
    booster = xgboost.Booster(model_file=tmp_path / "one.ubj")
    trees = booster.num_boosted_rounds() * int(
        json.loads(booster.save_config())["learner"]["gradient_booster"]["gbtree_model_param"][
            "num_parallel_tree"
        ]
    )
    assert trees == 2000
    # Values of the training themselves lie on the splits: the side they go to must be the same.
    rows = np.concatenate([features[:30], features[30:40] * 3])
    data = xgboost.DMatrix(rows, feature_names=list(COLUMNS))
    for row, expected in zip(rows, booster.predict(data, pred_contribs=True), strict=True):
        contributions = one.contributions(row)
        np.testing.assert_allclose(contributions, expected, rtol=1e-4, atol=2e-5)
        assert contributions.sum() == pytest.approx(one.margin(row), abs=1e-4)


def test_deeper_trees_than_ours_have_no_tables():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(400, 9)), rng.integers(0, 2, 400)
    deep = xgboost.train({"max_depth": 8}, xgboost.DMatrix(features, labels), 3)
    model = json.loads(bytes(deep.save_raw("json")))
    with pytest.raises(ArtefactError, match=r"at most 5 features on a path, got [678]"):
        Contributions(model, 9, 0.0)


def test_reasons_name_what_was_put_there(forest, path):
    good, bad = np.zeros((2, len(COLUMNS)), np.float32)
    bad[COLUMNS.index("solder_2/net/q99.5")] = 4
    bad[COLUMNS.index("rim/net/mean")] = -2
    for one in (forest, Forest.load(path, COLUMNS, hash_file(path))):
        solder, rim, *_ = one.reasons(bad)
        assert solder.startswith("segment solder_2: q99.5 of net is high")
        assert rim.startswith("segment rim: mean of net is low")
        assert not any(
            "is high" in sentence and "solder" in sentence for sentence in one.reasons(good)
        )


def test_reasons_are_grouped_and_sorted():
    contributions = np.zeros(len(COLUMNS) + 1, np.float32)
    for column, value in (
        ("rim/net/q99.5", 0.5),
        ("rim/net/mean", 0.4),
        ("rim/net/kurtosis", 0.1),
        ("solder_2/net/skewness", 0.8),
        ("*/net/max", 0.2),
    ):
        contributions[COLUMNS.index(column)] = value
    contributions[-1] = 99
    assert reasons(contributions, COLUMNS) == (
        "segment rim: q99.5 of net raises the margin, mean of net raises the margin",
        "segment solder_2: skewness of net raises the margin",
        "whole part: maximum of net raises the margin",
    )
    assert reasons(-contributions, COLUMNS) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_no_number_is_an_error(forest, value):
    row = np.zeros(len(COLUMNS), np.float32)
    row[2] = value
    for ask in (forest.margin, forest.contributions):
        with pytest.raises(PartError, match="rim/net/kurtosis is not a number") as caught:
            ask(row)
        assert caught.value.reason is Reason.INVALID_NUMBER


def test_a_row_of_another_length_is_an_error(forest):
    with pytest.raises(PartError, match="expected 9 features") as caught:
        forest.margin(np.zeros(8, np.float32))
    assert caught.value.reason is Reason.INTERNAL


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (["solder_2", "rim"], "feature 0 to be solder_2/net/q99.5, got rim/net/q99.5"),
        (["rim"], "5 features, got 9"),
    ],
)
def test_other_columns_are_refused(path, segments, message):
    with pytest.raises(ArtefactError, match=message):
        Forest.load(path, column_names(segments, ["net"]), hash_file(path))


def test_another_objective_is_refused(path, tmp_path):
    features, labels = parts()
    data = xgboost.DMatrix(features, labels, feature_names=list(COLUMNS))
    other = tmp_path / "other.ubj"
    xgboost.train({"objective": "reg:squarederror"}, data, 1).save_model(other)
    with pytest.raises(ArtefactError, match="expected binary:logitraw, got reg:squarederror"):
        Forest.load(other, COLUMNS, hash_file(other))


@pytest.mark.parametrize("booster", ["dart", "gblinear"])
def test_what_is_no_sum_of_trees_is_refused(tmp_path, booster):
    """Its file has other fields: margin and reasons could not be computed of them."""
    features, labels = parts()
    data = xgboost.DMatrix(features, labels, feature_names=list(COLUMNS))
    other = tmp_path / "other.ubj"
    xgboost.train({"objective": "binary:logitraw", "booster": booster}, data, 1).save_model(other)
    with pytest.raises(ArtefactError, match=f"expected gbtree, got {booster}"):
        Forest.load(other, COLUMNS, hash_file(other))


@pytest.mark.parametrize(
    ("kinds", "outputs", "got"),
    [
        (["c"] + ["q"] * (len(COLUMNS) - 1), 1, "features that are categories"),
        (None, 2, "2 margins"),
    ],
)
def test_a_forest_of_another_kind_is_refused(kinds, outputs, got, tmp_path):
    """Fitted elsewhere, with the right names and the right objective."""
    features, labels = parts()
    if kinds:
        features[:, 0] = np.arange(len(features)) % 3
    data = xgboost.DMatrix(
        features,
        np.column_stack([labels] * outputs),
        feature_names=list(COLUMNS),
        feature_types=kinds,
        enable_categorical=kinds is not None,
    )
    booster = xgboost.train({"objective": "binary:logitraw"}, data, 2)
    booster.save_model(tmp_path / "other.ubj")
    digest = hash_file(tmp_path / "other.ubj")
    with pytest.raises(ArtefactError, match=f"numbers in and one margin out, got {got}"):
        Forest.load(tmp_path / "other.ubj", COLUMNS, digest)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "tail", "scrambled"])
def test_a_damaged_file_is_refused_in_one_line(path, damage):
    data, digest = path.read_bytes(), hash_file(path)
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "text": b"hello",
                "cut": data[: len(data) // 2],
                "tail": data[:-3],
                "scrambled": data[:20] + b"\xff" * 40 + data[60:],
            }[damage]
        )
    with pytest.raises(ArtefactError, match=r"segad\.ubj: expected a forest") as caught:
        Forest.load(path, COLUMNS, digest)
    assert "\n" not in str(caught.value)


def test_one_class_alone_cannot_be_fitted():
    features, labels = parts()
    with pytest.raises(ArtefactError, match="some of each, got 80 good, 0 bad of 80"):
        fit(features, labels * 0, COLUMNS, seed=0)
    features[3, 3] = np.nan
    with pytest.raises(ArtefactError, match="finite features"):
        fit(features, labels, COLUMNS, seed=0)
