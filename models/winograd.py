"""3x3 convolutions with a quarter or half of their products, for processors that wait for those.

Winograd's minimal filtering (Lavin and Gray 2016, section 4.1): m x m outputs of a 3x3 kernel
take (m+2)² products instead of 9·m². Reading the overlapping tiles, transforming them and
transforming back are linear along each axis: constant matrices, as everywhere in the exact graph,
with the channels last. What is left are (m+2)² products of matrices, one for each point of a tile.

The transformed weights are 4 or 1.8 times as many and come from memory in every call: whether it
pays depends on processor and runtime. So it is a graph of its own; `inspectd engine` measures it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

from models.graphs import constants_of

Matrix = npt.NDArray[np.float64]

_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 1.0, -1.0, 2.0, -2.0)}
"""Outputs of a tile along one axis → where its polynomials are evaluated, besides infinity."""
_LARGE_PX = 512
"""From so many outputs on 4 x 4 at a time: with fewer, the weights' way from memory decides."""
_FEWEST_CHANNELS = 256
"""With fewer, the transforms take what the products save."""


def winograd(network: onnx.ModelProto) -> onnx.ModelProto | None:
    """The same network, every 3x3 convolution that may gain replaced; None where there is none.

    Same inputs and outputs; differences are those of float32 sums in another order, about ten
    times those of a plain convolution for tiles of 4 x 4.
    """
    sizes = {
        value.name: _size(value) for value in shape_inference.infer_shapes(network).graph.value_info
    }
    arrays = {tensor.name: tensor for tensor in network.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, npt.NDArray[Any]] = {}
    for node in network.graph.node:
        size = sizes.get(node.input[0]) if node.op_type == "Conv" else None
        if size is None or not _may_gain(node, arrays):
            nodes.append(node)
            continue
        kernel, *bias = (numpy_helper.to_array(arrays[name]) for name in node.input[1:])
        chain = _transformed(node, kernel, bias, size)
        nodes += chain.nodes
        constants |= chain.constants
    if not constants:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(network)
    del model.graph.node[:], model.graph.value_info[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    model.graph.initializer.extend(tensor for name, tensor in arrays.items() if name in read)
    model.graph.initializer.extend(constants_of(constants))
    onnx.checker.check_model(model)
    return model


def transforms(outs: int) -> tuple[Matrix, Matrix, Matrix]:
    """Along one axis, of a tile's inputs (m+2, m+2), of a kernel (m+2, 3), and back (m, m+2).

    outs: m, 2 or 4. `back @ ((of_kernel @ g) * (of_inputs @ d))` is the correlation of d (m+2,)
    with g (3,). The transposition of Toom and Cook's product of polynomials with m and with 3
    coefficients: evaluate both at m+2 points, multiply, interpolate.
    """
    count = outs + 2

    def evaluation(coefficients: int) -> Matrix:
        rows = np.vander(_POINTS[outs], coefficients, increasing=True)
        return np.vstack([rows, np.eye(coefficients)[-1]])  # at infinity: the last one

    return np.linalg.inv(evaluation(count)).T, evaluation(3), evaluation(outs).T


class _Chain:
    """Nodes one behind the other, from one tensor to another, and their constants."""

    def __init__(self, start: str, name: str) -> None:
        """name: of the result, and of all that is between, with a number."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self._last, self._name = start, name

    def then(self, operator: str, *others: str, **attributes: Any) -> None:
        """An operator on the last tensor; others: constants behind it."""
        self._add(operator, [self._last, *others], **attributes)

    def reshaped(self, *shape: int) -> None:
        """0 = as it was."""
        self.then("Reshape", self._kept(np.array(shape, np.int64)))

    def multiplied(self, left: Matrix) -> None:
        """With a constant on the left."""
        self._add("MatMul", [self._kept(left.astype(np.float32)), self._last])

    def multiplied_each(self, rights: npt.NDArray[np.float32]) -> None:
        """(N, P, T, C) with a constant of its own for each point: (P, C, O) → (N, P, T, O).

        One node for each: only a constant matrix is packed once and for all by the runtimes.
        """
        points, name = len(rights), self._next()
        parts, products = ([f"{name}.{kind}{at}" for at in range(points)] for kind in "xy")
        self.nodes.append(
            helper.make_node(
                "Split", [self._last], parts, name=f"{name}.x", axis=1, num_outputs=points
            )
        )
        for part, product, right in zip(parts, products, rights, strict=True):
            constant = self._kept(right)
            self.nodes.append(helper.make_node("MatMul", [part, constant], [product], name=product))
        self._add("Concat", products, axis=1)

    def added(self, bias: npt.NDArray[np.float32]) -> None:
        """To the channels, which are last."""
        self.then("Add", self._kept(bias))

    def end(self, operator: str, **attributes: Any) -> None:
        """The last operator makes the result."""
        self.then(operator, **attributes)
        self.nodes[-1].output[0] = self._name

    def _add(self, operator: str, reads: list[str], **attributes: Any) -> None:
        self._last = self._next()
        self.nodes.append(
            helper.make_node(operator, reads, [self._last], name=self._last, **attributes)
        )

    def _next(self) -> str:
        return f"{self._name}.{len(self.nodes)}"

    def _kept(self, constant: npt.NDArray[Any]) -> str:
        name = f"{self._name}.c{len(self.constants)}"
        self.constants[name] = constant
        return name


def _transformed(
    node: onnx.NodeProto,
    kernel: npt.NDArray[np.float32],
    bias: Sequence[npt.NDArray[np.float32]],
    size: tuple[int, int],
) -> _Chain:
    """What stands for one convolution of an input of (H, W)."""
    outs, channels = kernel.shape[:2]
    high, wide = size
    tile = 4 if high * wide >= _LARGE_PX else 2
    side, rows, columns = tile + 2, -(-high // tile), -(-wide // tile)
    of_kernel = transforms(tile)[1]
    weights = np.einsum("iy,jx,ocyx->ijco", of_kernel, of_kernel, kernel.astype(np.float64))
    (down, up), (across, back) = _axis(high, tile), _axis(wide, tile)
    chain = _Chain(node.input[0], node.output[0])
    chain.then("Transpose", perm=[0, 2, 3, 1])
    chain.reshaped(0, high, wide * channels)
    chain.multiplied(down)
    chain.reshaped(0, side * rows, wide, channels)
    chain.multiplied(across)
    chain.reshaped(0, side, rows, side, columns, channels)
    chain.then("Transpose", perm=[0, 1, 3, 2, 4, 5])
    chain.reshaped(0, side * side, rows * columns, channels)
    chain.multiplied_each(weights.reshape(side * side, channels, outs).astype(np.float32))
    chain.reshaped(0, side, side, rows, columns, outs)
    chain.then("Transpose", perm=[0, 1, 3, 2, 4, 5])
    chain.reshaped(0, side * rows, side * columns * outs)
    chain.multiplied(up)
    chain.reshaped(0, high, side * columns, outs)
    chain.multiplied(back)
    for one in bias:
        chain.added(one)
    chain.end("Transpose", perm=[0, 3, 1, 2])
    return chain


def _axis(length: int, tile: int) -> tuple[Matrix, Matrix]:
    """To the points of all tiles of one axis, and back.

    The first, ((m+2)·tiles, length), reads with a border of zeros; the second, (length,
    (m+2)·tiles), leaves out what the last tile has too much. A point's tiles lie side by side.
    """
    of_inputs, _, back = transforms(tile)
    count, side = -(-length // tile), tile + 2
    read = np.zeros((count * side, count * tile + 2))
    put = np.zeros((count * tile, count * side))
    for at in range(count):
        read[at::count, at * tile : at * tile + side] = of_inputs
        put[at * tile : (at + 1) * tile, at::count] = back
    return read[:, 1 : 1 + length], put[:length]


def _may_gain(node: onnx.NodeProto, arrays: dict[str, onnx.TensorProto]) -> bool:
    """A constant kernel of 3x3 for all channels, step 1, border 1, and channels enough."""
    if any(name not in arrays for name in node.input[1:]):
        return False
    said = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    outs, channels, *side = arrays[node.input[1]].dims
    return (
        side == [3, 3]
        and said.get("group", 1) == 1
        and set(said.get("strides", [1])) == set(said.get("dilations", [1])) == {1}
        and said.get("pads") == [1, 1, 1, 1]
        and min(outs, channels) >= _FEWEST_CHANNELS
    )


def _size(value: onnx.ValueInfoProto) -> tuple[int, int] | None:
    """(H, W) of (N, C, H, W), where they are known."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 4 or not (dims[2].dim_value and dims[3].dim_value):
        return None
    return dims[2].dim_value, dims[3].dim_value
