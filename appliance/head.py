"""The pre-processing head: from a frame as the camera gives it to the network's input, as a graph.

uint8 NHWC in. `merged_network` puts it in front of a bundle's network: the one function that
training, export, evaluation and the line share, so that all of them see the same pixels.
"""
# The stubs of ONNX and NumPy leave element types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from appliance.bundle import InputContract
from appliance.errors import ArtefactError

_OPSET = 18
Sums = Literal["integer", "float"]


def head_model(
    contract: InputContract,
    height_px: int,
    width_px: int,
    channels: int,
    sums: Sums = "integer",
) -> onnx.ModelProto:
    """uint8 (N, H, W, C) of `height_px` x `width_px` → float32 (N, 3, h, w), 0 to 255.

    `area`: the frame is extended by its last row and column to whole cells, each cell of
    floor(H/h) x floor(W/w) pixels becomes its mean, then bilinear (half-pixel centres) to the
    network size. Bilinear alone reads 4 pixels per output: at 10x a small defect falls between.

    sums: how the rows of a cell are added, with the same answer: "integer" as a product of bytes,
    a quarter of the memory traffic, where the runtime has such a product; "float" everywhere.
    """
    net = contract.network_size
    size = (height_px, width_px)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def shape(name: str, *values: int) -> str:
        constants.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def step(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    cell = (max(1, height_px // net[0]), max(1, width_px // net[1]))
    if contract.resize != "area":
        cell = (1, 1)
    is_integer = sums == "integer" and cell[0] > 1
    last = "frame" if is_integer else step("Cast", ["frame"], "as_float", to=TensorProto.FLOAT)
    whole = tuple(-(-s // c) * c for s, c in zip(size, cell, strict=True))
    if whole != size:
        pads = shape("pads", 0, 0, 0, 0, 0, whole[0] - size[0], whole[1] - size[1], 0)
        last = step("Pad", [last, pads], "padded", mode="edge")
    size = (whole[0] // cell[0], whole[1])
    if cell[0] > 1:
        # Rows first: they lie in memory as they are added, and what is left is small.
        bands = shape("bands_of", 0, size[0], cell[0], size[1] * channels)
        last = step("Reshape", [last, bands], "bands")
        if is_integer:
            constants.append(
                helper.make_tensor("ones", TensorProto.UINT8, [1, cell[0]], [1] * cell[0])
            )
            last = step("MatMulInteger", ["ones", last], "sums")
            last = step("Cast", [last], "sums_as_float", to=TensorProto.FLOAT)
        else:
            last = step("ReduceSum", [last, shape("rows", 2)], "sums", keepdims=1)
        last = step("Reshape", [last, shape("rows_of", 0, *size, channels)], "summed")
    if channels == 1:
        last = step("Reshape", [last, shape("plane_of", 0, 1, *size)], "planes")
    else:
        last = step("Transpose", [last], "planes", perm=[0, 3, 1, 2])
    if cell[1] > 1:
        size = (size[0], size[1] // cell[1])
        last = step(
            "AveragePool", [last], "pooled", kernel_shape=[1, cell[1]], strides=[1, cell[1]]
        )
    if cell[0] > 1:
        constants.append(helper.make_tensor("cell_rows", TensorProto.FLOAT, [], [float(cell[0])]))
        last = step("Div", [last, "cell_rows"], "means")
    if size != net:
        # Scales, as TensorRT takes no sizes beside a free batch; they must not round down.
        scales = [1.0, 1.0, *(_scale(*pair) for pair in zip(size, net, strict=True))]
        constants.append(helper.make_tensor("scales", TensorProto.FLOAT, [4], scales))
        last = step(
            "Resize",
            [last, "", "scales"],
            "resized",
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
    if channels == 1:
        step("Concat", [last, last, last], "network_input", axis=1)
    else:
        step("Identity", [last], "network_input")
    graph = helper.make_graph(
        nodes,
        "head",
        [
            helper.make_tensor_value_info(
                "frame", TensorProto.UINT8, ["N", height_px, width_px, channels]
            )
        ],
        [helper.make_tensor_value_info("network_input", TensorProto.FLOAT, ["N", 3, *net])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def _scale(size: int, target: int) -> float:
    """target ÷ size as a float32 whose product with `size`, in single and in double precision,
    is not below `target`: libraries differ in how they compute it, and all of them cut it off."""
    scale = np.float32(target) / np.float32(size)
    while int(np.float32(size) * scale) < target or int(size * float(scale)) < target:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)


def merged_network(
    network: onnx.ModelProto,
    contract: InputContract,
    height_px: int,
    width_px: int,
    channels: int,
    sums: Sums = "integer",
) -> onnx.ModelProto:
    """The graph that runs: head in front of the network, input `frame`, outputs `map`, `score`.

    network: float32 (N, 3, h, w) in, as in `network.onnx`. Raises ArtefactError on any other
    network and where the frame has not the channels that it was trained on.
    """
    if channels != contract.channels:
        raise ArtefactError(
            "frame", f"{contract.channels} channel(s) as in training", f"{channels}"
        )
    head = head_model(contract, height_px, width_px, channels, sums)
    _check_network(network, contract)
    network = onnx.ModelProto.FromString(network.SerializeToString())
    network.ir_version = head.ir_version
    merged = compose.merge_models(
        head,
        network,
        io_map=[("network_input", network.graph.input[0].name)],
        prefix1="head_",
        outputs=None,
    )
    merged.graph.input[0].name = _rename_input(merged, "head_frame", "frame")
    onnx.checker.check_model(merged)
    return merged


def _check_network(network: onnx.ModelProto, contract: InputContract) -> None:
    """Raises ArtefactError where `network` is not what a bundle's network.onnx must be."""
    opset = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), "none")
    if opset != _OPSET:
        raise ArtefactError("network.onnx", f"opset {_OPSET}", str(opset))
    constants = {tensor.name for tensor in network.graph.initializer}
    inputs = [value for value in network.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ArtefactError("network.onnx", "one input", str(len(inputs)))
    shape = [d.dim_value or d.dim_param for d in inputs[0].type.tensor_type.shape.dim]
    wanted = [3, contract.height_px, contract.width_px]
    if shape[1:] != wanted:
        raise ArtefactError("network.onnx", f"an input {['N', *wanted]}", str(shape))
    outputs = sorted(value.name for value in network.graph.output)
    if outputs != ["map", "score"]:
        raise ArtefactError("network.onnx", "the outputs map and score", str(outputs))


def _rename_input(model: onnx.ModelProto, old: str, new: str) -> str:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
    return new
