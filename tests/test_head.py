"""What is put before a network: resizing and normalisation, as one graph with it."""

from typing import Literal

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from appliance.bundle import (
    InputContract,
    smallest_defect_px,
)
from appliance.errors import ArtefactError
from appliance.head import Sums, head_model, merged_network
from tests.networks import network_model, write_network_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_network_bundle(tmp_path_factory.mktemp("bundle") / "b")


def contract(
    height: int = 256,
    width: int = 256,
    channels: Literal[1, 3] = 1,
    resize: Literal["area", "authors"] = "area",
):
    return InputContract(
        height_px=height,
        width_px=width,
        source_height_px=height,
        source_width_px=width,
        channels=channels,
        resize=resize,
        smallest_defect_px=3,
    )


class Head:
    """The head alone, run by ONNX Runtime."""

    def __init__(self, how: InputContract, height: int, width: int, sums: Sums = "integer") -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        model = head_model(how, height, width, how.channels, sums)
        onnx.checker.check_model(model)
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        shaped = frame.reshape(1, *frame.shape[:2], -1)
        return np.asarray(self._session.run(None, {"frame": shaped})[0])


def expected_input(frame, how):
    """The same, written with NumPy and OpenCV."""
    net = (how.height_px, how.width_px)
    frame = frame.reshape(*frame.shape[:2], -1).astype(np.float32)
    if how.resize == "area":
        cell = [max(1, s // n) for s, n in zip(frame.shape[:2], net, strict=True)]
        extra = [-s % c for s, c in zip(frame.shape[:2], cell, strict=True)]
        frame = np.pad(frame, ((0, extra[0]), (0, extra[1]), (0, 0)), mode="edge")
        rows, columns = frame.shape[0] // cell[0], frame.shape[1] // cell[1]
        frame = frame.reshape(rows, cell[0], columns, cell[1], -1).mean(axis=(1, 3))
    planes = [
        cv2.resize(np.ascontiguousarray(frame[:, :, c]), net[::-1], interpolation=cv2.INTER_LINEAR)
        for c in range(frame.shape[2])
    ]
    return np.stack(planes * (3 // len(planes)))[None]


@pytest.mark.parametrize("resize", ["area", "authors"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size",
    [(64, 64), (128, 192), (100, 150), (63, 65), (64, 500), (30, 20), (7, 333), (300, 300)],
    ids=str,
)
def test_the_head_is_mean_pooling_then_bilinear(size, channels, resize):
    how = contract(64, 64, channels, resize)
    shape = size if channels == 1 else (*size, channels)
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    got = Head(how, *size)(frame)
    assert got.shape == (1, 3, 64, 64)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected_input(frame, how), atol=0.02)
    # Sums of bytes are whole numbers in either arithmetic: not one bit may differ.
    np.testing.assert_array_equal(Head(how, *size, sums="float")(frame), got)


def test_a_batch_is_resized_frame_by_frame():
    how = contract(16, 24)
    frames = np.random.default_rng(0).integers(0, 256, (3, 70, 100, 1), np.uint8)
    session = ort.InferenceSession(
        head_model(how, 70, 100, 1).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    together = np.asarray(session.run(None, {"frame": frames})[0])
    for frame, got in zip(frames, together, strict=True):
        np.testing.assert_array_equal(Head(how, 70, 100)(frame[..., 0])[0], got)


def test_a_frame_of_the_networks_size_passes_unchanged():
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(
        Head(contract(64, 64, 3), 64, 64)(frame)[0].transpose(1, 2, 0), frame
    )


def test_colours_keep_their_order():
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[..., 0], frame[..., 1], frame[..., 2] = 10, 20, 30
    got = Head(contract(64, 64, 3), 100, 100)(frame)
    np.testing.assert_allclose(got.mean(axis=(0, 2, 3)), [10, 20, 30], rtol=1e-5)


FIVE_MP = (2048, 2448)


@pytest.fixture(scope="module")
def five_mp():
    return Head(contract(), *FIVE_MP)


def test_a_dot_of_six_pixels_moves_the_input_wherever_it_lies(five_mp):
    """100 random places and the four corners of a 5 MP frame; plain bilinear loses most of them."""
    rng = np.random.default_rng(0)
    places = [(int(rng.integers(0, 2048 - 5)), int(rng.integers(0, 2448 - 5))) for _ in range(100)]
    places += [(0, 0), (0, 2442), (2042, 0), (2042, 2442)]
    plain = Head(contract(resize="authors"), *FIVE_MP)
    frame = np.full(FIVE_MP, 120, np.uint8)
    empty, lost = five_mp(frame), 0
    plain_empty = plain(frame)
    for y, x in places:
        frame[y : y + 6, x : x + 6] = 20
        moved = np.abs(five_mp(frame) - empty).max()
        # 36 pixels of 8 x 9: spread over four cells at worst, and over four outputs.
        assert moved >= 100 * 36 / (8 * 9) / 16, (y, x)
        lost += np.abs(plain(frame) - plain_empty).max() == 0
        frame[y : y + 6, x : x + 6] = 120
    assert lost > len(places) / 10


def test_the_smallest_defect_is_three_pixels_at_the_network():
    assert smallest_defect_px((256, 256), (2048, 2448)) == 29
    assert smallest_defect_px((256, 256), (100, 100)) == 3


def test_the_merged_graph_is_head_and_network(whole):
    how = whole.manifest.input
    merged = merged_network(network_model(), how, 64, 96, 1)
    assert [value.name for value in merged.graph.input] == ["frame"]
    assert {value.name for value in merged.graph.output} == {"map", "score"}
    together, alone = (
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for model in (merged, network_model())
    )
    frame = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    expected = alone.run(["map", "score"], {"image": Head(how, 64, 96)(frame)})
    got = together.run(["map", "score"], {"frame": frame[None, :, :, None]})
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_merging_leaves_the_network_as_it_is(whole):
    network = network_model()
    before = network.SerializeToString(deterministic=True)
    merged_network(network, whole.manifest.input, 64, 96, 1)
    assert network.SerializeToString(deterministic=True) == before


def other_network(opset=18, outputs=("map", "score"), inputs=1, size=(16, 24)):
    names = [f"image{i}" for i in range(inputs)]
    shape = ["N", 3, *size]
    nodes = [
        helper.make_node("Identity", [names[0] if names else "constant"], [outputs[0]]),
        helper.make_node("Identity", [names[-1] if names else "constant"], [outputs[1]]),
    ]
    constants = [
        helper.make_tensor("constant", TensorProto.FLOAT, [1, 3, *size], np.zeros((3, *size)))
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in names]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in outputs]
    graph = helper.make_graph(nodes, "other", values, results, [] if names else constants)
    domain = [helper.make_opsetid("", opset)] if opset else [helper.make_opsetid("ai.other", 1)]
    return helper.make_model(graph, opset_imports=domain, ir_version=10)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (other_network(opset=17), "opset 18, got 17"),
        (other_network(opset=0), "opset 18, got none"),
        (other_network(outputs=("heat", "score")), "the outputs map and score"),
        (other_network(inputs=0), "one input, got 0"),
        (other_network(inputs=2), "one input, got 2"),
        (other_network(size=(16, 16)), r"an input \['N', 3, 16, 24\]"),
    ],
    ids=["opset", "no opset", "outputs", "no input", "two inputs", "input size"],
)
def test_a_foreign_network_is_refused(whole, network, message):
    with pytest.raises(ArtefactError, match=message) as caught:
        merged_network(network, whole.manifest.input, 64, 96, 1)
    assert "network.onnx" in str(caught.value)


def test_no_runtime_rounds_the_resized_frame_down():
    """ONNX's own inference of shapes and ONNX Runtime multiply in different precisions."""
    for height in range(64, 700, 7):
        model = head_model(contract(64, 96), height, 2 * height, 1)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        sizes = {v.name: v.type.tensor_type.shape.dim for v in inferred.graph.value_info}
        if "resized" in sizes:
            assert [axis.dim_value for axis in sizes["resized"]][2:] == [64, 96], height
