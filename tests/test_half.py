"""A float32 network as a float16 one: which parts of the graph change their type, and what does
not fit."""

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from appliance.errors import ArtefactError
from appliance.half import to_half

WEIGHT = np.array([0.5, -1.25, 3.0], np.float32).reshape(1, 3, 1, 1)


def network(weight: npt.NDArray[np.float32] = WEIGHT) -> onnx.ModelProto:
    """Normalisation, one convolution, and the largest place of its map."""
    scale = numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")
    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "weight"], ["map"]),
        helper.make_node("ReduceMax", ["map"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    shapes = {"image": [1, 3, 4, 5], "map": [1, 1, 4, 5], "score": [1]}
    image, *made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    constants = [scale, numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "network", [image], made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_what_goes_in_and_comes_out_keeps_its_type_and_its_values() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 4, 5)).astype(np.float32)
    wanted, found = (
        [np.asarray(made) for made in ReferenceEvaluator(model).run(None, {"image": image})]
        for model in (network(), to_half(network()))
    )
    for one, other in zip(wanted, found, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, rtol=2e-3, atol=2e-3)
    assert np.abs(found[0] - wanted[0]).max() > 0, "it was computed in float16"


def test_pixels_are_normalised_and_places_compared_in_float32() -> None:
    graph = to_half(network()).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types == {"scale": TensorProto.FLOAT, "weight_half": TensorProto.FLOAT16}
    order = [node.op_type for node in graph.node]
    assert order == ["Mul", "Cast", "Conv", "Cast", "ReduceMax"]


@pytest.mark.parametrize("value", [65_520.0, -1e6, np.inf, np.nan])
def test_a_constant_that_float16_does_not_hold_is_refused(value: float) -> None:
    weight = WEIGHT.copy()
    weight[0, 1] = value
    with pytest.raises(ArtefactError, match=r"network\.onnx: weight: expected at most 65504"):
        to_half(network(weight))
    weight[0, 1] = 65_504
    to_half(network(weight))
