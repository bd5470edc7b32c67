"""SegAD's forest: statistics in, raw margin and its reasons out. The only importer of XGBoost.

A margin is a log-odds, unbounded; `sigmoid(margin)` is for people. One part's margin comes from
`trees.py`, which was proved to answer as XGBoost does, or from XGBoost on one thread: the hand-over
between threads costs more than 2000 trees do.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xgboost

from appliance.atomic import write_atomically
from appliance.codes import Reason
from appliance.contributions import Contributions
from appliance.errors import ArtefactError, PartError
from appliance.segments import CLASSIFICATION, WHOLE
from appliance.trees import Trees

Row = npt.NDArray[np.float32]
Kind = Literal["segad", "random_forest", "boosted_trees"]

_OBJECTIVE, _BOOSTER = "binary:logitraw", "gbtree"
_SHAPES: dict[Kind, tuple[int, int, float, float]] = {
    "segad": (10, 200, 0.3, 0.6),
    "random_forest": (1, 2000, 1.0, 0.6),
    "boosted_trees": (2000, 1, 0.3, 1.0),
}
"""Rounds, trees per round, learning rate, share of the columns that a tree may use; 2000 trees
each. The last two are for the paper's ablation (Table 6)."""
_USUAL = "usual"
"""Attribute in the file: the median of every feature over the good training images."""
_PROBES = 64
_LARGEST_GROUPS = 5
_LARGEST_COLUMNS = 3


class Forest:
    """A fitted forest and the names of its features."""

    def __init__(self, booster: xgboost.Booster, columns: Sequence[str]) -> None:
        self._booster = booster
        self._booster.set_param({"nthread": 1})
        self.columns = tuple(columns)
        usual = booster.attr(_USUAL)
        self._usual = None if usual is None else np.array(json.loads(usual), np.float32)
        self._contributions: Contributions | None = None
        self._walk: Callable[[Row], float] | None = None

    @classmethod
    def load(cls, path: Path, columns: Sequence[str], sha256: str) -> "Forest":
        """A forest from a UBJ file. Raises ArtefactError.

        columns: what this software will feed it; the names in the file must be the same, in order.
        sha256: of the whole file, from the manifest. XGBoost's reader trusts what it reads: a file
        that was cut short can end the process, so nothing but these very bytes is handed to it.
        """
        try:
            data = path.read_bytes()
        except OSError as err:
            raise ArtefactError(path, "a forest file", err.strerror or str(err)) from err
        digest = hashlib.sha256(data).hexdigest()
        if digest != sha256:
            raise ArtefactError(
                path, f"a forest file with SHA-256 {sha256[:12]}…", f"{digest[:12]}…"
            )
        try:
            booster = xgboost.Booster({"nthread": 1})
            booster.load_model(bytearray(data))
            learner = json.loads(booster.save_config())["learner"]
        except (xgboost.core.XGBoostError, ValueError) as err:
            raise ArtefactError(path, "a forest in UBJ format", _first_line(err)) from err
        if learner["objective"]["name"] != _OBJECTIVE:
            raise ArtefactError(path, _OBJECTIVE, learner["objective"]["name"])
        if learner["gradient_booster"]["name"] != _BOOSTER:
            raise ArtefactError(path, _BOOSTER, learner["gradient_booster"]["name"])
        if other := _other_kind(booster, learner):
            raise ArtefactError(path, "numbers in and one margin out", other)
        names = tuple(booster.feature_names or ())
        if names != tuple(columns):
            raise ArtefactError(path, *_difference(tuple(columns), names))
        return cls(booster, columns)

    def save(self, path: Path) -> None:
        """Write the UBJ file, all of it or none."""
        write_atomically(path, bytes(self._booster.save_raw("ubj")))

    def margin(self, features: npt.NDArray[np.float32]) -> float:
        """The raw log-odds that this part is bad, a float32 value.

        features: (n,) float32 in the order of `columns`. Raises PartError INVALID_NUMBER on NaN
        or infinity: XGBoost would take NaN for "not measured" and answer all the same.
        """
        row = self._row(features)
        if self._walk is None:
            self._walk = self._quickest_walk()
        return self._walk(row)

    def contributions(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What each feature adds to the margin (exact tree SHAP), and last the constant: (n + 1,).

        Their sum is the margin. The first call makes the tables, which takes a second.
        """
        row = self._row(features)
        if self._contributions is None:
            model, base = self._model()
            self._contributions = Contributions(model, len(self.columns), base)
        return self._contributions(row)

    def reasons(self, features: npt.NDArray[np.float32]) -> tuple[str, ...]:
        """What pushed this part's margin up, in words, strongest segment first."""
        deviations = None if self._usual is None else features - self._usual
        return reasons(self.contributions(features), self.columns, deviations)

    def _quickest_walk(self) -> Callable[[Row], float]:
        """Ours where it gives XGBoost's very bits, on splits and beside them; else XGBoost's."""
        try:
            trees = Trees(*self._model())
        except ArtefactError:  # too deep a forest, fitted elsewhere
            return self._xgboost_margin
        probes = trees.probes(_PROBES, len(self.columns))
        is_same = all(trees.margin(row) == self._xgboost_margin(row) for row in probes)
        return trees.margin if is_same else self._xgboost_margin

    def _xgboost_margin(self, row: Row) -> float:
        margin = self._booster.inplace_predict(
            row.reshape(1, -1), predict_type="margin", validate_features=False
        )
        return float(margin[0])

    def _model(self) -> tuple[dict[str, Any], float]:
        """The trees as JSON, and the constant margin."""
        model = json.loads(bytes(self._booster.save_raw("json")))
        base = str(model["learner"]["learner_model_param"]["base_score"]).strip("[]")
        return model, float(base)

    def _row(self, features: npt.NDArray[np.float32]) -> Row:
        if features.shape != (len(self.columns),):
            raise PartError(
                Reason.INTERNAL, f"expected {len(self.columns)} features, got {features.shape}"
            )
        if not np.isfinite(features).all():
            name = self.columns[int(np.flatnonzero(~np.isfinite(features))[0])]
            raise PartError(Reason.INVALID_NUMBER, f"feature {name} is not a number")
        return np.ascontiguousarray(features, np.float32)


def fit(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    columns: Sequence[str],
    seed: int,
    scale_pos_weight: float | None = None,
    threads: int = 1,
    kind: Kind = "segad",
) -> Forest:
    """Fit a forest with the parameters of the SegAD paper.

    features: (parts, n); labels: (parts,), 1 = bad. scale_pos_weight: None = good / bad, as in the
    paper's code (the paper itself does not mention it). threads: 0 = all cores; with 2000
    small trees a second thread made the fit 20 times slower (2 cores, 290 images). kind: the
    paper's boosted random forest, or a plain one or plain boosted trees to compare it with.
    Raises ArtefactError where one of the two classes is missing or a feature is not a number.
    """
    good, bad = int((labels == 0).sum()), int((labels == 1).sum())
    if not good or not bad or good + bad != len(features):
        raise ArtefactError(
            "forest", "labels 0 and 1, some of each", f"{good} good, {bad} bad of {len(features)}"
        )
    if not np.isfinite(features).all():
        raise ArtefactError("forest", "finite features", "NaN or infinity")
    rounds, parallel, rate, tree_columns = _SHAPES[kind]
    parameters = {
        "objective": _OBJECTIVE,
        "num_parallel_tree": parallel,
        "max_depth": 5,
        "eta": rate,
        "colsample_bytree": tree_columns,
        "colsample_bynode": 0.6,
        "subsample": 0.6,
        "alpha": 1.0,
        "scale_pos_weight": good / bad if scale_pos_weight is None else scale_pos_weight,
        "seed": seed,
        "nthread": threads,
    }
    data = xgboost.DMatrix(features, labels, feature_names=list(columns), nthread=threads or -1)
    booster = xgboost.train(parameters, data, rounds)
    usual = np.median(features[labels == 0], axis=0)
    booster.set_attr(usual=json.dumps([float(value) for value in usual]))
    return Forest(booster, columns)


def reasons(
    contributions: npt.NDArray[np.float32],
    columns: Sequence[str],
    deviations: npt.NDArray[np.float32] | None = None,
) -> tuple[str, ...]:
    """What pushed the margin up, one sentence per segment, strongest first.

    contributions: (n + 1,) as from `Forest.contributions`. deviations: (n,) distance of each
    feature from that of a usual good part; without it a sentence cannot say "high" or "low".
    """
    groups: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        groups.setdefault(column.partition("/")[0], []).append(place)
    weights = {segment: float(contributions[places].sum()) for segment, places in groups.items()}
    sentences: list[str] = []
    for segment in sorted(weights, key=lambda name: -weights[name])[:_LARGEST_GROUPS]:
        rising = [place for place in groups[segment] if contributions[place] > 0]
        if weights[segment] <= 0 or not rising:
            break
        rising.sort(key=lambda place: -contributions[place])
        clauses = [
            _clause(columns[place], None if deviations is None else float(deviations[place]))
            for place in rising[:_LARGEST_COLUMNS]
            if contributions[place] >= contributions[rising[0]] / 4
        ]
        where = "whole part" if segment == WHOLE else f"segment {segment}"
        sentences.append(f"{where}: {', '.join(clauses)}")
    return tuple(sentences)


def _other_kind(booster: xgboost.Booster, learner: dict[str, Any]) -> str:
    """What neither `trees.py` nor `contributions.py` reads, in a forest fitted elsewhere; "" = it
    is one of ours."""
    if "c" in (booster.feature_types or ()):
        return "features that are categories"
    outputs = int(learner["learner_model_param"].get("num_target", 1))
    return "" if outputs == 1 else f"{outputs} margins"


def _clause(column: str, deviation: float | None) -> str:
    _, detector, statistic = column.split("/")
    what = f"{'maximum' if statistic == 'max' else statistic} of {detector}"
    if column == CLASSIFICATION:
        what = "classification logit"
    if deviation is None or deviation == 0:
        return f"{what} raises the margin"
    return f"{what} is {'high' if deviation > 0 else 'low'}"


def _difference(expected: tuple[str, ...], got: tuple[str, ...]) -> tuple[str, str]:
    """Where two lists of names part, for an error message."""
    if len(expected) != len(got):
        return f"{len(expected)} features", f"{len(got)}"
    place = next(i for i, pair in enumerate(zip(expected, got, strict=True)) if len(set(pair)) > 1)
    return f"feature {place} to be {expected[place]}", got[place]


def _first_line(err: Exception) -> str:
    """XGBoost's errors carry time and place before the sentence and a C++ stack behind it."""
    return re.sub(r"^\[[^]]*\] \S+: ", "", str(err).strip().splitlines()[0])
