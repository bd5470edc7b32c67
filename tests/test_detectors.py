"""Graphs of other makers as detectors: layout, range, colours, shapes, and what is refused."""

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from appliance.errors import ArtefactError, ConfigError
from models.detectors import Adapter, described, read_adapters, with_detector
from models.export import session
from models.graphs import in_order, map_count
from tests.networks import network_model

SIZE = (16, 24)
"""Of the bundle's network."""


def anomalib_like(
    path, *, size=(32, 32), layout="NCHW", opset=14, rank=4, maps=1, nan=False, fixed=True
):
    """As anomalib exports: input in 0 to 1; pred_score, pred_label, anomaly_map, pred_mask.

    The map is half of the first channel plus a tenth of the last, so that a swapped colour shows.
    """
    h, w = size if fixed else ("h", "w")
    dropped = list(range(4 - rank))
    planes = ["input"]
    nodes = []
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["input"], ["planes"], perm=[0, 3, 1, 2]))
        planes = ["planes"]
    nodes += [
        helper.make_node("Conv", [*planes, "kernel"], ["raw"]),
        helper.make_node("Mul", ["raw", "nan" if nan else "one"], ["anomaly_map_4"]),
        helper.make_node(
            "ReduceMax", ["anomaly_map_4"], ["pred_score"], axes=[1, 2, 3], keepdims=0
        ),
        helper.make_node("Greater", ["pred_score", "half"], ["pred_label"]),
        helper.make_node("Greater", ["anomaly_map_4", "half"], ["pred_mask"]),
    ]
    if rank == 4:
        nodes.append(helper.make_node("Identity", ["anomaly_map_4"], ["anomaly_map"]))
    else:
        nodes.append(helper.make_node("Squeeze", ["anomaly_map_4", "axes"], ["anomaly_map"]))
    kernel = np.zeros((maps, 3, 1, 1), np.float32)
    kernel[:, 0], kernel[:, 2] = 0.5, 0.1
    constants = [
        helper.make_tensor("kernel", TensorProto.FLOAT, kernel.shape, kernel.reshape(-1)),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("nan", TensorProto.FLOAT, [], [np.nan]),
    ]
    if rank != 4:
        constants.append(helper.make_tensor("axes", TensorProto.INT64, [len(dropped)], dropped))
    shape = ["N", 3, h, w] if layout == "NCHW" else ["N", h, w, 3]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [info("input", TensorProto.FLOAT, shape)],
        [
            info("pred_score", TensorProto.FLOAT, ["N"]),
            info("pred_label", TensorProto.BOOL, ["N"]),
            info("anomaly_map", TensorProto.FLOAT, None),
            info("pred_mask", TensorProto.BOOL, None),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    adapter = Adapter(name="other", file=str(path), normalised=True)
    return changed(adapter, {"layout": layout})


def changed(adapter, change) -> Adapter:
    return msgspec.structs.replace(adapter, **change)


def picture(seed=0):
    return np.random.default_rng(seed).uniform(1, 254, (1, 3, *SIZE)).astype(np.float32)


def maps_of(model, image) -> tuple[np.ndarray, np.ndarray]:
    amap, score = session(model).run(["map", "score"], {"image": image})
    return np.asarray(amap), np.asarray(score)


@pytest.mark.parametrize("opset", [13, 14, 17, 18])
def test_a_map_of_another_maker_stands_behind_the_networks_own(tmp_path, opset):
    network = network_model()
    adapter = anomalib_like(tmp_path / "x.onnx", size=SIZE, opset=min(opset, 17))
    joined = with_detector(network, adapter, SIZE)
    assert map_count(joined) == 2
    image = picture()
    before, after = maps_of(network, image), maps_of(joined, image)
    np.testing.assert_array_equal(after[0][:, :1], before[0])
    np.testing.assert_array_equal(after[1], before[1])
    expected = 0.5 * image[:, 0] / 255 + 0.1 * image[:, 2] / 255
    np.testing.assert_allclose(after[0][:, 1], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "first", "last"),
    [
        ({"range": "0-255"}, lambda x: x[:, 0], lambda x: x[:, 2]),
        (
            {"range": "imagenet"},
            lambda x: (x[:, 0] / 255 - 0.485) / 0.229,
            lambda x: (x[:, 2] / 255 - 0.406) / 0.225,
        ),
        ({"colour": "BGR"}, lambda x: x[:, 2] / 255, lambda x: x[:, 0] / 255),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_it_is_fed_as_it_was_trained(tmp_path, change, first, last, layout):
    adapter = changed(anomalib_like(tmp_path / "x.onnx", size=SIZE, layout=layout), change)
    image = picture(1)
    amap = maps_of(with_detector(network_model(), adapter, SIZE), image)[0]
    np.testing.assert_allclose(
        amap[:, 1], 0.5 * first(image) + 0.1 * last(image), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_maps_of_every_rank_and_of_another_size_are_placed(tmp_path, rank):
    adapter = anomalib_like(tmp_path / "x.onnx", size=(32, 48), rank=rank)
    image = np.full((1, 3, *SIZE), 51, np.float32)
    amap = maps_of(with_detector(network_model(), adapter, SIZE), image)[0]
    assert amap.shape == (1, 2, *SIZE)
    np.testing.assert_allclose(amap[:, 1], 0.12, rtol=1e-5)


def test_a_model_of_open_size_is_fed_the_networks_size_or_the_one_that_is_named(tmp_path):
    adapter = anomalib_like(tmp_path / "x.onnx", fixed=False)
    assert maps_of(with_detector(network_model(), adapter, SIZE), picture())[0].shape[1] == 2
    larger = Adapter(name="other", file=adapter.file, size=(48, 40))
    assert maps_of(with_detector(network_model(), larger, SIZE), picture())[0].shape[1] == 2
    fixed = anomalib_like(tmp_path / "y.onnx", size=(32, 32))
    with pytest.raises(ConfigError, match="size: expected 32x32, the model's own, got 48x40"):
        with_detector(network_model(), Adapter(name="other", file=fixed.file, size=(48, 40)), SIZE)


def test_several_detectors_and_their_order(tmp_path):
    first = anomalib_like(tmp_path / "x.onnx", size=SIZE)
    second = Adapter(name="second", file=first.file, range="0-255")
    joined = with_detector(with_detector(network_model(), first, SIZE), second, SIZE)
    image = picture(2)
    amap = maps_of(joined, image)[0]
    np.testing.assert_allclose(amap[:, 2], amap[:, 1] * 255, rtol=1e-5)
    turned = in_order(in_order(joined, [2, 0, 1]), [1, 2, 0])
    np.testing.assert_array_equal(maps_of(turned, image)[0], amap)
    swapped = maps_of(in_order(joined, [2, 0, 1]), image)[0]
    np.testing.assert_array_equal(swapped, amap[:, [2, 0, 1]])
    with pytest.raises(ValueError, match="order of 3 maps"):
        in_order(joined, [0, 1])


def test_the_table_names_the_file_beside_it(tmp_path):
    anomalib_like(tmp_path / "patchcore.onnx", size=SIZE)
    path = tmp_path / "detectors.toml"
    table = '[[detector]]\nname = "patchcore"\nfile = "patchcore.onnx"\n'
    path.write_text(f"{table}normalised = true\n")
    (adapter,) = read_adapters(path)
    assert map_count(with_detector(network_model(), adapter, SIZE)) == 2
    assert described(adapter).startswith("patchcore.onnx sha256 ")
    path.write_text(f'{table}range = "0..1"\n')
    with pytest.raises(ConfigError, match="range"):
        read_adapters(path)


@pytest.mark.parametrize(
    ("made", "change", "message"),
    [
        ({}, {"file": "missing.onnx"}, "an ONNX model, got no file"),
        ({}, {"map": "heat"}, r"map: expected one of \['anomaly_map', .*got heat"),
        ({}, {"input": "image"}, r"input: expected one of \['input'\], got image"),
        ({}, {"layout": "NHWC"}, "NHWC with 3 channels"),
        ({}, {"map": "pred_score"}, "map: expected one plane per picture"),
        ({}, {"map": "pred_mask"}, "finite float32 on noise, got bool"),
        ({"maps": 2}, {}, "one plane per picture"),
        ({"nan": True}, {}, "finite float32 on noise"),
    ],
)
def test_what_cannot_be_a_detector_is_refused_by_name(tmp_path, made, change, message):
    adapter = anomalib_like(tmp_path / "x.onnx", size=SIZE, **made)
    with pytest.raises(ConfigError, match=message):
        with_detector(network_model(), changed(adapter, change), SIZE)


def test_a_file_that_is_no_model_and_a_name_that_no_column_can_hold_are_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"hello")
    with pytest.raises(ConfigError, match="an ONNX model"):
        with_detector(network_model(), Adapter(name="a", file=str(tmp_path / "x.onnx")), SIZE)
    adapter = anomalib_like(tmp_path / "y.onnx", size=SIZE)
    with pytest.raises(ArtefactError, match="names without"):
        with_detector(network_model(), Adapter(name="a/b", file=adapter.file), SIZE)
