"""Other forms of the exact graph give what the plain network gives."""

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from appliance.engine import Spec
from appliance.errors import ArtefactError
from appliance.head import merged_network
from models import backbones
from models.channels_last import (
    ChannelsLastSuperSimpleNet,
    SegmentationHeadLast,
    TapConvolutionLast,
)
from models.export import other_graphs, session
from models.supersimplenet import SuperSimpleNet
from models.winograd import transforms, winograd
from tests.networks import contract_for
from tests.test_models_network import difference, random_network, run_onnxruntime, run_openvino

SIZE = (96, 64)


@pytest.mark.parametrize("wiring", ["jims", "icpr"])
@pytest.mark.parametrize(
    ("grid", "hidden", "projects"), [(1, 96, True), (1, 512, False), (2, 512, True)]
)
def test_channels_last_equals_plain_network(wiring, grid, hidden, projects):
    network, pixels = random_network((232, 200), wiring=wiring, grid=grid, hidden=hidden)
    with torch.inference_mode():
        plain = network(pixels)
        last = ChannelsLastSuperSimpleNet(network, (232, 200))
        fast = last(pixels)
    assert isinstance(last.segment, SegmentationHeadLast)
    assert isinstance(last.cls_coarse, TapConvolutionLast)
    assert last.cls_coarse.projects_first, "else nothing of it was tried"
    assert last.segment.projects_first is projects
    for one, other in zip(fast, plain, strict=True):
        assert difference(one.numpy(), other.numpy()) < 1e-4


@cache
def resnet() -> tuple[SuperSimpleNet, torch.Tensor, dict[str, onnx.ModelProto]]:
    torch.manual_seed(0)
    network = SuperSimpleNet(backbones.untrained("resnet18"), hidden=64).eval()
    return network, torch.rand(2, 3, *SIZE) * 255, other_graphs(network, SIZE)


@pytest.mark.parametrize("form", ["plain", "last", "winograd"])
@pytest.mark.parametrize("run", [run_onnxruntime, run_openvino])
def test_every_form_answers_alike(form, run):
    network, pixels, graphs = resnet()
    graph = graphs[f"network.{form}.onnx"]
    for batch in (1, 2):
        with torch.inference_mode():
            plain = [out.numpy() for out in network(pixels[:batch])]
        model = graph.SerializeToString() if run is run_openvino else graph
        for one, other in zip(run(model, pixels[:batch].numpy()), plain, strict=True):
            assert one.shape == other.shape
            assert difference(one, other) < 2e-4


@pytest.mark.parametrize("outs", [2, 4])
def test_the_transforms_of_a_tile_are_a_correlation(outs):
    rng = np.random.default_rng(0)
    tile, kernel = rng.random(outs + 2), rng.random(3)
    of_inputs, of_kernel, back = transforms(outs)
    answer = back @ ((of_kernel @ kernel) * (of_inputs @ tile))
    assert np.allclose(answer, np.correlate(tile, kernel, "valid"), atol=1e-12)


def convolution(
    *, channels: int = 256, side: int = 3, has_bias: bool = True, **said: Any
) -> onnx.ModelProto:
    """One convolution of a fixed size, between two operators that stay."""
    group = said.get("group", 1)
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((256, channels // group, side, side)) / channels
    weights = {"kernel": kernel, **({"bias": rng.standard_normal(256)} if has_bias else {})}
    nodes = [
        helper.make_node("Relu", ["image"], ["seen"]),
        helper.make_node("Conv", ["seen", *weights], ["made"], pads=[side // 2] * 4, **said),
        helper.make_node("Relu", ["made"], ["map"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", channels, 23, 25])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 256, None, None])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def sized(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    for axis, length in zip((2, 3), (height, width), strict=True):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    return model


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("size", "points"), [((23, 25), 36), ((7, 9), 16), ((32, 16), 36)])
def test_a_convolution_of_any_size_comes_out_the_same(size, points, has_bias):
    model = sized(convolution(has_bias=has_bias), *size)
    fewer = winograd(model)
    assert fewer is not None
    products = [node for node in fewer.graph.node if node.op_type == "MatMul"]
    assert len(products) == points + 4
    assert not any(node.op_type == "Conv" for node in fewer.graph.node)
    image = np.random.default_rng(2).standard_normal((2, 256, *size)).astype(np.float32)
    one, other = (session(each).run(None, {"image": image})[0] for each in (model, fewer))
    assert difference(np.asarray(one), np.asarray(other)) < 1e-4


@pytest.mark.parametrize(
    "what",
    [
        {"strides": [2, 2]},
        {"group": 2},
        {"side": 1},
        {"side": 5},
        {"channels": 64},
        {"dilations": [2, 2]},
    ],
    ids=str,
)
def test_what_cannot_gain_is_left_as_it_is(what):
    assert winograd(convolution(**what)) is None


@cache
def deployed(form: str = "last") -> bytes:
    """With the head for frames in front."""
    graph = resnet()[2][f"network.{form}.onnx"]
    return merged_network(graph, contract_for(SIZE), 200, 300, 1, "float").SerializeToString()


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 200, 300, 1), np.uint8)


def test_openvino_gets_constants_of_large_products_as_inputs_and_answers_alike():
    """In bfloat16 they are multiplied as such then; the resize of the frame is not."""
    ov = pytest.importorskip("openvino")
    from appliance.engine_openvino import hand_in

    core = ov.Core()
    answers: list[list[np.ndarray]] = []
    for hands_in in (False, True):
        model = core.read_model(deployed())
        handed_in = hand_in(model) if hands_in else {}
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        for name, value in handed_in.items():
            request.set_tensor(name, value)
        request.infer({"frame": frames(1)})
        answers.append([request.get_tensor(name).data.copy() for name in ("map", "score")])
    # Both axes of both taps of each head, but one product down for both taps of the first.
    assert len(handed_in) == 3 + 4
    rows = {value.shape[0] for value in handed_in.values()}
    assert rows <= {24, 16}, "of the grid, not of the frame"
    for one, other in zip(*answers, strict=True):
        assert difference(one, other) < 1e-5


def test_what_was_handed_in_serves_every_call_in_bfloat16():
    pytest.importorskip("openvino")
    from appliance.engine_openvino import OpenVinoEngine

    spec = Spec(height_px=200, width_px=300, channels=1, map_shape=(1, *SIZE))
    exact = OpenVinoEngine(spec, deployed(), "fp32", 1)
    try:
        engine = OpenVinoEngine(spec, deployed(), "bf16", 1)
    except ArtefactError as err:
        pytest.skip(str(err))
    engine.warm_up(2)
    truth, out = np.empty((1, *SIZE), np.float32), np.empty((1, *SIZE), np.float32)
    exact.infer(frames(1)[0], truth)
    for _ in range(3):
        engine.infer(frames(1)[0], out)
        assert 0 < np.abs(out - truth).max() < 0.05 * np.ptp(truth)
    engine.close()
    exact.close()
