"""What each feature adds to a forest's margin: exact tree SHAP, by tables made once per forest.

The values are those of XGBoost's `pred_contribs` (path-dependent TreeSHAP, arXiv 1802.03888), which
walks all trees anew for each part and takes several times as long as the verdict itself. Here all
that does not depend on the part is computed when the forest is loaded.

A leaf asks of at most five features whether they lie in an interval. Which of them do is a number
of five bits, and for each such number what the leaf gives to each of its features is fixed (Fast
TreeSHAP v2, arXiv 2109.09847, section 3.2). So a part costs one comparison per leaf and feature,
one look-up per leaf and one sum. Shallow trees alone: the tables grow with two to the depth.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.errors import ArtefactError

DEPTH = 5
"""Most features that one leaf may ask: the depth of SegAD's trees."""


class Contributions:
    """The tables of one forest.

    model: as XGBoost writes it in JSON. features: how many there are. base: the constant margin.
    Raises ArtefactError on trees that ask more than DEPTH features on one path.
    """

    def __init__(self, model: Mapping[str, Any], features: int, base: float) -> None:
        trees = model["learner"]["gradient_booster"]["model"]["trees"]
        leaves = [leaf for tree in trees for leaf in _leaves(tree)]
        count = len(leaves)
        self._n = features
        # A feature that a leaf does not have is one that is always inside and never changes it.
        self._feature = np.zeros((DEPTH, count), np.intp)
        self._low = np.full((DEPTH, count), -np.inf, np.float32)
        self._high = np.full((DEPTH, count), np.inf, np.float32)
        share = np.ones((DEPTH, count))
        value = np.zeros(count)
        for leaf, (worth, path) in enumerate(leaves):
            value[leaf] = worth
            for place, (feature, (low, high, weight)) in enumerate(path.items()):
                self._feature[place, leaf] = feature
                self._low[place, leaf], self._high[place, leaf] = low, high
                share[place, leaf] = weight
        self._given = _table(value, share)
        self._constant = base + float((value * share.prod(axis=0)).sum())
        self._first = np.arange(count) << DEPTH

    def __call__(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n,) float32 → (n + 1,): what each feature adds to the margin, and last the constant."""
        asked = features.take(self._feature)
        inside = ((asked >= self._low) & (asked < self._high)).view(np.uint8)
        row = self._first.copy()
        for place in range(DEPTH):
            row += inside[place] << place
        given = self._given.take(row, axis=0)
        added = np.zeros(self._n)
        for place in range(DEPTH):
            added += np.bincount(self._feature[place], given[:, place], self._n)
        return np.append(added, self._constant).astype(np.float32)


_Path = dict[int, tuple[float, float, float]]
"""Feature → lowest value, first value above, share of the training's weight that goes this way."""


def _leaves(tree: Mapping[str, Any]) -> list[tuple[float, _Path]]:
    """Value and path of each leaf. A value below the split goes left, one at it goes right."""
    left, right = tree["left_children"], tree["right_children"]
    feature, split, weight = tree["split_indices"], tree["split_conditions"], tree["sum_hessian"]
    found: list[tuple[float, _Path]] = []
    open_nodes: list[tuple[int, _Path]] = [(0, {})]
    while open_nodes:
        node, path = open_nodes.pop()
        if left[node] == -1:
            if len(path) > DEPTH:
                raise ArtefactError(
                    "forest", f"trees that ask at most {DEPTH} features on a path", f"{len(path)}"
                )
            found.append((float(split[node]), path))
            continue
        low, high, share = path.get(feature[node], (-math.inf, math.inf, 1.0))
        at = float(split[node])
        for child, interval in (
            (left[node], (low, min(high, at))),
            (right[node], (max(low, at), high)),
        ):
            share_of_child = share * float(weight[child]) / float(weight[node])
            open_nodes.append((child, {**path, feature[node]: (*interval, share_of_child)}))
    return found


def _table(
    value: npt.NDArray[np.float64], share: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """What a leaf gives to each of its features, by which of them are inside.

    value: (leaves,); share: (DEPTH, leaves). Out: (leaves · 2^DEPTH, DEPTH).
    Shapley's sum: over all sets S of other features that are inside, value · weight(S) · (1 or 0,
    minus the share of the feature itself) · the shares of all that are not in S.
    """
    others = DEPTH - 1
    weight = [
        math.factorial(size) * math.factorial(others - size) / math.factorial(DEPTH)
        for size in range(DEPTH)
    ]
    given = np.zeros((len(value), 1 << DEPTH, DEPTH), np.float32)
    for place in range(DEPTH):
        rest = [other for other in range(DEPTH) if other != place]
        # How much each set of known others weighs, whoever asks.
        known = {
            chosen: value
            * weight[len(chosen)]
            * share[[other for other in rest if other not in chosen]].prod(axis=0)
            for size in range(DEPTH)
            for chosen in itertools.combinations(rest, size)
        }
        for inside in range(1 << DEPTH):
            total = np.zeros(len(value))
            for chosen, worth in known.items():
                if all(inside >> other & 1 for other in chosen):
                    total += worth
            given[:, inside, place] = total * ((inside >> place & 1) - share[place])
    return given.reshape(-1, DEPTH)
