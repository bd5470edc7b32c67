"""A second detector for one backbone pass: distance to the nearest remembered good feature.

The network's own features of good images, thinned to a coreset; a picture's map is, cell by cell,
the distance to the nearest of them, upscaled and blurred as SuperSimpleNet's. The idea of PatchCore
(arXiv 2106.08265) on the standardised and pooled features that the bundle's network computes
anyway. It learns nothing, so it errs elsewhere than the trained heads do: what SegAD wants of two
detectors. Works on a bundle's graph alone: no weights of the training are needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from appliance.errors import ArtefactError
from models.exact import blur_matrix, interpolation_matrix, pool_matrix
from models.export import session
from models.graphs import constants_of, with_map, with_outputs

Floats = npt.NDArray[np.float32]

NAME = "memory"
"""Of the detector, in a bundle's manifest and in the columns of its forest."""

SIZE = 1000
"""Remembered vectors. At 256² and efficientnet_lite0 the product with them costs 0.16 GMAC, a
third of the backbone."""

_CANDIDATES = 40_000
"""Vectors that the coreset is chosen from, drawn at random; bounds its time."""


class _Taps(NamedTuple):
    """Tensors of the network's graph: both taps, standardised on the good images."""

    fine: str
    coarse: str


def with_memory(
    network: onnx.ModelProto,
    inputs: Iterable[Floats],
    count: int,
    size: tuple[int, int],
    seed: int,
    remembered: int = SIZE,
) -> onnx.ModelProto:
    """`network` with one more map, made from good images that it may have learnt from.

    inputs: `count` times (3, H, W) float32 RGB 0…255, of `size` (H, W). Raises ArtefactError where
    the graph is none of ours.
    """
    taps = _taps_of(network)
    run = session(with_outputs(network, taps))
    name = run.get_inputs()[0].name
    rng = np.random.default_rng(seed)
    drawn: list[Floats] = []
    spatial: _Spatial | None = None
    share = max(1, -(-_CANDIDATES // max(1, count)))
    for image in inputs:
        fine, coarse = (np.asarray(tap) for tap in run.run(list(taps), {name: image[None]}))
        if spatial is None:
            spatial = _Spatial(size, fine.shape[2:], coarse.shape[2:])
        rows = spatial.rows(fine, coarse)
        drawn.append(rows[rng.permutation(len(rows))[:share]])
    if spatial is None:
        raise ArtefactError("memory", "good images", "none")
    vectors = coreset(np.concatenate(drawn), remembered, rng)
    return _joined(network, taps, spatial, vectors)


def coreset(vectors: Floats, size: int, rng: np.random.Generator) -> Floats:
    """`size` of the (N, C) vectors that leave no other far away, all of them where they are fewer.

    Greedy k-centre (PatchCore, section 3.2): the next one is that farthest from all chosen.
    """
    chosen = [int(rng.integers(len(vectors)))]
    squares = np.einsum("nc,nc->n", vectors, vectors)
    nearest = np.full(len(vectors), np.inf, np.float32)
    for _ in range(min(size, len(vectors)) - 1):
        last = chosen[-1]
        distance = squares - 2 * (vectors @ vectors[last]) + squares[last]
        np.minimum(nearest, distance, out=nearest)
        nearest[chosen] = -np.inf
        chosen.append(int(nearest.argmax()))
    return vectors[chosen]


class _Spatial:
    """Constant matrices from both taps to the fine tap's grid, and from there to the map."""

    def __init__(
        self, size: tuple[int, int], fine: tuple[int, ...], coarse: tuple[int, ...]
    ) -> None:
        self.grid = (fine[0], fine[1])
        self.pool = [pool_matrix(side).float().numpy() for side in self.grid]
        self.lift = [
            (pool_matrix(target) @ interpolation_matrix(source, target, align_corners=True))
            .float()
            .numpy()
            for source, target in zip(coarse, self.grid, strict=True)
        ]
        self.blur = [
            blur_matrix(source, target).float().numpy()
            for source, target in zip(self.grid, size, strict=True)
        ]

    def rows(self, fine: Floats, coarse: Floats) -> Floats:
        """Standardised taps of one image → (h·w, C) features, as the network's heads see them."""
        pooled = self.pool[0] @ fine[0] @ self.pool[1].T
        lifted = self.lift[0] @ coarse[0] @ self.lift[1].T
        features = np.concatenate([pooled, lifted])
        return np.ascontiguousarray(features.reshape(len(features), -1).T, np.float32)


def _joined(
    network: onnx.ModelProto, taps: _Taps, spatial: _Spatial, vectors: Floats
) -> onnx.ModelProto:
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "pool_y": spatial.pool[0],
        "pool_x": spatial.pool[1].T,
        "lift_y": spatial.lift[0],
        "lift_x": spatial.lift[1].T,
        "blur_y": spatial.blur[0],
        "blur_x": spatial.blur[1].T,
        "doubled": -2 * vectors.T,  # [C, M]
        "squares": np.einsum("mc,mc->m", vectors, vectors),
        "rows": np.array([0, vectors.shape[1], -1], np.int64),
        "grid": np.array([-1, 1, *spatial.grid], np.int64),
        "nought": np.zeros((), np.float32),
        "last": np.array([2], np.int64),
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("MatMul", ["pool_y", taps.fine], "fine_y", {}),
        ("MatMul", ["fine_y", "pool_x"], "fine", {}),
        ("MatMul", ["lift_y", taps.coarse], "coarse_y", {}),
        ("MatMul", ["coarse_y", "lift_x"], "coarse", {}),
        ("Concat", ["fine", "coarse"], "features", {"axis": 1}),
        ("Reshape", ["features", "rows"], "planes", {}),
        ("Transpose", ["planes"], "vectors", {"perm": [0, 2, 1]}),  # [N, h·w, C]
        ("MatMul", ["vectors", "doubled"], "products", {}),
        ("Add", ["products", "squares"], "relative", {}),
        ("ReduceMin", ["relative", "last"], "nearest", {"keepdims": 1}),
        ("ReduceSumSquare", ["vectors", "last"], "own", {"keepdims": 1}),
        ("Add", ["nearest", "own"], "squared", {}),
        ("Max", ["squared", "nought"], "positive", {}),
        ("Sqrt", ["positive"], "distance", {}),
        ("Reshape", ["distance", "grid"], "cells", {}),
        ("MatMul", ["blur_y", "cells"], "blurred_y", {}),
        ("MatMul", ["blurred_y", "blur_x"], "map", {}),
    ]
    own = set(arrays) | {step[2] for step in steps}

    def named(value: str) -> str:
        return f"{NAME}/{value}" if value in own and value not in taps else value

    nodes = [
        helper.make_node(kind, [named(v) for v in ins], [named(out)], name=named(out), **attributes)
        for kind, ins, out, attributes in steps
    ]
    constants = constants_of({named(name): array for name, array in arrays.items()})
    return with_map(network, NAME, nodes, constants, named("map"))


def _taps_of(network: onnx.ModelProto) -> _Taps:
    """The standardised taps: what is divided by `standardise_fine.std`, and the coarse one."""
    found: dict[str, str] = {}
    for node in network.graph.node:
        for tap in ("fine", "coarse"):
            if node.op_type == "Div" and node.input[1].endswith(f"standardise_{tap}.std"):
                found[tap] = node.output[0]
    if len(found) != 2:
        raise ArtefactError(
            "network.onnx",
            "a SuperSimpleNet whose taps standardise_fine and standardise_coarse can be found",
            f"{len(found)} of them",
        )
    return _Taps(found["fine"], found["coarse"])
