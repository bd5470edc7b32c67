import shutil
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from appliance.bundle import (
    InputContract,
    finish_bundle,
    golden_outputs,
    load_bundle,
    smallest_defect_px,
)
from appliance.errors import ArtefactError
from appliance.head import Sums, head_model, merged_network
from tests.networks import network_model, write_network_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_network_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def bundle(whole, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(whole.folder, tmp_path / "b")
    return load_bundle(tmp_path / "b", whole.id)


def refused(folder: Path, identity: str | None = None) -> str:
    with pytest.raises(ArtefactError) as caught:
        load_bundle(folder, identity)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- hashes --------------------------------------------------------------------------------


def test_a_bundle_is_known_by_its_manifest(whole, bundle):
    assert bundle.id == whole.id
    assert len(bundle.id) == 64
    assert "f" * 12 in refused(bundle.folder, "f" * 64)


FILES = ["network.onnx", "segments.png", "golden/0.png", "golden/1.npz"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "edited", "longer", "a folder"])
def test_a_damaged_file_is_named(bundle, name, damage):
    path = bundle.path(name)
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        middle = len(data) // 2
        path.write_bytes(
            {
                "empty": b"",
                "cut": data[:-1],
                "edited": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
                "longer": data + b"\0",
            }[damage]
        )
    assert refused(bundle.folder).startswith(f"{path}: expected SHA-256 ")


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_changed_byte_anywhere_is_found(bundle, data):
    names = ["manifest.json", *sorted(bundle.manifest.files)]
    path = bundle.path(data.draw(st.sampled_from(names)))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :]
    path.write_bytes(changed)
    try:
        refused(bundle.folder, bundle.id)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b'{"product": "\xff"}', "JSON"),
        (b"[]", "object"),
        (b"{}", "missing required field|the key"),
    ],
)
def test_a_manifest_that_is_none_is_refused(bundle, data, message):
    (bundle.folder / "manifest.json").write_bytes(data)
    with pytest.raises(ArtefactError, match=message):
        load_bundle(bundle.folder)


def test_a_missing_bundle_is_refused(tmp_path):
    assert refused(tmp_path / "none").endswith(
        "manifest.json: expected a bundle manifest, got No such file or directory"
    )


def edit(bundle, **change):
    """Rewrite the manifest, its hashes as they are: what a careless person does."""
    path = bundle.folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**manifest, **change}))
    return bundle.folder


def test_unknown_keys_and_wrong_types_are_refused(bundle):
    assert "colour" in refused(edit(bundle, colour="red"))
    load = refused(edit(bundle, colour="red", product=3))
    assert "expected" in load


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "golden/../../secret", "..", "a\0b"])
def test_names_outside_the_bundle_are_refused(bundle, name):
    (bundle.folder.parent / "secret").write_text("x")
    files = {**bundle.manifest.files, name: "0" * 64}
    message = refused(edit(bundle, files=files))
    assert "expected file names inside the bundle" in message


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_hash_is_refused(bundle, name):
    files = {key: value for key, value in bundle.manifest.files.items() if key != name}
    assert f"a hash for {name}, got none" in refused(edit(bundle, files=files))


def test_a_forest_without_a_hash_is_refused(bundle):
    assert "a hash for segad.ubj" in refused(edit(bundle, forest="segad.ubj"))


# ---- segment map ---------------------------------------------------------------------------


def with_segments(tmp_path, labels, suffix=".png"):
    """A whole bundle, all hashes right, whose segment map is `labels`."""
    source = write_network_bundle(tmp_path / "source")
    (source.folder / "manifest.json").unlink()
    data = cv2.imencode(suffix, labels)[1].tobytes()
    (source.folder / "segments.png").write_bytes(data)
    return source.folder, tmp_path / "target", source.manifest


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((16, 25), np.uint8), "expected 24x16 labels, got 25x16"),
        (np.zeros((24, 16), np.uint8), "expected 24x16 labels, got 16x24"),
        (np.full((16, 24), 2, np.uint8), "expected labels below 2 or 255, got label 2"),
        (np.full((16, 24), 254, np.uint8), "expected labels below 2 or 255, got label 254"),
        (np.zeros((16, 24, 3), np.uint8), "an 8-bit one-channel PNG"),
        (np.zeros((16, 24), np.uint16), "an 8-bit one-channel PNG"),
    ],
    ids=["wider", "turned", "one label more", "high label", "colour", "16 bits"],
)
def test_a_segment_map_that_does_not_fit_is_refused(tmp_path, labels, message):
    with pytest.raises(ArtefactError, match=message) as caught:
        finish_bundle(*with_segments(tmp_path, labels))
    assert "segments.png" in str(caught.value)


def test_a_segment_map_may_ignore_everything(tmp_path):
    labels = np.full((16, 24), 255, np.uint8)
    bundle = finish_bundle(*with_segments(tmp_path, labels))
    np.testing.assert_array_equal(bundle.segment_map(), labels)


def test_a_finished_bundle_is_never_overwritten(whole, bundle, tmp_path):
    before = sorted(path.name for path in whole.folder.iterdir())
    with pytest.raises(ArtefactError, match="not there yet"):
        finish_bundle(bundle.folder, whole.folder, bundle.manifest)
    assert sorted(path.name for path in whole.folder.iterdir()) == before
    load_bundle(whole.folder, whole.id)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_golden_outputs_that_are_none_are_refused(tmp_path, data):
    (tmp_path / "0.npz").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"0\.npz: expected arrays"):
        golden_outputs(tmp_path / "0.npz")


def test_golden_outputs_need_both_arrays_and_no_pickle(tmp_path):
    np.savez(tmp_path / "map.npz", map=np.zeros((1, 2, 2)))
    np.savez(tmp_path / "object.npz", map=np.array([{}], object), score=np.float32(0))
    for name in ("map.npz", "object.npz"):
        with pytest.raises(ArtefactError, match="expected arrays"):
            golden_outputs(tmp_path / name)


# ---- the pre-processing head ---------------------------------------------------------------


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


# ---- the graph that runs -------------------------------------------------------------------


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
