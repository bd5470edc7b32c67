"""One graph with several anomaly maps: a detector's map behind those of a bundle's network.

Whatever makes maps is written into `network.onnx` when a bundle is written, so that engines,
passports, golden frames and the line know one graph with K maps, however many detectors it holds.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from appliance.errors import ArtefactError

_MAP = "map"


def with_map(
    network: onnx.ModelProto,
    name: str,
    nodes: Iterable[onnx.NodeProto],
    constants: Iterable[onnx.TensorProto],
    added: str,
) -> onnx.ModelProto:
    """A copy of `network` whose `map` has one channel more: the tensor `added`, (N, 1, H, W).

    nodes, constants: what computes `added`, with names that nothing in `network` has. name: of the
    detector, for the names in between.
    """
    model = onnx.ModelProto.FromString(network.SerializeToString())
    graph = model.graph
    before = f"{name}/maps_before"
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value == _MAP:
                    values[index] = before
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("Concat", [before, added], [_MAP], axis=1))
    graph.initializer.extend(constants)
    _count_maps(graph, map_count(network) + 1)
    onnx.checker.check_model(model)
    return model


def in_order(network: onnx.ModelProto, order: Sequence[int]) -> onnx.ModelProto:
    """A copy of `network` with its maps in another order: map i of it is map `order[i]` before.

    The first map leads: its maximum is `map_max`, and it is what people see.
    """
    if sorted(order) != list(range(map_count(network))):
        raise ValueError(f"expected an order of {map_count(network)} maps, got {order}")
    if list(order) == sorted(order):
        return network
    model = onnx.ModelProto.FromString(network.SerializeToString())
    graph = model.graph
    number = sum(node.name.startswith("order/") for node in graph.node)
    before, indices = f"order/{number}/maps_before", f"order/{number}/indices"
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value == _MAP:
                    values[index] = before
    graph.initializer.append(numpy_helper.from_array(np.array(order, np.int64), indices))
    graph.node.append(
        helper.make_node("Gather", [before, indices], [_MAP], name=f"order/{number}", axis=1)
    )
    onnx.checker.check_model(model)
    return model


def map_count(network: onnx.ModelProto) -> int:
    """K of the output `map` (N, K, H, W). Raises ArtefactError where there is none."""
    for output in network.graph.output:
        shape = output.type.tensor_type.shape.dim
        if output.name == _MAP and len(shape) == 4 and shape[1].dim_value > 0:
            return shape[1].dim_value
    raise ArtefactError("network.onnx", "an output map (N, K, H, W)", "none")


def with_outputs(network: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of `network` that gives these inner float32 tensors too."""
    model = onnx.ModelProto.FromString(network.SerializeToString())
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return model


def part_of(
    network: onnx.ModelProto, known: Container[str], wanted: Sequence[str]
) -> onnx.ModelProto:
    """What computes the float32 tensors `wanted` from those of `known` that it needs, no more."""
    makers = {name: node for node in network.graph.node for name in node.output}
    constants = {tensor.name for tensor in network.graph.initializer}
    seen: set[str] = set()
    inputs: list[str] = []
    left = list(wanted)
    while left:
        name = left.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        if name in known:
            inputs.append(name)
        elif name not in constants:
            left += reads(makers[name])
    part = onnx.ModelProto(
        ir_version=network.ir_version,
        opset_import=network.opset_import,
        functions=network.functions,
    )
    part.graph.name = "part"
    part.graph.node.extend(
        node
        for node in network.graph.node
        if any(name in seen and name not in known for name in node.output)
    )
    part.graph.initializer.extend(t for t in network.graph.initializer if t.name in seen)
    for values, names in ((part.graph.input, inputs), (part.graph.output, wanted)):
        values.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    return part


def reads(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors that the node takes, those included that the bodies of its loops and
    branches take from around them."""
    names = set(node.input)
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            taken = {value.name for value in body.output}
            own = {value.name for value in (*body.input, *body.initializer)}
            for inner in body.node:
                taken |= reads(inner)
                own.update(inner.output)
            names |= taken - own
    return names - {""}


def constants_of(arrays: Mapping[str, npt.NDArray[np.generic]]) -> list[onnx.TensorProto]:
    """Initializers by name."""
    return [numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in arrays.items()]


def _count_maps(graph: onnx.GraphProto, count: int) -> None:
    output = next(value for value in graph.output if value.name == _MAP)
    output.type.tensor_type.shape.dim[1].dim_value = count
    # What the exporter noted of the inner shapes holds the old name.
    kept = [value for value in graph.value_info if value.name != _MAP]
    del graph.value_info[:]
    graph.value_info.extend(kept)
