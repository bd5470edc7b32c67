"""A forest's margin of one part, bit for bit that of XGBoost, in a fraction of its time.

XGBoost's predictor is made for many rows: for one it goes from node to node of 2000 trees that lie
all over the memory. Here the trees are complete binary trees in arrays, and all of them go one
level down at a time. Shallow trees alone: the arrays grow with two to the depth.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.errors import ArtefactError

DEEPEST = 8


class Trees:
    """The arrays of one forest.

    model: as XGBoost writes it in JSON. base: the constant margin. Raises ArtefactError on trees
    deeper than DEEPEST.
    """

    def __init__(self, model: Mapping[str, Any], base: float) -> None:
        trees = model["learner"]["gradient_booster"]["model"]["trees"]
        self._depth = max((_depth(tree) for tree in trees), default=0)
        if self._depth > DEEPEST:
            raise ArtefactError("forest", f"trees at most {DEEPEST} deep", f"{self._depth}")
        inner = (1 << self._depth) - 1
        # Node i of tree t lies at i·trees + t; its children are nodes 2i + 1 and 2i + 2.
        self._feature = np.zeros((inner, len(trees)), np.intp)
        self._split = np.full((inner, len(trees)), np.inf, np.float32)
        self._leaf = np.zeros((inner + 1, len(trees)), np.float32)
        for number, tree in enumerate(trees):
            self._put(tree, number)
        self._tree = np.arange(len(trees))
        self._base = np.array([base], np.float32)

    def margin(self, features: npt.NDArray[np.float32]) -> float:
        """The sum of base and leaves, added in float32 in XGBoost's order. features: (n,)."""
        trees = len(self._tree)
        node = np.zeros(trees, np.intp)
        for _ in range(self._depth):
            place = node * trees + self._tree
            # A value below the split goes left, one at it goes right.
            right = features.take(self._feature.take(place)) >= self._split.take(place)
            node = 2 * node + 1 + right
        place = (node - len(self._feature)) * trees + self._tree
        # One after the other, as XGBoost adds them; `sum` would add in pairs.
        return float(np.cumsum(np.concatenate((self._base, self._leaf.take(place))))[-1])

    def probes(self, count: int, features: int) -> npt.NDArray[np.float32]:
        """(count, features): values that splits have, and every second row a little above them."""
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(count, features)).astype(np.float32)
        for feature in range(features):
            splits = self._split[(self._feature == feature) & np.isfinite(self._split)]
            if len(splits):
                rows[:, feature] = rng.choice(splits, count)
        rows[1::2] = np.nextafter(rows[1::2], np.float32(np.inf))
        return rows

    def _put(self, tree: Mapping[str, Any], number: int) -> None:
        """What lies below a leaf that ends early goes left for ever, to that leaf's value."""
        left, right = tree["left_children"], tree["right_children"]
        inner = len(self._feature)
        open_nodes = [(0, 0)]
        while open_nodes:
            node, place = open_nodes.pop()
            if left[node] != -1:
                self._feature[place, number] = tree["split_indices"][node]
                self._split[place, number] = tree["split_conditions"][node]
                open_nodes += [(left[node], 2 * place + 1), (right[node], 2 * place + 2)]
                continue
            while place < inner:
                place = 2 * place + 1
            self._leaf[place - inner, number] = tree["split_conditions"][node]


def _depth(tree: Mapping[str, Any]) -> int:
    depths = {0: 0}
    for node, left in enumerate(tree["left_children"]):
        if left != -1:
            depths[left] = depths[tree["right_children"][node]] = depths[node] + 1
    return max(depths.values())
