"""A float32 network as a float16 one: types in the graph, as a strongly typed TensorRT wants them.

Pixels are normalised in float32, and the statistics over the whole map behind the heads stay
float32; all else is float16. Inputs and outputs keep their type. Pure graph work on ONNX: it runs
where there is no torch.
"""
# The stubs of ONNX leave element types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from appliance.errors import ArtefactError

_WHOLE = frozenset({"Gemm", "ReduceMax", "ReduceMean", "ReduceSum"})
"""Operators that stay float32: sums over thousands of cells, and what follows them."""
_LARGEST = float(np.finfo(np.float16).max)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """`network.onnx`, float32 (N, 3, H, W) in, `map` and `score` out, computed in float16.

    Raises ArtefactError where a constant does not fit into float16.
    """
    model = shape_inference.infer_shapes(model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    } | {name for name, t in constants.items() if t.data_type == TensorProto.FLOAT}
    half_made: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    made: dict[tuple[str, bool], str] = {}
    outputs = {value.name for value in graph.output}
    is_past_stem = False

    def as_type(name: str, is_half: bool) -> str:
        """The name under which a float tensor is there in this type."""
        if name not in floats or (name in half_made) == is_half:
            return name
        if (name, is_half) not in made:
            made[name, is_half] = f"{name}_{'half' if is_half else 'float'}"
            if name in constants:
                graph.initializer.append(_half(constants[name], made[name, is_half]))
            else:
                to = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [name], [made[name, is_half]], to=to))
        return made[name, is_half]

    for node in graph.node:
        is_past_stem = is_past_stem or node.op_type == "Conv"
        is_half = is_past_stem and node.op_type not in _WHOLE and node.op_type != "Constant"
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        del copy.input[:], copy.output[:]
        copy.input.extend(as_type(name, is_half) for name in node.input)
        for name in node.output:
            inner = f"{name}_inner" if is_half and name in outputs else name
            copy.output.append(inner)
            if name in floats and is_half:
                half_made.add(inner)
                floats.add(inner)
        nodes.append(copy)
        for name in node.output:
            if is_half and name in outputs:
                nodes.append(
                    helper.make_node("Cast", [f"{name}_inner"], [name], to=TensorProto.FLOAT)
                )
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    if not np.abs(values).max(initial=0.0) <= _LARGEST:
        raise ArtefactError(f"network.onnx: {tensor.name}", f"at most {_LARGEST:g}", "more")
    return numpy_helper.from_array(values.astype(np.float16), name)
