"""A float32 network → the same with explicit int8: quantise and dequantise nodes that ONNX Runtime,
OpenVINO and a strongly typed TensorRT take alike.

Symmetric, per channel for weights, one step per activation, biases left in float: what TensorRT's
parser accepts. Only convolutions are quantised, by what they read and not by what they give; the
constant products of the exact graph, the statistics and the map stay float. Layer by layer, on good
images alone, weights and biases are fitted so that each answers from rounded inputs what the float
network answers (`rounding.py`). Which convolutions are worth their error is measured, one by one,
by what they do to the deciding margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from appliance.errors import ArtefactError
from models.export import session
from models.graphs import constants_of, part_of, reads
from models.rounding import Moments, Shape, on_grid, rounded, step_of

Images = list[npt.NDArray[np.float32]]
"""One tensor for each image."""
Drift = Callable[[onnx.ModelProto], float]
"""How far a network is from the float one; smaller is better."""

_PLACES = 2048
"""Most places of one image that a layer is fitted to: neighbours say little more."""


class Quantiser:
    """Good images kept, networks made from them as often as asked for."""

    def __init__(self, network: onnx.ModelProto, inputs: Iterable[npt.NDArray[np.float32]]) -> None:
        """Inputs: (1, 3, H, W) float32, 0 to 255, of good images."""
        self._network, self._inputs = network, list(inputs)
        self.layers = tuple(_convolutions(network))
        if not self.layers or len(set(self.layers)) != len(self.layers):
            got = "some with one name" if self.layers else "none that int8 is made for"
            raise ArtefactError("network.onnx", "convolutions with names of their own", got)
        if not self._inputs:
            raise ArtefactError("network.onnx", "good images to fit layers to", "none")
        self.costs = _costs(network)

    def network(self, layers: Sequence[str]) -> onnx.ModelProto:
        """The network with these convolutions in int8, each fitted to what was rounded before."""
        if not layers:
            return self._network
        made = onnx.ModelProto.FromString(self._network.SerializeToString())
        whole, small = (_Tensors(model, self._inputs) for model in (self._network, made))
        chosen = [name for name in self.layers if name in set(layers)]
        for index, name in enumerate(chosen):
            _quantise(_Layer.of(made, name), whole, small, set(chosen[index:]))
            whole.forget(name)
            small.forget(name)
        _drop_unread(made.graph)
        onnx.checker.check_model(made)
        return made


class _Layer(NamedTuple):
    """A convolution of the network that is being made."""

    graph: onnx.GraphProto
    node: onnx.NodeProto
    weights: npt.NDArray[np.float64]
    """(G, O/G, K)."""
    stored: tuple[int, ...]
    """Shape of the weights in the graph, (O, C/G, kh, kw)."""
    shape: Shape

    @classmethod
    def of(cls, model: onnx.ModelProto, name: str) -> _Layer:
        graph = model.graph
        node = next(node for node in graph.node if node.name == name)
        tensor = next(tensor for tensor in graph.initializer if tensor.name == node.input[1])
        weights = numpy_helper.to_array(tensor).astype(np.float64)
        said: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        groups = said.get("group", 1)
        shape = Shape(
            (weights.shape[2], weights.shape[3]),
            tuple(said.get("strides", (1, 1))),
            tuple(said.get("pads", (0, 0, 0, 0))),
            groups,
        )
        grouped = weights.reshape(groups, weights.shape[0] // groups, -1)
        return cls(graph, node, grouped, weights.shape, shape)


class _Tensors:
    """Of one network, for all images: computed when asked for, forgotten behind the last reader."""

    def __init__(self, model: onnx.ModelProto, inputs: Images) -> None:
        self._model, self._count = model, len(inputs)
        self._input = model.graph.input[0].name
        self._known: dict[str, Images] = {self._input: inputs}

    def keep(self, name: str) -> Images:
        """The tensor, which what lies behind it is computed from from now on."""
        self._known[name] = self.of(name)
        return self._known[name]

    def of(self, name: str) -> Images:
        """The tensor of every image, as the network is now."""
        if name in self._known:
            return self._known[name]
        part = part_of(self._model, self._known, [name])
        run, needs = session(part).run, [value.name for value in part.graph.input]
        return [
            cast("Images", run([name], {need: self._known[need][index] for need in needs}))[0]
            for index in range(self._count)
        ]

    def renew(self, name: str) -> Images:
        """As `keep`, once more: the network was changed in front of it."""
        del self._known[name]
        return self.keep(name)

    def makers(self, name: str) -> set[str]:
        """Names of all nodes that it comes from."""
        return {node.name for node in part_of(self._model, (self._input,), [name]).graph.node}

    def forget(self, layer: str) -> None:
        """What nothing behind this layer reads."""
        nodes = list(self._model.graph.node)
        at = next(index for index, node in enumerate(nodes) if node.name == layer)
        read = {name for node in nodes[at + 1 :] for name in reads(node)} | {self._input}
        self._known = {name: images for name, images in self._known.items() if name in read}


def _quantise(layer: _Layer, whole: _Tensors, small: _Tensors, unfitted: set[str]) -> None:
    """Round what the layer reads and its weights, and fit these to answer what it did in float."""
    source = layer.node.input[0]
    whole.keep(source)
    inputs = small.keep(source)
    if _centre(layer, max(float(image.max()) for image in inputs)):
        inputs = small.renew(source)
    step = step_of(_some(inputs))
    groups, outs, ins = layer.weights.shape
    moments = Moments(groups, ins, outs)
    rng = np.random.default_rng(0)
    for image, answer in zip(inputs, _wanted(layer, whole, small, unfitted), strict=True):
        x, y = layer.shape.patches(on_grid(image, step)), answer.reshape(groups, outs, -1)
        if x.shape[2] > _PLACES:
            places = rng.choice(x.shape[2], _PLACES, replace=False)
            x, y = x[:, :, places], y[:, :, places]
        moments.add(x, y)
    levels, steps = rounded(moments.refitted(layer.weights), moments.covariance)
    _put(layer, step, levels * steps, steps, moments.bias(levels * steps))


def _wanted(layer: _Layer, whole: _Tensors, small: _Tensors, unfitted: set[str]) -> Images:
    """What the layer should answer; where its answer is added to something that is off already,
    the sum shall be right."""
    name = layer.node.output[0]
    answers = whole.of(name)
    readers = [node for node in layer.graph.node if name in reads(node)]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return answers
    others = [value for value in readers[0].input if value != name]
    before = small.makers(others[0]) if others else set()
    if not before or unfitted & before:
        return answers
    sums, other = whole.of(readers[0].output[0]), small.of(others[0])
    if {sums[0].shape, other[0].shape} != {answers[0].shape}:  # one of them is spread out
        return answers
    return [total - one for total, one in zip(sums, other, strict=True)]


def _centre(layer: _Layer, largest: float) -> bool:
    """Halve the step: what a convolution and a clip to [a, b] give becomes [-c, c].

    Symmetric int8 would leave half of its values to numbers that never come. The bias before the
    clip takes the shift at no cost; the zeros of a padding would not. Nothing is won where the
    largest value does not pass the middle.
    """
    graph, source = layer.graph, layer.node.input[0]
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    clip = makers.get(source)
    if clip is None or clip.op_type != "Clip" or any(layer.shape.pads):
        return False
    before = makers.get(clip.input[0])
    alone = sum(name in reads(node) for node in graph.node for name in (source, clip.input[0])) == 2
    if before is None or before.op_type != "Conv" or len(before.input) != 3 or not alone:
        return False
    names = [*clip.input[1:], before.input[2]]
    if len(names) != 3 or any(name not in constants for name in names):
        return False
    low, high, bias = (numpy_helper.to_array(constants[name]) for name in names)
    centre = (low + high) / 2
    if not 0 < centre < largest:
        return False
    moved = {
        f"{source}/low": low - centre,
        f"{source}/high": high - centre,
        f"{source}/bias": bias - centre,
    }
    graph.initializer.extend(constants_of(moved))
    clip.input[1:] = [f"{source}/low", f"{source}/high"]
    before.input[2] = f"{source}/bias"
    return True


def _some(images: Images) -> npt.NDArray[np.float32]:
    """Some values of every image, (n,), and the largest of all."""
    rng = np.random.default_rng(0)
    drawn = [image.reshape(-1)[rng.integers(0, image.size, _PLACES)] for image in images]
    return np.append(np.concatenate(drawn), max(np.abs(image).max() for image in images))


def _put(
    layer: _Layer,
    step: float,
    weights: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
) -> None:
    """Into the graph: weights, bias, and quantise and dequantise nodes before both inputs."""
    graph, node, name = layer.graph, layer.node, layer.node.name
    constants = {
        "step": np.array(step, np.float32),
        "zero": np.array(0, np.int8),
        "weights": weights.reshape(layer.stored).astype(np.float32),
        "steps": steps.reshape(-1).astype(np.float32),
        "zeros": np.zeros(layer.stored[0], np.int8),
        "bias": bias.reshape(-1).astype(np.float32),
    }
    graph.initializer.extend(constants_of({f"{name}/{key}": a for key, a in constants.items()}))
    at = next(index for index, other in enumerate(graph.node) if other.name == name)
    sides: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
        ("input", node.input[0], "step", "zero", {}),
        ("weights", f"{name}/weights", "steps", "zeros", {"axis": 0}),
    )
    for what, start, scale, zero, given in sides:
        grid, held = (f"{name}/{scale}", f"{name}/{zero}"), f"{name}/{what}_int8"
        for kind, one, end in (
            ("QuantizeLinear", start, held),
            ("DequantizeLinear", held, f"{name}/{what}_rounded"),
        ):
            made = helper.make_node(kind, [one, *grid], [end], name=f"{end}/{kind}", **given)
            graph.node.insert(at, made)
            at += 1
    node.input[:] = [f"{name}/input_rounded", f"{name}/weights_rounded", f"{name}/bias"]


def _drop_unread(graph: onnx.GraphProto) -> None:
    """The float weights and biases in whose place others stand."""
    read = {name for node in graph.node for name in reads(node)}
    read |= {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def choose(
    quantiser: Quantiser, drift: Drift, limit: float, report: Callable[[float], None]
) -> tuple[onnx.ModelProto, list[str], float]:
    """The network with as many int8 convolutions as `limit` allows; which were left out; drift.

    All of them where that will do. Otherwise each one alone is measured, and as few of the worst
    as will do are left out, found by halving. The worst are those with the largest square of the
    drift, for squares are what adds up, per multiply-add that int8 makes cheaper. Raises
    ArtefactError where even one layer alone, the best, is too far off.
    """
    layers = quantiser.layers
    whole = quantiser.network(layers)
    reached = drift(whole)
    if reached <= limit:
        report(1.0)
        return whole, [], reached
    alone: dict[str, float] = {}
    for done, layer in enumerate(layers, 1):
        alone[layer] = drift(quantiser.network([layer]))
        report(0.9 * done / len(layers))
    worst = sorted(layers, key=lambda layer: -(alone[layer] ** 2) / quantiser.costs[layer])
    found: tuple[onnx.ModelProto, list[str], float] | None = None
    # Too few left out; enough left out, as far as is known.
    few, enough = 0, len(layers)
    while enough - few > 1:
        count = (few + enough) // 2
        made = quantiser.network([layer for layer in layers if layer not in worst[:count]])
        reached = drift(made)
        if reached <= limit:
            enough, found = count, (made, worst[:count], reached)
        else:
            few = count
    report(1.0)
    if found is None:
        told = f"{reached:.3g} with the best layer alone in int8"
        raise ArtefactError("network.int8.onnx", f"a drift of at most {limit:.3g}", told)
    return found


def _convolutions(network: onnx.ModelProto) -> Iterator[str]:
    """All but those that make or read the logit map: one channel, no cost, and it is the answer.

    In a detector that somebody else made what has no name, or a shape that `Shape` does not tell,
    stays float, too.
    """
    weights = {tensor.name: tensor for tensor in network.graph.initializer}
    for node in network.graph.node:
        tensor = weights.get(node.input[1]) if node.op_type == "Conv" and node.name else None
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 4:
            continue
        said: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        is_dense = set(said.get("dilations", (1,))) == {1}
        is_padded_by_numbers = said.get("auto_pad", b"NOTSET") == b"NOTSET"
        outs, ins = tensor.dims[0], tensor.dims[1] * said.get("group", 1)
        if outs > 1 and ins > 1 and is_dense and is_padded_by_numbers:
            yield node.name


def _costs(network: onnx.ModelProto) -> dict[str, int]:
    """Convolution → multiply-adds for one image."""
    graph = onnx.shape_inference.infer_shapes(network).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    weights = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    return {
        node.name: weights[node.input[1]] * int(np.prod(sizes.get(node.output[0], [])[2:]))
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in weights
    }
