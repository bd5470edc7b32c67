"""int8 where there is little to go by, and in detectors that somebody else made."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from appliance.errors import ArtefactError
from models.export import session
from models.graphs import constants_of, part_of, reads, with_map
from models.quantise import Quantiser
from tests.networks import as_network

NET = (8, 12)
Arrays = dict[str, np.ndarray]


def node(kind: str, takes: str, gives: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """Names of tensors with a blank between them."""
    return helper.make_node(kind, takes.split(), gives.split(), name=name, **attributes)


def weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def network(nodes: list[onnx.NodeProto], arrays: Arrays) -> onnx.ModelProto:
    """What `nodes` make of `image`, a tensor `last`, as map and score."""
    ends = [
        node("ReduceMean", "last channel", "map", keepdims=1),
        node("ReduceMax", "map all", "score", keepdims=0),
    ]
    arrays = arrays | {"channel": np.array([1], np.int64), "all": np.array([1, 2, 3], np.int64)}
    return as_network([*nodes, *ends], constants_of(arrays), NET)


def plain(groups: int = 1) -> onnx.ModelProto:
    """Two convolutions with a clip between them."""
    nodes = [
        node("Conv", "image first offset", "a", "one"),
        node("Clip", "a nought six", "b"),
        node("Conv", "b second", "last", "two", group=groups, pads=[1] * 4),
    ]
    arrays = {
        "first": np.abs(weights(0, 4, 3, 1, 1)) / 60,
        "offset": np.full(4, 0.5, np.float32),
        "nought": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "second": weights(1, 8, 4 // groups, 3, 3),
    }
    return network(nodes, arrays)


def images(count: int, low: float = 0, high: float = 255) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.uniform(low, high, (1, 3, *NET)).astype(np.float32) for _ in range(count)]


def maps(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(session(model).run(["map"], {"image": pixels})[0])


def is_near(whole: onnx.ModelProto, small: onnx.ModelProto, pixels: np.ndarray) -> bool:
    one, other = maps(whole, pixels), maps(small, pixels)
    return bool(np.abs(one - other).max() < 0.05 * np.ptp(maps(whole, images(1)[0])))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_image_will_do(groups: int) -> None:
    whole = plain(groups)
    small = Quantiser(whole, images(1)).network(["one", "two"])
    assert is_near(whole, small, images(1)[0])
    assert is_near(whole, small, images(2)[0])


@pytest.mark.parametrize("grey", [0, 40, 255])
def test_images_that_never_change_leave_the_weights_as_they_are(grey: float) -> None:
    """Moments without any spread cannot be inverted by themselves."""
    whole = plain()
    small = Quantiser(whole, images(3, grey, grey)).network(["one", "two"])
    assert is_near(whole, small, images(1, grey, grey)[0])
    rounded = onnx.numpy_helper.to_array(
        next(t for t in small.graph.initializer if t.name == "two/weights")
    )
    assert np.abs(rounded - weights(1, 8, 4, 3, 3)).max() < 2 / 127


def test_no_image_and_no_convolution_are_refused() -> None:
    with pytest.raises(ArtefactError, match="good images to fit layers to"):
        Quantiser(plain(), [])
    one_channel = network([node("Conv", "image w", "last", "one")], {"w": weights(0, 1, 3, 1, 1)})
    with pytest.raises(ArtefactError, match="none that int8 is made for"):
        Quantiser(one_channel, images(1))
    twins = plain()
    twins.graph.node[0].name = "two"
    with pytest.raises(ArtefactError, match="some with one name"):
        Quantiser(twins, images(1))


def test_what_is_no_plain_convolution_with_a_name_stays_float() -> None:
    """As a further detector may bring it; whatever it is, the graph is the same function."""
    flat = np.array([0, 4, -1], np.int64)
    nodes = [
        node("Conv", "image w0", "a", "grown", dilations=[2, 2], pads=[2] * 4),
        node("Conv", "a w1", "b", "told", auto_pad="SAME_UPPER"),
        node("Conv", "b w2", "c", pads=[1] * 4),
        node("Conv", "c w3", "d", pads=[1] * 4),
        node("Reshape", "d flat", "e"),
        node("Conv", "e w4", "f", "line"),
        node("Reshape", "f square", "g"),
        node("Conv", "g made", "h", "computed"),
        node("Conv", "h w6", "last", "plain", auto_pad="NOTSET", dilations=[1, 1]),
        node("Identity", "w5", "made"),
    ]
    nodes.insert(0, nodes.pop())
    arrays = {
        "w0": weights(0, 4, 3, 3, 3) / 255,
        "w1": weights(1, 4, 4, 3, 3),
        "w2": weights(2, 4, 4, 3, 3),
        "w3": weights(3, 4, 4, 3, 3),
        "w4": weights(4, 4, 4, 1),
        "w5": weights(5, 4, 4, 1, 1),
        "w6": weights(6, 4, 4, 1, 1),
        "flat": flat,
        "square": np.array([0, 4, *NET], np.int64),
    }
    whole = network(nodes, arrays)
    quantiser = Quantiser(whole, images(3))
    assert quantiser.layers == ("plain",)
    assert is_near(whole, quantiser.network(["plain"]), images(1)[0])


def test_both_maps_of_two_detectors_are_fitted() -> None:
    """The second one has a loop, whose body reads a tensor from around it."""
    body = helper.make_graph(
        [node("Identity", "go_on", "going_on"), node("Add", "value detector/step", "next")],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    loop = node("Loop", "rounds yes detector/a", "detector/b", body=body)
    assert reads(loop) == {"rounds", "yes", "detector/a", "detector/step"}
    nodes = [
        node("Conv", "image detector/w0", "detector/a", "detector/one"),
        node("ReduceMean", "detector/a", "detector/step", keepdims=1),
        loop,
        node("Conv", "detector/b detector/w1", "detector/c", "detector/two"),
        node("ReduceMean", "detector/c channel", "detector/map", keepdims=1),
    ]
    arrays = {
        "detector/w0": weights(3, 4, 3, 1, 1) / 60,
        "detector/w1": weights(4, 4, 4, 1, 1),
        "rounds": np.array(3, np.int64),
        "yes": np.array(True),
    }
    whole = with_map(plain(), "detector", nodes, constants_of(arrays), "detector/map")
    quantiser = Quantiser(whole, images(3))
    assert set(quantiser.layers) == {"one", "two", "detector/one", "detector/two"}
    small = quantiser.network(quantiser.layers)
    assert maps(small, images(1)[0]).shape == (1, 2, *NET)
    assert is_near(whole, small, images(1)[0])
    # A part of it has all that it needs, too.
    part = part_of(whole, {"detector/a"}, ["detector/b"])
    assert [value.name for value in part.graph.input] == ["detector/a"]
    known = np.ones((1, 4, *NET), np.float32)
    assert np.asarray(session(part).run(None, {"detector/a": known})[0]).flat[0] == 4


@pytest.mark.parametrize("partner", ["b", "offset4", "d"])
def test_a_sum_with_something_else_than_a_block_s_input(partner: str) -> None:
    """A tensor that is spread out over the picture, a constant, the answer itself."""
    nodes = [
        node("Conv", "image first", "a", "one"),
        node("Clip", "a nought six", "b"),
        node("GlobalAveragePool", "b", "c"),
        node("Conv", "c second", "d", "two"),
        node("Add", f"d {partner}", "e"),
        node("Add", "e b", "last"),
    ]
    arrays = {
        "first": np.abs(weights(0, 4, 3, 1, 1)) / 60,
        "second": weights(1, 4, 4, 1, 1),
        "nought": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "offset4": np.ones((1, 4, 1, 1), np.float32),
    }
    whole = network(nodes, arrays)
    small = Quantiser(whole, images(3)).network(["one", "two"])
    assert is_near(whole, small, images(1)[0])


@pytest.mark.parametrize(("low", "high"), [(-6, 6), (-np.finfo(np.float32).max, 6), (0, np.inf)])
def test_a_clip_that_is_no_relu6_is_not_moved(low: float, high: float) -> None:
    whole = plain()
    nodes = {tensor.name: tensor for tensor in whole.graph.initializer}
    for name, value in (("nought", low), ("six", high)):
        nodes[name].CopyFrom(constants_of({name: np.array(value, np.float32)})[0])
    for attribute in whole.graph.node[2].attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0] * 4
    one = weights(1, 8, 4, 1, 1)
    nodes["second"].CopyFrom(constants_of({"second": one})[0])
    small = Quantiser(whole, images(3)).network(["two"])
    clip = next(made for made in small.graph.node if made.op_type == "Clip")
    assert list(clip.input) == ["a", "nought", "six"]
    assert is_near(whole, small, images(1)[0])


def test_weights_that_nobody_reads_any_more_are_gone() -> None:
    small = Quantiser(plain(), images(2)).network(["one", "two"])
    read = {name for made in small.graph.node for name in made.input}
    assert {tensor.name for tensor in small.graph.initializer} <= read
    assert not read & {"first", "second", "offset"}
